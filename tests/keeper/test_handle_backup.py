"""Connections that the keeper has a handle of, too: entrusted, ended, and kept through deaths."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from tests.harness.seam import STATUSES, parts_of_name, reply_record
from tests.keeper.bench import Bench, end_of, is_alive, is_at_eof, open_descriptors
from tests.keeper.conftest import MakeBench
from tests.keeper.fakes import FarWorker, OnCrash, Process, Served
from tests.keeper.test_upgrades import upgraded
from tests.keeper.test_workers import fork_child
from tests.wire.limits import out_of_descriptors
from tests.wire.sending import message

#: What a peer sees, by what the handler said of crashes and what it was in the middle of.
POLICIES = [
    ("close", False, "read", "FIN"),
    ("close", False, "sent", "FIN"),
    ("reset", False, "read", "RST"),
    ("reset", False, "sent", "RST"),
    ("resume", False, "read", "resumed"),
    ("resume", False, "sent", "resumed"),
    ("close", True, "read", "redelivered"),
    ("close", True, "sent", "redelivered"),
    ("reset", True, "sent", "redelivered"),
]


@pytest.fixture
def bench(make_bench: MakeBench) -> Bench:
    """A keeper of two workers that keeps connections through crashes."""
    return make_bench(workers=2, keep="crash")


def kill(bench: Bench, worker: FarWorker) -> None:
    worker.die(-9)
    bench.settle()


def replace(bench: Bench) -> FarWorker:
    """Let the slots of workers that died be filled, some time after; return who was given work."""
    bench.advance(6)
    forked = bench.fork()
    for worker in forked:
        worker.ready()
        bench.settle()
    return max(forked, key=lambda worker: len(worker.arrived))


def take_all(bench: Bench) -> dict[str, Served]:
    """Have the workers take what was given to them; return all that is served, by id."""
    living = [worker for worker in bench.template.workers if worker.process.exit is None]
    for worker in living:
        while worker.arrived:
            worker.attach()
    bench.settle()
    return {name: served for worker in living for name, served in worker.connections.items()}


def held(bench: Bench) -> int:
    return len(bench.keeper.connections.connection_table)


# Entrusting.


def test_a_connection_that_is_entrusted_is_acknowledged_in_its_row(bench: Bench) -> None:
    (worker, _) = bench.start()
    peer, served = bench.serve(worker)
    assert not served.is_kept()
    served.keep()
    bench.settle()
    assert served.is_kept()
    (ours,) = bench.keeper.connections.connection_table
    assert ours.ownership.state.value == "owned"
    assert (ours.ownership.worker, ours.row) == (worker.serial, served.row)
    assert is_alive(peer, ours.sock)


def test_what_is_entrusted_twice_is_held_once(bench: Bench) -> None:
    """The worker did not see the answer in time, and offered it again."""
    (worker, _) = bench.start()
    _, served = bench.kept(worker)
    before = open_descriptors()
    served.keep()
    bench.settle()
    assert served.is_kept()
    assert held(bench) == 1
    assert open_descriptors() == before


def test_at_the_descriptor_limit_nothing_is_acknowledged(bench: Bench) -> None:
    (worker, _) = bench.start()
    peer, served = bench.serve(worker)
    served.keep()
    with out_of_descriptors():
        bench.reactor.settle()
    bench.settle()
    assert not served.is_kept()
    assert held(bench) == 0
    assert is_alive(peer, served.sock)
    served.keep()
    bench.settle()
    assert served.is_kept()


def test_a_row_that_has_another_connection_by_now_is_not_acknowledged(bench: Bench) -> None:
    (worker, _) = bench.start()
    peer, first = bench.serve(worker)
    handle = os.dup(first.sock.fileno())
    late = first.keeping(handle)
    first.settle("closed")
    _, second = bench.serve(worker)
    assert second.row == first.row
    worker.send(late)
    os.close(handle)
    bench.settle()
    assert not second.is_kept()
    assert held(bench) == 0
    assert is_at_eof(peer), "the keeper let go of it"


def test_what_is_said_to_have_ended_is_let_go_of(bench: Bench) -> None:
    (worker, _) = bench.start()
    peer, served = bench.kept(worker)
    served.say_ended()
    served.settle("closed")
    bench.settle()
    assert held(bench) == 0
    assert is_at_eof(peer)


@pytest.mark.parametrize(
    ("epoch", "by_another"), [(0, False), (2, False), (1, True)], ids=["older", "newer", "another"]
)
def test_an_end_that_is_not_of_this_giving_ends_nothing(
    bench: Bench, epoch: int, by_another: bool
) -> None:
    worker, another = bench.start()
    peer, served = bench.kept(worker)
    (another if by_another else worker).say_ended(served.id, epoch)
    bench.settle()
    assert held(bench) == 1
    assert not is_at_eof(peer)


def test_the_end_of_what_did_not_arrive_is_passed_over(bench: Bench) -> None:
    (worker, _) = bench.start()
    _, served = bench.serve(worker)
    _, other = bench.kept(worker)
    served.say_ended()
    other.say_ended()
    bench.settle()
    assert held(bench) == 0


def test_one_that_is_kept_moves_and_its_next_worker_has_it_kept(bench: Bench) -> None:
    """A reload needs no second handle, and the new worker need not offer it again."""
    (old, _) = bench.start()
    peer, served = bench.kept(old)
    before = held(bench)
    bench.reload()
    new = bench.bring_up()
    served.detach(state=b"\x07")
    bench.settle()
    assert served.worker.acknowledged.pop().taken
    served.settle()
    (receiver,) = (worker for worker in new if worker.arrived)
    attached = receiver.attach()
    assert attached.attach is not None
    assert (attached.attach.attached, attached.attach.kept) == ("reload", True)
    bench.settle()
    assert held(bench) == before == 1
    kill(bench, receiver)
    (other,) = (worker for worker in new if worker is not receiver)
    again = other.attach()
    assert again.attach is not None
    assert (again.attach.attached, again.attach.state) == ("crash", b"\x07")
    assert again.attach.epoch == 3
    assert is_alive(peer, again.sock)


# Deaths.


def test_a_clean_connection_goes_on_in_another_worker_with_its_state(bench: Bench) -> None:
    first, second = bench.start()
    peer, served = bench.kept(first)
    served.commit(b"\x01")
    served.commit(b"\x02")
    kill(bench, first)
    assert not is_at_eof(peer)
    ((attach, _),) = second.arrived
    assert (attach.id, attach.attached, attach.state) == (served.id, "crash", b"\x02")
    assert (attach.epoch, attach.redelivered, attach.kept) == (2, False, True)
    assert is_alive(peer, second.attach().sock)
    assert bench.keeper.counters()["lost"] == 0


def test_one_that_was_not_entrusted_dies_with_its_worker(bench: Bench) -> None:
    first, _ = bench.start()
    peer, _ = bench.serve(first)
    kill(bench, first)
    assert is_at_eof(peer)
    assert bench.keeper.counters()["lost"] == 1


def test_one_whose_keeping_was_asked_for_a_moment_before_is_kept(bench: Bench) -> None:
    """The message arrived though the worker was dead before it was read."""
    first, second = bench.start()
    peer, served = bench.serve(first)
    served.keep()
    kill(bench, first)
    assert is_alive(peer, second.attach().sock)


@pytest.mark.parametrize(("on_crash", "redeliver", "status", "outcome"), POLICIES)
def test_one_in_the_middle_of_a_message_follows_the_policy(
    bench: Bench, on_crash: OnCrash, redeliver: bool, status: str, outcome: str
) -> None:
    first, second = bench.start(on_crash=on_crash, redeliver=redeliver)
    peer, served = bench.kept(first, tcp=True)
    served.commit(b"\x05")
    served.become(status)
    kill(bench, first)
    counters = bench.keeper.counters()
    if outcome in ("FIN", "RST"):
        assert end_of(peer) == outcome
        assert not second.arrived
        assert counters["lost"] == 1
        assert held(bench) == 0
        return
    ((attach, _),) = second.arrived
    assert (attach.attached, attach.state) == ("crash", b"\x05")
    assert attach.redelivered is (outcome == "redelivered")
    assert counters["lost"] == 0
    second.attach()


RECORD = reply_record(10, 20, 30, b"answer")


@pytest.mark.parametrize("status", ["clean", "read", "sent"])
def test_the_record_of_a_reply_goes_with_its_state(bench: Bench, status: str) -> None:
    """To the next worker, and to the one after it, should that die before it has done with it."""
    first, second = bench.start(redeliver=True)
    _, served = bench.kept(first, tcp=True)
    first.board.shelf(served.row).put(b"\x05", RECORD)
    served.become(status)
    kill(bench, first)
    ((attach, _),) = second.arrived
    assert (attach.state, attach.reply) == (b"\x05", RECORD)
    second.attach()
    bench.settle()
    kill(bench, second)
    third = replace(bench)
    ((attach, _),) = third.arrived
    assert (attach.state, attach.reply) == (b"\x05", RECORD)
    third.attach().detach()
    bench.settle()
    moved = [attach for worker in bench.template.workers for attach, _ in worker.arrived]
    assert [attach.reply for attach in moved] == [b""], "who gives it up has completed it"


class FakeEdge:
    """Answers how much has passed when it is told to."""

    def __init__(self, bench: Bench) -> None:
        self.asked: list[Callable[[Any], None]] = []
        bench.keeper.connections.ask_bytes = lambda header, told: self.asked.append(told)

    def answer(self, taken: int, waiting: int, given: int) -> None:
        (told,) = self.asked
        self.asked.clear()
        told(message("BytesPassed", 1, taken, waiting, given))


def behind_tls(bench: Bench, reply: bytes = b"") -> tuple[FakeEdge, FarWorker, socket.socket, str]:
    """Kill a worker under a connection whose TLS is in an edge; return who is next."""
    edge = FakeEdge(bench)
    first, second = bench.start(redeliver=True)
    peer, served = bench.kept(first)
    held = bench.keeper.connections.connection_table.get(served.id)
    assert held is not None
    held.handoff = msgspec.structs.replace(held.handoff, proxy=b"facts")
    served.become("sent")
    if reply:
        first.board.shelf(served.row).put(b"\x05", reply)
    kill(bench, first)
    assert not second.arrived
    return edge, second, peer, served.id


def test_an_edge_tells_what_passed_before_a_connection_goes_on(bench: Bench) -> None:
    edge, second, peer, _ = behind_tls(bench)
    edge.answer(taken=90, waiting=10, given=50)
    bench.settle()
    ((attach, _),) = second.arrived
    assert (attach.written, attach.taken_in) == (100, 50)
    assert is_alive(peer, second.attach().sock)


def test_an_edge_that_gives_meanwhile_is_asked_again(bench: Bench) -> None:
    edge, second, peer, _ = behind_tls(bench)
    peer.sendall(b"more")
    edge.answer(taken=90, waiting=0, given=50)
    bench.settle()
    assert not second.arrived
    edge.answer(taken=95, waiting=0, given=54)
    bench.settle()
    ((attach, _),) = second.arrived
    assert (attach.written, attach.taken_in) == (95, 50)
    second.attach()


def test_where_no_edge_tells_nothing_is_known(bench: Bench) -> None:
    edge, second, _, _ = behind_tls(bench)
    (told,) = edge.asked
    told(None)
    bench.settle()
    ((attach, _),) = second.arrived
    assert (attach.written, attach.taken_in) == (-1, -1)
    second.attach()


def test_a_reply_on_its_way_ends_its_connection_where_no_edge_tells(bench: Bench) -> None:
    """Half of it may be out."""
    edge, second, peer, name = behind_tls(bench, RECORD)
    (told,) = edge.asked
    told(None)
    bench.settle()
    assert (second.arrived, is_at_eof(peer)) == ([], True)
    assert name not in bench.keeper.connections.connection_table
    assert bench.keeper.connections.totals["lost"] == 1


def test_an_upgrade_asks_the_edge_again(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the keeper before was answered, if it was, is lost."""
    _, second, peer, name = behind_tls(bench)
    asked: list[Callable[[Any], None]] = []
    monkeypatch.setattr(
        type(bench.keeper.edges), "ask_bytes", lambda edges, header, told: asked.append(told)
    )
    upgraded(bench)
    bench.settle()
    assert not second.arrived
    (told,) = asked
    told(message("BytesPassed", 1, 90, 10, 50))
    bench.settle()
    ((attach, _),) = second.arrived
    assert (attach.id, attach.written, attach.taken_in) == (name, 100, 50)
    assert is_alive(peer, second.attach().sock)


