"""The error family: standard exceptions, one table, messages for a log, and pickling."""

from __future__ import annotations

import errno
import pickle
import socket

import pytest
from docs._ext.declared import PAGES

from socketkeep import SocketkeepError, SystemFailure
from socketkeep._base import _errors

FAMILY = [
    kind
    for kind in vars(_errors).values()
    if isinstance(kind, type) and issubclass(kind, SocketkeepError)
]

#: What programs written for the standard library catch.
STANDARD: dict[str, type[BaseException]] = {
    "WouldBlock": BlockingIOError,
    "TimedOut": TimeoutError,
    "PeerClosed": EOFError,
    "Truncated": EOFError,
    "PeerReset": ConnectionResetError,
    "Refused": ConnectionRefusedError,
    "Unreachable": OSError,
    "Unresolved": socket.gaierror,
    "Closed": OSError,
    "Released": OSError,
    "Busy": RuntimeError,
    "LimitExceeded": ValueError,
    "Malformed": ValueError,
    "StateTooLarge": ValueError,
    "StateNotEncodable": TypeError,
    "StateMismatch": ValueError,
    "HandlerError": TypeError,
    "AddressError": ValueError,
    "ListenError": OSError,
    "OutOfResources": OSError,
}

FULL: _errors.Context = {
    "operation": "recv_exactly",
    "address": "127.0.0.1:7000",
    "peer": "10.0.0.7:4242",
    "elapsed": 2.5,
    "limit": 2.5,
    "bytes_done": 12,
    "bytes_wanted": 64,
}

TIMED_OUT = (
    "recv_exactly from 10.0.0.7:4242 timed out after 2.50 s (limit 2.5 s), 12 of 64 bytes received"
)


@pytest.mark.parametrize("name", STANDARD)
def test_each_is_also_the_standard_exception(name: str) -> None:
    assert issubclass(getattr(_errors, name), STANDARD[name])


def test_a_send_to_a_peer_that_is_gone_is_a_broken_pipe_too() -> None:
    assert issubclass(_errors.PeerClosed, BrokenPipeError)


@pytest.mark.parametrize("kind", FAMILY)
def test_each_survives_pickling(kind: type[SocketkeepError]) -> None:
    error = kind("went wrong", **FULL)
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is kind
    assert str(copy) == str(error)
    assert copy.__dict__ == error.__dict__
    if isinstance(copy, SystemFailure):
        assert isinstance(error, SystemFailure)
        assert copy.errno == error.errno


def test_a_translated_error_keeps_its_errno_when_pickled() -> None:
    error = _errors.translate(OSError(errno.ENETUNREACH, "x"), **FULL)
    assert pickle.loads(pickle.dumps(error)).errno == errno.ENETUNREACH


@pytest.mark.parametrize(("code", "operation"), _errors.TABLE)
def test_every_row_of_the_table_translates(code: int, operation: str) -> None:
    named = "recv" if operation == _errors.ANY else operation
    error = _errors.translate(OSError(code, "text"), operation=named, peer="10.0.0.7:1")
    assert type(error) is _errors.TABLE[code, operation]
    assert error.errno == code
    assert (error.operation, error.peer) == (named, "10.0.0.7:1")


def test_a_row_of_one_operation_goes_before_the_common_one() -> None:
    assert type(_errors.translate(OSError(errno.EINPROGRESS, ""), operation="connect")) is (
        _errors.WouldBlock
    )
    assert (
        type(_errors.translate(OSError(errno.EINPROGRESS, ""), operation="recv")) is SystemFailure
    )


def test_what_is_not_in_the_table_says_what_the_system_said() -> None:
    error = _errors.translate(
        OSError(errno.EINVAL, "Invalid argument"), operation="recv", peer="a:1"
    )
    assert type(error) is SystemFailure
    assert error.errno == errno.EINVAL
    assert str(error) == "recv from a:1 failed: Invalid argument"


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (
            _errors.TimedOut(**FULL),
            TIMED_OUT,
        ),
        (_errors.WouldBlock(operation="send", peer="a:1", bytes_done=3, bytes_wanted=9),
         "send to a:1 would block, 3 of 9 bytes sent"),
        (_errors.PeerReset(operation="recv", peer="a:1"),
         "recv from a:1 failed: the peer reset the connection"),
        (_errors.WouldBlock(operation="accept", address="[::]:7000"),
         "accept on [::]:7000 would block"),
        (_errors.Closed(operation="recv"),
         "recv failed: the connection was closed by this side"),
        (_errors.HandlerError("a.b is not callable"), "a.b is not callable"),
    ],
)  # fmt: skip
def test_messages_read_well(error: SocketkeepError, text: str) -> None:
    assert str(error) == text


def test_every_row_of_the_table_is_on_the_page_of_errors() -> None:
    rows = [line.split(" | ") for line in PAGES["errno"]().splitlines()[2:]]
    stated = {
        (code.strip("|` "), operation.strip("`"), name.partition("`")[2].partition("`")[0])
        for codes, operation, name in rows
        for code in codes.split(", ")
    }
    assert stated == {
        (errno.errorcode[code], "any" if operation == "*" else operation, kind.__name__)
        for (code, operation), kind in _errors.TABLE.items()
    }
