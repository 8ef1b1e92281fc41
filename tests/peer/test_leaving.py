"""The last word of a service to its peers, whose connections the server is to end."""

from __future__ import annotations

import select
import signal
import socket
import threading
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Final

import pytest

from socketkeep import Client
from tests.harness import Server, connect
from tests.harness.command import main

_SOURCE: Final = """
import time
from socketkeep import *

{mark}
async def handle(conn):
    async for line in conn.lines():
        if line == b"name":
            conn.name = "named"
        if line == b"leaving":
            line = repr(conn.leaving and conn.leaving.why).encode()
        await conn.send(line + b"\\n")
        conn.commit()

async def bye(conn, why, deadline):
    left = deadline.at - time.monotonic()
    await conn.send(b"bye: %s\\n" % why.encode())
    if {asks}:
        await conn.send(b"heard " + await conn.recv_until(b"\\n"))
    assert left > 0

service = Service(handle, on_leaving=bye)
"""
_SYNC: Final = _SOURCE.replace("async for", "for").replace("async def", "def").replace("await ", "")


def serve(
    tmp_path: Path, model: str, *options: str, resumable: bool = True, asks: bool = False
) -> Server:
    source = _SOURCE if model == "async" else _SYNC
    source = source.replace("{mark}", "@resumable" if resumable else "")
    (tmp_path / "app.py").write_text(source.replace("{asks}", str(asks)))
    workers = "3" if model == "prefork" else "2"
    return Server(tmp_path, "app:service", "-k", model, "-w", workers, *options)


def ask(peer: socket.socket, line: bytes) -> bytes:
    peer.settimeout(20)
    peer.sendall(line + b"\n")
    return peer.recv(100)


def read(peer: socket.socket) -> bytes:
    peer.settimeout(20)
    data = b""
    while piece := peer.recv(100):
        data += piece
    return data


@pytest.mark.parametrize(
    ("model", "parks"),
    [("async", True), ("thread", False), ("fork", False)],
)
def test_stop(tmp_path: Path, model: str, parks: bool) -> None:
    """Each peer hears it before the FIN, parked or not."""
    with (
        serve(tmp_path, model, "--park-after", "0.05s" if parks else "off") as server,
        ExitStack() as stack,
    ):
        peers = [stack.enter_context(connect(server.address)) for _ in range(3)]
        assert [ask(peer, b"x") for peer in peers] == [b"x\n"] * 3
        if parks:
            server.wait_until(lambda: server.status()["connections"]["parked"] == 3, "parked")
        server.signal(signal.SIGTERM)
        assert [read(peer) for peer in peers] == [b"bye: stop\n"] * 3
        assert server.wait_exit() == 0


@pytest.mark.parametrize("model", ["async", "fork"])
def test_drain(tmp_path: Path, model: str) -> None:
    """The peer hears it at once, and is served until it ends."""
    with serve(tmp_path, model) as server, connect(server.address) as peer:
        assert ask(peer, b"leaving") == b"None\n"
        command = threading.Thread(target=server.cli, args=("drain",))
        command.start()
        assert peer.recv(100) == b"bye: drain\n"
        assert ask(peer, b"leaving") == b"'drain'\n"
        peer.shutdown(socket.SHUT_WR)
        assert read(peer) == b""
        command.join()
        assert server.wait_exit() == 0


def test_reload_of_what_cannot_move(tmp_path: Path) -> None:
    """The peer hears it when the new code serves, and is cut at the deadline."""
    with (
        serve(tmp_path, "prefork", "--graceful-timeout", "1.5", resumable=False) as server,
        connect(server.address) as peer,
    ):
        assert ask(peer, b"x") == b"x\n"
        server.reload()
        assert peer.recv(100) == b"bye: reload\n"
        assert ask(peer, b"leaving") == b"'reload'\n"
        assert read(peer) == b""


def test_moved_is_not_left(tmp_path: Path) -> None:
    """Who goes on in the new code hears nothing."""
    with serve(tmp_path, "async") as server, connect(server.address) as peer:
        assert ask(peer, b"x") == b"x\n"
        server.reload()
        assert ask(peer, b"leaving") == b"None\n"


