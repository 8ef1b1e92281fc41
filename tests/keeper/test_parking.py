"""Parked connections: what wakes them, what ends them, and who waits for whom."""

from __future__ import annotations

import socket
import struct
from collections.abc import Callable
from typing import Any

import pytest
from msgspec import structs

from tests.keeper.bench import Bench, end_of, is_alive, is_at_eof
from tests.keeper.conftest import MakeBench
from tests.keeper.fakes import FarWorker, Served
from tests.wire.limits import out_of_descriptors


def park(bench: Bench, served: Served, state: bytes | None = None, active_at: float = 0.0) -> None:
    """Park it, wait for the acknowledgement, and close the worker's handle."""
    served.park(state, active_at)
    bench.settle()
    assert served.worker.acknowledged.pop().taken
    served.settle()
    bench.settle()


def give_back(bench: Bench, served: Served, state: bytes | None = None) -> None:
    """Park it as a worker does that knows of the keeper's handle."""
    served.worker.send(served.handoff(state, parked=True))
    served.settle()
    bench.settle()
    assert not served.worker.acknowledged


def parked(bench: Bench, *, tcp: bool = False) -> tuple[socket.socket, Served, list[FarWorker]]:
    """Return the peer of a parked connection, what it was in its worker, and the workers."""
    workers = bench.start()
    peer, served = bench.serve(workers[0], tcp=tcp)
    park(bench, served, b"\x06")
    return peer, served, workers


def arrival(bench: Bench) -> Served:
    """Wait until some worker is given a connection; it takes it."""
    for _ in range(100):
        bench.settle()
        for worker in bench.template.workers:
            if worker.process.exit is None and worker.arrived:
                served = worker.attach()
                bench.settle()
                return served
        bench.reactor.run_once(0.05)  # TCP brings it in its own time
    raise AssertionError("no worker was given a connection")


def after_question(served: Served) -> socket.socket:
    """Read what woke it."""
    assert served.sock.recv(10) == b"?"
    return served.sock


def reset(peer: socket.socket) -> None:
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    peer.close()


def test_a_parked_connection_is_in_the_keeper_alone(bench: Bench) -> None:
    peer, served, workers = parked(bench)
    (ours,) = bench.keeper.connections.parking
    assert (ours.id, ours.ownership.state.value) == (served.id, "parked")
    assert len(bench.keeper.connections.moves) == 0
    assert not any(worker.arrived for worker in workers)
    assert not is_at_eof(peer)
    bench.advance(60)
    assert len(bench.keeper.connections.parking) == 1


def test_what_waits_takes_little_memory(bench: Bench) -> None:
    peer, _, _ = parked(bench)
    (ours,) = bench.keeper.connections.parking
    packed = ours.handoff
    assert ours.handoff == packed
    assert ours.handoff is not packed, "it is not kept as an object"
    peer.send(b"hello")
    arrival(bench)
    assert ours.handoff is ours.handoff
    assert ours.handoff == packed


def test_what_has_unread_bytes_is_not_packed(bench: Bench) -> None:
    parked(bench)
    (ours,) = bench.keeper.connections.parking
    ours.unpack()
    ours.handoff = structs.replace(ours.handoff, unread=b"some")
    ours.pack()
    assert ours.handoff is ours.handoff
    assert ours.unread_size == 4


def test_bytes_wake_it(bench: Bench) -> None:
    peer, served, _ = parked(bench)
    peer.send(b"hello")
    again = arrival(bench)
    assert again.attach is not None
    assert (again.id, again.epoch) == (served.id, 2)
    assert (again.attach.attached, again.attach.state) == ("parked", b"\x06")
    assert (again.attach.kept, again.attach.returnable) == (True, True), "it will come back"
    assert again.sock.recv(100) == b"hello", "nothing was read here"
    assert is_alive(peer, again.sock)
    assert len(bench.keeper.connections) == 0


