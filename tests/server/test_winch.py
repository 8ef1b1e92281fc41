"""SIGWINCH: it stops the accepting, unless it comes from a terminal."""

from __future__ import annotations

import fcntl
import os
import pty
import signal
import socket
import struct
import sys
import termios
from contextlib import ExitStack
from pathlib import Path
from typing import Final

from tests.harness import Server, connect, read_reply, write_handler
from tests.server.support import PrefixedServer

# A session's leader that opens a terminal has it for its own, and so has what it becomes.
_IN_TERMINAL: Final = (
    "import os, sys; os.open(sys.argv[1], os.O_RDWR); os.execv(sys.argv[2], sys.argv[2:])"
)


def test_accepting_stops_until_the_next_reload(tmp_path: Path) -> None:
    """What is open goes on; who connects waits in the kernel's queue."""
    target = write_handler(tmp_path, "v0", is_async=False)
    with (
        Server(tmp_path, target, "-k", "thread") as server,
        connect(server.address) as served,
        ExitStack() as stack,
    ):
        served.sendall(b"1\n")
        assert read_reply(served) == b"1 1 v0"
        server.signal(signal.SIGWINCH)
        server.wait_event("accepting paused until the next reload")
        peers: list[socket.socket] = []

        def one_waits() -> bool:
            # The first may still be accepted: the worker hears of it a moment later.
            peers.append(stack.enter_context(connect(server.address)))
            peers[-1].sendall(b"1\n")
            status = server.status()
            open_then = status["connections"]["open"]
            return bool(status["listeners"][0]["queued"]) and open_then == len(peers)

        server.wait_until(one_waits, "a connection that waits")
        served.sendall(b"2\n")
        assert read_reply(served) == b"2 2 v0"
        server.reload()
        for peer in peers:
            assert read_reply(peer) == b"1 1 v0"


def test_window_of_a_terminal(tmp_path: Path) -> None:
    """A server in a terminal whose window changes goes on accepting."""
    target = write_handler(tmp_path, "v0", is_async=False)
    controller, terminal = pty.openpty()
    try:
        prefix = [sys.executable, "-c", _IN_TERMINAL, os.ttyname(terminal)]
        with PrefixedServer(prefix, tmp_path, target) as server:
            fcntl.ioctl(controller, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 100, 0, 0))
            server.signal(signal.SIGUSR1)
            server.wait_event("log reopened")  # so the signal before it has been seen
            with connect(server.address) as peer:
                peer.sendall(b"1\n")
                assert read_reply(peer) == b"1 1 v0"
            assert not server.find("accepting paused until the next reload")
    finally:
        os.close(terminal)
        os.close(controller)
