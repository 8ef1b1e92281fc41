"""Children that nobody waits for are reaped, and those that somebody does are left to them."""

from __future__ import annotations

import os
import signal
from typing import Any

import pytest

from socketkeep._keeper.loop import _children
from tests.keeper.bench import Bench
from tests.keeper.fakes import Clock, SteppedReactor, real_system


@pytest.mark.process
def test_each_is_reaped_by_who_waits_for_it() -> None:
    """With real processes, in whatever order they end; nothing is left, no status is lost."""
    system = real_system()
    reactor = SteppedReactor(Clock())
    children = _children.ChildWatch(reactor, system)
    exits: dict[int, Any] = {}
    pids = [os.posix_spawn("/bin/sh", ["sh", "-c", f"exit {n}"], {}) for n in range(6)]
    for pid in pids[::2]:
        children.watch(pid, lambda ended, pid=pid: exits.__setitem__(pid, ended))  # type: ignore[misc]
    for pid in pids:
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    system.reaper.reap()
    assert {pid: ended.status for pid, ended in exits.items()} == {
        pid: n for n, pid in enumerate(pids) if not n % 2
    }
    assert not set(pids) & system.children()
    # One that had ended before it was known: its status is not lost.
    children.watch(pids[1], lambda ended: exits.__setitem__(pids[1], ended))
    reactor.settle()
    assert exits[pids[1]].status == 1
    reactor.close()


@pytest.mark.process
def test_a_pid_that_has_been_given_away_meanwhile(monkeypatch: pytest.MonkeyPatch) -> None:
    """What has it now is not ours, is not killed, and the end of ours is told."""
    system = real_system()
    reactor = SteppedReactor(Clock())
    children = _children.ChildWatch(reactor, system)
    exits: list[Any] = []
    pid = os.posix_spawn("/bin/sh", ["sh", "-c", "exit 7"], {})
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    system.reaper.reap()
    monkeypatch.setattr(system, "open_pidfd", lambda _pid: os.pidfd_open(os.getppid()))
    monkeypatch.setattr(system, "kill", lambda *_: pytest.fail("a stranger was killed"))
    children.watch(pid, exits.append)
    children.kill(pid)
    reactor.settle()
    assert [ended.status for ended in exits] == [7]
    assert not children
    reactor.close()


def test_sigchld_has_the_keeper_look(bench: Bench) -> None:
    """An orphan of the user's code is reaped; a worker's death is told as ever, and once."""
    first, _ = bench.start()
    orphan = bench.system.add("orphan")
    orphan.die(3)
    first.die(-11)
    bench.act_on_signal(signal.SIGCHLD)
    bench.settle()
    assert orphan.reaped
    assert bench.keeper.counters()["worker_deaths"] == 1
    assert not bench.template.process.reaped


def test_a_worker_that_tells_itself_that_it_runs(bench: Bench) -> None:
    """The process that forked it was killed before it could."""
    first, _ = bench.start()
    bench.advance(60)
    bench.template.tells = "worker"
    first.die(-9)
    bench.settle()
    (new,) = bench.fork()
    new.ready()
    bench.settle()
    assert new.accept_below
    assert [worker.pid for worker in bench.keeper.pool if worker.slot == new.slot] == [new.pid]
    bench.template.tells = "both"
    new.die(-9)
    bench.settle()
    (another,) = bench.fork()
    another.ready()
    bench.settle()
    assert another.accept_below


def test_a_stop_ends_who_has_the_port(bench: Bench) -> None:
    """And nobody else that it does not know."""
    bench.start()
    lost = bench.system.add("lost worker")
    daemon = bench.system.add("daemon of the user's")
    bench.system.have_the_port.add(lost.pid)
    bench.keeper.stop("close")
    for worker in bench.template.workers:
        worker.die(0)
    bench.settle()
    assert lost.reaped
    assert lost.signals == [signal.SIGKILL]
    assert not daemon.signals
    assert bench.has_stopped()
    daemon.die()
    bench.act_on_signal(signal.SIGCHLD)
