"""The end of a connection whose peer has not ended keeps nobody from being served."""

from __future__ import annotations

import select
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass

import pytest

from socketkeep import Connection
from socketkeep._stream import _closing
from socketkeep._worker import _lingering
from tests.harness.configuration import Model
from tests.harness.seam import counted
from tests.library.conftest import until
from tests.worker.fakes import Place, a_place

FAR = 300.0
MUCH = b"x" * 300_000


def answer(conn: Connection) -> None:
    conn.send(conn.recv().upper())


@dataclass
class Worker:
    """A worker that runs, with one seat."""

    place: Place
    thread: threading.Thread

    def connect(self) -> socket.socket:
        peer = socket.create_connection(self.place.environment.listeners[0].getsockname())
        peer.settimeout(10)
        self.place.peers.append(peer)
        peer.sendall(b"hello")
        return peer

    def asked(self) -> socket.socket:
        """Return a connection that has had its reply and EOF, and has not ended itself."""
        peer = self.connect()
        assert peer.recv(100) == b"HELLO"
        assert peer.recv(100) == b""
        return peer

    def has_ended(self) -> bool:
        self.thread.join(10)
        return not self.thread.is_alive()


@pytest.fixture(params=["prefork", "thread"])
def worker(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Worker]:
    """A worker that waits very long for a peer's end."""
    monkeypatch.setattr(_closing, "QUIET", FAR)
    monkeypatch.setattr(_lingering, "LINGER", FAR)
    model: Model = request.param
    with ExitStack() as stack:
        rows = 1 if model == "prefork" else 2
        place = stack.enter_context(a_place(answer, model, rows=rows, threads=1))
        thread = place.start()
        place.permit(1)
        worker = Worker(place, thread)
        yield worker
        if thread.is_alive():
            place.retire("finish")
        for peer in place.peers:
            peer.close()
        assert worker.has_ended()


def test_the_next_is_served_before_the_peer_ends(worker: Worker) -> None:
    peers = [worker.asked() for _ in range(3)]
    for peer in peers:
        peer.sendall(MUCH)  # RST would be the answer if it were closed here
        peer.shutdown(socket.SHUT_WR)
    worker.asked()
    for peer in peers:
        assert peer.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0
    board = worker.place.board
    assert counted(board, "closed") >= 3
    assert counted(board, "open") <= 1


def test_a_reply_outlives_what_the_peer_sends_after_it(worker: Worker) -> None:
    peer = worker.connect()
    poller = select.poll()
    poller.register(peer, select.POLLRDHUP)
    assert poller.poll(10_000), "the reply and FIN have come"
    peer.sendall(MUCH)
    worker.asked()
    assert peer.recv(100) == b"HELLO"
    assert peer.recv(100) == b""


def test_with_too_many_the_next_one_waits_for_its_peer(
    worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_lingering.LingeringCloses, "has_room", False)
    first = worker.asked()
    second = worker.connect()
    assert not select.select([second], [], [], 0.1)[0]
    first.close()
    assert second.recv(100) == b"HELLO"


def test_a_retired_worker_ends_with_the_last_that_lingers(worker: Worker) -> None:
    peer = worker.asked()
    worker.place.retire("close")
    worker.thread.join(0.1)
    assert worker.thread.is_alive()
    peer.sendall(MUCH)
    peer.close()
    assert worker.has_ended()


def test_the_end_of_the_graceful_time_ends_what_lingers(worker: Worker) -> None:
    worker.asked()
    # The reply and FIN are out before that, and who is still at it then is ended by force.
    until(lambda: counted(worker.place.board, "open") == 0)
    worker.place.retire("close", -1.0)
    assert worker.has_ended()


class Loop:
    """What a `Lingering` needs of the loop."""

    def __init__(self) -> None:
        self.watched: set[int] = set()
        self.lingering = _lingering.LingeringCloses(self.watch, self.watched.remove)

    def watch(self, fd: int, _call: object) -> None:
        self.watched.add(fd)


def test_silence_ends_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_closing, "QUIET", 0.0)
    loop = Loop()
    ours, theirs = socket.socketpair()
    with theirs:
        loop.lingering.add(ours)
        loop.lingering.begin()
        assert len(loop.lingering) == len(loop.watched) == 1
        assert loop.lingering.patience(None) == 0.0
        loop.lingering.expire()
        assert not loop.lingering
        assert not loop.watched
        assert loop.lingering.patience(None) is None
        assert theirs.recv(1) == b""


def test_nobody_lingers_on_for_talking(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_lingering, "LINGER", 0.0)
    loop = Loop()
    ours, theirs = socket.socketpair()
    with theirs:
        theirs.send(b"more")
        loop.lingering.add(ours)
        loop.lingering.begin()
        loop.lingering.expire()
        assert not loop.lingering
        assert ours.fileno() == -1