def test_with_a_store_it_comes_back_with_an_answer(make_bench: MakeBench) -> None:
    """The next keeper would have had it: no message may be missing when this one is killed."""

    class Nowhere:
        def put(self, held: object, *, told: bool = False) -> None: ...
        def woken(self, held: object) -> None: ...
        def call(self, held: object) -> None: ...
        def forget(self, held: object) -> None: ...
        def when_sent(self, call: Callable[[], None]) -> None:
            call()

    bench = make_bench(keep="crash")
    bench.keeper.connections.connection_table.store = Nowhere()
    peer, _, _ = parked(bench)
    peer.send(b"hello")
    again = arrival(bench)
    assert again.attach is not None
    assert (again.attach.kept, again.attach.returnable) == (True, False)


def test_the_peers_end_wakes_it(bench: Bench) -> None:
    peer, _, _ = parked(bench, tcp=True)
    peer.close()
    assert arrival(bench).sock.recv(100) == b""


def test_a_half_close_after_bytes_wakes_it_and_the_bytes_come_first(bench: Bench) -> None:
    peer, _, _ = parked(bench, tcp=True)
    peer.send(b"the last words")
    peer.shutdown(socket.SHUT_WR)
    again = arrival(bench)
    assert again.sock.recv(100) == b"the last words"
    assert again.sock.recv(100) == b""
    again.sock.send(b"the answer")
    peer.settimeout(5)
    assert peer.recv(100) == b"the answer"


def test_a_reset_wakes_it(bench: Bench) -> None:
    peer, _, _ = parked(bench, tcp=True)
    reset(peer)
    again = arrival(bench)
    with pytest.raises(ConnectionResetError):
        again.sock.recv(100)


def test_the_bytes_before_a_reset_are_still_there(bench: Bench) -> None:
    peer, _, _ = parked(bench, tcp=True)
    peer.send(b"x" * 100)
    reset(peer)
    again = arrival(bench)
    assert again.sock.recv(1000) == b"x" * 100
    with pytest.raises(ConnectionResetError):
        again.sock.recv(100)


def test_it_wakes_once(bench: Bench) -> None:
    """What comes while it is on its way does not call it up a second time."""
    peer, _, workers = parked(bench)
    peer.send(b"1")
    bench.settle()
    peer.send(b"2")
    bench.settle()
    assert sum(len(worker.arrived) for worker in workers) == 1
    assert arrival(bench).sock.recv(100) == b"12"
    bench.settle()
    assert not any(worker.arrived for worker in workers)


@pytest.mark.parametrize("bare", [False, True], ids=["with a descriptor", "without"])
@pytest.mark.parametrize("keep", ["reload", "crash"])
def test_it_is_parked_and_woken_again_and_again(
    make_bench: MakeBench, keep: str, bare: bool
) -> None:
    bench = make_bench(workers=2, keep=keep)
    peer, served, _ = parked(bench)
    for number in range(5):
        peer.send(b"%d" % number)
        served = arrival(bench)
        assert served.is_kept()
        assert served.sock.recv(100) == b"%d" % number
        if bare:
            give_back(bench, served, b"%d" % number)
        else:
            park(bench, served, b"%d" % number)
    assert served.epoch == 6
    (held,) = bench.keeper.connections.connection_table
    assert (held.ownership.state.value, held.handoff.state) == ("parked", b"4")
    assert not is_at_eof(peer)


def woken(bench: Bench) -> tuple[socket.socket, Served]:
    """Return the peer of a connection that was parked, and what it is in its worker now."""
    peer, _, _ = parked(bench, tcp=True)
    peer.send(b"?")
    served = arrival(bench)
    after_question(served)
    return peer, served


def sent(bench: Bench) -> tuple[socket.socket, FarWorker, Any]:
    """Return the peer of a parked connection that is on its way to a worker, and both of those."""
    peer, _, workers = parked(bench)
    peer.send(b"?")
    bench.settle()
    (worker,) = [each for each in workers if each.arrived]
    attach = worker.arrived[0][0]
    assert attach.taken
    return peer, worker, attach


def test_it_is_a_workers_as_soon_as_it_has_been_sent(bench: Bench) -> None:
    _, worker, attach = sent(bench)
    (held,) = bench.keeper.connections.connection_table
    assert (held.ownership.state.value, held.ownership.epoch) == ("owned", attach.epoch)
    assert len(bench.keeper.connections) == 0
    (of_keeper,) = [each for each in bench.keeper.pool if each.serial == worker.serial]
    assert (of_keeper.load, of_keeper.arriving) == (1, 0)


