"""Workers: as many as there should be, replaced when they die, grow old or too big."""

from __future__ import annotations

import os
import signal

import pytest

from tests.keeper.bench import Bench, is_alive
from tests.keeper.conftest import MakeBench
from tests.keeper.fakes import FarWorker, Process, Served
from tests.keeper.test_moves import give_up
from tests.wire.limits import out_of_descriptors


def replacement(bench: Bench) -> FarWorker:
    (forked,) = bench.fork()
    forked.ready()
    bench.settle()
    return forked


def test_a_worker_that_dies_is_replaced_at_once(bench: Bench) -> None:
    first, second = bench.start()
    bench.advance(60)
    peer, _ = bench.serve(first)
    first.die(-11)
    bench.settle()
    new = replacement(bench)
    assert new.slot == first.slot
    assert new.accept_below
    assert second.order is None
    counters = bench.keeper.counters()
    assert (counters["worker_deaths"], counters["lost"]) == (1, 1)
    peer.close()


def test_a_worker_is_told_of_its_seats_only_when_they_change(make_bench: MakeBench) -> None:
    bench = make_bench(workers=3, max_connections=6)
    first, second, _ = bench.start()
    bench.advance(60)
    second.die(-9)
    bench.settle()
    replacement(bench)
    assert first.allotments == 1


def test_one_that_is_ready_after_it_was_to_be_killed_is_given_nothing(bench: Bench) -> None:
    """It lives until there is a descriptor by which to kill it."""
    bench.start()
    bench.keeper.scale(3)
    bench.settle()
    bench.system.no_pidfd = 1
    (third,) = bench.fork()
    bench.keeper.scale(2)
    bench.settle()
    assert third.process.exit is None
    third.ready()
    bench.settle()
    assert third.accept_below == 0
    bench.advance(0.2)
    assert third.process.exit is not None


def test_one_that_keeps_dying_is_replaced_more_and_more_slowly(make_bench: MakeBench) -> None:
    bench = make_bench(workers=1)
    bench.start()
    delays = []
    for _ in range(46):
        bench.template.workers[-1].die(1)
        bench.settle()
        begun = bench.clock.now
        while not bench.template.unforked:
            bench.advance(0.05)
            bench.template.read()
        delays.append(bench.clock.now - begun)
        bench.fork()
    assert delays == sorted(delays)
    assert delays[0] < 0.2
    assert delays[-1] == pytest.approx(5, abs=0.2)


def test_scale_up(bench: Bench) -> None:
    bench.start()
    bench.act_on_signal(signal.SIGTTIN)
    bench.settle()
    assert replacement(bench).slot == 2
    assert len(bench.keeper.slots) == 3


def test_scale_down_retires_the_least_loaded_and_moves_what_it_has(
    make_bench: MakeBench,
) -> None:
    bench = make_bench(workers=3)
    workers = bench.start()
    for worker, count in zip(workers, (3, 1, 2), strict=True):
        for _ in range(count):
            bench.serve(worker)
    bench.keeper.scale(1)
    bench.settle()
    assert [worker.order.how if worker.order else "" for worker in workers] == ["", "move", "move"]
    (served,) = workers[1].connections.values()
    give_up(bench, served)
    assert workers[0].arrived[0][0].id == served.id
    workers[1].die(0)
    workers[2].die(0)
    bench.advance(1)
    assert not bench.template.unforked, "a slot that is gone is not filled again"
    assert bench.keeper.counters()["worker_deaths"] == 0


def test_scale_down_counts_what_a_worker_serves_while_it_is_being_replaced(
    make_bench: MakeBench,
) -> None:
    bench = make_bench(workers=2, worker_max_rss=1000)
    busy, idle = bench.start()
    for _ in range(3):
        bench.serve(busy)
    bench.serve(idle)
    bench.system.resident[busy.pid] = 1001
    bench.advance(2)
    bench.fork()
    bench.keeper.scale(1)
    bench.settle()
    assert (busy.told(), idle.told()) == ("", "move")


