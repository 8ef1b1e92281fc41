"""Stop, drain and the sudden end."""

from __future__ import annotations

import signal

import pytest

from tests.harness.configuration import closing_seconds
from tests.keeper.bench import KILLS_AFTER, Bench, is_alive, is_at_eof
from tests.keeper.conftest import MakeBench
from tests.keeper.test_moves import give_up


def test_an_idle_server_stops_when_its_processes_have(bench: Bench) -> None:
    workers = bench.start()
    bench.act_on_signal(signal.SIGTERM)
    bench.settle()
    assert bench.keeper.state == "stopping"
    assert [worker.order.how for worker in workers if worker.order] == ["close", "close"]
    assert bench.listener.fileno() == -1
    assert not bench.has_stopped()
    for worker in workers:
        worker.die(0)
    bench.settle()
    assert bench.has_stopped()
    assert bench.system.unreaped() == []


def test_a_drain_serves_until_the_last_connection_ends(bench: Bench) -> None:
    workers = bench.start()
    peer, served = bench.serve(workers[0])
    bench.keeper.stop("finish")
    bench.settle()
    assert bench.keeper.state == "draining"
    assert not any(worker.listens or worker.order for worker in workers)
    workers[1].die(0)
    bench.advance(20)
    assert is_alive(peer, served.sock)
    assert not workers[0].order
    served.settle()
    bench.advance(0.2)
    assert workers[0].told() == "finish"
    workers[0].die(0)
    bench.settle()
    assert bench.has_stopped()


def test_a_drain_ends_at_the_graceful_timeout(make_bench: MakeBench) -> None:
    bench = make_bench(workers=1, graceful_timeout=10)
    (worker,) = bench.start()
    bench.serve(worker)
    bench.keeper.stop("finish")
    began = bench.clock.now
    bench.advance(8.5)
    assert not worker.order
    bench.advance(0.7)
    assert worker.order is not None
    assert worker.order.deadline == pytest.approx(began + 10 - closing_seconds(bench.config))


def test_a_drain_of_a_handler_that_is_not_resumable_retires_its_workers(bench: Bench) -> None:
    workers = bench.start(resumable=False)
    bench.keeper.stop("finish")
    bench.settle()
    assert [worker.told() for worker in workers] == ["finish", "finish"]


def test_a_stop_during_a_drain_closes(make_bench: MakeBench) -> None:
    bench = make_bench(workers=1, graceful_timeout=10)
    (worker,) = bench.start()
    bench.serve(worker)
    bench.keeper.stop("finish")
    bench.advance(6)
    bench.keeper.stop("close")
    bench.settle()
    assert bench.keeper.state == "stopping"
    assert worker.order is not None
    assert worker.order.how == "close"
    assert worker.order.deadline == pytest.approx(
        bench.clock.now + 4 - closing_seconds(bench.config)
    )


def test_a_drain_during_a_stop_changes_nothing(bench: Bench) -> None:
    workers = bench.start()
    bench.keeper.stop("close")
    bench.keeper.stop("finish")
    bench.settle()
    assert bench.keeper.state == "stopping"
    assert all(worker.order and worker.order.how == "close" for worker in workers)


def test_workers_that_are_still_starting_are_ended(bench: Bench) -> None:
    bench.keeper.start()
    bench.settle()
    bench.template.loaded()
    bench.settle()
    forked = bench.fork()
    bench.keeper.stop("close")
    bench.settle()
    assert all(worker.process.reaped for worker in forked)
    assert bench.has_stopped()


def test_a_worker_that_does_not_end_is_killed(make_bench: MakeBench) -> None:
    bench = make_bench(workers=1, graceful_timeout=1)
    (worker,) = bench.start()
    bench.serve(worker)
    bench.keeper.stop("close")
    bench.advance(1 + KILLS_AFTER - 0.1)
    assert worker.process.exit is None
    bench.advance(0.2)
    assert worker.process.reaped
    assert bench.has_stopped()


