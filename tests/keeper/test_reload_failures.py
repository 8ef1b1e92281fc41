"""A generation that cannot be loaded or started: the one before serves on untouched."""

from __future__ import annotations

import signal

import pytest

from tests.keeper.bench import Bench, is_alive
from tests.keeper.conftest import MakeBench
from tests.keeper.fakes import FarWorker


def unharmed(bench: Bench, old: list[FarWorker]) -> bool:
    """Whether the generation before serves on as if nobody had asked for another."""
    alive = all(worker.process.exit is None and worker.order is None for worker in old)
    return alive and bench.keeper.state == "running" and all(w.accept_below for w in old)


def test_code_that_cannot_be_loaded(bench: Bench) -> None:
    old = bench.start()
    bench.reload()
    bench.template.load_failed("SyntaxError: no")
    bench.settle()
    assert bench.ended_rollouts == [(4, 2, "SyntaxError: no")]
    assert unharmed(bench, old)
    assert bench.template.process.reaped


def test_a_template_that_dies_while_it_loads(bench: Bench) -> None:
    old = bench.start()
    bench.reload()
    bench.template.die(-11)
    bench.settle()
    (outcome,) = bench.outcomes
    assert outcome.exit_code == 4
    assert "killed by SIGSEGV" in outcome.error
    assert unharmed(bench, old)


def test_a_template_that_dies_before_its_workers_are_ready(bench: Bench) -> None:
    """The code has been loaded: it is the workers that cannot start."""
    old = bench.start()
    bench.reload()
    bench.template.loaded()
    bench.settle()
    bench.template.die(-9)
    bench.settle()
    (outcome,) = bench.outcomes
    assert outcome.exit_code == 3
    assert outcome.error == "the process that forks the workers ended: killed by SIGKILL"
    assert unharmed(bench, old)


def test_a_template_that_cannot_be_started(bench: Bench) -> None:
    old = bench.start()
    bench.system.no_process = True
    bench.reload()
    (outcome,) = bench.outcomes
    assert outcome.exit_code == 3
    assert "Resource temporarily unavailable" in outcome.error
    assert unharmed(bench, old)
    bench.system.no_process = False
    bench.reload()
    bench.bring_up()
    assert bench.ended_rollouts[-1] == (0, 3, "")


def test_a_template_that_cannot_be_watched_yet_is_watched_later(bench: Bench) -> None:
    """The keeper has no descriptor for the pidfd."""
    old = bench.start()
    bench.system.no_pidfd = 3
    bench.reload()
    bench.template.die(1)
    bench.settle()
    assert not bench.outcomes
    bench.advance(1)
    assert bench.outcomes[0].exit_code == 4
    assert bench.template.process.reaped
    assert unharmed(bench, old)


def test_a_worker_that_dies_before_it_is_ready(bench: Bench) -> None:
    old = bench.start()
    bench.reload()
    bench.template.loaded()
    bench.settle()
    first, second = bench.fork()
    first.ready()
    second.die(1)
    bench.settle()
    (outcome,) = bench.outcomes
    assert outcome.exit_code == 3
    assert "exit code 1" in outcome.error
    assert unharmed(bench, old)
    assert first.process.reaped, "what was started of the generation is ended"
    assert bench.template.process.reaped


def test_a_lifespan_that_fails(bench: Bench) -> None:
    old = bench.start()
    bench.reload()
    bench.template.loaded()
    bench.settle()
    bench.fork()[0].start_failed("the lifespan failed:\nOperationalError")
    bench.settle()
    (outcome,) = bench.outcomes
    assert outcome.exit_code == 3
    assert "OperationalError" in outcome.error
    assert unharmed(bench, old)


def test_no_room_for_a_worker(bench: Bench) -> None:
    old = bench.start()
    bench.reload()
    bench.template.loaded()
    bench.settle()
    bench.template.fork_failed()
    bench.settle()
    (outcome,) = bench.outcomes
    assert outcome.exit_code == 3
    assert unharmed(bench, old)


@pytest.mark.parametrize(("loads", "exit_code"), [(False, 4), (True, 3)])
def test_a_generation_that_takes_too_long(
    make_bench: MakeBench, loads: bool, exit_code: int
) -> None:
    bench = make_bench(workers=2, start_timeout=3)
    old = bench.start()
    bench.reload()
    bench.advance(1)
    if loads:
        bench.template.loaded()
        bench.settle()
        bench.fork()
    bench.advance(1.9)
    assert not bench.outcomes
    bench.advance(0.2)
    (outcome,) = bench.outcomes
    assert outcome.exit_code == exit_code
    assert "--start-timeout" in outcome.error
    assert unharmed(bench, old)
    bench.advance(3)
    assert len(bench.system.unreaped()) == 3, "a template and two workers serve"


