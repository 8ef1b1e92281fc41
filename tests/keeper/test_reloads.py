"""The reload, step by step: what comes first, and what happens when something fails on the way."""

from __future__ import annotations

import signal

import pytest

from tests.harness.configuration import Model, closing_seconds
from tests.keeper.bench import KILLS_AFTER, Bench, is_alive, is_at_eof
from tests.keeper.conftest import MakeBench


def test_start(bench: Bench) -> None:
    bench.keeper.start()
    bench.settle()
    assert bench.system.subreaper
    assert bench.keeper.state == "starting"
    assert bench.template.load is not None
    assert bench.template.load.generation == 1
    assert bench.template.load.listeners == [each.text for each in bench.listeners]
    first, second = bench.bring_up()
    assert bench.keeper.state == "running"
    assert {first.slot, second.slot} == {0, 1}
    assert first.accept_below > 0
    assert second.accept_below > 0


def test_nothing_is_accepted_before_all_workers_are_ready(bench: Bench) -> None:
    bench.keeper.start()
    bench.settle()
    bench.template.loaded()
    bench.settle()
    first, second = bench.fork()
    first.ready()
    bench.settle()
    assert first.accept_below == 0
    second.ready()
    bench.settle()
    assert first.accept_below > 0


@pytest.mark.parametrize(("model", "workers"), [("prefork", 8), ("fork", 1)])
def test_a_model_has_its_number_of_workers(
    make_bench: MakeBench, model: Model, workers: int
) -> None:
    assert len(make_bench(workers=0).start(model)) == workers


def test_reload_moves_the_connections_and_the_peers_notice_nothing(bench: Bench) -> None:
    old = bench.start()
    peers = {}
    for worker in (*old, *old):
        peer, served = bench.serve(worker)
        peers[served.id] = peer
    bench.reload()
    assert bench.keeper.state == "reloading"
    assert all(worker.order is None for worker in old), "the old ones serve until the new can"
    assert all(worker.accept_below for worker in old)
    new = bench.bring_up()
    assert bench.ended_rollouts == [(0, 2, "")]
    assert bench.keeper.state == "running"
    assert [worker.order.how for worker in old if worker.order] == ["move", "move"]
    assert all(worker.accept_below for worker in new)
    for worker in old:
        for served in tuple(worker.connections.values()):
            served.detach(state=b"\x01", unread=b"half a li")
            bench.settle()
            assert worker.acknowledged.pop().taken
            served.settle()
        worker.die(0)
    bench.settle()
    assert [len(worker.arrived) for worker in new] == [2, 2], "spread over both"
    moved = [worker.attach() for worker in new for _ in range(2)]
    bench.settle()
    assert len(bench.keeper.connections.moves) == 0
    for served in moved:
        assert served.attach is not None
        assert served.attach.attached == "reload"
        assert (served.attach.state, served.attach.unread) == (b"\x01", b"half a li")
        assert served.epoch == 2
        assert is_alive(peers[served.id], served.sock)
    assert bench.keeper.counters()["lost"] == 0
    assert bench.keeper.counters()["detached"] == 4


def test_the_template_of_the_old_generation_ends(bench: Bench) -> None:
    bench.start()
    first = bench.template
    bench.reload()
    assert first.process.exit is None
    bench.bring_up()
    bench.settle()
    assert first.process.reaped
    assert not bench.template.process.reaped


def test_two_reloads_at_once_are_one_after_the_other(bench: Bench) -> None:
    bench.start()
    bench.reload()
    bench.reload()
    bench.reload()
    assert len(bench.system.templates) == 2, "one at a time"
    bench.bring_up()
    assert bench.ended_rollouts == [(0, 2, "")], "the others asked for code that is newer than this"
    assert len(bench.system.templates) == 3
    bench.bring_up()
    assert bench.ended_rollouts == [(0, 2, ""), (0, 3, ""), (0, 3, "")]
    bench.settle()
    assert len(bench.system.templates) == 3, "two that waited were one"


def test_the_reload_after_one_that_fails_is_done(bench: Bench) -> None:
    bench.start()
    bench.reload()
    bench.reload()
    bench.template.load_failed("no")
    bench.settle()
    assert bench.ended_rollouts == [(4, 2, "no")]
    bench.bring_up()
    assert bench.ended_rollouts[1:] == [(0, 3, "")]


