"""`fork(give=...)`: what the child was given, and what the parent then has not."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import threading
from functools import partial
from pathlib import Path

import pytest

from socketkeep import (
    AsyncConnection,
    Busy,
    Closed,
    Connection,
    Listener,
    OutOfResources,
    Released,
    Timeout,
    fork,
)
from tests.forking.conftest import Pair
from tests.forking.support import Gate, child, tcp_pair
from tests.harness.seam import row_of


def test_the_child_goes_on_and_the_parent_has_let_go(pair: Pair) -> None:
    """Mode, state and unread bytes are the child's; when it ends the connection has ended."""
    ours, peer = pair
    conn = Connection(ours, mode=Timeout(7))
    peer.sendall(b"one\ntwo\n")
    assert conn.recv_until(b"\n") == b"one"
    conn.commit({"count": 1})

    def serve() -> None:
        assert conn.mode == Timeout(7)
        assert conn.state == {"count": 1}
        assert conn.recv_until(b"\n") == b"two"
        conn.send(b"child")
        conn.release()

    with child(serve, partial(fork, [conn])) as forked:
        with pytest.raises(Released, match=f"given to process {forked.pid}"):
            conn.recv()
        assert peer.recv(100) == b"child"
        assert peer.recv(1) == b""


def test_what_is_not_given_is_let_go(pair: Pair) -> None:
    ours, peer = pair
    conn = Connection(ours)
    other, others_peer = tcp_pair()
    with others_peer:
        kept = Connection(other)

        def look() -> None:
            with pytest.raises(Released, match="forked by"):
                kept.recv()
            conn.release()

        with child(look, partial(fork, [conn])):
            assert peer.recv(1) == b""
        kept.send(b"open")
        assert others_peer.recv(100) == b"open"
        kept.abort()


def test_keep_leaves_it_to_both(pair: Pair) -> None:
    ours, peer = pair
    conn = Connection(ours)

    def use() -> None:
        conn.send(b"child")
        conn.release()

    with child(use, partial(fork, [conn], keep=True)):
        assert peer.recv(100) == b"child"
    conn.send(b"parent")
    assert peer.recv(100) == b"parent"
    conn.abort()


def test_a_plain_socket_is_given_too(pair: Pair) -> None:
    ours, peer = pair
    with child(partial(ours.sendall, b"child"), partial(fork, [ours])):
        assert ours.fileno() == -1
        assert peer.recv(100) == b"child"
        assert peer.recv(1) == b""


def test_a_listener_is_given_with_its_file(tmp_path: Path, gate: Gate) -> None:
    """The file of the Unix socket is the child's to remove."""
    path = tmp_path / "socket"
    listener = Listener.bind(f"unix:{path}")

    def serve() -> None:
        gate.wait()
        accepted, _ = listener.accept_socket()
        accepted.sendall(b"child")
        accepted.close()
        listener.close()

    with child(serve, partial(fork, [listener])) as forked:
        with pytest.raises(Released, match="given to process"):
            listener.accept_socket()
        listener.close()
        with socket.socket(socket.AF_UNIX) as peer:
            peer.settimeout(5)
            peer.connect(str(path))
            gate.open()
            assert peer.recv(100) == b"child"
        forked.wait()
        assert not path.exists()


def test_an_async_connection_is_given(pair: Pair) -> None:
    ours, peer = pair

    async def serve(conn: AsyncConnection) -> None:
        assert await conn.recv_until(b"\n") == b"two"
        await conn.send(b"child")
        await conn.release()

    async def scenario() -> None:
        conn = AsyncConnection(ours)
        peer.sendall(b"one\ntwo\n")
        assert await conn.recv_until(b"\n") == b"one"
        with child(lambda: asyncio.run(serve(conn)), partial(fork, [conn])):
            with pytest.raises(Released, match="given to process"):
                await conn.recv()
            assert peer.recv(100) == b"child"
            assert peer.recv(1) == b""

    asyncio.run(scenario())


def test_what_another_thread_receives_on_is_busy(pair: Pair) -> None:
    """It would be torn in two.  Nothing is forked, and the others in the list stay as they are."""
    ours, peer = pair
    other, others_peer = tcp_pair()
    with others_peer:
        idle, conn = Connection(other), Connection(ours)
        reader = threading.Thread(target=conn.recv)
        reader.start()
        while not row_of(conn).waiting:
            os.sched_yield()
        with pytest.raises(Busy):
            fork([idle, conn])
        peer.sendall(b"x")
        reader.join(5)
        idle.send(b"works")
        assert others_peer.recv(100) == b"works"
        conn.abort()
        idle.abort()


def test_what_is_closed_cannot_be_given(pair: Pair) -> None:
    conn = Connection(pair[0])
    conn.abort()
    with pytest.raises(Closed, match=r"^fork on"):
        fork([conn])
    with pytest.raises(Closed):
        fork([pair[0]])


def test_a_fork_that_fails_changes_nothing(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_process() -> int:
        raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")

    ours, peer = pair
    conn = Connection(ours)
    with monkeypatch.context() as patch:
        patch.setattr(os, "fork", no_process)
        with pytest.raises(OutOfResources) as caught:
            fork([conn])
    assert caught.value.errno == errno.EAGAIN
    conn.send(b"open")
    assert peer.recv(100) == b"open"

    def look() -> None:
        assert conn.fileno() == -1

    with child(look):
        pass
    conn.abort()
