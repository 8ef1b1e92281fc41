"""What a service is told in each worker: its start, its connections, its failures."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from tests.harness import Server, connect, read_reply, read_to_end, write_source
from tests.server.support import MODELS

_SERVICE = """
import os
from pathlib import Path
from socketkeep import Service, resumable

HERE = Path(__file__).parent
BROKEN = HERE.joinpath("broken").exists()

def note(*what):
    with open(HERE / "journal", "a") as file:
        file.write(" ".join(map(str, what)) + "\\n")

def on_start(info):
    if BROKEN:
        raise LookupError("no collector")
    note("start", info.server, info.generation, info.slot, info.model, os.getpid())

def on_ready(info):
    note("ready", info.generation, os.getpid())

def on_connect(conn):
    note("connect", conn.attached)

def on_leave(conn, how):
    note("leave", how)

def on_error(conn, error):
    note("error", error)

@resumable
def handle(conn):
    for line in conn.lines(commit=True):
        if line == b"fail":
            raise ValueError("as it was told")
        conn.send(line + b"\\n")

@resumable
async def handle_async(conn):
    async for line in conn.lines(commit=True):
        if line == b"fail":
            raise ValueError("as it was told")
        await conn.send(line + b"\\n")

async def on_start_async(info):
    on_start(info)

async def on_ready_async(info):
    on_ready(info)

async def on_connect_async(conn):
    on_connect(conn)

async def on_leave_async(conn, how):
    on_leave(conn, how)

sync = Service(
    handle,
    on_start=on_start,
    on_ready=on_ready,
    on_connect=on_connect,
    on_leave=on_leave,
    on_error=on_error,
)
of_async = Service(
    handle_async,
    on_start=on_start_async,
    on_ready=on_ready_async,
    on_connect=on_connect_async,
    on_leave=on_leave_async,
    on_error=on_error,
)
"""


def _journal(directory: Path) -> list[str]:
    return (directory / "journal").read_text().splitlines()


@pytest.mark.parametrize("model", MODELS)
def test_hooks(tmp_path: Path, model: str) -> None:
    """In each worker, and for each stay of a connection: a reload is a leaving and a coming."""
    place = write_source(tmp_path, _SERVICE).rpartition(":")[0]
    target = f"{place}:{'of_async' if model == 'async' else 'sync'}"
    options = ("-k", model, "-w", "1", "--park-after", "off", "--name", "told")
    with Server(tmp_path, target, *options) as server:
        ((first),) = (worker["pid"] for worker in server.workers())
        with connect(server.address) as peer:
            peer.sendall(b"one\n")
            assert read_reply(peer) == b"one"
            (tmp_path / "broken").touch()
            failed = server.cli("reload")
            assert failed.exit_code != 0
            assert "on_start failed" in failed.stderr
            assert "LookupError: no collector" in failed.stderr
            (tmp_path / "broken").unlink()
            server.reload()
            peer.sendall(b"two\n")
            assert read_reply(peer) == b"two"
            peer.sendall(b"fail\n")
            assert read_to_end(peer) == b""
        server.wait_until(lambda: len(server.workers()) == 1, "the first worker gone")
        (second,) = (worker["pid"] for worker in server.workers())
        assert server.cli("stop").exit_code == 0
        assert server.wait_exit() == 0
        assert server.find("handler failed")
    seen = _journal(tmp_path)
    of_workers = [line for line in seen if line.startswith(("start", "ready"))]
    number = int(of_workers[-1].split()[1])  # the broken generation has one, too
    assert of_workers == [
        f"start told 1 0 {model} {first}",
        f"ready 1 {first}",
        f"start told {number} 0 {model} {second}",
        f"ready {number} {second}",
    ]
    assert [line for line in seen if line not in of_workers] == [
        "connect accepted",
        "leave moved",
        "connect reload",
        "error as it was told",
        "leave ended",
    ]


_APPLICATION = """
from pathlib import Path
from socketkeep import Service

def note(*what):
    with open(Path(__file__).parent / "journal", "a") as file:
        file.write(" ".join(map(str, what)) + "\\n")

async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        raise RuntimeError
    await receive()
    if scope["path"] == "/fail":
        raise ValueError("as it was told")
    await send({"type": "http.response.start", "status": 204, "headers": []})
    await send({"type": "http.response.body"})

service = Service(
    app,
    on_start=lambda info: note("start", info.model),
    on_connect=lambda conn: note("connect", conn.attached),
    on_leave=lambda conn, how: note("leave", how),
    on_error=lambda conn, error: note("error", error),
)
"""


def test_hooks_of_an_application(tmp_path: Path) -> None:
    """With or without --asgi; a connection is met and left, a request that fails is told."""
    place = write_source(tmp_path, _APPLICATION).rpartition(":")[0]
    with Server(tmp_path, f"{place}:service", "-w", "1") as server:
        assert server.find("served as ASGI, since it takes scope, receive, send")
        with connect(server.address) as peer:
            peer.sendall(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n")
            assert peer.recv(4096).startswith(b"HTTP/1.1 204 ")
            peer.sendall(b"GET /fail HTTP/1.1\r\nhost: a\r\n\r\n")
            assert read_to_end(peer).startswith(b"HTTP/1.1 500 ")
        assert server.cli("stop").exit_code == 0
        assert server.wait_exit() == 0
    counted = Counter(_journal(tmp_path))
    assert counted == Counter(
        ["start async", "connect accepted", "error as it was told", "leave ended"]
    )


def test_a_function_that_fails_when_all_is_ready(tmp_path: Path) -> None:
    """It is one entry of the log, and the worker serves."""
    target = write_source(
        tmp_path,
        "from socketkeep import Service\n"
        "def answer(conn):\n"
        "    conn.send(b'here\\n')\n"
        "def on_ready(info):\n"
        "    raise LookupError('nobody to tell')\n"
        "handle = Service(answer, on_ready=on_ready)\n",
    )
    with Server(tmp_path, target, "-w", "1") as server:
        with connect(server.address) as peer:
            assert read_reply(peer) == b"here"
        server.wait_event("on_ready failed")
