"""How connections end, as the peer sees it: FIN or RST, and when."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Final

import pytest

from tests.harness import Server, connect, read_reply, read_to_end, write_source
from tests.server.support import seats

_REPLY: Final = 1 << 20

_VERBS: Final = """
import os
import socket

def handle(conn):
    verb = conn.recv_until(b"\\n")
    if verb == b"return":
        conn.send(b"x" * (1 << 20))
    elif verb == b"close":
        conn.send(b"bye")
        conn.close()
        conn.close()
    elif verb == b"abort":
        conn.send(b"partial")
        conn.recv(1)
        conn.abort()
    elif verb == b"send_eof":
        conn.send(b"all")
        conn.send_eof()
        with open(os.environ["HEARD"], "wb") as file:
            file.write(conn.recv_exactly(5))
    elif verb == b"release":
        other = socket.socket(fileno=os.dup(conn.fileno()))
        conn.release()
        other.setblocking(True)
        other.sendall(b"from another handle\\n")
        other.sendall(other.recv(10))
        other.close()
    elif verb == b"close the descriptor":
        os.close(conn.fileno())
    elif verb == b"who":
        conn.send(b"%s %s %s\\n" % (
            conn.listener.encode(), conn.peer.encode(), conn.attached.encode()))
        conn.recv()
"""


def _as_async(source: str) -> str:
    for verb in (
        "recv_until(",
        "recv_exactly(",
        "recv(",
        "send(",
        "send_eof(",
        "close(",
        "release(",
        "abort(",
    ):
        source = source.replace(f"conn.{verb}", f"await conn.{verb}")
    return source.replace("def handle", "async def handle")


@pytest.fixture
def server(tmp_path: Path, model: str) -> Server:
    """A server whose peers say how they want to be ended; not started yet."""
    target = write_source(tmp_path, _as_async(_VERBS) if model == "async" else _VERBS)
    return Server(
        tmp_path, target, *seats(model, 2), environment={"HEARD": str(tmp_path / "heard")}
    )


def test_verbs(server: Server, tmp_path: Path) -> None:
    """Each verb of a handler, in turn, on a connection of its own."""
    with server:
        _returns_while_the_peer_sends(server)
        _closes(server)
        _aborts(server)
        _half_closes(server, tmp_path / "heard")
        _releases(server)
        status = server.status()
        assert status["totals"]["worker_deaths"] == 0
        assert status["totals"]["handler_errors"] == 0, server.find("handler failed")


def _returns_while_the_peer_sends(server: Server) -> None:
    """The peer, who was sending all the time, gets all of the reply, then EOF, never RST."""
    with connect(server.address) as peer:
        peer.sendall(b"return\n" + b"unread " * 20_000)
        received = peer.recv(1)
        peer.sendall(b"unread, too " * 20_000)
        received += read_to_end(peer)
        assert received == b"x" * _REPLY


def _closes(server: Server) -> None:
    with connect(server.address) as peer:
        peer.sendall(b"close\nunread")
        assert read_to_end(peer) == b"bye"


def _aborts(server: Server) -> None:
    with connect(server.address) as peer:
        peer.sendall(b"abort\n")
        assert peer.recv(7, socket.MSG_WAITALL) == b"partial"
        peer.sendall(b"1")
        with pytest.raises(ConnectionResetError):
            read_to_end(peer)


def _half_closes(server: Server, heard: Path) -> None:
    with connect(server.address) as peer:
        peer.sendall(b"send_eof\n")
        assert read_to_end(peer) == b"all"
        peer.sendall(b"still")
        server.wait_until(lambda: heard.exists() and heard.read_bytes() == b"still", "it heard")


def _releases(server: Server) -> None:
    with connect(server.address) as peer:
        peer.sendall(b"release\n")
        assert read_reply(peer) == b"from another handle"
        peer.sendall(b"a word")
        assert read_to_end(peer) == b"a word"


def test_what_a_connection_knows(server: Server) -> None:
    """`listener`, `peer` and `attached` are those that the server's commands show."""
    with server, connect(server.address) as peer:
        peer.sendall(b"who\n")
        listener, name, attached = read_reply(peer).split()
        assert listener.decode() == server.address
        assert name.decode() == f"127.0.0.1:{peer.getsockname()[1]}"
        assert attached == b"accepted"
        (shown,) = server.connections()
        assert (shown["listener"], shown["peer"]) == (server.address, name.decode())


