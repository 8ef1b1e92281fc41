"""What a handler's end means."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from socketkeep._base._errors import Closed, PeerClosed, PeerReset, SocketkeepError, TimedOut
from socketkeep._stream import _record as record
from socketkeep._stream._assignment import Assignment
from socketkeep._stream._connection import Connection
from socketkeep._stream._lifecycle import Detached
from socketkeep._worker._entry import Entry
from socketkeep._worker._outcome import note_exception, was_detached
from tests.worker.conftest import Lines


@pytest.fixture
def served() -> Iterator[tuple[Connection, Entry]]:
    """A connection, and its entry in the worker."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        peer = socket.create_connection(listener.getsockname())
        sock, _ = listener.accept()
    words = memoryview(bytearray(8 * record.WORDS)).cast("Q")
    assignment = Assignment(id="1-2-3", record=words)
    conn = Connection(sock, assignment=assignment)
    yield conn, Entry(0, words, sock, assignment, 0)
    sock.close()
    peer.close()


def raised(error: BaseException) -> BaseException:
    try:
        raise error
    except BaseException as caught:
        return caught


@pytest.mark.parametrize(
    "error",
    [
        Detached(),
        BaseExceptionGroup("tasks", [Detached(), Detached()]),
        BaseExceptionGroup("tasks", [BaseExceptionGroup("nested", [Detached()])]),
        SystemExit(3),
    ],
)
def test_what_is_no_failure_is_not_mentioned(
    served: tuple[Connection, Entry], error: BaseException, log: Lines
) -> None:
    conn, entry = served
    note_exception(raised(error), conn, entry)
    assert entry.record[record.HANDLER_ERRORS] == 0
    assert log.events() == []


NETS = [PeerReset, PeerClosed, Closed, TimedOut]


@pytest.mark.parametrize("kind", NETS)
def test_what_befell_this_connection_is_no_failure_of_the_code(
    served: tuple[Connection, Entry], kind: type[SocketkeepError], log: Lines
) -> None:
    conn, entry = served
    note_exception(raised(kind(peer=conn.peer, address=conn.local)), conn, entry)
    assert entry.record[record.HANDLER_ERRORS] == 0
    assert log.events() == ["handler ended"]
    assert log.fields("handler ended")["id"] == "1-2-3"


@pytest.mark.parametrize("kind", NETS)
def test_the_same_of_a_connection_of_its_own_is(
    served: tuple[Connection, Entry], kind: type[SocketkeepError], log: Lines
) -> None:
    conn, entry = served
    note_exception(raised(kind(peer="10.0.0.1:5432", address=conn.local)), conn, entry)
    assert entry.record[record.HANDLER_ERRORS] == 1
    assert log.events() == ["handler failed"]


@pytest.mark.parametrize(
    "error",
    [
        ValueError("wrong"),
        KeyboardInterrupt(),
        ConnectionResetError("a plain one"),
        BaseExceptionGroup("tasks", [Detached(), ValueError("and a failure")]),
    ],
)
def test_a_failure_is_logged_and_counted(
    served: tuple[Connection, Entry], error: BaseException, log: Lines
) -> None:
    conn, entry = served
    note_exception(raised(error), conn, entry)
    note_exception(raised(error), conn, entry)
    assert entry.record[record.HANDLER_ERRORS] == 2
    assert log.events() == ["handler failed"] * 2
    fields = log.records[0].__dict__["fields"]
    assert fields["id"] == "1-2-3"
    assert fields["peer"] == conn.peer
    assert type(error).__name__ in fields["traceback"]
    assert "test_outcome.py" in fields["traceback"]


def test_detached_is_told_by_the_connection_not_by_the_exception(
    served: tuple[Connection, Entry],
) -> None:
    conn, _ = served
    assert not was_detached(conn)