def test_scale_down_does_not_count_what_retiring_workers_have(bench: Bench) -> None:
    old, _ = bench.start()
    for _ in range(5):
        bench.serve(old)
    bench.reload()
    idle, busy = bench.bring_up()
    assert idle.slot == old.slot
    bench.serve(busy)
    bench.keeper.scale(1)
    bench.settle()
    assert (idle.told(), busy.told()) == ("move", "")


def test_a_reload_while_a_worker_is_being_replaced(make_bench: MakeBench) -> None:
    bench = make_bench(workers=1, worker_max_rss=1000)
    (old,) = bench.start()
    bench.system.resident[old.pid] = 1001
    bench.advance(2)
    (replacement_,) = bench.fork()
    bench.reload()
    bench.bring_up()
    assert old.told() == "move"
    assert replacement_.process.reaped
    assert bench.keeper.counters()["worker_deaths"] == 0


def test_one_worker_stays(bench: Bench) -> None:
    bench.start()
    for _ in range(4):
        bench.act_on_signal(signal.SIGTTOU)
    assert len(bench.keeper.slots) == 1


def test_scale_down_ends_a_worker_that_is_still_starting(bench: Bench) -> None:
    bench.start()
    bench.keeper.scale(3)
    bench.settle()
    (third,) = bench.fork()
    bench.keeper.scale(2)
    bench.settle()
    assert third.process.reaped
    bench.advance(1)
    assert not bench.template.unforked


def test_scale_down_and_up_again_uses_the_slot_that_is_free(bench: Bench) -> None:
    first, _ = bench.start()
    bench.serve(first)
    bench.keeper.scale(1)
    bench.keeper.scale(2)
    bench.settle()
    assert replacement(bench).slot == 1


def test_an_old_worker_is_replaced_by_one_that_is_ready(make_bench: MakeBench) -> None:
    bench = make_bench(workers=1, worker_lifetime=100)
    (old,) = bench.start()
    peer, served = bench.serve(old)
    bench.advance(99)
    assert not bench.template.unforked
    bench.advance(12)
    (new,) = bench.fork()
    assert new.slot == old.slot
    assert old.told() == "", "not before the other is ready"
    new.ready()
    bench.settle()
    assert old.told() == "move"
    give_up(bench, served)
    assert is_alive(peer, new.attach().sock)
    old.die(0)
    bench.advance(1)
    assert not bench.template.unforked
    assert bench.keeper.counters()["worker_deaths"] == 0


def test_a_worker_that_is_too_big_is_replaced_one_at_a_time(make_bench: MakeBench) -> None:
    bench = make_bench(workers=2, worker_max_rss=1000)
    workers = bench.start()
    for worker in workers:
        bench.system.resident[worker.pid] = 1001
    bench.advance(5)
    new = replacement(bench)
    assert [bool(worker.order) for worker in workers] == [True, False]
    bench.advance(5)
    assert replacement(bench).slot != new.slot


def test_a_replacement_that_dies_is_tried_again_and_the_old_serves_on(
    make_bench: MakeBench,
) -> None:
    bench = make_bench(workers=1, worker_max_rss=1000)
    (old,) = bench.start()
    bench.system.resident[old.pid] = 1001
    bench.advance(2)
    bench.fork()[0].die(1)
    bench.advance(5)
    assert old.order is None
    replacement(bench)
    assert old.order is not None


def test_no_descriptor_for_another_worker(bench: Bench) -> None:
    """Each of the descriptors that a worker takes may be the one that is wanting."""
    first, _ = bench.start()
    bench.advance(60)
    for spare in range(7):
        first.die(-9)
        with out_of_descriptors(spare):
            bench.reactor.settle()
        bench.settle()
        bench.advance(3)
        (first,) = bench.fork()
        first.ready()
        bench.advance(6)
    assert bench.keeper.pool.totals["worker_deaths"] == 7
    assert len(bench.keeper.pool) == 2


