"""Idle connections move to workers that have fewer; their peers notice nothing."""

from __future__ import annotations

import json
import socket
from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from typing import Final

import pytest

from tests.harness import Server, connect

_SOURCE: Final = """
import os
from socketkeep import resumable

{mark}
async def handle(conn):
    count = conn.state or 0
    async for line in conn.lines():
        count += 1
        await conn.send(b"%d %d\\n" % (os.getpid(), count))
        conn.commit(count)
"""


def serve(
    tmp_path: Path, model: str, workers: int, *options: str, mark: str = "@resumable"
) -> Server:
    source = _SOURCE.replace("{mark}", mark)
    if model != "async":
        source = source.replace("async ", "").replace("await ", "")
    (tmp_path / "app.py").write_text(source)
    return Server(
        *(tmp_path, "app:handle", "-k", model, "-w", str(workers), "--park-after", "off"), *options
    )


def ask(peer: socket.socket) -> tuple[int, int]:
    """Return which process serves it, and its how manieth line that was."""
    peer.settimeout(20)
    peer.sendall(b"x\n")
    pid, count = peer.recv(100).split()
    return int(pid), int(count)


def loads(server: Server) -> list[int]:
    return sorted(each["connections"] for each in server.workers())


def is_even(server: Server, total: int, workers: int) -> bool:
    """Whether each worker has what it should, within a quarter."""
    fair = total / workers
    have = loads(server)
    return len(have) == workers and fair * 0.75 <= have[0] and have[-1] <= fair * 1.25


@pytest.mark.parametrize("model", ["async", "thread"])
def test_new_workers_get_their_share(tmp_path: Path, model: str) -> None:
    with serve(tmp_path, model, 1) as server, ExitStack() as stack:
        peers = [stack.enter_context(connect(server.address)) for _ in range(40)]
        assert {ask(peer)[1] for peer in peers} == {1}
        server.scale(4)
        server.wait_until(lambda: is_even(server, 40, 4), "even load", timeout=15)
        served: Counter[int] = Counter()
        for peer in peers:
            pid, count = ask(peer)
            assert count == 2
            served[pid] += 1
        assert len(served) == 4


def test_burst_over_four_workers(tmp_path: Path) -> None:
    """Eighty at once are even within 5 s, though one worker has many already."""
    with serve(tmp_path, "async", 4) as server, ExitStack() as stack:
        peers = [stack.enter_context(connect(server.address)) for _ in range(80)]
        server.wait_until(lambda: is_even(server, 80, 4), "even load", timeout=5)
        assert {ask(peer)[1] for peer in peers} == {1}


def test_by_command_where_it_is_off(tmp_path: Path) -> None:
    with serve(tmp_path, "async", 1, "--rebalance", "off") as server, ExitStack() as stack:
        peers = [stack.enter_context(connect(server.address)) for _ in range(12)]
        assert {ask(peer)[1] for peer in peers} == {1}
        server.scale(3)
        server.wait_until(lambda: len(server.workers()) == 3, "three workers")
        server.wait_until(
            lambda: all(each["state"] == "ready" for each in server.workers()), "ready"
        )
        done = server.cli("rebalance", "--json")
        assert done.exit_code == 0, done
        assert json.loads(done.stdout)["connections"] == [4, 4, 4]
        assert {ask(peer)[1] for peer in peers} == {2}


def test_where_it_cannot_be(tmp_path: Path) -> None:
    with serve(tmp_path, "async", 2, mark="") as server:
        done = server.cli("rebalance")
        assert done.exit_code == 1
        assert "the handler is not resumable" in done.stderr
