"""What `close` and `abort` end, while another process holds the connection too."""

from __future__ import annotations

import os
import select
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from socketkeep import AsyncConnection, Connection, NonBlocking
from tests.library.conftest import Pair, Run, reads_all


@contextmanager
def held_elsewhere(sock: socket.socket) -> Iterator[None]:
    """Have a child process hold `sock` for the length of the block."""
    leave, done = os.pipe()
    handle = sock.dup()  # a plain socket: a child lets go of what the connection itself holds
    child = os.fork()
    if child == 0:
        os.close(done)
        os.read(leave, 1)
        os._exit(0)
    os.close(leave)
    handle.close()
    try:
        yield
    finally:
        os.close(done)
        os.waitpid(child, 0)


End = Callable[[Pair, str], None]


def end_sync(pair: Pair, verb: str) -> None:
    conn = Connection(pair[0], mode=NonBlocking())
    with held_elsewhere(pair[0]):
        getattr(conn, verb)()
        expect(pair, verb)


def end_async(run: Run) -> End:
    def end(pair: Pair, verb: str) -> None:
        async def scenario() -> None:
            conn = AsyncConnection(pair[0])
            with held_elsewhere(pair[0]):
                await getattr(conn, verb)(**({"linger": 0.0} if verb == "close" else {}))
                expect(pair, verb)

        run(scenario)

    return end


def expect(pair: Pair, verb: str) -> None:
    """Look, while the other process still holds it, at what the peer has."""
    peer = pair[1]
    if verb == "abort" and peer.family != socket.AF_UNIX:
        with pytest.raises(ConnectionResetError):
            peer.recv(1)
        return
    assert reads_all(peer) == b""
    # Nobody reads any more: told at once on a Unix socket, by RST on TCP.
    with pytest.raises((BrokenPipeError, ConnectionResetError)):
        send_on(peer)


def send_on(peer: socket.socket) -> None:
    """Send until that is refused."""
    while True:
        peer.send(b"x")
        select.select([], [], [peer], 0.01)


@pytest.mark.parametrize("verb", ["close", "abort"])
def test_it_ends_for_all(pair: Pair, verb: str) -> None:
    end_sync(pair, verb)


@pytest.mark.parametrize("verb", ["close", "abort"])
def test_it_ends_for_all_async(pair: Pair, run: Run, verb: str) -> None:
    end_async(run)(pair, verb)


def test_abort_after_the_end_of_the_own_sending(tcp: Pair) -> None:
    conn = Connection(tcp[0])
    with held_elsewhere(tcp[0]):
        conn.send_eof()
        assert reads_all(tcp[1]) == b""
        conn.abort()
        with pytest.raises((BrokenPipeError, ConnectionResetError)):
            tcp[1].send(b"x")


def test_another_holder_finds_it_ended(pair: Pair) -> None:
    ours, peer = pair
    with ours.dup() as other:
        Connection(ours, mode=NonBlocking()).close()
        other.settimeout(5)
        assert other.recv(1) == b""
        with pytest.raises(BrokenPipeError):
            other.send(b"x")
    assert reads_all(peer) == b""
