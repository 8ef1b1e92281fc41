"""A connection on its way between workers, whatever dies, refuses or is full meanwhile."""

from __future__ import annotations

import os

import pytest

from tests.keeper.bench import Bench, is_alive, is_at_eof
from tests.keeper.conftest import MakeBench
from tests.keeper.fakes import FarWorker, Served
from tests.wire.limits import out_of_descriptors
from tests.wire.sending import message


def give_up(bench: Bench, served: Served, state: bytes | None = None, unread: bytes = b"") -> None:
    """Detach, wait for the acknowledgement, and close the worker's handle."""
    served.detach(state, unread)
    bench.settle()
    assert served.worker.acknowledged.pop() == message(
        "Acknowledged", served.id, served.epoch, taken=True
    )
    assert served.record.ended == "taken"  # should the answer not arrive
    served.settle()


def reloaded(bench: Bench) -> tuple[FarWorker, FarWorker, FarWorker]:
    """Return a worker that retires and the two that may be given its connections."""
    (old, _) = bench.start()
    bench.reload()
    first, second = bench.bring_up()
    return old, first, second


def test_the_keeper_holds_the_connection_until_the_next_worker_does(bench: Bench) -> None:
    (old, _) = bench.start()
    peer, served = bench.serve(old)
    bench.reload()
    first, second = bench.bring_up()
    give_up(bench, served)
    (move,) = bench.keeper.connections.moves
    (receiver,) = (worker for worker in (first, second) if worker.arrived)
    assert not is_at_eof(peer)
    assert is_alive(peer, move.sock)
    attached = receiver.attach()
    bench.settle()
    assert len(bench.keeper.connections.moves) == 0
    assert move.sock.fileno() == -1
    assert is_alive(peer, attached.sock)


def test_how_long_it_was_with_no_worker_is_told(bench: Bench) -> None:
    """From one worker's word to the next one's, whoever died in between."""
    old, first, second = reloaded(bench)
    _, served = bench.serve(old)
    give_up(bench, served)
    bench.advance(0.2)
    receiver, other = (first, second) if first.arrived else (second, first)
    receiver.die(-9)
    bench.advance(0.2)
    other.attach()
    bench.settle()
    waits = bench.keeper.connections.moves.waits["reload"]
    assert waits.longest == waits.seconds == pytest.approx(0.4)
    assert waits.counts == [0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0]


def test_a_connection_whose_receiver_dies_is_given_to_another_with_a_new_epoch(
    bench: Bench,
) -> None:
    old, first, second = reloaded(bench)
    peer, served = bench.serve(old)
    give_up(bench, served, state=b"\x05")
    receiver, other = (first, second) if first.arrived else (second, first)
    assert receiver.arrived[0][0].epoch == 2
    receiver.die(-9)
    bench.settle()
    ((attach, _),) = other.arrived
    assert (attach.id, attach.epoch, attach.state) == (served.id, 3, b"\x05")
    assert is_alive(peer, other.attach().sock)
    bench.settle()
    assert len(bench.keeper.connections.moves) == 0


def test_a_receiver_that_acknowledged_before_it_died_had_it(bench: Bench) -> None:
    """What a worker said before its death counts, even when it had not read all it was sent."""
    old, first, second = reloaded(bench)
    peer, served = bench.serve(old)
    _, unread = bench.serve(old)
    give_up(bench, served)
    receiver, other = (first, second) if first.arrived else (second, first)
    other.die(-9)
    bench.settle()
    give_up(bench, unread)
    receiver.attach()
    bench.keeper.pool.allot(bench.record_of(receiver), 1)  # a packet that it will not read
    receiver.die(-9)
    bench.settle()
    assert [move.handoff.id for move in bench.keeper.connections.moves] == [unread.id]
    assert is_at_eof(peer), "served by a worker that died: lost, never served twice"
    assert bench.keeper.counters()["lost"] == 1