def test_a_stop_does_not_wait_for_an_edge(bench: Bench) -> None:
    edge, _, peer, name = behind_tls(bench)
    assert len(bench.keeper.connections) == 1
    bench.keeper.connections.stop()
    bench.settle()
    assert is_at_eof(peer)
    assert name not in bench.keeper.connections.connection_table
    edge.answer(taken=90, waiting=10, given=50)


@pytest.mark.parametrize("record_left", [b"garbage" * 9, RECORD[:-1], RECORD + b"x"])
def test_a_record_that_makes_no_sense_ends_its_connection_alone(
    bench: Bench, record_left: bytes
) -> None:
    first, second = bench.start(redeliver=True)
    peer, served = bench.kept(first, tcp=True)
    other_peer, other = bench.kept(first, tcp=True)
    first.board.shelf(served.row).put(b"\x05", record_left)
    kill(bench, first)
    assert end_of(peer) == "FIN"
    assert [attach.id for attach, _ in second.arrived] == [other.id]
    assert is_alive(other_peer, second.attach().sock)
    assert bench.keeper.counters()["lost"] == 1


@pytest.mark.parametrize("status", STATUSES)
def test_the_end_that_nobody_told_of_is_an_end(bench: Bench, status: str) -> None:
    """It had ended in its row; the worker was killed before it could say so."""
    first, second = bench.start()
    peer, served = bench.kept(first)
    served.become(status)
    served.record.ended = "closed"
    kill(bench, first)
    assert is_at_eof(peer)
    assert held(bench) == 0
    assert not second.arrived
    counters = bench.keeper.counters()
    assert (counters["closed"], counters["lost"]) == (1, 0)


