"""The end of a connection that a server has served: by C in its normal course, else in Python."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Awaitable, Callable

import pytest

from socketkeep import AsyncConnection, Closed, Connection, PeerReset
from tests.harness.seam import leased, row_of, shared_words
from tests.worker.fakes import make_reactor

_LINGER = 5.0


@pytest.fixture
def pair() -> tuple[Connection, socket.socket]:
    ours, theirs = socket.socketpair()
    theirs.settimeout(10)
    return Connection(ours, **leased(record=shared_words())), theirs


def is_closed(conn: Connection | AsyncConnection) -> bool:
    return (
        conn.fileno() < 0
        and conn.core.life.state.value == "closed"
        and not conn.core.life.sends
        and row_of(conn).ended == "closed"
    )


@pytest.mark.parametrize("aside", [False, True])
def test_where_the_peer_has_ended_nobody_waits(
    pair: tuple[Connection, socket.socket], aside: bool
) -> None:
    conn, peer = pair
    peer.sendall(b"unread")
    peer.shutdown(socket.SHUT_WR)
    assert conn.end(_LINGER, aside=aside) is None
    assert is_closed(conn)
    assert peer.recv(1) == b"", "FIN, and no reset"
    with pytest.raises(Closed):
        conn.recv()
    assert conn.end(_LINGER, aside=aside) is None, "a second time"
    peer.close()


def test_where_it_has_not_the_socket_is_left_to_the_caller(
    pair: tuple[Connection, socket.socket],
) -> None:
    conn, peer = pair
    left = conn.end(_LINGER, aside=True)
    assert left is not None
    assert is_closed(conn)
    assert peer.recv(1) == b"", "FIN has gone out"
    peer.sendall(b"more")
    assert left.recv(10) == b"more"
    left.close()
    peer.close()


def test_or_the_end_of_the_peer_is_waited_for(pair: tuple[Connection, socket.socket]) -> None:
    conn, peer = pair

    def end() -> None:
        assert peer.recv(1) == b""
        peer.sendall(b"last words")
        peer.close()

    other = threading.Thread(target=end)
    other.start()
    assert conn.end(_LINGER) is None
    other.join()
    assert is_closed(conn)


def test_what_was_gathered_goes_out_first(pair: tuple[Connection, socket.socket]) -> None:
    conn, peer = pair
    conn.gather()
    peer.sendall(b"one\ntwo\n")
    conn.recv(4)
    conn.send(b"1")
    peer.shutdown(socket.SHUT_WR)
    assert conn.end(_LINGER) is None
    assert peer.recv(10) == b"1"
    assert is_closed(conn)
    peer.close()


def test_what_has_ended_it_before_counts(pair: tuple[Connection, socket.socket]) -> None:
    conn, peer = pair
    conn.send(b"unread")
    peer.close()
    with pytest.raises(PeerReset):
        conn.recv()
    assert conn.end(_LINGER) is None
    assert conn.fileno() < 0
    assert row_of(conn).ended == "reset"


def test_it_waits_for_who_sends_in_another_thread(pair: tuple[Connection, socket.socket]) -> None:
    conn, peer = pair
    assert conn._sending_lock.acquire(False)

    def go_on() -> None:
        peer.shutdown(socket.SHUT_WR)
        conn._sending_lock.release()

    other = threading.Timer(0.05, go_on)
    other.start()
    assert conn.end(_LINGER) is None
    other.join()
    assert is_closed(conn)
    peer.close()


Body = Callable[[AsyncConnection, socket.socket], Awaitable[None]]


def run_async(body: Body, **lease: float) -> None:
    async def whole() -> None:
        ours, theirs = socket.socketpair()
        theirs.setblocking(False)
        reactor = make_reactor()
        conn = AsyncConnection(ours, **leased(record=shared_words(), reactor=reactor, **lease))
        with theirs:
            await body(conn, theirs)
        reactor.close()

    asyncio.run(whole())


@pytest.mark.parametrize("lease", [{}, {"idle_timeout": 60.0}], ids=["plain", "timed"])
def test_an_async_one_ends_at_once_when_the_peer_has(lease: dict[str, float]) -> None:
    async def body(conn: AsyncConnection, peer: socket.socket) -> None:
        asking = asyncio.ensure_future(conn.recv())
        await asyncio.sleep(0)  # it waits, so that the reader is registered
        peer.shutdown(socket.SHUT_WR)
        assert await asking == b""
        assert conn.end_at_once()
        assert is_closed(conn)
        assert not conn._waiter.watching
        assert conn._check_timer is None
        assert peer.recv(1) == b""
        assert not conn.end_at_once(), "it has ended"

    run_async(body, **lease)


def test_an_async_one_does_not_while_there_is_something_to_wait_for() -> None:
    async def body(conn: AsyncConnection, peer: socket.socket) -> None:
        assert not conn.end_at_once(), "the peer has not ended"
        sending = asyncio.ensure_future(conn.send(b"x" * 5_000_000))
        await asyncio.sleep(0)
        peer.shutdown(socket.SHUT_WR)
        assert await conn.recv() == b""
        assert not conn.end_at_once(), "a send is on its way"
        assert conn.core.life.state.value == "peer ended"
        sending.cancel()
        await conn.abort()

    run_async(body)
