"""Clients that come at once are shared among the workers, and none waits for one that is busy."""

from __future__ import annotations

import os
import select
import signal
import socket
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final

import pytest

from tests.harness import Server, connect

# It tells which process serves; "compute" keeps its process busy until the file is there.
HANDLER: Final = """
import os, time
from socketkeep import resumable
@resumable
{async_}def handle(conn):
    {async_}for line in conn.lines(commit=True):
        while line == b"compute" and not os.path.exists("go-on"):
            time.sleep(0.01)
        {await_}conn.send(b"%d\\n" % os.getpid())
"""


@contextmanager
def serving(tmp_path: Path, model: str, workers: int) -> Iterator[Server]:
    """A server of which all workers accept."""
    words = {"async_": "async ", "await_": "await "} if model == "async" else {}
    (tmp_path / "app.py").write_text(HANDLER.format(**words or {"async_": "", "await_": ""}))
    options = ("-k", model, "-w", str(workers), "--park-after", "off")
    with Server(tmp_path, "app.py:handle", *options) as server:
        ready = [each for each in server.workers() if each["state"] == "ready"]
        assert len(ready) == workers
        yield server


@contextmanager
def stopped(pids: list[int]) -> Iterator[None]:
    """Processes that do not run, so that connections queue."""
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)


def pids_of(server: Server) -> list[int]:
    return [each["pid"] for each in server.workers()]


def answers(peers: list[socket.socket], seconds: float) -> dict[socket.socket, int]:
    """Return who serves each peer, as far as they are told within the time."""
    told: dict[socket.socket, int] = {}
    while len(told) < len(peers):
        waiting = [peer for peer in peers if peer not in told]
        ready, _, _ = select.select(waiting, [], [], seconds)
        if not ready:
            break
        for peer in ready:
            told[peer] = int(peer.recv(64))
    return told


@pytest.mark.parametrize(
    ("model", "workers", "clients", "come"),
    [
        ("async", 4, 80, "while none accepts"),
        ("async", 4, 80, "one by one"),
        ("thread", 3, 60, "one by one"),
    ],
)
def test_clients_are_shared(
    model: str, workers: int, clients: int, come: str, tmp_path: Path
) -> None:
    """No worker has more than half as many again as its share, nor less than half of it.

    When all of them get to run it is within a quarter; here the machine may be busy otherwise.
    """
    with serving(tmp_path, model, workers) as server, ExitStack() as stack:
        peers = []
        with stopped(pids_of(server) if come == "while none accepts" else []):
            for _ in range(clients):
                peers.append(stack.enter_context(connect(server.address)))
                if come == "one by one":
                    peers[-1].sendall(b"who\n")
                    assert answers(peers[-1:], 30)
        for peer in peers:
            peer.sendall(b"who\n")
        counts = Counter(answers(peers, 30).values())
        share = clients / workers
        assert counts.total() == clients
        assert len(counts) == workers, counts
        assert share / 2 <= min(counts.values()) <= max(counts.values()) <= share * 3 / 2, counts


@pytest.mark.parametrize("model", ["async", "thread"])
def test_who_serves_the_fewest_comes_first(model: str, tmp_path: Path) -> None:
    """When the clients of one worker have left, those that come are its, whoever is woken."""
    with serving(tmp_path, model, 3) as server, ExitStack() as stack:
        peers = []
        for _ in range(36):
            peers.append(stack.enter_context(connect(server.address)))
            peers[-1].sendall(b"who\n")
            assert answers(peers[-1:], 30)
        for peer in peers:
            peer.sendall(b"who\n")
        told = answers(peers, 30)
        left = told[peers[0]]
        gone = [peer for peer, pid in told.items() if pid == left]
        for peer in gone:
            peer.close()
        open_still = len(peers) - len(gone)
        server.wait_until(
            lambda: server.status()["connections"]["open"] == open_still, "they have ended"
        )
        new = []
        for _ in range(8):
            peer = stack.enter_context(connect(server.address))
            peer.sendall(b"who\n")
            new.append(answers([peer], 30)[peer])
        assert new.count(left) >= 4, (left, new)


def test_a_worker_that_computes_holds_no_more_than_its_share(tmp_path: Path) -> None:
    """The first of twelve that are in the queue computes: those behind it are answered by others.

    They are while it still computes, as it does until they have been.  What one turn of a worker
    brings waits with it.
    """
    with serving(tmp_path, "async", 4) as server, ExitStack() as stack:
        with stopped(pids_of(server)):
            peers = [stack.enter_context(connect(server.address)) for _ in range(12)]
            peers[0].sendall(b"compute\n")
            for peer in peers[1:]:
                peer.sendall(b"who\n")
        told = answers(peers[1:], 3)
        (tmp_path / "go-on").touch()
        late = answers([peer for peer in peers if peer not in told], 30)
        assert len(told) + len(late) == 12
        assert len(late) <= 4, f"{len(late)} had to wait for the one that computed"


def test_a_worker_that_is_stopped_is_not_waited_for(tmp_path: Path) -> None:
    """It has the fewest connections all the time, and the others take what comes."""
    with serving(tmp_path, "async", 3) as server, ExitStack() as stack:
        stuck = pids_of(server)[0]
        with stopped([stuck]):
            peers = [stack.enter_context(connect(server.address)) for _ in range(30)]
            for peer in peers:
                peer.sendall(b"who\n")
            served = Counter(answers(peers, 30).values())
        assert served.total() == 30
        assert stuck not in served