def test_a_row_that_was_used_again_says_nothing_of_the_one_before(bench: Bench) -> None:
    """Killed after the row was freed and taken, before it said that the first had ended."""
    first, second = bench.start()
    peer, served = bench.kept(first)
    served.settle("closed")
    newer, served_now = bench.serve(first)
    assert served_now.row == served.row
    kill(bench, first)
    assert is_at_eof(peer)
    assert is_at_eof(newer)
    assert not second.arrived
    assert held(bench) == 0


def test_what_no_worker_takes_is_closed_after_the_orphan_timeout(make_bench: MakeBench) -> None:
    bench = make_bench(workers=1, keep="crash", orphan_timeout=3)
    (worker,) = bench.start()
    peer, served = bench.kept(worker)
    served.commit(None)
    kill(bench, worker)
    bench.advance(2.8)
    assert not is_at_eof(peer)
    bench.advance(0.3)
    assert is_at_eof(peer)
    assert bench.keeper.counters()["lost"] == 1
    assert held(bench) == 0


def test_one_that_is_clean_when_the_server_stops_is_closed_with_its_worker(bench: Bench) -> None:
    first, _ = bench.start()
    peer, _ = bench.kept(first, tcp=True)
    bench.keeper.stop("close")
    bench.settle()
    kill(bench, first)
    assert end_of(peer) == "FIN"
    assert held(bench) == 0