@pytest.mark.parametrize("keep", ["reload", "crash"])
def test_what_a_worker_has_not_received_another_gets(make_bench: MakeBench, keep: str) -> None:
    bench = make_bench(workers=2, keep=keep)
    peer, worker, attach = sent(bench)
    worker.die(-9)
    bench.settle()
    again = arrival(bench)
    assert again.worker is not worker
    assert again.attach is not None
    assert again.attach == structs.replace(attach, epoch=3, connection=again.attach.connection)
    assert is_alive(peer, after_question(again))
    assert bench.keeper.counters()["lost"] == 0


def test_one_that_is_clean_goes_on_from_the_row_that_it_has(make_bench: MakeBench) -> None:
    bench = make_bench(workers=2, keep="crash")
    peer, worker, _ = sent(bench)
    served = worker.attach()
    after_question(served)
    served.commit(b"\x07")
    worker.die(-9)
    bench.settle()
    again = arrival(bench)
    assert again.attach is not None
    assert (again.attach.attached, again.attach.state) == ("crash", b"\x07")
    assert is_alive(peer, again.sock)


def test_a_row_of_an_earlier_giving_is_none(bench: Bench) -> None:
    """A thread may have said that it has left, and its row be there still."""
    workers = bench.start()
    peer, served = bench.serve(workers[0])
    park(bench, served)
    peer.send(b"?")
    served = arrival(bench)
    after_question(served)
    served.worker.send(served.handoff(parked=True))
    bench.settle()
    peer.send(b"!")
    bench.settle()
    assert served.worker.arrived, "the first of those that have room"
    served.worker.die(-9)
    bench.settle()
    assert arrival(bench).sock.recv(1) == b"!"


def test_what_a_worker_refuses_another_gets(bench: Bench) -> None:
    peer, worker, attach = sent(bench)
    worker.refuse("out of file descriptors")
    bench.settle()
    assert len(bench.keeper.connections.moves) == 1
    bench.advance(0.2)
    again = arrival(bench)
    assert (again.id, again.epoch) == (attach.id, attach.epoch + 1)
    assert is_alive(peer, after_question(again))


def test_a_worker_of_an_earlier_version_answers_all_the_same(bench: Bench) -> None:
    peer, worker, attach = sent(bench)
    served = worker.attach()
    worker.say_attached(attach.id, attach.epoch, served.row)
    bench.settle()
    (held,) = bench.keeper.connections.connection_table
    assert (held.ownership.state.value, held.row) == ("owned", served.row)
    worker.say_refused(attach.id, attach.epoch, "no seat")
    bench.settle()
    assert held.ownership.state.value == "owned", "it had it"
    worker.die(-9)
    bench.settle()
    assert end_of(peer) == "FIN"


def test_where_connections_are_counted_the_workers_word_is_waited_for(
    make_bench: MakeBench,
) -> None:
    """It counts from the worker's word on; before that the keeper counts it."""
    bench = make_bench(workers=2, max_connections=4)
    peer, _, workers = parked(bench)
    peer.send(b"?")
    bench.settle()
    (worker,) = [each for each in workers if each.arrived]
    assert not worker.arrived[0][0].taken


def test_one_that_was_parked_and_ends_is_let_go_of(bench: Bench) -> None:
    peer, served = woken(bench)
    served.say_ended()
    served.settle("closed")
    bench.settle()
    assert end_of(peer) == "FIN"
    assert len(bench.keeper.connections.connection_table) == 0


@pytest.mark.parametrize("status", ["clean", "sent"])
def test_one_that_was_parked_ends_with_its_worker(bench: Bench, status: str) -> None:
    """That the keeper has a handle is no promise: what was committed since only the worker knew."""
    peer, served = woken(bench)
    served.become(status)
    served.worker.die(-9)
    bench.settle()
    assert end_of(peer) == "FIN"
    assert bench.keeper.counters()["lost"] == 1
    assert len(bench.keeper.connections.connection_table) == 0