def test_what_a_worker_detached_before_it_died_is_kept(bench: Bench) -> None:
    old, first, second = reloaded(bench)
    peer, served = bench.serve(old)
    served.detach()
    bench.keeper.pool.allot(bench.record_of(old), 7)  # a packet that it will not read
    served.settle()
    old.die(-9)
    bench.settle()
    receiver = first if first.arrived else second
    assert is_alive(peer, receiver.attach().sock)


def test_sending_to_a_worker_that_has_died_loses_nothing_that_it_sent(bench: Bench) -> None:
    """The keeper learns of the death by a send that fails, before it has read what is queued."""
    old, first, second = reloaded(bench)
    peer, served = bench.serve(old)
    served.detach()
    served.settle()
    old.hang_up()
    bench.keeper.pool.allot(bench.record_of(old), 7)
    bench.settle()
    receiver = first if first.arrived else second
    assert is_alive(peer, receiver.attach().sock)


def test_a_refused_connection_is_offered_again(bench: Bench) -> None:
    old, first, second = reloaded(bench)
    peer, served = bench.serve(old)
    give_up(bench, served)
    for epoch in (2, 3, 4):
        bench.advance(0.2)
        (receiver,) = (worker for worker in (first, second) if worker.arrived)
        assert receiver.arrived[0][0].epoch == epoch
        receiver.refuse()
    bench.advance(0.2)
    receiver = first if first.arrived else second
    assert is_alive(peer, receiver.attach().sock)


def test_a_receiver_to_whom_nothing_arrived_refuses_what_it_was_sent_first(bench: Bench) -> None:
    old, first, second = reloaded(bench)
    second.die(-9)
    bench.settle()
    peers = {}
    for _ in range(2):
        peer, served = bench.serve(old)
        peers[served.id] = peer
        give_up(bench, served, unread=b"x" * 40_000)
    lost, kept = first.arrived
    for fd in lost[1]:
        os.close(fd)
    first.arrived = [kept]
    first.say_refused("", 0, "out of file descriptors")
    first.attach()
    bench.advance(0.2)
    ((again, _),) = first.arrived
    assert (again.id, again.epoch) == (lost[0].id, 3)
    assert is_alive(peers[again.id], first.attach().sock)


@pytest.mark.parametrize("taken", [True, False])
def test_what_is_said_of_an_unknown_connection_is_refused(bench: Bench, taken: bool) -> None:
    (worker, _) = bench.start()
    if taken:
        worker.say_attached("9-9-9", 1)
    else:
        worker.say_refused("9-9-9", 1, "why")
    bench.settle()
    assert bench.keeper.state == "running"


def test_what_is_said_of_an_earlier_epoch_is_refused(bench: Bench) -> None:
    old, first, second = reloaded(bench)
    peer, served = bench.serve(old)
    give_up(bench, served)
    receiver, other = (first, second) if first.arrived else (second, first)
    receiver.refuse()
    bench.advance(0.2)
    receiver = first if first.arrived else second
    receiver.say_attached(served.id, 2)
    other.say_attached(served.id, 3)
    bench.settle()
    assert len(bench.keeper.connections.moves) == 1, "neither the epoch before nor another worker"
    assert is_alive(peer, receiver.attach().sock)
    bench.settle()
    assert len(bench.keeper.connections.moves) == 0


@pytest.mark.parametrize("spare", [0, 1])
@pytest.mark.parametrize("pipe", [False, True])
@pytest.mark.parametrize("size", [1, 40_000])
def test_at_the_descriptor_limit_the_worker_keeps_it_and_tries_again(
    bench: Bench, spare: int, pipe: bool, size: int
) -> None:
    """The connection, the pipe of the answer or the memfd of its state may fail to arrive."""
    old, first, second = reloaded(bench)
    peer, served = bench.serve(old)
    answer, ours = os.pipe()
    needed = 1 + pipe + (size > 1)
    served.detach(state=b"s" * size, pipe=ours if pipe else -1)
    os.close(ours)
    with out_of_descriptors(spare):
        bench.reactor.settle()
    bench.settle()
    if spare >= needed:
        assert len(bench.keeper.connections.moves) == 1
    else:
        assert len(bench.keeper.connections.moves) == 0
        assert not any(said.taken for said in old.acknowledged)
        if pipe:
            assert os.read(answer, 1) == b"", "EOF says that it was not taken"
        else:
            assert len(old.acknowledged) == 1
        assert is_alive(peer, served.sock)
        old.acknowledged.clear()
        give_up(bench, served)
    os.close(answer)
    receiver = first if first.arrived else second
    assert is_alive(peer, receiver.attach().sock)


