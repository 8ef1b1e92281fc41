"""Pushes that are odd: to oneself, before the worker is ready, to a name that moves elsewhere."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Any

from tests.harness import Server, connect

_APP = """
from contextlib import asynccontextmanager
from socketkeep import HandlerError, Service, push, resumable

told = []

@asynccontextmanager
async def lifespan():
    try:
        await push("anybody", b"early")
    except HandlerError as error:
        told.append(str(error).encode())
    yield

@resumable
async def handle(conn):
    async for line in conn.lines():
        verb, _, name = line.decode().partition(" ")
        if verb == "name":
            conn.name = name
            await conn.send(b"ok " + conn.listener.encode() + b"\\n")
        elif verb == "self":
            pushed = await push(conn.name, b"to myself\\n")
            await conn.send(pushed.outcome.encode() + b"\\n")
        else:
            await conn.send(told[0] + b"\\n")
        conn.commit()

service = Service(handle, lifespan)
"""


def test_odd_pushes(tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(_APP)
    other = tmp_path / "other.sock"
    with Server(tmp_path, "app:service", "-b", f"unix:{other}") as server, ExitStack() as stack:

        def dial(address: str) -> tuple[Any, Any]:
            sock = stack.enter_context(connect(address))
            return sock, stack.enter_context(sock.makefile("rb"))

        one, lines = dial(server.address)
        one.sendall(b"early\n")
        assert lines.readline().startswith(
            b"refused: push is for the handlers of a server that runs"
        )
        one.sendall(b"name bob\n")
        assert lines.readline().startswith(b"ok 127.0.0.1:")
        one.sendall(b"self\n")
        assert lines.readline() == b"to myself\n"
        assert lines.readline() == b"delivered\n"
        # Names are the server's, whichever listener their connections came by.
        second, others = dial(f"unix:{other}")
        second.sendall(b"name bob\n")
        assert others.readline().startswith(b"ok unix:")
        assert lines.readline() == b"", "the first is closed"
        assert server.cli("push", "bob", "here", "-n").exit_code == 0
        assert others.readline() == b"here\n"
