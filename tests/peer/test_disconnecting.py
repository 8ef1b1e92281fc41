"""`disconnect` ends one connection, wherever it is, and no other."""

from __future__ import annotations

import json
import os
import signal
import socket
from contextlib import ExitStack
from pathlib import Path
from typing import Final

import pytest

from socketkeep import Client, TimedOut
from tests.harness import Server, connect, read_to_end

#: "name X" names it; "begin" leaves the handler in the middle of a message; "compute" away from it.
_SOURCE: Final = """
import time, asyncio
from socketkeep import *

{mark}
async def handle(conn):
    async for line in conn.lines():
        if line.startswith(b"name "):
            conn.name = line[5:].decode()
        if line == b"compute":
            await conn.send(b"computing\\n")
            await asyncio.sleep(30)
        await conn.send(line + b"\\n")
        if line == b"begin":
            await conn.recv_exactly(10)
        conn.commit()
"""
_SYNC: Final = (
    _SOURCE.replace("async for", "for")
    .replace("async def", "def")
    .replace("await asyncio.sleep", "time.sleep")
    .replace("await ", "")
)


def serve(tmp_path: Path, model: str, *options: str, resumable: bool = True) -> Server:
    source = _SOURCE if model == "async" else _SYNC
    (tmp_path / "app.py").write_text(source.replace("{mark}", "@resumable" if resumable else ""))
    workers = "4" if model == "prefork" else "2"
    return Server(tmp_path, "app:handle", "-k", model, "-w", workers, *options)


def ask(peer: socket.socket, line: bytes) -> bytes:
    peer.settimeout(20)
    peer.sendall(line + b"\n")
    return peer.recv(100)


def ids(server: Server) -> dict[str, str]:
    """Return the ids of the connections, by what the peers are called."""
    return {each["peer"]: each["id"] for each in server.ask("connections")}


def is_served(peer: socket.socket) -> bool:
    return ask(peer, b"still") == b"still\n"


@pytest.mark.parametrize("model", ["async", "thread", "prefork", "fork"])
def test_by_id_by_name_and_by_force(tmp_path: Path, model: str) -> None:
    """The peer sees FIN, the others nothing; what is not there is said to be not there.

    Who is in the middle of a message is left alone, and cut by force, computing or not.
    """
    options = ("--keep", "crash", "--park-after", "off")
    with serve(tmp_path, model, *options) as server, ExitStack() as stack:
        one, begun, computing, other = (
            stack.enter_context(connect(server.address)) for _ in range(4)
        )
        client = Client(server.control)
        assert ask(begun, b"name begun") == b"name begun\n"
        assert ask(begun, b"begin") == b"begin\n"
        assert ask(computing, b"name computing") == b"name computing\n"
        assert ask(computing, b"compute") == b"computing\n"
        assert is_served(one)
        assert is_served(other)
        host, port = one.getsockname()
        done = server.cli("disconnect", ids(server)[f"{host}:{port}"])
        assert done.exit_code == 0, done
        assert done.stdout.startswith("disconnected: ")
        assert one.recv(1) == b""
        with pytest.raises(TimedOut):
            client.disconnect("begun", timeout=0.3)
        assert is_served(other)
        begun.sendall(b"0123456789")
        assert begun.recv(1) == b"", "it ends once it has come to a safe point"
        assert client.disconnect("computing", force=True)
        assert computing.recv(1) == b""
        assert is_served(other)
        assert not client.disconnect("begun")
        done = server.cli("disconnect", "begun")
        assert (done.exit_code, done.stdout) == (1, "")
        assert "no connection has the id or name 'begun'" in done.stderr


def test_on_its_way_to_a_worker(tmp_path: Path) -> None:
    """It is there, though nobody has it yet, and ends when it has come to its worker."""
    with (
        serve(tmp_path, "async", "-w", "1", "--park-after", "0.05s") as server,
        connect(server.address) as peer,
    ):
        client = Client(server.control)
        assert ask(peer, b"name x") == b"name x\n"
        server.wait_until(lambda: server.status()["connections"]["parked"] == 1, "parked")
        (worker,) = server.workers()
        os.kill(worker["pid"], signal.SIGSTOP)
        try:
            peer.sendall(b"woken\n")
            server.wait_until(lambda: server.status()["connections"]["parked"] == 0, "sent")
            with pytest.raises(TimedOut):
                client.disconnect("x", timeout=0.1)
        finally:
            os.kill(worker["pid"], signal.SIGCONT)
        assert read_to_end(peer) in (b"", b"woken\n")
        server.wait_until(lambda: not client.disconnect("x"), "nobody is called so")


def test_not_resumable(tmp_path: Path) -> None:
    """A handler that never commits ends where it waits."""
    with (
        serve(tmp_path, "async", resumable=False) as server,
        connect(server.address) as peer,
    ):
        assert ask(peer, b"name x") == b"name x\n"
        assert Client(server.control).disconnect("x")
        assert peer.recv(1) == b""


def test_parked(tmp_path: Path) -> None:
    """The keeper ends what is parked; no worker is asked.  Bad input is told."""
    with (
        serve(tmp_path, "async", "--park-after", "0.05s") as server,
        connect(server.address) as peer,
    ):
        assert ask(peer, b"name x") == b"name x\n"
        server.wait_until(lambda: server.status()["connections"]["parked"] == 1, "parked")
        done = server.cli("disconnect", "x", "--json")
        assert json.loads(done.stdout)["outcome"] == "disconnected"
        assert peer.recv(1) == b""
        done = server.cli("disconnect", "x" * 129)
        assert done.exit_code == 2
        assert "at most 128" in done.stderr, done.stderr