def test_the_answer_goes_over_the_pipe_that_came_along(bench: Bench) -> None:
    old, first, second = reloaded(bench)
    _, served = bench.serve(old)
    answer, ours = os.pipe()
    served.detach(pipe=ours)
    os.close(ours)
    bench.settle()
    assert os.read(answer, 2) == b"\1"
    assert os.read(answer, 1) == b"", "closed here, too"
    os.close(answer)
    assert not old.acknowledged
    assert len(first.arrived) + len(second.arrived) == 1


def test_a_sender_that_died_before_the_answer_hurts_nobody(bench: Bench) -> None:
    old, first, second = reloaded(bench)
    peer, served = bench.serve(old)
    answer, ours = os.pipe()
    served.detach(pipe=ours)
    os.close(ours)
    os.close(answer)
    served.settle()
    bench.settle()
    receiver = first if first.arrived else second
    assert is_alive(peer, receiver.attach().sock)


def test_a_large_state_is_given_once_the_keeper_has_a_descriptor_for_it(bench: Bench) -> None:
    old, first, second = reloaded(bench)
    peer, served = bench.serve(old)
    served.detach(state=b"s" * 40_000)
    with out_of_descriptors(spare=2):  # it and its memfd arrive
        for _ in range(2):
            bench.reactor.settle()
        blocker = os.dup(0)
        bench.reactor.settle()
    os.close(blocker)
    bench.advance(0.5)
    receiver = first if first.arrived else second
    assert is_alive(peer, receiver.attach().sock)


def test_an_orphan_is_closed_in_an_orderly_way(make_bench: MakeBench) -> None:
    bench = make_bench(workers=1, orphan_timeout=3)
    (worker,) = bench.start()
    peer, served = bench.serve(worker)
    give_up(bench, served)
    worker.die(-9)
    bench.advance(2.8)
    assert len(bench.keeper.connections.moves) == 1
    assert not is_at_eof(peer)
    bench.advance(0.3)
    assert len(bench.keeper.connections.moves) == 0
    assert is_at_eof(peer)
    peer.send(b"still sending, and no RST for it")
    assert len(bench.keeper.closer) == 1
    peer.close()
    bench.settle()
    assert len(bench.keeper.closer) == 0
    assert bench.keeper.counters()["lost"] == 1


def test_a_connection_that_waits_goes_to_the_worker_that_becomes_ready(bench: Bench) -> None:
    workers = bench.start()
    peer, served = bench.serve(workers[0])
    give_up(bench, served)
    for worker in workers:
        worker.die(-9)
    bench.settle()
    assert len(bench.keeper.connections.moves) == 1
    replacement, _ = bench.fork()
    replacement.ready()
    bench.settle()
    assert is_alive(peer, replacement.attach().sock)


def test_a_connection_that_waits_for_a_seat_gets_the_next_that_is_free(
    make_bench: MakeBench,
) -> None:
    """The worker whose seat is freed says nothing of it: the keeper has to look."""
    bench = make_bench(workers=2)
    first, second = bench.start("prefork")
    _, blocking = bench.serve(first)
    _, served = bench.serve(second)
    bench.keeper.scale(1)
    bench.settle()
    retired, staying = (second, first) if second.order else (first, second)
    moving, blocking = (served, blocking) if retired is second else (blocking, served)
    give_up(bench, moving)
    bench.advance(0.3)
    assert not staying.arrived
    assert staying.accept_below == 0, "the next seat is for the connection that waits"
    blocking.settle("closed")
    bench.advance(0.3)
    assert staying.arrived[0][0].id == moving.id
    staying.attach()
    bench.advance(0.3)
    assert staying.accept_below == 1


