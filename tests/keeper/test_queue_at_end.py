"""Those in the accept queue when the server is to end: served as seats become free, not reset."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from tests.harness.configuration import closing_seconds
from tests.keeper.bench import Bench, end_of, is_at_eof
from tests.keeper.conftest import MakeBench
from tests.keeper.fakes import FarWorker, Served
from tests.keeper.test_fair import wake
from tests.keeper.test_moves import give_up


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    """Closes the clients."""
    with ExitStack() as stack:
        yield stack


def knock(bench: Bench, stack: ExitStack, *says: bytes, tcp: bool = False) -> list[socket.socket]:
    """Return clients in the accept queue, each of which has said that."""
    peers = []
    for each in says:
        peer = stack.enter_context(bench.knock(tcp=tcp))
        peer.send(each)
        peer.setblocking(False)
        peers.append(peer)
    return peers


def serve_next(bench: Bench, worker: FarWorker) -> bytes:
    """Serve to its end what the worker is given; return what the client has said."""
    served = take_next(bench, worker)
    try:
        said = served.sock.recv(100, socket.MSG_DONTWAIT)
    except BlockingIOError:
        said = b""
    served.settle("closed")
    bench.advance(0.1)
    return said


def take_next(bench: Bench, worker: FarWorker) -> Served:
    ((attach, _),) = worker.arrived
    assert attach.attached == "accepted"
    served = worker.attach()
    bench.settle()
    assert not worker.arrived, "one seat, one connection"
    return served


def is_told_to_wait(worker: FarWorker) -> bool:
    assert worker.order is not None
    return bool(worker.order.more)


@pytest.mark.parametrize("resumable", [True, False])
@pytest.mark.parametrize("tcp", [True, False])
def test_a_stop_serves_the_queue(
    make_bench: MakeBench, stack: ExitStack, resumable: bool, tcp: bool
) -> None:
    bench = make_bench(workers=1)
    (worker,) = bench.start("prefork", resumable=resumable)
    _, busy = bench.serve(worker)
    says = [b"1", b"2", b"3"]
    knock(bench, stack, *says, tcp=tcp)
    bench.act_on_signal(signal.SIGTERM)
    bench.settle()
    assert worker.told() == "close"
    assert is_told_to_wait(worker)
    assert bench.listener.fileno() == -1, "nobody else comes in"
    assert not worker.arrived, "there is no seat yet"
    busy.settle("closed")
    bench.settle()
    assert [serve_next(bench, worker) for _ in says] == says
    assert not is_told_to_wait(worker), "it may go"
    assert worker.told() == "close"
    worker.die(0)
    bench.settle()
    assert bench.has_stopped()
    assert bench.keeper.counters()["accepted"] == 1 + len(says)


@pytest.mark.parametrize("resumable", [True, False])
def test_a_drain_serves_the_queue(make_bench: MakeBench, stack: ExitStack, resumable: bool) -> None:
    bench = make_bench(workers=1)
    (worker,) = bench.start("prefork", resumable=resumable)
    _, busy = bench.serve(worker)
    knock(bench, stack, b"1", b"2")
    bench.keeper.stop("finish")
    bench.settle()
    assert not worker.listens
    assert not worker.order
    busy.settle("closed")
    bench.advance(0.1)
    assert [serve_next(bench, worker) for _ in range(2)] == [b"1", b"2"]
    assert worker.told() == "finish"
    worker.die(0)
    bench.settle()
    assert bench.has_stopped()


def test_a_drain_that_becomes_a_stop_goes_on_with_it(
    make_bench: MakeBench, stack: ExitStack
) -> None:
    bench = make_bench(workers=1)
    (worker,) = bench.start("prefork")
    _, busy = bench.serve(worker)
    knock(bench, stack, b"1")
    bench.keeper.stop("finish")
    bench.settle()
    bench.keeper.stop("close")
    bench.settle()
    assert worker.told() == "close"
    busy.settle("closed")
    bench.settle()
    assert serve_next(bench, worker) == b"1"
    assert not is_told_to_wait(worker)


@pytest.mark.parametrize("how", ["close", "finish"])
def test_at_the_deadline_the_rest_is_closed_in_order(
    make_bench: MakeBench, stack: ExitStack, how: str
) -> None:
    bench = make_bench(workers=1, graceful_timeout=4)
    (worker,) = bench.start("prefork")
    bench.serve(worker)
    (peer,) = knock(bench, stack, b"1", tcp=True)
    bench.keeper.stop("close" if how == "close" else "finish")
    bench.advance(4 - closing_seconds(bench.config) - 0.1)
    assert not is_at_eof(peer)
    bench.advance(0.2)
    assert worker.told() == how
    assert not is_told_to_wait(worker)
    assert end_of(peer) == "FIN"
    assert not worker.arrived


def test_a_sudden_end_serves_nobody(make_bench: MakeBench, stack: ExitStack) -> None:
    bench = make_bench(workers=1)
    (worker,) = bench.start("prefork")
    knock(bench, stack, b"1")
    bench.act_on_signal(signal.SIGQUIT)
    bench.settle()
    assert not worker.arrived
    assert bench.has_stopped()
    assert bench.keeper.counters()["accepted"] == 0


def test_a_sudden_end_in_the_middle(make_bench: MakeBench, stack: ExitStack) -> None:
    bench = make_bench(workers=1)
    (worker,) = bench.start("prefork")
    bench.serve(worker)
    (peer,) = knock(bench, stack, b"1")
    bench.keeper.stop("close")
    bench.settle()
    bench.act_on_signal(signal.SIGQUIT)
    bench.settle()
    assert bench.has_stopped()
    assert is_at_eof(peer)


def test_where_nobody_waits_nobody_is_waited_for(bench: Bench) -> None:
    workers = bench.start("prefork")
    bench.keeper.stop("close")
    bench.settle()
    assert not any(is_told_to_wait(worker) for worker in workers)


def test_who_says_nothing_goes_last(make_bench: MakeBench, stack: ExitStack) -> None:
    """It may take its seat for all the time that is left."""
    bench = make_bench(workers=1)
    (worker,) = bench.start("prefork", resumable=False)
    _, busy = bench.serve(worker)
    stack.enter_context(bench.knock())
    knock(bench, stack, b"1", b"2")
    bench.keeper.stop("close")
    busy.settle("closed")
    bench.settle()
    assert [serve_next(bench, worker) for _ in range(3)] == [b"1", b"2", b""]


def test_the_listeners_take_turns(make_bench: MakeBench, stack: ExitStack) -> None:
    bench = make_bench(workers=1)
    (worker,) = bench.start("prefork")
    _, busy = bench.serve(worker)
    knock(bench, stack, b"1", b"2", b"3")
    knock(bench, stack, b"4", tcp=True)
    bench.keeper.stop("close")
    busy.settle("closed")
    bench.settle()
    assert [serve_next(bench, worker) for _ in range(4)].index(b"4") <= 1


@pytest.mark.parametrize("how", ["close", "finish"])
def test_the_limit_of_connections_holds(make_bench: MakeBench, stack: ExitStack, how: str) -> None:
    bench = make_bench(workers=1, max_connections=2)
    (worker,) = bench.start("async")
    open_ones = [bench.serve(worker)[1] for _ in range(2)]
    knock(bench, stack, b"1", b"2")
    bench.keeper.stop("close" if how == "close" else "finish")
    bench.advance(0.2)
    assert not worker.arrived
    open_ones[0].settle("closed")
    bench.advance(0.2)
    assert serve_next(bench, worker) == b"1"
    assert serve_next(bench, worker) == b"2"


def test_who_is_refused_is_given_to_another(make_bench: MakeBench, stack: ExitStack) -> None:
    bench = make_bench(workers=2)
    workers = bench.start("prefork")
    knock(bench, stack, b"1")
    bench.keeper.stop("close")
    bench.settle()
    (first,) = (worker for worker in workers if worker.arrived)
    first.refuse()
    bench.settle()
    first.die(0)
    (other,) = (worker for worker in workers if worker is not first)
    bench.advance(0.2)
    assert serve_next(bench, other) == b"1"


def test_without_a_worker_the_queue_is_closed_in_order(
    make_bench: MakeBench, stack: ExitStack
) -> None:
    bench = make_bench(workers=1, graceful_timeout=30)
    (worker,) = bench.start("prefork")
    bench.serve(worker)
    (peer,) = knock(bench, stack, b"1", tcp=True)
    bench.keeper.stop("close")
    bench.settle()
    worker.die(-9)
    bench.advance(0.2)
    assert end_of(peer) == "FIN"
    peer.close()
    bench.settle()
    assert bench.has_stopped()


def test_a_queue_that_another_process_goes_on_with_is_left_to_it(
    make_bench: MakeBench, stack: ExitStack
) -> None:
    """Whether it was passed to this server, or taken over from it."""
    bench = make_bench(workers=1)
    (worker,) = bench.start("prefork")
    knock(bench, stack, b"1")
    knock(bench, stack, b"2", tcp=True)
    bench.system.others_have = {os.fstat(each.fileno()).st_ino for each in bench.listeners}
    bench.keeper.stop("close")
    bench.settle()
    assert not worker.arrived
    assert not is_told_to_wait(worker)
    for tcp in (False, True):
        bench._entrances[tcp].accept()[0].close()  # it is there still


def test_a_passed_listener_is_somebodys_where_not_all_can_be_seen(
    make_bench: MakeBench, stack: ExitStack
) -> None:
    bench = make_bench(workers=1, bind=["127.0.0.1:0"])
    assert len(bench.listeners) == 2, "the first of them was passed"
    (worker,) = bench.start("prefork")
    knock(bench, stack, b"passed")
    knock(bench, stack, b"bound", tcp=True)
    bench.system.sees_all = False
    bench.keeper.stop("close")
    bench.settle()
    assert serve_next(bench, worker) == b"bound"
    assert not worker.arrived


def test_who_has_asked_and_waits_for_a_seat_is_served(make_bench: MakeBench) -> None:
    """Of those that came back: who waits with nothing under way is closed as ever."""
    bench = make_bench(workers=1)
    (worker,) = bench.start("prefork")
    quiet, served = bench.serve(worker)
    served.park()
    bench.settle()
    served.settle()
    names = wake(bench, worker, 3)
    bench.keeper.stop("close")
    bench.settle()
    assert is_at_eof(quiet)
    for name in names:
        ((attach, _),) = worker.arrived
        assert attach.id == name
        worker.attach().settle("closed")
        bench.settle()
    bench.advance(0.1)
    assert not is_told_to_wait(worker)


def test_who_has_just_asked_is_served(make_bench: MakeBench) -> None:
    """The keeper has not been told yet that something has come."""
    bench = make_bench(workers=1)
    (worker,) = bench.start("prefork")
    peer, served = bench.serve(worker)
    served.park()
    bench.settle()
    served.settle()
    peer.send(b"?")
    bench.keeper.stop("close")
    bench.settle()
    ((attach, _),) = worker.arrived
    assert attach.attached == "parked"


def test_who_is_on_its_way_with_nothing_under_way_is_closed(make_bench: MakeBench) -> None:
    bench = make_bench(workers=1)
    (worker,) = bench.start("prefork")
    quiet, served = bench.serve(worker)
    give_up(bench, served)
    worker.refuse()
    bench.settle()
    bench.serve(worker)
    bench.keeper.stop("close")
    bench.settle()
    assert is_at_eof(quiet)
    assert not is_told_to_wait(worker)


def test_who_is_parked_counts_in_the_limit(make_bench: MakeBench, stack: ExitStack) -> None:
    bench = make_bench(workers=1, max_connections=2)
    (worker,) = bench.start("async")
    parked, served = bench.serve(worker)
    served.park()
    bench.settle()
    served.settle()
    _, busy = bench.serve(worker)
    knock(bench, stack, b"1")
    bench.keeper.stop("finish")
    bench.advance(0.2)
    assert not worker.arrived
    busy.settle("closed")
    bench.advance(0.2)
    assert serve_next(bench, worker) == b"1"
    assert not is_at_eof(parked)