def test_one_that_was_parked_moves_at_a_reload(bench: Bench) -> None:
    peer, served = woken(bench)
    old = served.worker
    bench.reload()
    bench.bring_up()
    assert old.told() == "move"
    old.send(served.handoff(b"\x07"))
    served.settle()
    again = arrival(bench)
    assert again.attach is not None
    assert (again.attach.attached, again.attach.state) == ("reload", b"\x07")
    assert is_alive(peer, again.sock)
    assert len(bench.keeper.connections.connection_table) == 0


def test_a_connection_that_nobody_has_a_handle_of_is_refused(bench: Bench) -> None:
    (worker, _) = bench.start()
    peer, served = bench.serve(worker)
    worker.send(served.handoff(parked=True))
    bench.settle()
    assert not worker.acknowledged.pop().taken
    assert not is_at_eof(peer)


@pytest.mark.parametrize("keep", ["reload", "crash"])
def test_its_workers_death_does_not_touch_it(make_bench: MakeBench, keep: str) -> None:
    bench = make_bench(workers=2, keep=keep)
    peer, _, workers = parked(bench)
    workers[0].die(-9)
    bench.settle()
    assert not is_at_eof(peer)
    peer.send(b"?")
    assert arrival(bench).sock.recv(1) == b"?"
    assert bench.keeper.counters()["lost"] == 0


def test_idle_it_is_closed(make_bench: MakeBench) -> None:
    """The time in its worker counts."""
    bench = make_bench(workers=1, idle_timeout=10, park_after="8")
    (worker,) = bench.start()
    peer, served = bench.serve(worker)
    bench.advance(8)
    park(bench, served, active_at=bench.clock.now - 8)
    bench.advance(1.8)
    assert not is_at_eof(peer)
    bench.advance(0.3)
    assert is_at_eof(peer)
    assert not worker.arrived
    counters = bench.keeper.counters()
    assert (counters["closed"], counters["lost"]) == (1, 0)


def test_each_is_idle_for_itself(make_bench: MakeBench) -> None:
    bench = make_bench(workers=1, idle_timeout=10)
    (worker,) = bench.start()
    peers = []
    for _ in range(3):
        peer, served = bench.serve(worker)
        park(bench, served, active_at=bench.clock.now)
        peers.append(peer)
        bench.advance(4)
    peers[1].send(b"!")
    arrival(bench)
    bench.advance(6)
    assert [is_at_eof(peer) for peer in peers] == [True, False, False]
    bench.advance(4.2)
    assert [is_at_eof(peer) for peer in peers] == [True, False, True]


def test_who_has_sent_nothing_is_closed(make_bench: MakeBench) -> None:
    """At its time since the accept, and one that has sent something not."""
    bench = make_bench(workers=1, first_bytes_timeout=10)
    (worker,) = bench.start()
    accepted_at = int(bench.clock.now * 1e9)
    peers = []
    for received in (0, 7):
        peer, served = bench.serve(worker)
        handoff = structs.replace(
            served.handoff(parked=True), accepted_at=accepted_at, bytes_in=received
        )
        worker.send(handoff, (served.sock.fileno(),))
        bench.settle()
        served.settle()
        peers.append(peer)
    bench.advance(9.9)
    assert not is_at_eof(peers[0])
    bench.advance(0.2)
    assert [is_at_eof(peer) for peer in peers] == [True, False]
    assert bench.keeper.counters()["overdue"] == 1


def test_a_deadline_holds_while_parked(make_bench: MakeBench) -> None:
    """The earliest first, whoever was parked first; whom it has woken it does not end here."""
    bench = make_bench(workers=1)
    (worker,) = bench.start()
    peers = []
    for seconds in (20, 10, 15):
        peer, served = bench.serve(worker)
        deadline = int((bench.clock.now + seconds) * 1e9)
        worker.send(
            structs.replace(served.handoff(parked=True), deadline=deadline), (served.sock.fileno(),)
        )
        bench.settle()
        served.settle()
        peers.append(peer)
    peers[2].send(b"!")
    arrived = arrival(bench)
    assert arrived.attach is not None
    assert arrived.attach.deadline == int((bench.clock.now + 15) * 1e9)
    bench.advance(10.1)
    assert [is_at_eof(peer) for peer in peers] == [False, True, False]
    bench.advance(10)
    assert [is_at_eof(peer) for peer in peers] == [True, True, False]
    assert bench.keeper.counters()["overdue"] == 2