def test_a_worker_that_cannot_be_watched_yet_is_watched_later(bench: Bench) -> None:
    """The keeper is out of descriptors when it hears of a fork."""
    first, _ = bench.start()
    first.die(-9)
    bench.settle()
    bench.system.no_pidfd = 3
    new = replacement(bench)
    assert new.accept_below
    bench.advance(1)
    new.die(-9)
    bench.settle()
    assert new.process.reaped


def fork_child(bench: Bench, parent: FarWorker, served: Served) -> Process:
    """Let a process forked by the worker serve the connection."""
    child = bench.system.add(f"child of {parent.process.name}")
    child.is_child = False
    parent.record(served.row).pid = child.pid
    parent.process.at_death.append(lambda: setattr(child, "is_child", True))
    # The child has handles of its own of what the worker's death closes.
    sock = served.sock.dup()
    del parent.connections[served.id]
    served.sock.close()
    served.sock = sock
    child.at_death.append(sock.close)
    return child


def test_the_children_of_a_dead_fork_worker_serve_on_and_are_reaped(
    make_bench: MakeBench,
) -> None:
    bench = make_bench(workers=1)
    (worker,) = bench.start("fork")
    peers = [bench.serve(worker) for _ in range(2)]
    children = [fork_child(bench, worker, served) for _, served in peers]
    worker.die(-9)
    bench.settle()
    new = replacement(bench)
    assert new.slot == worker.slot
    assert all(is_alive(peer, served.sock) for peer, served in peers)
    assert bench.keeper.counters()["lost"] == 0
    worker.record(peers[0][1].row).ended = "closed"
    children[0].die(0)
    bench.settle()
    assert children[0].reaped
    children[1].die(-9)
    bench.settle()
    assert children[1].reaped
    counters = bench.keeper.counters()
    assert (counters["closed"], counters["lost"]) == (1, 1)
    assert len(bench.keeper.pool) == 1


@pytest.mark.parametrize("ordered_first", [True, False])
def test_adopted_children_are_told_to_retire(make_bench: MakeBench, ordered_first: bool) -> None:
    """Their parent, who would tell them, is dead: the keeper writes it where they read."""
    bench = make_bench(workers=1)
    (worker,) = bench.start("fork")
    _, served = bench.serve(worker)
    child = fork_child(bench, worker, served)
    wake = os.dup(worker.wake)
    if not ordered_first:
        worker.die(-9)
        bench.settle()
        replacement(bench)
    bench.reload()
    bench.bring_up("fork")
    if ordered_first:
        worker.die(-9)
        bench.settle()
    order = worker.board.order
    assert order is not None
    assert order.how == "move"
    assert os.eventfd_read(wake) == 1
    os.close(wake)
    child.die(0)
    bench.settle()
    assert child.reaped


def test_adopted_children_that_do_not_end_in_time_are_killed(make_bench: MakeBench) -> None:
    bench = make_bench(workers=1, graceful_timeout=1)
    (worker,) = bench.start("fork")
    _, served = bench.serve(worker)
    child = fork_child(bench, worker, served)
    worker.die(-9)
    bench.settle()
    bench.keeper.stop("close")
    bench.settle()
    bench.advance(8.1)
    assert child.signals == [signal.SIGKILL]
    assert child.reaped
    assert bench.has_stopped()


def test_more_adopted_children_than_descriptors(make_bench: MakeBench) -> None:
    bench = make_bench(workers=1)
    (worker,) = bench.start("fork")
    children = [fork_child(bench, worker, bench.serve(worker)[1]) for _ in range(5)]
    bench.system.no_pidfd = 4
    worker.die(-9)
    bench.settle()
    bench.advance(2)
    for child in children:
        child.die(0)
    bench.settle()
    assert all(child.reaped for child in children)
    assert worker.serial not in {known.serial for known in bench.keeper.pool}
