"""Workers that are replaced for their age or their memory, under load."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import pytest

from tests.harness import Load, Server, connect, read_reply, write_handler, write_source

_CLIENTS: Final = 8
_MIB: Final = 1 << 20

_GROWING: Final = """
from socketkeep import AsyncConnection, Connection, resumable
kept = []

def answer(line):
    if line == b"grow":
        kept.append(bytearray(b"x") * (200 << 20))
    return b"%s\\n" % line

@resumable
def handle_sync(conn: Connection) -> None:
    for line in conn.lines(commit=True):
        conn.send(answer(line))

@resumable
async def handle_async(conn: AsyncConnection) -> None:
    async for line in conn.lines(commit=True):
        await conn.send(answer(line))
"""


def test_lifetime(tmp_path: Path, model: str) -> None:
    """Each worker is replaced in its turn, and the peers of a resumable handler notice nothing."""
    target = write_handler(tmp_path, "v0", is_async=model == "async")
    workers = 3 * _CLIENTS if model == "prefork" else 2
    lifetime = ("--worker-lifetime", "1", "--worker-lifetime-jitter", "0.5")
    with (
        Server(tmp_path, target, "-k", model, "-w", str(workers), *lifetime) as server,
        Load(server.address, _CLIENTS, pause=0.02) as load,
    ):
        load.wait_replies(5)
        first = {worker["pid"] for worker in server.workers()}
        for number in range(1, 4):
            event = server.wait_event("recycling worker", count=number)
            assert event["reason"] == "lifetime"
            server.wait_event("worker exited", pid=event["pid"], status="exit code 0")
            load.wait_replies(5)
        tally = load.finish()
        assert tally.clean, tally.summary()
        status = server.status()
        assert status["generation"] == 1
        assert status["totals"]["worker_deaths"] == 0
        assert status["totals"]["lost"] == 0
        assert len({worker["pid"] for worker in server.workers()} - first) >= 2


@pytest.mark.parametrize("model", ["prefork", "thread", "async"])
def test_memory(tmp_path: Path, model: str) -> None:
    """A worker that has grown past the limit is replaced, once; its connections move."""
    write_source(tmp_path, _GROWING)
    target = f"{tmp_path}/handlers.py:handle_{'async' if model == 'async' else 'sync'}"
    options = ("-k", model, "-w", "3" if model == "prefork" else "1", "--worker-max-rss", "150M")
    with (
        Server(tmp_path, target, *options) as server,
        connect(server.address) as peer,
        connect(server.address) as other,
    ):
        for one in (peer, other):
            one.sendall(b"1\n")
            assert read_reply(one) == b"1"
        peer.sendall(b"grow\n")
        assert read_reply(peer) == b"grow"
        event = server.wait_event("recycling worker")
        assert event["reason"] == "memory"
        server.wait_event("worker exited", pid=event["pid"], status="exit code 0")
        for one in (peer, other):
            one.sendall(b"2\n")
            assert read_reply(one) == b"2"
        assert all(worker["rss"] < 150 * _MIB for worker in server.workers())
        totals = server.status()["totals"]
        assert (totals["lost"], totals["closed"]) == (0, 0)
        assert len(server.find("recycling worker")) == 1
