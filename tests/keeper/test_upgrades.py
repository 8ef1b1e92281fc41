"""Upgrades of the keeper: what is refused, and what the next version goes on with."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from tests.harness.seam import Row
from tests.keeper.bench import KILLS_AFTER, Bench, is_alive, is_at_eof
from tests.keeper.conftest import MakeBench
from tests.keeper.fakes import FarWorker, Served
from tests.keeper.test_moves import give_up
from tests.wire.limits import out_of_descriptors


def upgraded(bench: Bench) -> None:
    """Upgrade the keeper; its workers are still those of the generation before."""
    before = bench.keeper
    bench.upgrade().passes()
    bench.settle()
    assert bench.keeper is not before


def kept(bench: Bench, served: Served) -> None:
    """Have the worker entrust a handle of the connection to the keeper."""
    served.keep()
    bench.settle()
    assert served.is_kept()


def park(bench: Bench, served: Served) -> None:
    handoff = msgspec.structs.replace(served.handoff(b"state"), parked=True)
    served.worker.send(handoff, (served.sock.fileno(),))
    bench.settle()
    assert served.worker.acknowledged.pop().taken
    served.settle()


def test_everything_goes_on(bench: Bench) -> None:
    workers = bench.start()
    peer, served = bench.serve(workers[0])
    bench.advance(7)
    boot, started_at = bench.keeper.boot, bench.keeper.started_at
    bench.keeper.connections.moves.waits["crash"].add(0.3)
    upgraded(bench)
    assert bench.keeper.connections.moves.waits["crash"].seconds == 0.3
    assert (bench.keeper.boot, bench.keeper.started_at) == (boot, started_at)
    assert bench.keeper.current is not None
    assert bench.keeper.current.number == 1
    assert bench.keeper.upgrades.completed == 1
    assert bench.keeper.counters()["accepted"] == 1
    assert all(worker.order is None and worker.accept_below for worker in workers)
    assert bench.system.mask == []
    assert is_alive(peer, served.sock)
    # And a reload brings workers of the new version.
    assert bench.keeper.state == "reloading"
    new = bench.bring_up()
    assert bench.ended_rollouts == [(0, 2, "")]
    assert [worker.serial for worker in new] == [3, 4]
    give_up(bench, served, b"state", b"unread")
    bench.settle()
    (receiver,) = (worker for worker in new if worker.arrived)
    attach, _ = receiver.arrived[0]
    assert (attach.id, attach.epoch, attach.attached) == (served.id, 2, "upgrade")
    assert (attach.state, attach.unread) == (b"state", b"unread")
    assert is_alive(peer, receiver.attach().sock)
    bench.settle()
    for worker in workers:
        worker.die(0)
    bench.settle()
    assert bench.keeper.counters()["accepted"] == 1
    # What a later reload moves is told that it was a reload.
    bench.reload()
    bench.bring_up()
    give_up(bench, receiver.connections[served.id])
    assert [a.attached for w in bench.template.workers for a, _ in w.arrived] == ["reload"]


def test_whoever_waits_to_be_told_is_told_before(bench: Bench) -> None:
    (old, _) = bench.start()
    bench.reload()
    bench.bring_up()
    for _ in range(20):
        _, served = bench.serve(old)
        served.detach()
    bench.settle()
    assert len(old.acknowledged) < 20
    upgraded(bench)
    assert len(old.acknowledged) == 20


def test_ten_in_a_row(bench: Bench) -> None:
    workers = bench.start()
    peer, served = bench.serve(workers[0])
    for number in range(10):
        upgraded(bench)
        old, workers = workers, bench.bring_up()
        give_up(bench, served)
        (receiver,) = (worker for worker in workers if worker.arrived)
        served = receiver.attach()
        bench.settle()
        for worker in old:
            worker.die(0)
        bench.settle()
        assert bench.keeper.state == "running"
        assert bench.keeper.upgrades.completed == number + 1
    assert is_alive(peer, served.sock)
    assert served.epoch == 11


def test_what_the_check_refuses_changes_nothing(bench: Bench) -> None:
    workers = bench.start()
    keeper = bench.keeper
    check = bench.upgrade()
    assert keeper.state == "upgrading"
    assert check.state.config == bench.config
    check.fails("the state cannot be read\n")
    bench.settle()
    error = "the new version cannot take over: the state cannot be read"
    assert bench.ended_rollouts == [(1, 0, error)]
    assert bench.keeper is keeper
    assert keeper.state == "running"
    assert all(worker.order is None for worker in workers)
    assert len(bench.system.templates) == 1
    # And it can be asked for again.
    upgraded(bench)


def test_a_traceback_becomes_a_line_that_says_where(bench: Bench) -> None:
    bench.start()
    traceback = (
        "Traceback (most recent call last):\n"
        '  File "<frozen runpy>", line 198, in _run_module_as_main\n'
        '  File "/opt/new/socketkeep/_base/_log.py", line 7\n'
        "    def (\n"
        "        ^\n"
        "SyntaxError: invalid syntax\n"
    )
    bench.upgrade().fails(traceback)
    bench.settle()
    ((first, *rest),) = (outcome.error.splitlines() for outcome in bench.outcomes)
    assert first == (
        "the new version cannot take over: SyntaxError: invalid syntax"
        " (/opt/new/socketkeep/_base/_log.py, line 7)"
    )
    assert rest == traceback.splitlines()


def test_a_check_that_dies_without_a_word(bench: Bench) -> None:
    bench.start()
    bench.upgrade().fails("", -9)
    bench.settle()
    (outcome,) = bench.outcomes
    assert outcome.error == "the new version cannot take over: killed by SIGKILL"


def test_a_check_has_the_start_timeout(make_bench: MakeBench) -> None:
    bench = make_bench(workers=1, start_timeout=3.0)
    bench.start()
    bench.upgrade()
    bench.advance(2.9)
    assert bench.ended_rollouts == []
    bench.advance(0.2)
    (outcome,) = bench.outcomes
    assert outcome.exit_code == 1
    assert "the check took more than 3 s (--start-timeout)" in outcome.error
    assert bench.keeper.state == "running"


def test_no_process_for_the_check(bench: Bench) -> None:
    bench.start()
    bench.system.no_process = True
    bench.keeper.upgrade(bench.outcomes.append)
    bench.settle()
    (outcome,) = bench.outcomes
    assert outcome.error == ("cannot check the new version: Resource temporarily unavailable")
    assert bench.keeper.state == "running"


def test_when_executing_fails_all_goes_on(bench: Bench) -> None:
    first, _ = bench.start()
    peer, served = bench.serve(first)
    keeper = bench.keeper
    bench.system.no_execution = True
    bench.upgrade().passes()
    bench.settle()
    assert bench.ended_rollouts == [
        (1, 0, "cannot execute the new version: Cannot allocate memory")
    ]
    assert bench.keeper is keeper
    assert bench.system.mask == []
    assert keeper.state == "running"
    assert is_alive(peer, served.sock)


def test_none_without_descriptors_to_spare(bench: Bench) -> None:
    """The new version would end where it opens its first module."""
    bench.start()
    keeper = bench.keeper
    check = bench.upgrade()
    check.passes()
    with out_of_descriptors(spare=5):
        bench.settle()
    assert bench.keeper is keeper
    (outcome,) = bench.outcomes
    assert outcome.error == "cannot execute the new version: Too many open files"


def test_an_upgrade_waits_for_the_reload_under_way(bench: Bench) -> None:
    bench.start()
    bench.reload()
    bench.keeper.upgrade(bench.outcomes.append)
    bench.settle()
    assert bench.system.checks == []
    bench.bring_up()
    assert bench.ended_rollouts == [(0, 2, "")]
    (check,) = bench.system.checks
    check.passes()
    bench.settle()
    bench.bring_up()
    assert bench.ended_rollouts[1:] == [(0, 3, "")]


def test_an_upgrade_waits_for_the_start_and_for_reloads_that_follow(bench: Bench) -> None:
    bench.keeper.start()
    bench.settle()
    bench.keeper.upgrade()
    bench.settle()
    assert bench.keeper.state == "starting"
    bench.bring_up()
    first = bench.system.check
    assert first is not None
    first.fails("no")
    bench.settle()
    bench.reload()
    bench.reload()  # done after the first
    bench.keeper.upgrade()
    bench.template.load_failed("no such module")
    bench.settle()
    assert len(bench.system.checks) == 1
    bench.bring_up()
    assert len(bench.system.checks) == 2


def test_a_second_upgrade_is_the_same_one(bench: Bench) -> None:
    bench.start()
    check = bench.upgrade()
    bench.keeper.upgrade(bench.outcomes.append)
    bench.act_on_signal(signal.SIGUSR2)
    bench.settle()
    check.fails("no")
    bench.settle()
    assert len(bench.outcomes) == 2
    assert len(bench.system.checks) == 1


def test_a_reload_asked_for_during_the_check_is_done_after_it(bench: Bench) -> None:
    bench.start()
    check = bench.upgrade()
    bench.keeper.reload(bench.outcomes.append)
    bench.settle()
    assert len(bench.system.templates) == 1
    check.fails("no")
    bench.settle()
    bench.bring_up()
    assert [outcome.generation for outcome in bench.outcomes] == [0, 2]


def test_a_reload_asked_for_during_a_check_that_passes_is_the_one_that_follows(
    bench: Bench,
) -> None:
    bench.start()
    check = bench.upgrade()
    bench.act_on_signal(signal.SIGHUP)
    check.passes()
    bench.settle()
    bench.bring_up()
    assert len(bench.system.templates) == 2
    assert bench.keeper.state == "running"


@pytest.mark.parametrize("how", ["close", "finish"])
def test_none_while_the_server_stops(bench: Bench, how: str) -> None:
    bench.start()
    bench.keeper.stop("finish" if how == "finish" else "close")
    bench.keeper.upgrade(bench.outcomes.append)
    bench.act_on_signal(signal.SIGUSR2)
    bench.settle()
    assert bench.ended_rollouts == [(1, 0, "cannot upgrade: the server is stopping")]
    assert bench.system.checks == []


@pytest.mark.parametrize("during", ["the check", "the wait for a reload"])
def test_a_stop_ends_an_upgrade_that_has_not_taken_place(bench: Bench, during: str) -> None:
    workers = bench.start()
    told: list[Any] = []
    if during == "the check":
        bench.upgrade()
    else:
        bench.reload()
        bench.keeper.upgrade(bench.outcomes.append)
    bench.keeper.reload(told.append)
    bench.act_on_signal(signal.SIGTERM)
    bench.settle()
    assert (1, 0, "cannot upgrade: the server is stopping") in bench.ended_rollouts
    assert [outcome.error for outcome in told] == ["cannot reload: the server is stopping"]
    for worker in (*workers, *bench.template.workers):
        worker.die(0)
    bench.settle()
    assert bench.has_stopped()
    assert bench.system.unreaped() == []


def test_a_stop_received_just_before_the_execution(bench: Bench) -> None:
    """It is acted on, and not lost with the memory of the old version."""
    bench.start()
    keeper = bench.keeper
    keeper.upgrades.act_on_signals = lambda: bench.act_on_signal(signal.SIGTERM)
    bench.upgrade().passes()
    bench.settle()
    assert bench.keeper is keeper
    assert keeper.state == "stopping"
    assert bench.system.mask == []
    assert bench.ended_rollouts == [(1, 0, "cannot upgrade: the server is stopping")]


def test_a_stop_right_after_it(bench: Bench) -> None:
    workers = bench.start()
    upgraded(bench)
    bench.act_on_signal(signal.SIGTERM)
    bench.settle()
    assert [worker.told() for worker in workers] == ["close", "close"]
    for worker in workers:
        worker.die(0)
    bench.settle()
    assert bench.has_stopped()
    assert bench.ended_rollouts == [(1, 2, "the server stops")]


def at_the_execution(bench: Bench, act: Callable[[], None]) -> None:
    """Upgrade, and have something happen that the old version does not learn of any more."""
    bench.keeper.upgrades.act_on_signals = act
    upgraded(bench)


def test_a_worker_that_dies_meanwhile_is_reaped_and_replaced(bench: Bench) -> None:
    first, second = bench.start()
    bench.advance(60)
    at_the_execution(bench, lambda: first.die(-11))
    assert bench.keeper.counters()["worker_deaths"] == 1
    (new,) = bench.system.templates[0].fork()
    assert new.slot == first.slot
    new.ready()
    bench.settle()
    assert second.order is None
    bench.bring_up()
    assert bench.ended_rollouts == [(0, 2, "")]


def test_a_worker_that_dies_during_the_check(bench: Bench) -> None:
    first, _ = bench.start()
    bench.advance(60)
    check = bench.upgrade()
    first.die(-11)
    bench.settle()
    (new,) = bench.template.fork()  # its Forked is read by the new version
    check.passes()
    bench.settle()
    new.ready()
    bench.settle()
    assert bench.record_of(new).state.value == "ready"
    assert bench.keeper.counters()["worker_deaths"] == 1


def test_a_template_that_dies_meanwhile_is_started_again(bench: Bench) -> None:
    bench.start()
    template = bench.template
    at_the_execution(bench, lambda: template.die(-9))
    coming = bench.template
    coming.load_failed("the reload fails")
    bench.advance(1.1)
    assert bench.ended_rollouts == [(4, 2, "the reload fails")]
    assert bench.template is not coming
    assert bench.template.load is not None
    assert bench.template.load.generation == 1


def test_a_reload_that_fails_leaves_the_workers_serving(bench: Bench) -> None:
    workers = bench.start()
    upgraded(bench)
    bench.template.load_failed("no such module")
    bench.settle()
    assert bench.ended_rollouts == [(4, 2, "no such module")]
    assert bench.keeper.state == "running"
    assert all(worker.order is None for worker in workers)
    # The old template still forks for its generation.
    bench.advance(60)
    workers[0].die(-9)
    bench.settle()
    (new,) = bench.system.templates[0].fork()
    new.ready()
    bench.settle()
    assert new.accept_below


def moving(bench: Bench) -> tuple[FarWorker, FarWorker]:
    """Return a worker that retires and one of the next generation."""
    (old,) = bench.start()
    bench.reload()
    (new,) = bench.bring_up()
    return old, new


def test_connections_under_way_arrive(make_bench: MakeBench) -> None:
    """One that the receiver has not read, one that it has acknowledged unheard, and one whose
    sender has not been answered."""
    bench = make_bench(workers=1)
    (old,) = bench.start()
    peers = [bench.serve(old) for _ in range(3)]
    bench.reload()
    (new,) = bench.bring_up()
    for _, served in peers[:2]:
        give_up(bench, served)
    assert len(new.arrived) == 2
    epoch = new.arrived[1][0].epoch

    def meanwhile() -> None:
        new.attach()
        peers[2][1].detach()

    at_the_execution(bench, meanwhile)
    assert old.acknowledged.pop().taken
    peers[2][1].settle()
    bench.settle()
    attach, _ = new.arrived[0]
    assert (attach.id, attach.epoch) == (peers[1][1].id, epoch)
    while new.arrived:
        new.attach()
        bench.settle()
    assert len(bench.keeper.connections) == 0
    for peer, served in peers:
        assert is_alive(peer, new.connections[served.id].sock)


def test_a_connection_that_waits_for_a_worker_waits_on(make_bench: MakeBench) -> None:
    bench = make_bench(workers=1, orphan_timeout=10.0)
    old, new = moving(bench)
    peer, served = bench.serve(old)
    new.die(-9)
    bench.settle()
    give_up(bench, served)
    bench.advance(6)
    upgraded(bench)
    bench.advance(3)
    assert not is_at_eof(peer)
    bench.advance(1.5)
    assert is_at_eof(peer)
    assert bench.keeper.counters()["lost"] == 1


def test_the_receiver_dies_meanwhile(make_bench: MakeBench) -> None:
    bench = make_bench(workers=2)
    old = bench.start()
    peer, served = bench.serve(old[0])
    bench.reload()
    new = bench.bring_up()
    give_up(bench, served)
    (receiver,) = (worker for worker in new if worker.arrived)
    (other,) = (worker for worker in new if not worker.arrived)
    at_the_execution(bench, lambda: receiver.die(-9))
    attach, _ = other.arrived[0]
    assert (attach.epoch, attach.attached) == (3, "reload")
    assert is_alive(peer, other.attach().sock)


def test_a_parked_connection_wakes(make_bench: MakeBench) -> None:
    bench = make_bench(workers=1, idle_timeout=60.0)
    (worker,) = bench.start()
    peer, served = bench.serve(worker)
    quiet, quieter = bench.serve(worker)
    for each in (quieter, served):
        park(bench, each)
    bench.advance(30)
    upgraded(bench)
    assert len(bench.keeper.connections.parking) == 2
    peer.send(b"?")
    bench.settle()
    attach, _ = worker.arrived[0]
    assert (attach.id, attach.attached, attach.state) == (served.id, "parked", b"state")
    assert worker.attach().sock.recv(10) == b"?"
    bench.settle()
    bench.advance(29)
    assert not is_at_eof(quiet)
    bench.advance(2)
    assert is_at_eof(quiet), "the time before the upgrade counts"


def test_a_kept_connection_outlives_its_worker(make_bench: MakeBench) -> None:
    bench = make_bench(workers=2, keep="crash")
    first, second = bench.start()
    peer, served = bench.serve(first)
    ended_peer, ended = bench.serve(first)
    for each in (served, ended):
        kept(bench, each)
    first.board.shelf(served.row).put(b"state")
    at_the_execution(bench, ended.say_ended)
    ended.settle("closed")
    bench.settle()
    assert is_at_eof(ended_peer)
    assert len(bench.keeper.connections.connection_table) == 1
    first.die(-9)
    bench.settle()
    attach, _ = second.arrived[0]
    assert (attach.id, attach.epoch, attach.attached) == (served.id, 2, "crash")
    assert attach.state == b"state"
    assert attach.kept
    assert is_alive(peer, second.attach().sock)


def test_deaths_before_an_upgrade_count_against_a_connection(make_bench: MakeBench) -> None:
    bench = make_bench(workers=1, keep="crash", poison_limit=2)
    bench.keeper.start()
    bench.settle()
    bench.template.loaded("fork", on_crash="resume")
    bench.settle()
    (worker,) = bench.fork()
    worker.ready()
    bench.settle()
    peer, served = bench.serve(worker)
    kept(bench, served)
    served.become("sent")
    served.say_orphaned()
    served.settle()
    bench.settle()
    again = worker.attach()
    bench.settle()
    upgraded(bench)
    again.become("sent")
    again.say_orphaned()
    again.settle()
    bench.settle()
    assert bench.keeper.counters()["poisoned"] == 1
    with pytest.raises(ConnectionError):
        peer.send(b"?")


def test_what_could_not_be_sent_yet_is_sent(make_bench: MakeBench) -> None:
    """A worker that has not read for long gets every message, with its descriptors, in order."""
    bench = make_bench(workers=1, model="async")
    (old,) = bench.start()
    peers = [bench.serve(old) for _ in range(400)]
    bench.reload()
    (new,) = bench.bring_up()
    for _, served in peers:
        served.detach(b"s" * 2000)
        bench.reactor.settle()
        old.read()
        served.settle()
    assert bench.record_of(new).link._channel.wants_write
    bench.keeper.upgrade(bench.outcomes.append)
    bench.reactor.settle()
    assert bench.system.check is not None
    bench.system.check.passes()
    bench._run()
    bench.settle()
    while len(new.arrived) < 400:
        had = len(new.arrived)
        bench.settle()
        assert len(new.arrived) > had
    while new.arrived:
        new.attach()
        bench.settle()
    for peer, served in peers:
        assert is_alive(peer, new.connections[served.id].sock)


def test_what_is_being_closed_is_closed_in_time(make_bench: MakeBench) -> None:
    bench = make_bench(workers=1, orphan_timeout=1.0)
    old, new = moving(bench)
    peer, served = bench.serve(old)
    new.die(-9)
    bench.settle()
    give_up(bench, served)
    bench.advance(1.1)
    assert is_at_eof(peer)
    upgraded(bench)
    assert len(bench.keeper.closer) == 1
    for _ in range(6):
        peer.send(b"more")
        bench.advance(0.8)
        assert len(bench.keeper.closer) == 1
    peer.send(b"more")
    bench.advance(0.2)
    assert len(bench.keeper.closer) == 0


def test_deadlines_of_retiring_workers_hold(make_bench: MakeBench) -> None:
    bench = make_bench(workers=1, graceful_timeout=10.0)
    old, _ = moving(bench)
    bench.serve(old)
    bench.advance(9)
    upgraded(bench)
    bench.advance(1 + KILLS_AFTER - 0.1)
    assert old.process.exit is None
    bench.advance(0.2)
    assert signal.SIGKILL in old.process.signals


def test_a_worker_that_is_starting_has_its_start_timeout(make_bench: MakeBench) -> None:
    bench = make_bench(workers=1, start_timeout=10.0)
    (first,) = bench.start()
    bench.keeper.scale(2)
    bench.settle()
    (starting,) = bench.template.fork()
    bench.advance(6)
    upgraded(bench)
    bench.template.load_failed("no")
    bench.advance(3.8)
    assert starting.process.exit is None
    bench.advance(0.3)
    assert signal.SIGKILL in starting.process.signals
    assert first.order is None


def test_children_of_a_dead_fork_worker_go_on(make_bench: MakeBench) -> None:
    bench = make_bench(workers=1)
    (worker,) = bench.start("fork")
    peer, served = bench.serve(worker)
    child = bench.system.add("fork child")
    worker.record(served.row).pid = child.pid
    wake, board = os.dup(worker.wake), worker.board
    worker.connections.pop(served.id)
    worker.die(-9)
    bench.settle()
    upgraded(bench)
    assert is_alive(peer, served.sock)
    Row(board.record(served.row)).ended = "closed"
    served.sock.close()
    child.die(0)
    bench.settle()
    assert [each.serial for each in bench.keeper.pool if each.state.value == "dead"] == []
    assert bench.keeper.counters()["lost"] == 0
    os.close(wake)


def test_scale_and_pause_and_pacing_go_on(bench: Bench) -> None:
    bench.start()
    bench.keeper.scale(3)
    bench.settle()
    (third,) = bench.fork()
    third.ready()
    bench.settle()
    bench.act_on_signal(signal.SIGWINCH)
    for _ in range(40):  # it keeps dying: the next one is started after a pause
        bench.template.workers[-1].die(1)
        bench.settle()
        for worker in bench.template.fork():
            worker.ready()
        bench.settle()
    assert bench.keeper.slots.snapshot().deaths == {2: 40}
    bench.template.workers[-1].die(1)
    bench.settle()
    upgraded(bench)
    old, new = bench.system.templates
    new.load_failed("no")
    bench.settle()
    assert len(bench.keeper.slots) == 3
    assert bench.keeper.paused
    assert all(worker.accept_below == 0 for worker in old.workers if not worker.closed)
    old.read()
    assert old.unforked == []
    bench.advance(1.2)
    (fourth,) = old.fork()
    assert fourth.slot == 2


def test_an_answer_to_a_stale_attach_is_refused_by_the_new_version_too(
    make_bench: MakeBench,
) -> None:
    bench = make_bench(workers=2)
    old = bench.start()
    _, served = bench.serve(old[0])
    bench.reload()
    new = bench.bring_up()
    give_up(bench, served)
    (receiver,) = (worker for worker in new if worker.arrived)
    receiver.refuse()
    bench.settle()
    upgraded(bench)
    receiver.say_attached(served.id, 2)
    bench.advance(0.2)
    (taker,) = (worker for worker in new if worker.arrived)
    assert taker.arrived[0][0].epoch == 3
    taker.attach()
    bench.settle()
    assert len(bench.keeper.connections) == 0
