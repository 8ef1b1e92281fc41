"""New connections and those that come back, where there are more of them than seats."""

from __future__ import annotations

import socket
from contextlib import ExitStack

from tests.keeper.bench import Bench
from tests.keeper.conftest import MakeBench
from tests.keeper.fakes import FarWorker


def queue(bench: Bench, stack: ExitStack, count: int) -> list[socket.socket]:
    """Return clients in the accept queue."""
    return [stack.enter_context(bench.knock()) for _ in range(count)]


def wake(bench: Bench, worker: FarWorker, count: int) -> list[str]:
    """Have connections parked, and all of them say something; return their ids in that order."""
    names, peers = [], []
    for _ in range(count):
        peer, served = bench.serve(worker)
        served.park()
        bench.settle()
        served.settle()
        names.append(served.id)
        peers.append(peer)
    bench.settle()
    for peer in peers:
        peer.send(b"?")
        bench.settle()
    return names


def serve_next(bench: Bench, worker: FarWorker) -> str:
    """End what the worker is given next; return how it was attached, and its id."""
    ((attach, _),) = worker.arrived
    served = worker.attach()
    bench.settle()
    assert not worker.arrived, "one seat, one connection"
    served.settle("closed")
    bench.settle()
    return str(attach.id if attach.attached == "parked" else attach.attached)


def test_those_that_come_back_and_the_accept_queue_take_turns(make_bench: MakeBench) -> None:
    bench = make_bench(workers=1)
    (worker,) = bench.start("prefork")
    with ExitStack() as stack:
        names = wake(bench, worker, 4)
        clients = queue(bench, stack, 3)
        assert worker.accept_below == 0, "the worker accepts nothing by itself while others wait"
        order = [serve_next(bench, worker) for _ in range(7)]
        # The first had been given before anybody else was there.
        expected = [names[0], "accepted", names[1], "accepted", names[2], "accepted", names[3]]
        assert order == expected
        assert bench.keeper.counters()["accepted"] == len(clients) + 4
        assert worker.accept_below == 1


def test_who_is_refused_keeps_its_place(make_bench: MakeBench) -> None:
    """It has waited longer than those behind it."""
    bench = make_bench(workers=1)
    (worker,) = bench.start("prefork")
    names = wake(bench, worker, 3)
    worker.refuse()
    bench.advance(0.3)
    assert [serve_next(bench, worker) for _ in range(3)] == names


def test_the_limit_of_connections_holds(make_bench: MakeBench) -> None:
    """What is parked or waits counts: a new one comes only when another has ended."""
    bench = make_bench(workers=1, max_connections=3)
    (worker,) = bench.start("prefork")
    with ExitStack() as stack:
        names = wake(bench, worker, 3)
        queue(bench, stack, 1)
        ((attach, _),) = worker.arrived
        assert attach.id == names[0]
        served = worker.attach()
        served.park()
        bench.settle()
        served.settle()
        bench.settle()
        assert serve_next(bench, worker) == names[1], "three are open still"
        assert serve_next(bench, worker) == "accepted"
        assert serve_next(bench, worker) == names[2]


def test_a_pause_holds(make_bench: MakeBench) -> None:
    """Accepting is paused: nobody comes in by the keeper either."""
    bench = make_bench(workers=1)
    (worker,) = bench.start("prefork")
    with ExitStack() as stack:
        names = wake(bench, worker, 2)
        queue(bench, stack, 1)
        bench.keeper.pause()
        assert [serve_next(bench, worker) for _ in range(2)] == names
        bench.advance(0.3)
        assert not worker.arrived
