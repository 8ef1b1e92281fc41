"""What a handler's end means."""

from __future__ import annotations

import asyncio
import errno
import socket
import ssl
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import pytest

from socketkeep import (
    CertificateRefused,
    Closed,
    Connection,
    Detached,
    LimitExceeded,
    Malformed,
    PeerClosed,
    PeerReset,
    SocketkeepError,
    TimedOut,
    TlsFailure,
    Unreachable,
)
from socketkeep._worker import _outcome
from tests.harness.lines import Lines
from tests.harness.seam import Row, leased, shared_words
from tests.worker.fakes import entry_of


@pytest.fixture(autouse=True)
def _nothing_held_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forget the lines of the tests before."""
    fresh = type(_outcome._ended_throttle)(most=10)
    monkeypatch.setattr(_outcome, "_ended_throttle", fresh)


@pytest.fixture
def served() -> Iterator[tuple[Connection, Any]]:
    """A connection, and its entry in the worker."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        peer = socket.create_connection(listener.getsockname())
        sock, _ = listener.accept()
    words = shared_words()
    lease = leased(id="1-2-3", record=words)
    conn = Connection(sock, **lease)
    yield conn, entry_of(sock, lease)
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
    served: tuple[Connection, Any], error: BaseException, log: Lines
) -> None:
    conn, entry = served
    _outcome.note_exception(raised(error), conn, entry)
    assert Row(entry.record).handler_errors == 0
    assert log.events() == []


NETS = [PeerReset, PeerClosed, Closed, Unreachable]
PEERS = [LimitExceeded, Malformed, TimedOut, TlsFailure, CertificateRefused]


@pytest.mark.parametrize("kind", NETS)
def test_what_befell_this_connection_is_no_failure_of_the_code(
    served: tuple[Connection, Any], kind: type[SocketkeepError], log: Lines
) -> None:
    conn, entry = served
    _outcome.note_exception(raised(kind(peer=conn.peer, address=conn.local)), conn, entry)
    assert Row(entry.record).handler_errors == 0
    assert log.events() == ["handler ended"]
    assert log.fields("handler ended")["id"] == "1-2-3"


def test_a_group_of_it_is_none_either(served: tuple[Connection, Any], log: Lines) -> None:
    """As a TaskGroup raises it whose tasks receive and send."""
    conn, entry = served
    parts = [PeerReset(peer=conn.peer, address=conn.local), Detached()]
    _outcome.note_exception(raised(BaseExceptionGroup("tasks", parts)), conn, entry)
    assert Row(entry.record).handler_errors == 0
    assert log.events() == ["handler ended"]


def test_a_storm_of_peers_faults_is_a_few_lines(served: tuple[Connection, Any], log: Lines) -> None:
    """Each reason has its own."""
    conn, entry = served
    for _ in range(100):
        error: Exception = LimitExceeded(operation="recv", peer=conn.peer, address=conn.local)
        _outcome.note_exception(raised(error), conn, entry)
    assert 1 <= len(log.events()) <= 10
    error = TimedOut(operation="recv", peer=conn.peer, address=conn.local)
    _outcome.note_exception(raised(error), conn, entry)
    assert log.all_fields("handler ended")[-1]["error"] == str(error)


@pytest.mark.parametrize("grouped", [False, True])
@pytest.mark.parametrize("kind", PEERS)
def test_what_the_peer_does_wrong_is_one_line_at_info(
    served: tuple[Connection, Any], kind: type[SocketkeepError], grouped: bool, log: Lines
) -> None:
    conn, entry = served
    error: Exception = kind(operation="recv", peer=conn.peer, address=conn.local)
    _outcome.note_exception(
        raised(ExceptionGroup("tasks", [error]) if grouped else error), conn, entry
    )
    assert Row(entry.record).handler_errors == 0
    assert entry.why == (kind.peers_fault or "the peer took too long")
    assert [(line.levelname, line.getMessage()) for line in log.records] == [
        ("INFO", "handler ended")
    ]
    assert log.fields("handler ended")["peer"] == conn.peer
    assert log.fields("handler ended")["error"] == str(error)