def test_seats_are_kept_free_for_connections_that_are_still_served(
    make_bench: MakeBench,
) -> None:
    """During a reload in `prefork` no new connection takes the place of one that moves."""
    bench = make_bench(workers=2)
    old = bench.start("prefork")
    _, first = bench.serve(old[0])
    _, second = bench.serve(old[1])
    bench.reload()
    new = bench.bring_up("prefork")
    assert [worker.accept_below for worker in new] == [0, 0]
    give_up(bench, first)
    bench.settle()
    assert [worker.accept_below for worker in new] == [1, 0], "one is given, one still to come"
    give_up(bench, second)
    assert [len(worker.arrived) for worker in new] == [1, 1]
    for worker in new:
        worker.attach()
    bench.advance(0.3)
    assert [worker.accept_below for worker in new] == [1, 1]


def test_the_seat_of_one_that_ended_instead_of_moving_is_given_free(
    make_bench: MakeBench,
) -> None:
    bench = make_bench(workers=1)
    (old,) = bench.start("prefork")
    peer, served = bench.serve(old)
    bench.reload()
    (new,) = bench.bring_up("prefork")
    assert new.accept_below == 0
    peer.close()
    served.settle("closed")
    bench.advance(0.3)
    assert new.accept_below == 1


def test_max_connections_holds_through_a_reload_and_a_scale_up(make_bench: MakeBench) -> None:
    bench = make_bench(workers=1, max_connections=4)
    (old,) = bench.start()
    assert old.accept_below == 4
    served = [bench.serve(old)[1] for _ in range(4)]
    bench.reload()
    (new,) = bench.bring_up()
    assert new.accept_below == 0
    for one in served:
        give_up(bench, one)
    for _ in range(4):
        new.attach()
    bench.keeper.scale(2)
    bench.settle()
    (second,) = bench.fork()
    second.ready()
    bench.settle()
    assert (new.accept_below, second.accept_below) == (2, 0), "four are open: none may come"
    for one in tuple(new.connections.values())[:3]:
        one.settle("closed")
    bench.advance(0.3)
    assert (new.accept_below, second.accept_below) == (2, 2)


@pytest.fixture
def many(bench: Bench) -> tuple[FarWorker, list[FarWorker]]:
    """Return a worker that has given up 20 connections, and those that they go to."""
    old, *others = reloaded(bench)
    for _ in range(20):
        _, served = bench.serve(old)
        served.detach()
    bench.settle()
    return old, others


def test_no_more_leave_than_arrive(bench: Bench, many: tuple[FarWorker, list[FarWorker]]) -> None:
    """Else hundreds would wait here, served by nobody, for workers that take their time."""
    old, others = many
    assert len(old.acknowledged) == 16
    for each in others:
        for _ in range(3):
            each.attach()
    bench.settle()
    assert len(old.acknowledged) == 18  # 14 are on their way: there is room for two more
    for each in others:
        while each.arrived:
            each.attach()
    bench.settle()
    assert len(old.acknowledged) == 20


def test_who_leaves_does_not_wait_for_long(
    bench: Bench, many: tuple[FarWorker, list[FarWorker]]
) -> None:
    old, _ = many
    bench.advance(0.2)
    bench.settle()
    assert len(old.acknowledged) == 20


def test_threads_wait_for_no_one(bench: Bench) -> None:
    bench.start("thread")
    bench.reload()
    bench.bring_up("thread")
    old = bench.template.workers[0]
    for _ in range(20):
        _, served = bench.serve(old)
        served.detach()
    bench.settle()
    assert len(old.acknowledged) == 20