def test_asks_for_an_answer(tmp_path: Path) -> None:
    """It may receive: here the peer's own last word."""
    with (
        serve(tmp_path, "thread", resumable=False, asks=True) as server,
        connect(server.address) as peer,
    ):
        assert ask(peer, b"name") == b"name\n"
        told = threading.Thread(target=Client(server.control).disconnect, args=("named",))
        told.start()
        assert peer.recv(100) == b"bye: disconnect\n"
        peer.sendall(b"good night\n")
        assert read(peer) == b"heard good night"
        told.join()


def test_fails(tmp_path: Path) -> None:
    """It is logged, and the connection ends as it would have."""
    with serve(tmp_path, "async") as server, connect(server.address) as peer:
        assert ask(peer, b"x") == b"x\n"
        text = (tmp_path / "app.py").read_text().replace("assert left > 0", "assert left < 0")
        (tmp_path / "app.py").write_text(text)
        server.reload()
        assert ask(peer, b"x") == b"x\n"
        server.signal(signal.SIGTERM)
        assert read(peer) == b"bye: stop\n"
        assert "AssertionError" in server.wait_event("on_leaving failed")["traceback"]
        assert server.wait_exit() == 0


def test_bad_input(tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(
        "from socketkeep import Service\n"
        "service = Service(lambda conn: None, on_leaving=lambda conn: None)\n"
    )
    with Server(tmp_path, "app:service", wait_ready=False) as server:
        assert server.wait_exit() == 4
        said = "takes a connection, why it is to end, and a deadline"
        assert any(said in line for line in server.stderr), server.stderr


@pytest.mark.parametrize(
    ("model", "clients", "pace"),
    [("async", 30, 20), ("prefork", 3, 2), ("fork", 6, 4)],
)
def test_drain_at_a_pace(tmp_path: Path, model: str, clients: int, pace: int) -> None:
    """The connections end one after another, each with its goodbye."""
    with serve(tmp_path, model, "--park-after", "off") as server, ExitStack() as stack:
        peers = [stack.enter_context(connect(server.address)) for _ in range(clients)]
        assert {ask(peer, b"x") for peer in peers} == {b"x\n"}
        command = threading.Thread(target=server.cli, args=("drain", "--pace", f"{pace}/s"))
        command.start()
        ended = []
        waiting = {peer.fileno(): peer for peer in peers}
        while waiting:
            ready, _, _ = select.select(list(waiting), [], [], 20)
            assert ready
            for fd in ready:
                assert read(waiting.pop(fd)) == b"bye: drain\n"
                ended.append(time.monotonic())
        command.join()
        assert server.wait_exit() == 0
        took = (clients - 1) / pace
        assert ended[-1] - ended[0] > took / 2, ended
        # None ends sooner than the pace allows, but for the pieces of which it is made.
        assert ended[clients // 3] - ended[0] > (clients // 3) / pace - 0.6, ended


def test_drain_of_parked_at_a_pace(tmp_path: Path) -> None:
    with serve(tmp_path, "async", "--park-after", "0.05s") as server, ExitStack() as stack:
        peers = [stack.enter_context(connect(server.address)) for _ in range(6)]
        assert {ask(peer, b"x") for peer in peers} == {b"x\n"}
        server.wait_until(lambda: server.status()["connections"]["parked"] == 6, "parked")
        begun = time.monotonic()
        command = threading.Thread(target=server.cli, args=("drain", "--pace", "5/s"))
        command.start()
        assert [read(peer) for peer in peers] == [b"bye: drain\n"] * 6
        assert time.monotonic() - begun > 0.8
        command.join()
        assert server.wait_exit() == 0


@pytest.mark.parametrize("pace", ["0", "-1", "fast", "5/s:3", "1000000"])
def test_bad_pace(pace: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["drain", "--pace", pace]) == 2
    assert "--pace: expected connections a second, as 500/s" in capsys.readouterr().err