def test_a_receiver_that_dies_after_it_attached_had_it(bench: Bench) -> None:
    first, second = bench.start()
    peer, served = bench.kept(first)
    served.commit(b"\x01")
    kill(bench, first)
    taken = second.attach()
    taken.commit(b"\x02")
    kill(bench, second)
    third = replace(bench)
    ((attach, _),) = third.arrived
    assert (attach.state, attach.epoch) == (b"\x02", 3)
    assert is_alive(peer, third.attach().sock)


def test_a_receiver_that_dies_before_it_attached_never_had_it(bench: Bench) -> None:
    first, second = bench.start()
    peer, served = bench.kept(first)
    served.commit(b"\x01")
    kill(bench, first)
    assert second.arrived
    kill(bench, second)
    third = replace(bench)
    ((attach, _),) = third.arrived
    assert (attach.state, attach.epoch) == (b"\x01", 3)
    assert is_alive(peer, third.attach().sock)


def test_a_row_made_for_what_was_never_acknowledged_is_not_lost(bench: Bench) -> None:
    """Killed between the two: the connection goes to another, and is counted there alone."""
    first, second = bench.start()
    peer, _ = bench.kept(first)
    kill(bench, first)
    attach, _ = second.arrived[0]
    row = second.board.claim()
    assert row is not None
    record = second.record(row)
    record.name(*parts_of_name(attach.id))
    record.epoch, record.pid = attach.epoch, second.pid
    second.board.claim()  # killed in the midst of it
    kill(bench, second)
    assert is_alive(peer, replace(bench).attach().sock)
    assert bench.keeper.counters()["lost"] == 0


