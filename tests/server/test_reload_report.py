"""`reload --dry-run` and `--wait` on a real server, beside what the peers see."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

from tests.harness import Server, connect

HANDLER = """
from socketkeep import AsyncConnection, resumable


@resumable
async def handle(conn: AsyncConnection) -> None:
    async for line in conn.lines():
        await conn.send(line + b"\\n")
        if line != b"hold":
            conn.commit()
"""


def test_what_was_foretold_happens(tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(HANDLER)
    options = ("-k", "async", "--graceful-timeout", "1")
    with Server(tmp_path, "app:handle", *options) as server:
        with connect(server.address) as moves, connect(server.address) as stays:
            for peer, line in ((moves, b"go\n"), (stays, b"hold\n")):
                peer.sendall(line)
                assert peer.recv(100) == line
            foretold = server.cli("reload", "--dry-run", "--json")
            assert foretold.exit_code == 1
            assert json.loads(foretold.stdout)["moves"] == 1
            happened = server.cli("reload", "--wait", "--json")
            assert happened.exit_code == 1
            assert json.loads(happened.stdout) == {
                "generation": 2,
                "moved": 1,
                "ended": 0,
                "cut": [{"reason": "uncommitted", "connections": 1}],
                "target": "app:handle",
                "changed": [],
                "restart": [],
            }
            assert "of its connections 1 are to move, 1 to stay" in happened.stderr
            assert stays.recv(100) == b"", "FIN, at the end of its time"
            moves.sendall(b"on\n")
            assert moves.recv(100) == b"on\n"
            server.wait_event("earlier code gone", moved=1, cut_uncommitted=1)
        assert server.cli("reload", "--dry-run").exit_code == 0


def test_a_worker_that_hangs_is_named(tmp_path: Path) -> None:
    """It is waited for a second, and what it has is counted apart."""
    (tmp_path / "app.py").write_text(HANDLER)
    with Server(tmp_path, "app:handle", "-k", "async") as server, connect(server.address) as peer:
        peer.sendall(b"go\n")
        assert peer.recv(100) == b"go\n"
        [worker] = server.ask("workers")
        os.kill(worker["pid"], signal.SIGSTOP)
        try:
            done = server.cli("reload", "--dry-run")
        finally:
            os.kill(worker["pid"], signal.SIGCONT)
        assert done.exit_code == 1
        said = f"1 connection of worker 0 (pid {worker['pid']}), which does not answer"
        assert done.stdout.splitlines()[1].startswith(said)
        assert server.cli("reload", "--dry-run").exit_code == 0


HANDLERS = """
from socketkeep import Connection, resumable


def plain(conn: Connection) -> None:
    conn.recv(1)


@resumable
def forgetful(conn: Connection) -> None:
    while data := conn.recv(100):
        conn.send(data)
"""


def test_handlers_that_do_not_move_are_named_at_the_start(tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(HANDLERS)
    not_resumable = (
        "the handler is not resumable: at a reload its connections stay with the old code"
    )
    with Server(tmp_path, "app:plain") as server:
        server.wait_event(not_resumable, target="app:plain")
    with Server(tmp_path, "app:plain", "--keep", "none") as server:
        server.wait_event("ready")
        assert not server.find(not_resumable)
    with Server(tmp_path, "app:forgetful") as server:
        server.wait_event(
            "the handler answers and never commits: call conn.commit() where a message is dealt"
            " with, or no reload moves its connections",
            target="app:forgetful",
            level="warning",
        )