def test_deadlines_of_those_that_come_and_go_are_forgotten(make_bench: MakeBench) -> None:
    bench = make_bench(workers=1)
    (worker,) = bench.start()
    peer, served = bench.serve(worker)
    deadline = int((bench.clock.now + 1000) * 1e9)
    for number in range(200):
        worker.send(
            structs.replace(served.handoff(parked=True), deadline=deadline + number),
            (served.sock.fileno(),),
        )
        bench.settle()
        served.settle()
        peer.send(b"?")
        served = arrival(bench)
        assert served.sock.recv(1) == b"?"
    assert len(bench.keeper.connections.parking._deadlines) < 100


def test_a_stop_closes_it(bench: Bench) -> None:
    peer, _, _ = parked(bench, tcp=True)
    bench.keeper.stop("close")
    bench.settle()
    assert end_of(peer) == "FIN"
    assert len(bench.keeper.connections) == 0


def test_what_is_parked_while_the_server_stops_is_closed(bench: Bench) -> None:
    (worker, _) = bench.start()
    peer, served = bench.serve(worker, tcp=True)
    bench.keeper.stop("close")
    bench.settle()
    park(bench, served)
    assert end_of(peer) == "FIN"


def test_a_drain_serves_it_when_it_wakes_and_closes_it_at_the_end(make_bench: MakeBench) -> None:
    bench = make_bench(workers=2, graceful_timeout=10)
    peer, _, workers = parked(bench, tcp=True)
    bench.keeper.stop("finish")
    bench.advance(5)
    assert not any(worker.order or worker.listens for worker in workers)
    peer.send(b"still here\n")
    bench.settle()
    (receiver,) = (worker for worker in workers if worker.arrived)
    served = receiver.attach()
    bench.settle()
    park(bench, served)
    bench.advance(4)
    assert len(bench.keeper.connections.parking) == 0, "woken by what it has not read"
    receiver = next(worker for worker in workers if worker.arrived)
    receiver.attach()
    bench.advance(0.5)
    assert [worker.told() for worker in workers] == ["finish", "finish"]


def test_a_reload_leaves_it_and_the_new_code_answers(bench: Bench) -> None:
    peer, _, old = parked(bench)
    bench.reload()
    bench.bring_up()
    for worker in old:
        worker.die(0)
    bench.settle()
    assert len(bench.keeper.connections.parking) == 1
    assert not any(worker.arrived for worker in bench.template.workers)
    peer.send(b"?")
    again = arrival(bench)
    assert again.worker in bench.template.workers
    assert again.attach is not None
    assert again.attach.attached == "parked"


def test_a_reload_to_code_that_is_not_resumable(make_bench: MakeBench) -> None:
    """Nobody can go on with it: closed after the orphan timeout, and not before it wakes."""
    bench = make_bench(workers=1, orphan_timeout=3)
    peer, _, (old,) = parked(bench)
    bench.reload()
    (new,) = bench.bring_up(resumable=False)
    old.die(0)
    bench.advance(10)
    assert not is_at_eof(peer)
    peer.send(b"?")
    bench.advance(3.1)
    assert not new.arrived
    assert is_at_eof(peer)


def test_parked_ones_count_under_max_connections(make_bench: MakeBench) -> None:
    bench = make_bench(workers=1, max_connections=2)
    (worker,) = bench.start()
    peer, first = bench.serve(worker)
    _, second = bench.serve(worker)
    park(bench, first)
    park(bench, second)
    assert worker.accept_below == 0, "two are open, though no worker has them"
    peer.close()
    served = arrival(bench)
    served.settle()
    bench.advance(0.3)
    assert worker.accept_below == 1


def test_without_a_limit_a_parked_one_takes_no_seat(make_bench: MakeBench) -> None:
    bench = make_bench(workers=1)
    (worker,) = bench.start("prefork")
    peer, served = bench.serve(worker)
    park(bench, served)
    bench.advance(0.3)
    assert worker.accept_below == 1
    _, serving = bench.serve(worker)
    peer.send(b"?")
    bench.settle()
    assert not worker.arrived, "the seat is taken"
    serving.settle("closed")
    bench.settle()
    assert arrival(bench).id == served.id