def test_tls_where_there_is_none_is_told_as_such(
    log: Lines, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once in a while, by the peer's first message, which the handler could not take."""
    monkeypatch.setattr(_outcome, "_throttle", type(_outcome._throttle)())
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    with pytest.raises(ssl.SSLWantReadError):
        ssl.create_default_context().wrap_bio(
            incoming, outgoing, server_hostname="x"
        ).do_handshake()
    hello = outgoing.read()
    for sent, told in ((hello, 1), (hello, 1), (b"plain" + hello, 1)):
        words = shared_words()
        lease = leased(id="1-2-3", record=words)
        ours, theirs = socket.socketpair()
        with ours, theirs:
            conn = Connection(ours, **lease)
            theirs.sendall(sent)
            theirs.shutdown(socket.SHUT_WR)
            entry = entry_of(ours, lease)
            with pytest.raises(PeerClosed) as caught:
                conn.recv_exactly(100_000)
            _outcome.note_exception(caught.value, conn, entry)
            assert _outcome.spoke_tls(conn) == (sent is hello)
            _outcome.note_tls(conn, entry)
        assert log.events().count("TLS on a plain listener") == told
        assert ("TLS" in entry.why) == (sent is hello)


def test_tls_that_a_handler_passes_on_is_not_told() -> None:
    """More comes than a ClientHello, and the alert by which a client gives up."""
    hello = b"\x16\x03\x01\x00\x06\x01abcd\n"
    for more, told in ((b"", True), (b"\x15\x03\x01\x00\x02\x02\x28", True), (b"x" * 40, False)):
        ours, theirs = socket.socketpair()
        with ours, theirs:
            conn = Connection(ours)
            theirs.sendall(hello)
            assert conn.recv_until(b"\n")
            theirs.sendall(more)
            theirs.close()
            conn.recv_exactly(len(more))
            assert _outcome.spoke_tls(conn) == told


def test_a_message_of_its_own_that_is_too_long_is_the_handlers(
    served: tuple[Connection, Any], log: Lines
) -> None:
    conn, entry = served
    error = LimitExceeded(operation="send_frame", peer=conn.peer, address=conn.local)
    _outcome.note_exception(raised(error), conn, entry)
    assert Row(entry.record).handler_errors == 1
    assert log.events() == ["handler failed"]


async def _limited_by_timeout() -> None:
    async with asyncio.timeout(0):
        await asyncio.get_running_loop().create_future()


async def _limited_by_wait_for() -> None:
    await asyncio.wait_for(asyncio.get_running_loop().create_future(), 0.001)


async def _limited_in_a_group() -> None:
    async with asyncio.TaskGroup() as group:
        group.create_task(_limited_by_timeout())


@pytest.mark.parametrize(
    "handler", [_limited_by_timeout, _limited_by_wait_for, _limited_in_a_group]
)
def test_a_time_limit_of_the_handlers_is_one_line_at_info(
    served: tuple[Connection, Any], handler: Callable[[], Coroutine[None, None, None]], log: Lines
) -> None:
    conn, entry = served
    with pytest.raises((TimeoutError, ExceptionGroup)) as caught:
        asyncio.run(handler())
    _outcome.note_exception(caught.value, conn, entry)
    assert Row(entry.record).handler_errors == 0
    assert entry.why == "the handler's time limit passed"
    assert [line.levelname for line in log.records] == ["INFO"]
    assert str(log.fields("handler ended")["at"]).startswith(f"{__file__}:")


@pytest.mark.parametrize("kind", NETS)
def test_the_same_of_a_connection_of_its_own_is(
    served: tuple[Connection, Any], kind: type[SocketkeepError], log: Lines
) -> None:
    conn, entry = served
    _outcome.note_exception(raised(kind(peer="10.0.0.1:5432", address=conn.local)), conn, entry)
    assert Row(entry.record).handler_errors == 1
    assert log.events() == ["handler failed"]


@pytest.mark.parametrize(
    "error",
    [
        ValueError("wrong"),
        KeyboardInterrupt(),
        ConnectionResetError("a plain one"),
        TimeoutError("of a database"),
        TimeoutError(errno.ETIMEDOUT, "of the system"),
        ExceptionGroup("tasks", [TimeoutError(), ValueError("and a failure")]),
        BaseExceptionGroup("tasks", [Detached(), ValueError("and a failure")]),
    ],
)
def test_a_failure_is_logged_and_counted(
    served: tuple[Connection, Any], error: BaseException, log: Lines
) -> None:
    conn, entry = served
    _outcome.note_exception(raised(error), conn, entry)
    _outcome.note_exception(raised(error), conn, entry)
    assert Row(entry.record).handler_errors == 2
    assert log.events() == ["handler failed"] * 2
    fields = log.records[0].__dict__["fields"]
    assert fields["id"] == "1-2-3"
    assert fields["peer"] == conn.peer
    assert type(error).__name__ in fields["traceback"]
    assert "test_outcome.py" in fields["traceback"]


def test_detached_is_told_by_the_connection_not_by_the_exception(
    served: tuple[Connection, Any],
) -> None:
    conn, _ = served
    assert not _outcome.was_detached(conn)
