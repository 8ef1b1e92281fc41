"""A running server whose settings file is changed: `reload`, HUP, and what is refused."""

from __future__ import annotations

import json
import signal
from pathlib import Path

from tests.harness import Server, connect, read_reply, write_handler

FILE = """
[socketkeep]
workers = 1
graceful_timeout = 20
threads = 2
"""


def test_changed_options(tmp_path: Path) -> None:
    """What can change does, with the connection kept; the rest is named; a mistake is refused."""
    target = write_handler(tmp_path, "v0", is_async=False)
    settings = tmp_path / "server.toml"
    settings.write_text(FILE)
    options = ("-c", "server.toml", "-k", "thread", "--threads", "5", "--park-after", "off")
    with Server(tmp_path, target, *options) as server, connect(server.address) as peer:
        peer.sendall(b"1\n")
        assert read_reply(peer) == b"1 1 v0"
        write_handler(tmp_path, "v1", is_async=False)
        settings.write_text(FILE.replace("workers = 1", 'workers = 2\nkeep = "crash"'))
        done = server.cli("reload")
        assert (done.exit_code, done.stderr) == (0, "")
        assert done.stdout.splitlines() == [
            "generation: 2",
            f"{target}: moving 1 connection to the new code",
            "workers is 2 now, and was 1",
            "keep stays reload: restart the server to make it crash",
        ]
        server.wait_event("options need a restart", keep="reload -> crash")
        server.wait_event("worker ready", count=3)
        server.wait_event("earlier code gone", moved=1)
        assert server.status()["workers"]["ready"] == 2
        peer.sendall(b"2\n")
        assert read_reply(peer) == b"2 2 v1"

        settings.write_text(FILE.replace("workers = 1", "wokers = 1"))
        write_handler(tmp_path, "v2", is_async=False)
        for command in (("reload",), ("reload", "--dry-run")):
            done = server.cli(*command)
            assert done.exit_code == 2
            assert "server.toml, line 3: unknown key wokers (did you mean workers?)" in done.stderr
        peer.sendall(b"3\n")
        assert read_reply(peer) == b"3 3 v1"
        assert server.status()["workers"]["ready"] == 2

        settings.write_text(FILE.replace("20", "1\nlog_level = 'debug'"))
        foretold = json.loads(server.cli("reload", "--dry-run", "--json").stdout)
        assert foretold["changed"] == [
            {"option": "workers", "was": "2", "now": "1"},
            {"option": "graceful_timeout", "was": "20", "now": "1"},
            {"option": "log_level", "was": "info", "now": "debug"},
        ]
        mark = server.mark()
        server.signal(signal.SIGHUP)
        server.wait_event("options changed", since=mark, workers="2 -> 1")
        server.wait_event("earlier code gone", since=mark)
        peer.sendall(b"4\n")
        assert read_reply(peer) == b"4 4 v2"
        assert server.status()["generation"] == 4
