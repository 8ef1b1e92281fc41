"""The `fork` model: what the keeper must be able to see when the worker dies."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from socketkeep import resumable
from socketkeep._net._children import Child
from socketkeep._worker._crew import Hand
from socketkeep._worker._fork import ForkModel
from socketkeep._worker._sync import SyncLoop
from tests.harness.seam import Row, order_to
from tests.native.cores import compiled
from tests.worker.fakes import Place, a_place


@resumable
def handle(conn: object) -> None: ...


@contextmanager
def a_model(**options: Any) -> Iterator[tuple[Place, ForkModel, SyncLoop]]:
    """Make a worker of the model, and its loop, which does not run."""
    with a_place(handle, "fork", **options) as place:
        models: list[ForkModel] = []

        def build(loop: SyncLoop) -> ForkModel:
            models.append(ForkModel(loop))
            return models[-1]

        loop = SyncLoop(place.environment, build)
        yield place, models[0], loop
        models[0]._close_moulds()
        loop.gate.close()
        loop.reserve.spend()


def test_who_serves_a_connection_is_seen_before_its_process_has_begun() -> None:
    """So that the keeper adopts it, though the worker dies this very moment."""
    with a_model() as (place, model, loop):
        _, accepted = place.connection()
        entry = loop.roster.accepted(accepted, 0)
        assert entry is not None
        ((_, words),) = place.board.taken()
        assert Row(words).pid == os.getpid()
        pid = os.posix_spawn(sys.executable, [sys.executable, "-c", ""], os.environ)
        child = Child(pid, os.pidfd_open(pid), Hand(entry))
        model._watch(child)
        assert Row(words).pid == pid
        os.waitpid(pid, 0)
        os.close(child.pidfd)
        accepted.close()


def test_a_process_whose_worker_died_in_the_middle_of_the_fork_serves_nothing() -> None:
    """The keeper may have given its connection to another: it must not touch it."""
    with a_model() as (place, model, loop):
        peer, accepted = place.connection()
        entry = loop.roster.accepted(accepted, 0)
        assert entry is not None
        model._pid = 1  # not the parent of what is forked here
        pid = os.fork()
        if pid == 0:
            model._serve_in_child(Hand(entry))
            os._exit(7)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        ((_, words),) = place.board.taken()
        assert Row(words).pid == pid, "published before it looked"
        assert Row(words).ended == "not yet"
        peer.setblocking(False)
        with pytest.raises(BlockingIOError):
            peer.recv(1)
        accepted.close()


@pytest.mark.skipif(compiled is None, reason="the worker forks in C")
def test_those_that_wait_are_forked_in_a_quiet_moment_and_leave_when_told(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Not connections: the worker is no fuller for them, but does not end before they have."""
    with a_model(spare=2) as (_, model, loop):
        before = children()

        def poll_until(reached: Callable[[], bool]) -> None:
            deadline = time.monotonic() + 10
            while not reached():
                assert time.monotonic() < deadline
                loop.gate.poll(0.01)

        poll_until(lambda: len(children() - before) == 2)
        assert model.busy
        victim = (children() - before).pop()
        os.kill(victim, signal.SIGKILL)
        poll_until(lambda: victim not in children())
        assert [record.getMessage() for record in caplog.records] == ["waiting process died"]
        poll_until(lambda: len(children() - before) == 2)
        loop.link.order = order = order_to("move", 0.0)
        model.retire(order)
        poll_until(lambda: not model.busy)
        assert loop.open == 0
        assert children() == before


def children() -> set[int]:
    """Return the processes that this one has forked."""
    pid = os.getpid()
    return set(map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split()))


#: By which the worker takes a snapshot.
CORE = "socketkeep._worker._fork_snapshot.core"


class OfMemory:
    """The compiled core's part of a snapshot."""

    def __init__(self, told: int | Exception) -> None:
        self.told = told
        self.asked = 0

    def take_snapshot(self) -> int:
        self.asked += 1
        if isinstance(self.told, Exception):
            raise self.told
        return self.told


@pytest.fixture
def copied(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> OfMemory:
    """A megabyte, of which a worker that takes a snapshot tells in the log."""
    memory = OfMemory(1 << 20)
    monkeypatch.setattr(CORE, memory)
    caplog.set_level("INFO", "socketkeep")
    return memory


@pytest.mark.skipif(compiled is None, reason="the worker forks in C")
def test_a_snapshot_is_taken_once_and_after_the_first_forks(
    copied: OfMemory, caplog: pytest.LogCaptureFixture
) -> None:
    with a_model(fork_snapshot=True, spare=17) as (_, model, loop):
        model.resume()
        deadline = time.monotonic() + 20
        while not copied.asked:
            assert time.monotonic() < deadline
            loop.gate.poll(0.01)
        for _ in range(3):
            loop.gate.poll(0.01)
        loop.link.order = order = order_to("move", 0.0)
        model.retire(order)
        while model.busy:
            assert time.monotonic() < deadline
            loop.gate.poll(0.01)
    assert copied.asked == 1
    assert [record.getMessage() for record in caplog.records] == ["fork snapshot"]


def test_a_worker_that_forks_in_python_takes_it_before_the_first_fork(
    copied: OfMemory, caplog: pytest.LogCaptureFixture
) -> None:
    with a_model(fork_snapshot=True, child_requests=2) as (_, model, _):
        assert copied.asked == 0
        model.resume()
        model.resume()
    assert copied.asked == 1
    assert [record.getMessage() for record in caplog.records] == ["fork snapshot"]


def test_no_snapshot_is_taken_unasked(copied: OfMemory) -> None:
    with a_model() as (_, model, _):
        model.resume()
    assert copied.asked == 0


@pytest.mark.parametrize(
    "memory",
    [None, OfMemory(RuntimeError("the process has 2 threads")), OfMemory(OSError(12, "no room"))],
    ids=["pure", "refused", "no memory"],
)
def test_a_worker_that_can_have_no_snapshot_says_why(
    memory: OfMemory | None, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(CORE, memory)
    with a_model(fork_snapshot=True, child_requests=2) as (_, model, _):
        model.resume()
    assert [record.getMessage() for record in caplog.records] == ["no fork snapshot"]