# Poison.


def deaths(bench: Bench, served: Served, statuses: list[str], pause: float = 0.0) -> Served:
    """Kill its owner again and again, in the middle of what `statuses` say."""
    for status in statuses:
        served.become(status)
        kill(bench, served.worker)
        for worker in bench.fork():
            worker.ready()
        bench.settle()
        served = take_all(bench)[served.id]
        bench.advance(pause)
    return served


READ, CLEAN = "read", "clean"


@pytest.mark.parametrize("how", ["redeliver", "resume"])
def test_the_third_owner_that_dies_in_its_message_is_the_last(bench: Bench, how: str) -> None:
    bench.start(on_crash="resume", redeliver=how == "redeliver")
    peer, served = bench.kept(bench.template.workers[0], tcp=True)
    served = deaths(bench, served, [READ, READ])
    assert not is_at_eof(peer)
    served.become(READ)
    kill(bench, served.worker)
    assert end_of(peer) == "RST"
    counters = bench.keeper.counters()
    assert (counters["poisoned"], counters["lost"]) == (1, 1)
    assert held(bench) == 0


def test_the_limit_is_an_option(make_bench: MakeBench) -> None:
    bench = make_bench(workers=2, keep="crash", poison_limit=1)
    first, second = bench.start(redeliver=True)
    peer, served = bench.kept(first, tcp=True)
    served.become(READ)
    kill(bench, first)
    assert end_of(peer) == "RST"
    assert not second.arrived
    assert bench.keeper.counters()["poisoned"] == 1


def test_one_that_is_clean_is_innocent_however_many_die_under_it(bench: Bench) -> None:
    bench.start(redeliver=True)
    peer, served = bench.kept(bench.template.workers[0])
    served = deaths(bench, served, [READ, READ, *[CLEAN] * 6], pause=6)
    assert is_alive(peer, served.sock)
    assert bench.keeper.counters()["poisoned"] == 0


def test_deaths_of_more_than_a_minute_ago_are_forgotten(bench: Bench) -> None:
    bench.start(redeliver=True)
    peer, served = bench.kept(bench.template.workers[0])
    served = deaths(bench, served, [READ] * 6, pause=31)
    assert is_alive(peer, served.sock)
    assert bench.keeper.counters()["poisoned"] == 0


def test_a_neighbour_of_the_poisonous_one_is_kept(make_bench: MakeBench) -> None:
    """In the same worker at each of the three deaths."""
    bench = make_bench(workers=1, keep="crash")
    (worker,) = bench.start(redeliver=True)
    peer, served = bench.kept(worker)
    innocent_peer, innocent = bench.kept(worker)
    for _ in range(3):
        served.become(READ)
        innocent.commit(b"\x09")
        assert served.worker is innocent.worker
        kill(bench, served.worker)
        replace(bench)
        now = take_all(bench)
        served, innocent = now.get(served.id, served), now[innocent.id]
    assert served.id not in now
    assert is_at_eof(peer)
    assert is_alive(innocent_peer, innocent.sock)
    assert bench.keeper.counters()["poisoned"] == 1


