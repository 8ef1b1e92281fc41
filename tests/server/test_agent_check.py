"""What HAProxy's agent checks are told."""

from __future__ import annotations

import signal
import socket
import threading
from contextlib import ExitStack
from pathlib import Path
from typing import Final

from tests.harness import Server, connect

_ECHO: Final = """
from socketkeep import resumable
@resumable
def handle(conn):
    for line in conn.lines(commit=True):
        conn.send(line + b"\\n")
"""


def told(server: Server, said: bytes = b"") -> str:
    with socket.create_connection(address_of(server), 5) as peer:
        peer.sendall(said)  # as HAProxy's agent-send
        data = b""
        while piece := peer.recv(100):
            data += piece
    return data.decode()


def address_of(server: Server) -> tuple[str, int]:
    host, _, port = server.find("agent check")[-1]["address"].rpartition(":")
    return host, int(port)


def test_by_seats(tmp_path: Path) -> None:
    """It falls with the seats that are taken, and never to 0; `drain` once the server is to end."""
    (tmp_path / "app.py").write_text(_ECHO)
    options = ("-k", "thread", "-w", "2", "--threads", "2", "--park-after", "off")
    with (
        Server(tmp_path, "app:handle", *options, "--agent-check", "127.0.0.1:0") as server,
        ExitStack() as stack,
    ):
        assert told(server) == "up ready 100%\n"
        for free in (75, 50, 25, 1):
            peer = stack.enter_context(connect(server.address))
            peer.sendall(b"x\n")
            assert peer.recv(10) == b"x\n"
            assert told(server, b"app\n") == f"up ready {free}%\n"
        assert server.cli("upgrade").exit_code == 0
        assert told(server).startswith("up ready ")
        command = threading.Thread(target=server.cli, args=("drain",))
        command.start()
        server.wait_event("draining")
        assert told(server) == "drain\n"
        server.signal(signal.SIGTERM)
        command.join()
        assert server.wait_exit() == 0


def test_not_ready(tmp_path: Path) -> None:
    """A server that has no code yet says so; one that accepts nothing for a while drains."""
    (tmp_path / "app.py").write_text("import time\ntime.sleep(1.5)\n" + _ECHO)
    with Server(tmp_path, "app:handle", "--agent-check", "127.0.0.1:0", wait_ready=False) as server:
        server.wait_event("agent check")
        assert told(server) == "down #starting\n"
        server.wait_event("ready")
        assert told(server) == "up ready 100%\n"
        server.signal(signal.SIGWINCH)
        server.wait_event("accepting paused until the next reload")
        assert told(server) == "drain\n"


def test_bad_input(tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(_ECHO)
    with Server(tmp_path, "app:handle", "--agent-check", "nowhere", wait_ready=False) as server:
        assert server.wait_exit() == 2
        assert any("agent-check" in line for line in server.stderr), server.stderr
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with Server(tmp_path, "app:handle", "--agent-check", address, wait_ready=False) as server:
            assert server.wait_exit() == 1
            assert any("--agent-check" in line for line in server.stderr), server.stderr