# More that wait than there are seats.


def crowd(bench: Bench, number: int) -> tuple[FarWorker, Served, list[socket.socket]]:
    """Return a prefork worker that is busy, and peers of parked ones that have something to say."""
    (worker,) = bench.start("prefork")
    peers = []
    for _ in range(number):
        peer, served = bench.serve(worker)
        park(bench, served)
        peers.append(peer)
    _, busy = bench.serve(worker)
    for peer in peers:
        peer.send(b"?")
        bench.settle()
    return worker, busy, peers


def is_crowded(worker: FarWorker) -> bool:
    """Return what the worker's scoreboard says."""
    return bool(worker.board.crowded)


def test_a_crowd_is_told_of_once_and_served_in_turn(make_bench: MakeBench) -> None:
    bench = make_bench(workers=1)
    worker, busy, peers = crowd(bench, 4)
    assert is_crowded(worker)
    bench.advance(1)
    assert worker.crowded == 1
    assert not worker.arrived
    assert bench.keeper.connections.moves.waiting == 4
    for peer in peers:
        park(bench, busy)
        served = arrival(bench)
        assert served.sock.recv(10) == b"?"
        assert is_alive(peer, served.sock), "who waited longest comes first"
        busy = served
    assert not is_crowded(worker)
    assert bench.keeper.connections.moves.waiting == 0
    assert worker.crowded == 1


def test_a_seat_that_becomes_free_is_taken_at_once(make_bench: MakeBench) -> None:
    bench = make_bench(workers=1)
    worker, busy, (peer,) = crowd(bench, 1)
    busy.settle("closed")  # says that it is free
    bench.settle()
    assert len(worker.arrived) == 1
    assert is_alive(peer, after_question(worker.attach()))


def test_a_crowd_does_not_wait_longer_than_the_orphan_timeout(make_bench: MakeBench) -> None:
    bench = make_bench(workers=1, orphan_timeout=3)
    worker, busy, peers = crowd(bench, 2)
    bench.advance(2.5)
    assert not any(is_at_eof(peer) for peer in peers)
    bench.advance(0.6)
    assert all(is_at_eof(peer) for peer in peers)
    assert bench.keeper.counters()["lost"] == 2
    bench.advance(0.3)
    assert not is_crowded(worker)
    busy.settle("closed")


def test_a_burst_of_many_is_queued_and_spread(make_bench: MakeBench) -> None:
    bench = make_bench(workers=4)
    workers = bench.start("thread")
    peers = {}
    for number in range(60):
        peer, served = bench.serve(workers[number % 4])
        park(bench, served)
        peers[served.id] = peer
    for peer in peers.values():
        peer.send(b"?")
    bench.settle()
    seats = bench.config.threads
    assert [len(worker.arrived) for worker in workers] == [min(seats, 15)] * 4
    answered = set()
    for _ in range(100):
        bench.settle()
        for worker in workers:
            while worker.arrived:
                served = worker.attach()
                assert is_alive(peers[served.id], after_question(served))
                answered.add(served.id)
                bench.settle()
                park(bench, served)
        if len(answered) == len(peers):
            break
    assert answered == set(peers)


# Trouble.


def test_at_the_descriptor_limit_the_worker_keeps_it(bench: Bench) -> None:
    (worker, _) = bench.start()
    peer, served = bench.serve(worker)
    served.park()
    with out_of_descriptors():
        bench.reactor.settle()
    bench.settle()
    assert not worker.acknowledged.pop().taken
    assert len(bench.keeper.connections.parking) == 0
    park(bench, served)
    peer.send(b"?")
    assert is_alive(peer, after_question(arrival(bench)))


def test_what_cannot_be_watched_is_served(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """epoll has no memory for it (max_user_watches): a worker has it again soon."""
    (worker, _) = bench.start()
    peer, served = bench.serve(worker)

    def no_room(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(bench.keeper.connections.parking._reactor, "register", no_room)
    served.park()
    bench.settle()
    monkeypatch.undo()
    served.worker.acknowledged.pop()
    served.settle()
    bench.advance(0.2)
    again = arrival(bench)
    assert is_alive(peer, again.sock)
