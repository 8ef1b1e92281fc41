"""What a reload would move, and what became of the connections of the code that it replaced."""

from __future__ import annotations

from itertools import product
from typing import Any

import pytest

from socketkeep._keeper.tables._staying import Staying, why_it_stays
from tests.harness.seam import STATUSES, status_word
from tests.harness.seam import beat as show_beat
from tests.keeper.bench import Bench
from tests.keeper.conftest import MakeBench
from tests.keeper.fakes import FarWorker


def test_why_each_stays() -> None:
    """The reason that holds longest is the one that is told."""
    for keep, resumable, status, again in product(
        ("none", "reload", "crash"), (True, False), STATUSES, ("", " again")
    ):
        word = status_word(f"{status}{again}".removeprefix("clean "))
        why = why_it_stays(resumable, keep, word)
        if keep == "none":
            assert why is Staying.KEEP_NONE
        elif not resumable:
            assert why is Staying.NOT_RESUMABLE
        else:
            expected = {"sent": Staying.UNCOMMITTED, "bound": Staying.BOUND}
            assert why is expected.get(status)
    assert why_it_stays(True, "reload", status_word("again")) is None, (
        "it is delivered again, and moves"
    )
    assert all(each.sentence for each in Staying)


def test_a_forecast(bench: Bench) -> None:
    """It counts what would move and what would stay, and does nothing."""
    first, second = bench.start()
    for status in ("clean", "read", "sent", "sent", "bound"):
        bench.serve(first)[1].become(status)
    _, waiting = bench.serve(second)
    waiting.park()
    bench.settle()
    waiting.settle()
    forecast = bench.forecast()
    assert (forecast.moves, forecast.held, forecast.resumable) == (2, 1, True)
    assert [(each.reason, each.connections) for each in forecast.stays] == [
        ("uncommitted", 2),
        ("bound", 1),
    ]
    assert forecast.seconds == bench.handlers_have
    assert len(bench.system.templates) == 1


NOTHING: tuple[int, int, dict[Staying, int]] = (0, 0, {})


def told_of(fate: Any) -> tuple[int, int, dict[Staying, int]]:
    """Return how many moved and how many ended, and how many were cut by why they had stayed."""
    return fate.moved, fate.ended, fate.cut


def told(bench: Bench, generation: int) -> list[Any]:
    fates: list[Any] = []
    bench.keeper.superseded.when_gone(generation, fates.append)
    return fates


def test_moved_ended_and_cut(bench: Bench) -> None:
    """Who asked is told once the last worker of the old code has gone, and not before."""
    old = bench.start()
    _, moves = bench.serve(old[0])
    _, ends = bench.serve(old[0])
    _, early = bench.serve(old[1])
    early.settle("closed")  # before the reload: none of its business
    _, sent = bench.serve(old[1])
    _, busy = bench.serve(old[1])
    sent.become("sent")
    bench.reload()
    new = bench.bring_up()
    fates = told(bench, 2)
    moves.detach()
    bench.settle()
    moves.settle()
    for worker in new:
        while worker.arrived:
            worker.attach()
    ends.settle("reset")
    old[0].die(0)
    bench.settle()
    assert fates == [], "one is there still"
    bench.advance(bench.handlers_have)
    for served in (sent, busy):
        served.settle("closed")
    old[1].die(0)
    bench.settle()
    [fate] = fates
    assert (fate.moved, fate.ended) == (1, 1)
    assert fate.cut == {Staying.UNCOMMITTED: 1, Staying.BUSY: 1}
    assert [told_of(each) for each in told(bench, 2)] == [NOTHING], "nothing is left to wait for"


def test_a_generation_that_had_nothing(bench: Bench) -> None:
    old = bench.start()
    bench.reload()
    bench.bring_up()
    fates = told(bench, 2)
    for worker in old:
        worker.die(0)
    bench.settle()
    assert [told_of(each) for each in fates] == [NOTHING]


@pytest.mark.parametrize("keep", ["none", "reload"])
def test_all_of_it_stays(make_bench: MakeBench, keep: str) -> None:
    bench = make_bench(keep=keep)
    [worker] = bench.start(resumable=False)
    bench.serve(worker)
    bench.settle()
    [stays] = bench.forecast().stays
    assert stays.connections == 1
    assert stays.reason == ("keep-none" if keep == "none" else "not-resumable")


def test_a_worker_that_does_not_answer_is_waited_for_a_second(bench: Bench) -> None:
    """Its connections are counted apart; one that an earlier reload left is told with its time."""
    old = bench.start()
    bench.serve(old[0])[1].become("sent")
    bench.serve(old[1])
    rolls: list[Any] = []

    def beat_each(*workers: FarWorker) -> None:
        for worker in workers:
            show_beat(worker.board, bench.clock.now + 0.001)

    bench.keeper.call_roll(rolls.append)
    bench.settle()
    beat_each(old[0])
    bench.advance(0.9)
    assert rolls == []
    bench.advance(0.2)
    [[silent]] = rolls
    assert silent.serial == old[1].serial
    forecast = bench.forecast(silent)
    assert (forecast.moves, [each.connections for each in forecast.stays]) == (0, [1])
    [left] = forecast.silent
    assert (left.slot, left.connections, left.seconds) == (silent.slot, 1, bench.handlers_have)
    bench.keeper.call_roll(rolls.append)
    beat_each(*old)
    bench.advance(0.1)
    assert rolls[1] == [], "nobody is waited for longer than needed"
    bench.reload()
    bench.bring_up()
    assert [each.connections for each in bench.cost(2).stays] == [1]
    forecast = bench.forecast()
    assert {each.connections for each in forecast.earlier} == {1}
    assert forecast.stays == []
