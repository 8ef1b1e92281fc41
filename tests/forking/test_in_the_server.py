"""Handlers of a real server that fork: what their children keep."""

from __future__ import annotations

import os
import select
import signal
from pathlib import Path

import pytest

from socketkeep import inspect
from tests.forking.support import PATIENCE
from tests.harness import Server, connect

SYNC = """
import os, signal
{first}
def handle(conn):
    conn.recv_until(b"\\n")
    pid = os.fork()
    if pid == 0:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.pause()
    conn.send(b"%d\\n" % pid)
    conn.recv_until(b"\\n")
    conn.release()
"""
ASYNC = SYNC.replace("def handle", "async def handle").replace("    conn.", "    await conn.")


GUARD = "import socketkeep; socketkeep.guard_forks()"


@pytest.mark.parametrize(
    ("model", "first"),
    [("fork", ""), ("fork", GUARD), ("prefork", ""), ("thread", GUARD), ("async", "")],
)
def test_a_handlers_child_keeps_neither_connection_nor_port(
    tmp_path: Path, model: str, first: str
) -> None:
    """The peer sees EOF though the child lives on, and the listener is not the child's."""
    path = tmp_path / "forking_handler.py"
    path.write_text((ASYNC if model == "async" else SYNC).replace("{first}", first))
    with (
        Server(tmp_path, f"{path}:handle", "-k", model, "-w", "1") as server,
        connect(server.address) as peer,
    ):
        peer.settimeout(PATIENCE)
        peer.sendall(b"fork\n")
        pidfd = os.pidfd_open(pid := int(peer.makefile("rb").readline()))
        try:
            port = server.address.rpartition(":")[2]

            def is_the_servers_alone() -> bool:
                listener, *_ = inspect.holders(f":{port}").sockets
                return pid not in [holder.pid for holder in listener.holders]

            server.wait_until(is_the_servers_alone, "the listener is not the child's")
            peer.sendall(b"release\n")
            assert peer.recv(1) == b""
            assert not select.select([pidfd], [], [], 0)[0], "the child was to live"
        finally:
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
            os.close(pidfd)
