"""Answers that are gathered and die with their worker: the peer gets each once."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.harness import Server, connect, read_reply, write_source

_SOURCE = """
import os, signal
from socketkeep import resumable

@resumable(redeliver=True)
{is_async}def handle(conn):
    conn.gather()
    {is_async}for line in conn.lines():
        if line == b"die" and not conn.redelivered:
            os.kill(os.getpid(), signal.SIGKILL)
        {wait}conn.send(line.upper() + b"\\n")
        if line in (b"hello", b"end"):
            conn.commit()
"""


@pytest.mark.parametrize("model", ["prefork", "async"])
def test_a_worker_dies_with_answers_that_it_has_gathered(model: str, tmp_path: Path) -> None:
    words = ("async ", "await ") if model == "async" else ("", "")
    source = _SOURCE.format(is_async=words[0], wait=words[1])
    options = ("-k", model, "-w", "2", "--keep", "crash", "--keep-after", "0")
    with Server(tmp_path, write_source(tmp_path, source), *options) as server:
        with connect(server.address) as sock:
            sock.sendall(b"hello\n")
            assert read_reply(sock) == b"HELLO"
            server.wait_until(lambda: server.status()["connections"]["kept"] == 1, "it is kept")
            sock.sendall(b"one\ntwo\ndie\nend\n")
            replies = b""
            while not replies.endswith(b"END\n"):
                data = sock.recv(4096)
                assert data, "it ended"
                replies += data
            assert replies == b"ONE\nTWO\nDIE\nEND\n"
        assert server.status()["totals"]["worker_deaths"] == 1