def test_a_reload_during_a_drain_is_refused(bench: Bench) -> None:
    (worker, _) = bench.start()
    bench.serve(worker)
    bench.keeper.stop("finish")
    bench.settle()
    bench.reload()
    (outcome,) = bench.outcomes
    assert outcome.exit_code == 1
    assert "stopping" in outcome.error
    bench.act_on_signal(signal.SIGHUP)
    bench.settle()
    assert len(bench.system.templates) == 1


def test_a_stop_during_a_reload_rolls_it_back(bench: Bench) -> None:
    bench.start()
    bench.reload()
    bench.template.loaded()
    bench.settle()
    coming = bench.fork()
    bench.keeper.stop("close")
    bench.settle()
    (outcome,) = bench.outcomes
    assert outcome.exit_code == 1
    assert all(worker.process.reaped for worker in coming)


def test_a_worker_of_the_old_generation_dies_during_a_reload(bench: Bench) -> None:
    old = bench.start()
    bench.reload()
    template = bench.template
    old[0].die(-9)
    bench.settle()
    (replacement,) = bench.system.templates[0].fork()
    bench.settle()
    replacement.ready()
    bench.settle()
    assert replacement.accept_below
    assert template is bench.template
    bench.bring_up()
    assert bench.ended_rollouts == [(0, 2, "")]
    assert replacement.order is not None


def test_scaled_up_during_a_reload(bench: Bench) -> None:
    bench.start()
    bench.reload()
    bench.template.loaded()
    bench.settle()
    new = bench.fork()
    bench.keeper.scale(3)
    for worker in new:
        worker.ready()
    bench.settle()
    assert not bench.outcomes, "the third slot has no worker yet"
    (third,) = bench.fork()
    third.ready()
    bench.settle()
    assert bench.ended_rollouts == [(0, 2, "")]


@pytest.mark.parametrize("extra_dies", [False, True])
def test_scaled_down_during_a_reload(bench: Bench, extra_dies: bool) -> None:
    bench.start()
    bench.reload()
    bench.template.loaded()
    bench.settle()
    kept, extra = bench.fork()
    kept.ready()
    bench.settle()
    bench.keeper.scale(1)
    bench.settle()
    if extra_dies:
        extra.die(1)
    else:
        extra.ready()
    bench.settle()
    assert bench.ended_rollouts == [(0, 2, "")], "that slot is not wanted any more"
    assert kept.accept_below
    assert kept.order is None
    assert extra_dies or extra.told() == "move"


def test_connections_of_a_handler_that_cannot_be_moved_are_finished(bench: Bench) -> None:
    old = bench.start("thread", resumable=False)
    bench.serve(old[0])
    bench.reload()
    bench.bring_up("thread", resumable=False)
    assert old[0].order is not None
    handlers_have = bench.config.graceful_timeout - closing_seconds(bench.config)
    assert old[0].order.deadline == bench.clock.now + handlers_have


def test_keep_none_moves_nothing(make_bench: MakeBench) -> None:
    bench = make_bench(workers=1, keep="none")
    (old,) = bench.start()
    bench.reload()
    bench.bring_up()
    assert old.order is not None
    assert old.order.how == "finish"


def test_a_worker_that_does_not_retire_in_time_is_killed(make_bench: MakeBench) -> None:
    bench = make_bench(workers=1, graceful_timeout=2)
    (old,) = bench.start()
    peer, _ = bench.serve(old)
    bench.reload()
    bench.bring_up()
    bench.advance(2)
    assert old.process.exit is None, "it is believed to be ending"
    bench.advance(KILLS_AFTER + 0.1)
    assert old.process.signals == [signal.SIGKILL]
    assert old.process.reaped
    assert is_at_eof(peer)
    assert bench.keeper.counters()["lost"] == 1
    assert bench.keeper.counters()["worker_deaths"] == 0


def test_accepting_is_paused_by_winch_until_the_next_reload(bench: Bench) -> None:
    old = bench.start()
    peer, served = bench.serve(old[0])
    bench.act_on_signal(signal.SIGWINCH)
    bench.settle()
    assert [worker.accept_below for worker in old] == [0, 0]
    assert is_alive(peer, served.sock)
    assert all(worker.order is None for worker in old)
    bench.reload()
    new = bench.bring_up()
    assert all(worker.accept_below for worker in new)


def test_a_hang_up_reloads(bench: Bench) -> None:
    bench.start()
    bench.act_on_signal(signal.SIGHUP)
    bench.bring_up()
    assert bench.keeper.current is not None
    assert bench.keeper.current.number == 2
