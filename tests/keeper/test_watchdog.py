"""Workers whose loop makes no progress are killed, and only then lose their connections."""

from __future__ import annotations

import signal

import pytest

from tests.harness.configuration import Model
from tests.harness.seam import beat as show_beat
from tests.keeper.bench import Bench, is_alive, is_at_eof
from tests.keeper.conftest import MakeBench
from tests.keeper.fakes import FarWorker


@pytest.fixture
def bench(make_bench: MakeBench) -> Bench:
    """A keeper whose two workers have two seconds to show that they go on."""
    return make_bench(workers=2, keep="crash", worker_timeout="2")


def live(bench: Bench, seconds: float, *going_on: FarWorker) -> None:
    """Let time pass, in which these workers answer each ping."""
    answered = {worker: worker.pings for worker in going_on}
    for _ in range(round(seconds / 0.1)):
        bench.advance(0.1)
        for worker in going_on:
            if worker.pings > answered[worker]:
                answered[worker] = worker.pings
                beat(bench, worker)


def beat(bench: Bench, worker: FarWorker) -> None:
    """As the scoreboard does it, but by the clock of the bench, a moment after the ping."""
    show_beat(worker.board, bench.clock.now + 0.001)


def test_workers_that_answer_live(bench: Bench) -> None:
    workers = bench.start()
    live(bench, 20, *workers)
    assert all(worker.pings > 10 for worker in workers)
    assert all(worker.process.exit is None for worker in workers)


def test_one_that_does_not_is_killed_and_then_its_connections_go_on(bench: Bench) -> None:
    """Stopped, it may come back at any time: nobody else has them before it is dead."""
    stuck, healthy = bench.start()
    peer, served = bench.kept(stuck)
    served.commit(b"\x01")
    at_death: list[int] = []
    stuck.process.at_death.append(lambda: at_death.append(len(healthy.arrived)))
    live(bench, 4, healthy)
    assert stuck.process.signals == [signal.SIGKILL]
    assert stuck.process.reaped
    assert at_death == [0]
    assert healthy.process.exit is None
    ((attach, _),) = healthy.arrived
    assert (attach.id, attach.attached) == (served.id, "crash")
    assert is_alive(peer, healthy.attach().sock)
    assert bench.keeper.counters()["worker_deaths"] == 1


def test_its_connections_stay_with_it_until_it_has_been_reaped(bench: Bench) -> None:
    """A process in an uninterruptible sleep dies long after the signal."""
    stuck, healthy = bench.start()
    peer, _ = bench.kept(stuck)
    die, stuck.process.die = stuck.process.die, lambda status=0: None  # type: ignore[method-assign]
    live(bench, 6, healthy)
    assert stuck.process.signals == [signal.SIGKILL], "killed once"
    assert not healthy.arrived
    assert not is_at_eof(peer)
    die(-9)
    bench.settle()
    assert len(healthy.arrived) == 1


def test_it_has_the_whole_time_to_answer(bench: Bench) -> None:
    slow, healthy = bench.start()
    for _ in range(6):
        pings = slow.pings
        while slow.pings == pings:
            live(bench, 0.1, healthy)
        live(bench, 1.8, healthy)
        beat(bench, slow)
    assert slow.process.exit is None


@pytest.mark.parametrize(("model", "watched"), [("async", True), ("prefork", False)])
def test_by_default_only_a_loop_that_must_not_block_is_watched(
    make_bench: MakeBench, model: Model, watched: bool
) -> None:
    bench = make_bench(workers=1, worker_timeout="auto")
    (worker,) = bench.start(model)
    bench.advance(29)
    assert worker.process.exit is None
    bench.advance(16)
    assert (worker.process.exit is not None) is watched


def test_one_that_is_stuck_while_it_drains_is_killed(bench: Bench) -> None:
    old = bench.start()
    bench.reload()
    new = bench.bring_up()
    live(bench, 4, *new)
    assert all(worker.process.reaped for worker in old)
    assert all(worker.process.exit is None for worker in new)


def test_one_that_starts_is_not_watched(bench: Bench) -> None:
    """The lifespan may take its time; the start has a timeout of its own."""
    bench.keeper.start()
    bench.settle()
    bench.template.loaded("async")
    bench.settle()
    workers = bench.fork()
    bench.advance(20)
    assert all(worker.process.exit is None for worker in workers)


def test_the_dead_one_is_replaced_and_its_replacement_watched(make_bench: MakeBench) -> None:
    bench = make_bench(workers=1, worker_timeout="2")
    bench.start()
    for _ in range(3):
        bench.advance(12)
        (replacement,) = bench.fork()
        replacement.ready()
        bench.settle()
    assert bench.keeper.counters()["worker_deaths"] == 3