# The processes of the `fork` model.


@pytest.fixture
def forked(make_bench: MakeBench) -> tuple[Bench, FarWorker, list[Served], list[Process]]:
    """A worker with two kept connections, each served by a process of its own."""
    bench = make_bench(workers=1, keep="crash")
    (worker,) = bench.start("fork")
    served = [bench.kept(worker)[1] for _ in range(2)]
    return bench, worker, served, [fork_child(bench, worker, each) for each in served]


Forked = tuple[Bench, FarWorker, list[Served], list[Process]]


def test_the_connection_of_a_dead_child_goes_to_another(forked: Forked) -> None:
    bench, worker, (first, _), (child, _) = forked
    first.commit(b"\x03")
    child.die(-9)
    child.reaped = True  # by the worker
    first.say_orphaned(state=b"\x03")
    bench.settle()
    ((attach, _),) = worker.arrived
    assert (attach.id, attach.attached, attach.state) == (first.id, "crash", b"\x03")
    worker.attach()
    bench.settle()
    assert held(bench) == 2


def test_a_dead_child_in_the_middle_of_a_message(forked: Forked) -> None:
    bench, worker, (first, _), (child, _) = forked
    first.become("sent")
    child.die(-9)
    child.reaped = True
    first.say_orphaned()
    bench.settle()
    assert not worker.arrived
    assert held(bench) == 1
    assert bench.keeper.counters()["lost"] == 1


@pytest.mark.parametrize("makes_sense", [True, False])
def test_the_record_of_a_dead_childs_reply(forked: Forked, makes_sense: bool) -> None:
    bench, worker, (first, _), (child, _) = forked
    first.commit(b"\x03")
    child.die(-9)
    child.reaped = True
    first.say_orphaned(state=b"\x03", reply=RECORD if makes_sense else b"garbage")
    bench.settle()
    assert [attach.reply for attach, _ in worker.arrived] == [RECORD] * makes_sense
    assert bench.keeper.counters()["lost"] == (not makes_sense)
    assert worker.process.exit is None


def test_an_orphan_of_an_earlier_giving_or_of_nobody_is_refused(forked: Forked) -> None:
    bench, worker, (first, second), _ = forked
    first.epoch = 4
    first.say_orphaned()
    second.id = "1-2-3"
    second.say_orphaned()
    bench.settle()
    assert not worker.arrived
    assert held(bench) == 2


def test_children_that_outlive_their_worker_keep_their_connections(forked: Forked) -> None:
    """The worker died, not they: only when a child dies too its connection is judged."""
    bench, worker, (first, second), (child, other) = forked
    first.commit(b"\x04")
    kill(bench, worker)
    new = replace(bench)
    assert not new.arrived
    assert held(bench) == 2
    child.die(-9)
    bench.settle()
    assert child.reaped
    ((attach, _),) = new.arrived
    assert (attach.id, attach.state) == (first.id, b"\x04")
    new.attach()
    # The other ends in order, and says so over the channel of its dead parent, which it inherited.
    second.record.ended = "closed"
    other.die(0)
    bench.settle()
    assert held(bench) == 1
    assert bench.keeper.counters()["lost"] == 0


def test_what_the_dead_worker_served_itself_is_judged_at_once(forked: Forked) -> None:
    """A connection for which it had no process yet, beside those that have one."""
    bench, worker, _, children = forked
    peer, waiting = bench.kept(worker)
    kill(bench, worker)
    new = replace(bench)
    ((attach, _),) = new.arrived
    assert attach.id == waiting.id
    assert is_alive(peer, new.attach().sock)
    for child in children:
        child.die(-9)
    bench.settle()
    assert len(new.arrived) == 2
