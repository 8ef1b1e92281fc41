"""The log's lines of connections whose worker died, or that moved from one that was to end."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec
import pytest

from tests.harness.lines import Lines, listening_to_the_log
from tests.harness.seam import reply_record
from tests.keeper.bench import Bench
from tests.keeper.conftest import MakeBench
from tests.keeper.fakes import FarWorker


@pytest.fixture
def log() -> Iterator[Lines]:
    with listening_to_the_log() as lines:
        yield lines


def kill(bench: Bench, worker: FarWorker) -> None:
    worker.die(-9)
    bench.settle()


def told(log: Lines) -> dict[str, Any]:
    """Return the only summary, without the worker that it names."""
    fields = dict(log.fields("connections after a death"))
    for name in ("slot", "pid", "generation"):
        del fields[name]
    return fields


def test_each_is_counted_by_what_became_of_it(make_bench: MakeBench, log: Lines) -> None:
    bench = make_bench(workers=2, keep="crash")
    first, _ = bench.start()
    for status in ("clean", "clean", "read"):
        _, served = bench.kept(first)
        served.become(status)
    bench.serve(first)  # which was not entrusted
    kill(bench, first)
    assert told(log) == {"resumed": 2, "lost_uncommitted": 1, "lost_not_kept": 1}
    reasons = [each["why"] for each in log.all_fields("connection lost")]
    assert sorted(map(str, reasons)) == ["not_kept", "uncommitted"]


def test_what_is_delivered_again_is_counted_as_such(make_bench: MakeBench, log: Lines) -> None:
    bench = make_bench(workers=2, keep="crash")
    first, _ = bench.start(redeliver=True)
    _, served = bench.kept(first)
    served.become("read")
    kill(bench, first)
    assert told(log) == {"redelivered": 1}
    assert not log.all_fields("connection lost")


def test_a_reply_of_which_no_edge_can_tell_is_counted_as_such(
    make_bench: MakeBench, log: Lines
) -> None:
    bench = make_bench(workers=2, keep="crash")
    first, second = bench.start(redeliver=True)
    _, served = bench.kept(first)
    held = bench.keeper.connections.connection_table.get(served.id)
    assert held is not None
    held.handoff = msgspec.structs.replace(held.handoff, proxy=b"facts")
    bench.keeper.connections.ask_bytes = lambda header, told: told(None)
    first.board.shelf(served.row).put(b"\x05", reply_record(10, 20, 30, b"half"))
    served.become("sent")
    kill(bench, first)
    assert told(log) == {"lost_reply_unknown": 1}
    assert log.all_fields("connection lost")[0]["why"] == "reply_unknown"
    assert not second.arrived


def test_what_is_poison_is_counted_as_such(make_bench: MakeBench, log: Lines) -> None:
    bench = make_bench(workers=2, keep="crash", poison_limit=1)
    first, _ = bench.start(redeliver=True)
    _, served = bench.kept(first)
    served.become("read")
    kill(bench, first)
    assert told(log) == {"lost_poisoned": 1}
    assert log.fields("poisoned")["deaths"] == 1


def test_of_many_that_are_lost_the_first_are_named(bench: Bench, log: Lines) -> None:
    first, _ = bench.start()
    for _ in range(13):
        bench.serve(first)
    kill(bench, first)
    assert len(log.all_fields("connection lost")) == 10
    assert told(log) == {"lost_not_kept": 13}


def test_each_death_names_its_own(bench: Bench, log: Lines) -> None:
    for worker in bench.start():
        for _ in range(6):
            bench.serve(worker)
        kill(bench, worker)
    assert len(log.all_fields("connection lost")) == 12
    assert len(log.all_fields("connections after a death")) == 2


def test_a_death_without_connections_says_nothing_of_them(bench: Bench, log: Lines) -> None:
    first, _ = bench.start()
    kill(bench, first)
    assert not log.all_fields("connections after a death")
    assert "moved" not in log.fields("worker exited")


def test_a_worker_that_was_to_end_tells_how_many_have_moved(bench: Bench, log: Lines) -> None:
    first, second = bench.start()
    bench.serve(second)
    bench.keeper.scale(1)
    bench.settle()
    leaving = first if first.order is not None else second
    assert leaving.order is not None
    for served in tuple(leaving.connections.values()):
        served.detach()
        bench.settle()
    leaving.die(0)
    bench.settle()
    exited = log.fields("worker exited")
    assert exited["moved"] == (1 if leaving is second else 0)