def test_connections_on_their_way_are_closed_in_an_orderly_way(bench: Bench) -> None:
    workers = bench.start()
    peer, served = bench.serve(workers[0])
    give_up(bench, served)
    for worker in workers:
        worker.die(-9)
    bench.settle()
    bench.keeper.stop("close")
    bench.settle()
    assert is_at_eof(peer)
    assert not bench.has_stopped(), "the peer has not closed yet"
    peer.close()
    bench.settle()
    assert bench.has_stopped()


def test_a_peer_that_never_closes_does_not_hold_the_server(bench: Bench) -> None:
    workers = bench.start()
    _, served = bench.serve(workers[0])
    give_up(bench, served)
    for worker in workers:
        worker.die(-9)
    bench.settle()
    bench.keeper.stop("close")
    bench.advance(5.1)
    assert bench.has_stopped()


def test_a_peer_that_never_closes_does_not_hold_it_beyond_its_time(make_bench: MakeBench) -> None:
    """Whether its end began before the stop or at it."""
    bench = make_bench(workers=2, graceful_timeout=0.8)
    first, second = bench.start()
    for worker in (first, second):
        _, served = bench.serve(worker)
        served.park()
        bench.settle()
        served.settle()
    _, ending = bench.connect()
    bench.keeper.closer.close(ending, lambda: None)
    bench.keeper.stop("close")
    for worker in (first, second):
        worker.die(0)
    bench.advance(0.7)
    assert not bench.has_stopped()
    bench.advance(0.2)
    assert bench.has_stopped()


@pytest.mark.parametrize("refuses", [True, False])
def test_a_connection_that_its_receiver_does_not_take_is_closed(
    bench: Bench, refuses: bool
) -> None:
    """It had been sent to a worker when the server began to stop: there is no other to give it."""
    first, second = bench.start()
    peer, served = bench.serve(first)
    give_up(bench, served)
    receiver, other = (first, second) if first.arrived else (second, first)
    bench.keeper.stop("close")
    if refuses:
        receiver.refuse()
    else:
        receiver.die(-9)
    other.die(0)
    bench.advance(0.5)
    assert is_at_eof(peer)
    peer.close()
    receiver.die(0)
    bench.settle()
    assert bench.has_stopped()


def test_a_connection_detached_while_the_server_stops_is_closed(bench: Bench) -> None:
    (first, _) = bench.start()
    peer, served = bench.serve(first)
    bench.keeper.stop("close")
    give_up(bench, served)
    assert is_at_eof(peer)


@pytest.mark.parametrize("number", [signal.SIGQUIT, signal.SIGINT])
def test_the_sudden_end(bench: Bench, number: signal.Signals) -> None:
    first, second = bench.start()
    peer, _ = bench.serve(first)
    moving, served = bench.serve(second)
    given, arriving = bench.serve(second)
    give_up(bench, arriving)
    give_up(bench, served)
    if number == signal.SIGINT:
        bench.act_on_signal(signal.SIGINT)
        bench.settle()
        assert not bench.has_stopped(), "the first is graceful"
    bench.act_on_signal(number)
    bench.settle()
    assert bench.has_stopped()
    assert bench.system.unreaped() == []
    assert all(is_at_eof(each) for each in (peer, moving, given))


def test_the_sudden_end_while_workers_are_being_forked(bench: Bench) -> None:
    bench.keeper.start()
    bench.settle()
    bench.template.loaded()
    bench.settle()
    forked = bench.template.fork()
    bench.keeper.stop_now()
    bench.settle()
    assert all(worker.process.reaped for worker in forked)
    assert bench.has_stopped()


def test_a_term_after_an_interrupt_stays_graceful(bench: Bench) -> None:
    (worker, _) = bench.start()
    bench.act_on_signal(signal.SIGINT)
    bench.act_on_signal(signal.SIGTERM)
    bench.settle()
    assert worker.process.exit is None
    bench.act_on_signal(signal.SIGINT)
    bench.settle()
    assert bench.has_stopped(), "the second interrupt, whatever came between"