def test_connections_process_that_dies(tmp_path: Path) -> None:
    """In the model fork it takes one connection along; which one, and how, is logged."""
    target = write_source(
        tmp_path,
        "import os, signal\n"
        "def handle(conn):\n"
        "    for line in conn.lines():\n"
        "        if line == b'die':\n"
        "            os.kill(os.getpid(), signal.SIGKILL)\n"
        "        conn.send(line + b'\\n')\n",
    )
    with (
        Server(tmp_path, target, "-k", "fork") as server,
        connect(server.address) as peer,
        connect(server.address) as bystander,
    ):
        (pid,) = [worker["pid"] for worker in server.workers()]
        for one in (peer, bystander):
            one.sendall(b"1\n")
            assert read_reply(one) == b"1"
        name = f"127.0.0.1:{peer.getsockname()[1]}"
        (shown,) = [each for each in server.connections() if each["peer"] == name]
        peer.sendall(b"die\n")
        assert read_to_end(peer) == b""
        event = server.wait_event("process of a connection died")
        assert (event["id"], event["peer"]) == (shown["id"], name)
        assert event["status"] == "killed by SIGKILL"
        server.wait_until(lambda: server.status()["totals"]["lost"] == 1, "it counted")
        bystander.sendall(b"2\n")
        assert read_reply(bystander) == b"2"
        assert [worker["pid"] for worker in server.workers()] == [pid]


def test_descriptor_closed_by_the_handler(server: Server) -> None:
    """It is the handler's failure, and of its connection alone."""
    with server, connect(server.address) as bystander:
        pids = [worker["pid"] for worker in server.workers()]
        with connect(server.address) as peer:
            peer.sendall(b"close the descriptor\n")
            assert read_to_end(peer) == b""
        assert "Bad file descriptor" in server.wait_event("handler failed")["traceback"]
        bystander.sendall(b"close\n")
        assert read_to_end(bystander) == b"bye"
        server.wait_until(lambda: server.status()["connections"]["open"] == 0, "both at their end")
        assert [worker["pid"] for worker in server.workers()] == pids


@pytest.mark.parametrize("model", ["fork", "prefork", "thread"])
def test_handler_that_leaves_its_connection_non_blocking(tmp_path: Path, model: str) -> None:
    """The end is orderly all the same: what the peer sends after the reply does not reset it."""
    target = write_source(
        tmp_path,
        "from socketkeep import NonBlocking\n"
        "def handle(conn):\n"
        "    conn.recv(1)\n"
        "    conn.send(b'x' * 10_000)\n"
        "    conn.mode = NonBlocking()\n",
    )
    with Server(tmp_path, target, *seats(model, 1)) as server, connect(server.address) as peer:
        peer.sendall(b"1" + b"unread" * 100_000)
        received = peer.recv(1)
        peer.sendall(b"unread, too" * 1000)
        assert received + read_to_end(peer) == b"x" * 10_000


def test_coroutine_that_nobody_awaits(tmp_path: Path) -> None:
    """A sync wrapper of an async handler does nothing, and that is told."""
    target = write_source(
        tmp_path,
        "async def inner(conn):\n    await conn.send(b'1')\n"
        "def handle(conn):\n    return inner(conn)\n",
    )
    with Server(tmp_path, target) as server:
        with connect(server.address) as peer:
            assert read_to_end(peer) == b""
        event = server.wait_event("handler failed")
        assert "handlers.handle returned a coroutine, which nothing runs" in event["traceback"]
        assert not any("never awaited" in line for line in server.stderr)