def test_code_that_hangs_while_it_is_loaded_is_ended(make_bench: MakeBench) -> None:
    bench = make_bench(workers=1, start_timeout=3)
    old = bench.start()
    bench.reload()
    bench.template.hangs = True
    bench.advance(3.1)
    assert bench.outcomes[0].exit_code == 4
    bench.advance(2.1)
    assert bench.template.process.reaped
    assert unharmed(bench, old)


def test_forked_told_after_the_roll_back(bench: Bench) -> None:
    """A worker that the template forked while the keeper gave it up is ended and reaped."""
    bench.start()
    bench.reload()
    bench.template.loaded()
    bench.settle()
    first, second = bench.template.fork()
    first.die(1)
    bench.settle()
    assert bench.outcomes[0].exit_code == 3
    assert second.process.reaped


@pytest.mark.parametrize("no_pidfd", [0, 3])
def test_a_worker_that_the_old_template_was_just_forking_is_ended(
    bench: Bench, no_pidfd: int
) -> None:
    first, _ = bench.start()
    template = bench.template
    template.hangs = True
    first.die(-9)
    bench.settle()
    bench.reload()
    bench.bring_up()
    bench.system.no_pidfd = no_pidfd
    (late,) = template.fork()
    template.hangs = False
    bench.advance(1)
    assert late.process.signals == [signal.SIGKILL]
    assert late.process.reaped
    assert template.process.reaped


def test_a_template_that_does_not_exit_is_killed(bench: Bench) -> None:
    bench.start()
    old = bench.template
    old.hangs = True
    bench.reload()
    bench.bring_up()
    bench.advance(3)
    assert old.process.signals == [signal.SIGKILL]
    assert old.process.reaped


def test_code_that_hangs_does_not_keep_the_server_from_its_end(bench: Bench) -> None:
    bench.keeper.start()
    bench.settle()
    bench.template.hangs = True
    bench.keeper.stop("close")
    bench.advance(3)
    assert bench.has_stopped()
    assert bench.template.process.reaped


def test_the_first_generation_cannot_be_loaded(bench: Bench) -> None:
    bench.keeper.start()
    bench.settle()
    bench.template.load_failed("no module named 'app'", exit_code=4)
    bench.settle()
    assert bench.has_stopped()
    assert bench.keeper.failure is not None
    assert bench.keeper.failure.exit_code == 4
    assert bench.system.unreaped() == []


def test_workers_that_never_become_ready_are_tried_three_times(make_bench: MakeBench) -> None:
    bench = make_bench(workers=1)
    bench.keeper.start()
    bench.settle()
    bench.template.loaded()
    for _ in range(3):
        assert bench.keeper.failure is None
        bench.settle()
        (worker,) = bench.fork()
        worker.die(-11)
    bench.settle()
    assert bench.keeper.failure is not None
    assert bench.keeper.failure.exit_code == 3
    assert bench.has_stopped()
    assert bench.system.unreaped() == []


def test_the_template_dies_while_its_workers_serve(bench: Bench) -> None:
    workers = bench.start()
    peer, served = bench.serve(workers[0])
    bench.template.die(-9)
    bench.settle()
    assert unharmed(bench, workers)
    bench.advance(2)
    assert len(bench.system.templates) == 2
    assert bench.template.load is not None
    assert bench.template.load.generation == 1
    bench.template.loaded()
    bench.settle()
    assert is_alive(peer, served.sock)
    workers[1].die(-9)
    bench.settle()
    assert [worker.slot for worker in bench.fork()] == [workers[1].slot]


def test_a_worker_dies_while_there_is_no_template(bench: Bench) -> None:
    workers = bench.start()
    bench.template.die(-9)
    workers[0].die(-9)
    bench.settle()
    bench.advance(2)
    bench.template.loaded()
    bench.advance(2)
    (replacement,) = bench.fork()
    assert replacement.slot == workers[0].slot


def test_a_template_that_cannot_be_started_again_is_tried_again(bench: Bench) -> None:
    workers = bench.start()
    bench.system.no_process = True
    bench.template.die(-9)
    bench.advance(5)
    assert len(bench.system.templates) == 1
    assert unharmed(bench, workers)
    bench.system.no_process = False
    bench.advance(2)
    assert len(bench.system.templates) == 2
