"""What a forked child has of its parent's sockets, seen from the child and from the peer."""

from __future__ import annotations

import asyncio
import gc
import os
import pickle
import socket
import subprocess
import sys
import threading
import weakref
from pathlib import Path

import pytest

from socketkeep import (
    AsyncConnection,
    Connection,
    Listener,
    NonBlocking,
    Released,
    Socket,
    WouldBlock,
)
from tests.forking.conftest import Pair
from tests.forking.support import Gate, child, finished, program
from tests.harness.seam import row_of


def is_open(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True


def test_the_peer_sees_eof_though_a_child_lives(pair: Pair, gate: Gate) -> None:
    """The child was forked with the connection open, and lives on when the parent closes it."""
    ours, peer = pair
    conn = Connection(ours)
    with child(gate.wait):
        conn.release()
        assert peer.recv(1) == b""
        gate.open()


def test_with_a_plain_socket_the_peer_waits_for_the_child(pair: Pair, gate: Gate) -> None:
    """The witness: this is what the policy is there for."""
    ours, peer = pair
    with child(gate.wait):
        ours.close()
        peer.settimeout(0.2)
        with pytest.raises(TimeoutError):
            peer.recv(1)
        gate.open()
    assert peer.recv(1) == b""


def test_the_child_only_closes(pair: Pair) -> None:
    """No FIN and no shutdown: the parent's connection goes on in both directions."""
    ours, peer = pair
    conn = Connection(ours)
    fd = conn.fileno()

    def look() -> None:
        assert not is_open(fd)
        assert conn.fileno() == -1

    with child(look) as forked:
        forked.wait()
        peer.sendall(b"to the parent")
        assert conn.recv() == b"to the parent"
        conn.send(b"from it")
        assert peer.recv(100) == b"from it"
    conn.close(linger=0)
    assert peer.recv(1) == b""


def test_the_childs_object_names_the_fork(pair: Pair) -> None:
    """Each verb says Released, who forked, and how to have it otherwise."""
    ours, _ = pair
    conn = Connection(ours)
    parent = os.getpid()

    def look() -> None:
        for use in (conn.recv, lambda: conn.send(b"x"), lambda: conn.recv_exactly(3)):
            with pytest.raises(Released) as caught:
                use()
            assert f"forked by process {parent}" in str(caught.value)
            assert "inherit=True" in str(caught.value)
        conn.close()
        conn.release()
        assert repr(conn).endswith(" released>")

    with child(look):
        pass
    assert not conn.ended
    conn.abort()


def test_a_grandchild_is_told_of_its_own_parent(pair: Pair) -> None:
    """What a child keeps it does not leave to its own children."""
    ours, peer = pair
    conn = Connection(ours)

    def in_child() -> None:
        mine = Connection(socket.socket(fileno=os.dup(kept.fileno())))

        def in_grandchild() -> None:
            with pytest.raises(Released, match=f"forked by process {os.getppid()}"):
                mine.recv()

        with child(in_grandchild):
            pass
        mine.send(b"well")
        mine.release()

    with socket.socket(fileno=os.dup(ours.fileno())) as kept, child(in_child):
        assert peer.recv(10) == b"well"
    conn.abort()


@pytest.mark.parametrize("how", ["argument", "property"])
def test_inherit_keeps_it_with_mode_and_unread_bytes(pair: Pair, how: str) -> None:
    """The child goes on where the parent stood, and has a mode of its own."""
    ours, peer = pair
    conn = Connection(ours, mode=NonBlocking(), inherit=how == "argument")
    conn.inherit = True
    peer.sendall(b"first\nsecond\n")
    assert conn.recv_until(b"\n", timeout=5) == b"first"

    def use() -> None:
        assert conn.recv_until(b"\n") == b"second"
        with pytest.raises(WouldBlock):
            conn.recv()
        conn.send(b"from the child")
        conn.release()

    with child(use) as forked:
        forked.wait()
        assert peer.recv(100) == b"from the child"
    assert conn.unread == b"second\n"
    conn.abort()


def test_an_inherited_connection_is_not_locked_by_a_thread_of_the_parent(pair: Pair) -> None:
    """The thread is not in the child, so nobody there would open its lock."""
    ours, peer = pair
    conn = Connection(ours, inherit=True)
    got: list[bytes] = []
    reader = threading.Thread(target=lambda: got.append(conn.recv()))
    reader.start()
    while not row_of(conn).waiting:
        os.sched_yield()

    def use() -> None:
        conn.send(b"sent")
        with pytest.raises(TimeoutError):
            conn.recv(timeout=0.01)

    with child(use) as forked:
        forked.wait()
        assert peer.recv(100) == b"sent"
    peer.sendall(b"for the thread")
    reader.join(5)
    assert got == [b"for the thread"]
    conn.abort()


def test_an_async_connection(pair: Pair, gate: Gate) -> None:
    """The child closes its descriptor, and the parent's loop goes on watching."""
    ours, peer = pair

    async def scenario() -> None:
        conn = AsyncConnection(ours)
        receiving = asyncio.create_task(conn.recv())
        await asyncio.sleep(0)
        fd = conn.fileno()

        def look() -> None:
            assert not is_open(fd)
            with pytest.raises(Released, match="forked by"):
                conn.recv().send(None)
            gate.wait()

        with child(look):
            peer.sendall(b"to the parent")
            assert await asyncio.wait_for(receiving, 5) == b"to the parent"
            await conn.release()
            assert peer.recv(1) == b""
            gate.open()

    asyncio.run(scenario())


def test_an_inherited_async_connection_runs_on_the_childs_loop(pair: Pair) -> None:
    """The parent's loop, and its epoll, are left alone."""
    ours, peer = pair

    async def scenario() -> None:
        conn = AsyncConnection(ours, inherit=True)
        receiving = asyncio.create_task(conn.recv())
        await asyncio.sleep(0)

        async def in_child() -> None:
            await conn.send(b"from the child")
            assert await conn.recv() == b"to the child"
            await conn.send(b"done")
            await conn.release()

        with child(lambda: asyncio.run(in_child())):
            receiving.cancel()
            await asyncio.wait([receiving])
            assert peer.recv(100) == b"from the child"
            peer.sendall(b"to the child")
            assert peer.recv(100) == b"done"
        peer.sendall(b"to the parent")
        assert await asyncio.wait_for(conn.recv(), 5) == b"to the parent"
        await conn.close(linger=0.1)

    asyncio.run(scenario())


def test_a_listener_closes_with_its_parent(gate: Gate, ready: Gate) -> None:
    """A child that was forked for something else does not keep the port."""
    listener = Listener.bind("127.0.0.1:0")
    address = listener.sock.getsockname()

    def look() -> None:
        with pytest.raises(Released, match="forked by"):
            listener.accept_socket()
        listener.close()
        ready.open()
        gate.wait()

    with child(look):
        ready.wait()
        listener.close()
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(address, timeout=5)
        gate.open()


def test_an_inherited_listener_serves_on(gate: Gate) -> None:
    with Listener.bind("127.0.0.1:0", inherit=True) as listener:
        address = listener.sock.getsockname()

        def serve() -> None:
            gate.wait()
            accepted, _ = listener.accept_socket()
            accepted.sendall(b"child")
            accepted.close()

        with child(serve):
            listener.close()
            with socket.create_connection(address, timeout=5) as peer:
                gate.open()
                assert peer.recv(100) == b"child"


def test_the_file_of_a_unix_listener_stays_the_parents(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    with Listener.bind(f"unix:{path}") as listener:
        with child(listener.close):
            pass
        assert path.exists()
    assert not path.exists()


def test_a_drop_in_socket_is_inherited_unless_told_not_to(pair: Pair, gate: Gate) -> None:
    """So has the standard class, and socketserver's ForkingMixIn counts on it."""
    ours, _ = pair
    first = Socket(fileno=ours.detach())
    second = first.dup()
    second.inherit = False
    third = second.dup()
    fds = [sock.fileno() for sock in (first, second, third)]

    def look() -> None:
        assert [is_open(fd) for fd in fds] == [True, False, False]
        with pytest.raises(OSError, match="Bad file descriptor"):
            second.send(b"x")

    with first, second, third:
        assert [sock.inherit for sock in (first, second, third)] == [True, False, False]
        with child(look):
            pass
        second.send(b"the parent's is open")


def test_what_a_drop_in_socket_accepts_has_its_policy() -> None:
    with Socket(inherit=False) as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        with socket.create_connection(listener.getsockname()):
            accepted, _ = listener.accept()
            with accepted:
                assert not accepted.inherit
                fd = accepted.fileno()

                def look() -> None:
                    assert not is_open(fd)

                with child(look):
                    pass


def test_multiprocessing_by_each_method() -> None:
    """THE case: a process is started, the parent closes, and the peer must see EOF at once."""
    with program("start_processes") as running:
        output, _ = finished(running)
    assert output.splitlines() == [
        "fork plain: waits",
        "fork Connection: EOF",
        "spawn plain: EOF",
        "spawn Connection: EOF",
        "forkserver plain: EOF",
        "forkserver Connection: EOF",
    ]


def test_a_program_that_is_executed_has_what_it_is_passed(pair: Pair) -> None:
    """`subprocess` is no fork to the policy: pass_fds works as with any descriptor."""
    ours, peer = pair
    conn = Connection(ours)
    fd = conn.fileno()
    script = "import os, sys; os.write(int(sys.argv[1]), b'program'); sys.stdin.read()"
    command = [sys.executable, "-c", script, str(fd)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, pass_fds=[fd]) as running:
        assert peer.recv(100) == b"program"
        running.communicate()
    assert running.returncode == 0
    look = "import os, sys; sys.exit(os.path.exists('/proc/self/fd/' + sys.argv[1]))"
    assert subprocess.run([sys.executable, "-c", look, str(fd)], check=False).returncode == 0
    conn.abort()


def test_a_connection_cannot_be_pickled_by_accident(pair: Pair) -> None:
    conn = Connection(pair[0])
    with pytest.raises(TypeError, match=r"conn\.give\(channel\)"):
        pickle.dumps(conn)
    conn.abort()


def test_the_registry_holds_no_connection(pair: Pair) -> None:
    conns = [Connection(pair[0])]
    held = weakref.ref(conns[0])
    conns.clear()
    gc.collect()
    assert held() is None
