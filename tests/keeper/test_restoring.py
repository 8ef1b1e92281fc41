"""What the service manager's store is told, and what a keeper makes of what it gives back."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import pytest

from socketkeep._keeper.connections import _restoring
from tests.harness.seam import Row, make_board
from tests.keeper.bench import Bench, is_alive, is_at_eof
from tests.keeper.conftest import MakeBench
from tests.keeper.fakes import (
    FarWorker,
    Served,
    ServiceManager,
    adopted_worker,
    held_connection,
    listener_stored_as,
    sealed,
)
from tests.wire.sending import message

ID = "7-2-1"


@dataclass
class Scene:
    """A keeper that starts, and what it is given."""

    bench: Bench
    manager: ServiceManager
    passed: list[tuple[str, int]] = field(default_factory=list)

    def board(self, serial: int, *, states: bool = True) -> Any:
        """Give it a worker's scoreboard."""
        memfd, board = make_board(4, states=states)
        self.passed.append((f"socketkeep.board.7-{serial}-0.close.once", memfd))
        return board

    def connection(self, epoch: int = 1) -> socket.socket:
        """Give it the connection; return its peer."""
        peer, accepted = self.bench.connect()
        self.passed.append((f"socketkeep.connection.{ID}.{epoch}", accepted.detach()))
        return peer

    def handoff(self, epoch: int, state: bytes, where: str = "moving") -> None:
        """Give it what was said of the connection when no worker had it."""
        with socket.socket() as sock:
            held = held_connection(sock, ID, epoch, state, where)
            data = msgspec.msgpack.encode(held.snapshot(lambda fd: fd))
        self.file(epoch, data)

    def file(self, epoch: int, data: bytes) -> None:
        memfd = sealed("parcel", data)
        self.passed.append((f"socketkeep.parcel.{ID}.{epoch}", memfd))

    def restore(self, *adopted: Any) -> None:
        """Let the keeper take it, and start."""
        stored = _restoring.Stored.of(self.passed)
        keeper = self.bench.keeper
        store = self.manager.store(self.bench.reactor, stored.names)
        keeper.use_store(store)
        assert stored.latest_boot == 7
        stored.restore(keeper.connections, store, [self.bench.listener.text], adopted)
        self.worker = self.bench.start()[0]

    def attached(self, peer: socket.socket) -> tuple[str, int, bytes | None]:
        """Let the worker take the connection; return what it was told."""
        attach = self.worker.arrived[0][0]
        assert attach.id == ID
        assert is_alive(peer, self.worker.attach().sock)
        self.bench.settle()
        return attach.attached, attach.epoch, attach.state


@pytest.fixture
def scene(make_bench: MakeBench) -> Iterator[Scene]:
    bench = make_bench(workers=1, keep="crash", bind=[])
    manager = ServiceManager()
    yield Scene(bench, manager)
    manager.close()


def write_row(
    board: Any,
    epoch: int,
    state: bytes | None = None,
    *,
    status: str = "clean",
    ended: str = "not yet",
    pid: int = 0,
) -> None:
    row = board.claim()
    assert row is not None
    record = Row(board.record(row))
    record.name(7, 2, 1)
    record.epoch, record.status, record.ended, record.pid = epoch, status, ended, pid
    if board.keeps_states:
        board.shelf(row).put(state)


def test_a_clean_connection_goes_on_from_its_commit(scene: Scene) -> None:
    peer = scene.connection()
    write_row(scene.board(2), 1, b"\x05")
    scene.restore()
    assert scene.attached(peer) == ("crash", 2, b"\x05")
    handoff = f"parcel.{ID}.1"
    told = [each for each in scene.manager.sent if "board.9" not in each]
    assert told == [f"+{handoff}", "-board.7-2-0.close.once", f"-{handoff}"]


@pytest.mark.parametrize("ended", ["detached", "taken"])
def test_the_row_counts_when_its_handoff_was_not_stored_yet(scene: Scene, ended: str) -> None:
    """The worker had given it up, and the keeper perhaps said that it has it."""
    peer = scene.connection()
    write_row(scene.board(2), 1, b"\x05", ended=ended)
    scene.restore()
    assert scene.attached(peer) == ("crash", 2, b"\x05")


def test_the_row_of_the_later_owner_counts(scene: Scene) -> None:
    peer = scene.connection()
    write_row(scene.board(2), 1, b"\x01", ended="detached")
    write_row(scene.board(3), 4, b"\x04")
    scene.handoff(1, b"\x02")
    scene.restore()
    assert scene.attached(peer) == ("crash", 5, b"\x04"), "its worker had attached it"


def test_the_handoff_counts_when_no_worker_has_attached_it_since(scene: Scene) -> None:
    peer = scene.connection()
    write_row(scene.board(2), 3, b"\x01", ended="detached")
    scene.handoff(3, b"\x02")
    scene.restore()
    assert scene.attached(peer) == ("reload", 4, b"\x02")


def test_a_parked_connection_is_parked(scene: Scene) -> None:
    peer = scene.connection()
    scene.handoff(3, b"\x02", "parked")
    scene.restore()
    assert not scene.worker.arrived
    assert len(scene.bench.keeper.connections.parking) == 1
    peer.send(b"x")
    scene.bench.settle()
    assert scene.worker.arrived[0][0].attached == "parked"


@pytest.mark.parametrize("where", ["moving", "parked", "with a worker"])
def test_what_it_is_called_is_known_again(scene: Scene, where: str) -> None:
    """Its next owner is told, a push finds it, and it is stored under the next version alone."""
    peer = scene.connection()
    if where == "with a worker":
        write_row(scene.board(2), 3, b"\x01")
    else:
        scene.handoff(3, b"\x02", where)
    saved = {
        "id": ID,
        "epoch": 3,
        "owner": 2,
        "version": 4,
        "name": "bob",
        "groups": ["room"],
        "labels": {"firmware": "2"},
    }
    scene.passed.append(
        (f"socketkeep.called.{ID}.4", sealed("called", msgspec.msgpack.encode(saved)))
    )
    scene.restore()
    if where == "parked":
        peer.send(b"x")
        scene.bench.settle()
    attach = scene.worker.arrived[0][0]
    assert (attach.name, attach.groups, attach.labels) == ("bob", ["room"], {"firmware": "2"})
    scene.attached(peer)
    post = scene.bench.keeper.connections.post
    known = post.names.named("bob")
    assert known is not None
    assert known.owner == scene.worker.serial
    stored = [each for each in scene.manager.sent if "called" in each]
    assert stored == []
    scene.worker.send(message("Registered", ID, attach.epoch, "bob", ["room", "hall"], {}))
    scene.bench.settle()
    stored = [each for each in scene.manager.sent if "called" in each]
    assert stored == [f"+called.{ID}.5", f"-called.{ID}.4"]
    scene.worker.send(message("Registered", ID, attach.epoch, "", [], {}))
    scene.bench.settle()
    assert scene.manager.sent[-1] == f"-called.{ID}.5"


def test_what_cannot_be_read_of_it_costs_its_names_alone(scene: Scene) -> None:
    peer = scene.connection()
    scene.handoff(3, b"\x02")
    scene.passed.append((f"socketkeep.called.{ID}.1", sealed("called", b"\xc1")))
    scene.restore()
    assert scene.attached(peer) == ("reload", 4, b"\x02")
    assert f"-called.{ID}.1" in scene.manager.sent


def test_one_that_is_woken_is_stored_as_on_its_way_first(scene: Scene) -> None:
    """The next keeper has to know: a worker that hangs may have been sent it, and not read that."""
    peer = scene.connection()
    scene.handoff(3, b"\x02", "parked")
    scene.restore()
    (held,) = scene.bench.keeper.connections.connection_table
    scene.manager.sent.clear()
    peer.send(b"x")
    scene.bench.settle()
    assert scene.manager.sent == [f"+parcel.{ID}.4", f"-parcel.{ID}.3"]
    assert (held.parcel_as, held.ownership.epoch) == (4, 4)
    assert scene.attached(peer) == ("parked", 4, b"\x02")
    assert scene.manager.sent[2:] == [f"-parcel.{ID}.4"]


def test_one_that_is_woken_and_refused_stays_stored(scene: Scene) -> None:
    peer = scene.connection()
    scene.handoff(3, b"\x02", "parked")
    scene.restore()
    peer.send(b"x")
    scene.bench.settle()
    scene.manager.sent.clear()
    scene.worker.refuse()
    scene.bench.advance(1)
    assert scene.worker.arrived
    assert not scene.manager.sent, "whichever worker it is sent to"
    assert scene.attached(peer)[1] == 5
    assert scene.manager.sent == [f"-parcel.{ID}.4"]


@pytest.mark.parametrize("case", ["ended", "forgotten", "unreadable"])
def test_one_that_had_ended_is_closed(scene: Scene, case: str) -> None:
    """Its worker ended it, or said so; or there is nothing to go on from."""
    peer = scene.connection()
    if case == "ended":
        write_row(scene.board(2), 1, ended="closed")
    elif case == "unreadable":
        scene.file(1, b"not a handoff")
    scene.restore()
    assert is_at_eof(peer)
    assert f"-connection.{ID}.1" in scene.manager.sent
    assert not scene.worker.arrived


def test_one_in_the_middle_of_a_message_follows_on_crash(scene: Scene) -> None:
    peer = scene.connection()
    write_row(scene.board(2), 1, status="sent")
    scene.restore()
    assert is_at_eof(peer)
    assert scene.bench.keeper.counters()["lost"] == 1


def test_without_its_state_a_connection_cannot_go_on(scene: Scene) -> None:
    """It moved with --keep reload, and its next worker had attached it."""
    peer = scene.connection()
    write_row(scene.board(2, states=False), 2)
    scene.handoff(1, b"\x02")
    scene.restore()
    assert is_at_eof(peer)
    assert scene.bench.keeper.counters()["lost"] == 1


def test_a_connection_of_a_worker_that_lives_is_left_to_it(scene: Scene) -> None:
    peer = scene.connection()
    with socket.socket(fileno=os.dup(scene.passed[0][1])) as in_worker:
        write_row(scene.board(2), 1, pid=os.getpid())
        scene.restore()
        assert not scene.worker.arrived
        assert is_alive(peer, in_worker)


def test_a_connection_of_an_adopted_worker_is_held_for_it(scene: Scene) -> None:
    """And goes on from its commit should that die, too."""
    peer = scene.connection()
    board = scene.board(2)
    write_row(board, 1, b"\x05", pid=os.getpid())
    worker = _restoring._ghost(0, *scene.passed[1])
    worker.adopted = adopted_worker(listeners=(0,))
    scene.restore(worker)
    assert not scene.worker.arrived
    # It is stored as it was, and so is the scoreboard; the one that is new is the next worker's.
    assert scene.manager.sent == ["+board.9-1-0.close.once"]
    assert worker.board_as == scene.passed[1][0]
    Row(board.record(0)).pid = 0
    scene.bench.keeper.connections.worker_died(worker)
    scene.bench.settle()
    assert scene.attached(peer) == ("crash", 2, b"\x05")


@pytest.mark.parametrize("ended", ["not yet", "detached", "taken"])
def test_on_its_way_from_a_worker_that_lives(scene: Scene, ended: str) -> None:
    """The worker serves on unless its row says that the keeper had taken it."""
    peer = scene.connection()
    scene.handoff(2, b"\x02")
    with socket.socket(fileno=os.dup(scene.passed[0][1])) as in_worker:
        write_row(scene.board(2), 1, ended=ended, pid=os.getpid())
        scene.restore()
        if ended == "taken":
            assert scene.attached(peer)[2] == b"\x02"
        else:
            assert not scene.worker.arrived
            assert is_alive(peer, in_worker)
            assert f"-parcel.{ID}.2" in scene.manager.sent


def test_of_two_handoffs_the_later_counts(scene: Scene) -> None:
    """The keeper has died that had stored one, and not yet removed the other; names are sorted."""
    peer = scene.connection()
    scene.handoff(10, b"\x0a")
    scene.handoff(9, b"\x09")
    scene.passed.append((f"socketkeep.connection.{ID}.8", os.dup(scene.passed[0][1])))
    scene.restore()
    assert f"-parcel.{ID}.9" in scene.manager.sent
    assert f"-connection.{ID}.8" not in scene.manager.sent
    assert f"-connection.{ID}.1" in scene.manager.sent
    assert scene.attached(peer) == ("reload", 11, b"\x0a")


def test_what_finds_no_room_is_sent_in_order_later(scene: Scene) -> None:
    store = scene.manager.store(scene.bench.reactor)
    scene.manager.has_room = False
    with socket.socket() as one:
        store.add("socketkeep.a", one.fileno())
        store.add("socketkeep.b", one.fileno())
    store.remove("socketkeep.a")
    scene.manager.has_room = True
    assert scene.manager.sent == []
    store.add("socketkeep.c", 1)
    assert scene.manager.sent == ["+a", "+b", "-a", "+c"]
    scene.manager.has_room = False
    store.remove("socketkeep.b")
    called: list[bool] = []
    store.when_sent(lambda: called.append(store.add("socketkeep.d", 1)))
    scene.bench.advance(0.1)
    assert not called
    scene.manager.has_room = True
    scene.bench.advance(0.1)
    assert called == [True]
    assert scene.manager.sent[4:] == ["-b", "+d"]
    assert store.names == ["socketkeep.c", "socketkeep.d"]


@pytest.mark.parametrize("model", ["thread", "async"])
@pytest.mark.parametrize("stopped", [False, True])
def test_nothing_is_promised_before_it_is_stored(
    make_bench: MakeBench, model: Any, stopped: bool
) -> None:
    """The queue of the store dies with the keeper, so no worker lets go before that.

    Else the next keeper could have it served beside another.  A store that is stopped keeps nobody
    waiting.
    """
    bench = make_bench(keep="crash", workers=2)
    manager = ServiceManager()
    first, second = bench.start(model)
    bench.keeper.use_store(manager.store(bench.reactor))
    manager.has_room = False
    _, served = bench.serve(first)
    served.keep()
    bench.settle()
    assert not served.is_kept()
    answered = served.hand_over(model)
    bench.settle()
    assert served.record.ended == "not yet"
    assert not [*first.arrived, *second.arrived]
    bench.advance(0.5)
    assert not [*first.arrived, *second.arrived]
    manager.has_room = not stopped
    bench.advance(0.6)
    assert served.record.ended == "taken"
    assert answered()
    assert len([*first.arrived, *second.arrived]) == 1
    manager.has_room = True
    bench.advance(0.1)
    assert [word[0] for word in manager.sent if "parcel." in word] == ["+"]


def test_an_upgrade_sends_what_is_left_first(make_bench: MakeBench) -> None:
    bench = make_bench(keep="crash", workers=2)
    manager = ServiceManager()
    first, _ = bench.start()
    bench.keeper.use_store(manager.store(bench.reactor))
    manager.has_room = False
    _, served = bench.serve(first)
    served.keep()
    bench.settle()
    check = bench.upgrade()
    assert "connection." not in " ".join(manager.sent)
    manager.has_room = True
    check.passes()
    bench.settle()
    assert served.is_kept()
    assert "connection." in " ".join(manager.sent)


def test_plain_ends_are_not_stored(scene: Scene, tmp_path: Path) -> None:
    """Their TLS ends with the edge, and the edge with the unit; the other Unix sockets' stay."""
    store = scene.manager.store(scene.bench.reactor)
    path = tmp_path / "accepted"
    with socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX) as client:
        listener.bind(str(path))
        listener.listen()
        client.connect(str(path))
        accepted = listener.accept()[0]
        plain, far = socket.socketpair()
        with far, plain, accepted:
            for sock in (plain, accepted):
                held = held_connection(sock, ID, 1, proxy=b"facts")
                store.put(held)
                assert bool(store.names) == (sock is accepted)
                store.forget(held)
                assert not store.names


@pytest.mark.parametrize("address", ["127.0.0.1:0", "[::1]:7000", "unix:/" + "ü" * 53])
def test_names_are_as_systemd_wants_them(address: str) -> None:
    name = listener_stored_as(address)
    assert name.isascii()
    assert ":" not in name
    assert len(name) <= 255
    assert name != listener_stored_as(address + "1")


def successors(bench: Bench) -> list[FarWorker]:
    """Have the dead worker's slot be filled, and what waits be given."""
    bench.advance(6)
    forked = bench.fork()
    for worker in forked:
        worker.ready()
        bench.settle()
    return forked


def killed(bench: Bench, served: Served, worker: FarWorker) -> None:
    """Have a worker die that has committed a state."""
    served.commit(b"\x05")
    worker.die(-9)
    bench.settle()


def test_after_a_death_the_row_tells_until_another_has_the_connection(
    storing: tuple[Bench, ServiceManager],
) -> None:
    """A handoff for each of thousands would keep them waiting."""
    bench, manager = storing
    (worker,) = bench.start()
    peer, served = bench.kept(worker)
    manager.sent.clear()
    killed(bench, served, worker)
    assert bench.keeper.pool.totals["detached"] == 1, "it is counted as it would be"
    (heir,) = successors(bench)
    told = [each for each in manager.sent if each.startswith("-") or "parcel" in each]
    assert told == []
    assert is_alive(peer, heir.attach().sock)
    bench.settle()
    assert manager.sent[-1] == f"-board.9-{worker.serial}-0.close.once"
    assert not any("parcel" in each for each in manager.sent)
    assert bench.keeper.pool.totals["detached"] == 1


def test_a_guard_that_is_new_has_no_row_and_gets_the_handoff(
    storing: tuple[Bench, ServiceManager],
) -> None:
    bench, _ = storing
    (worker,) = bench.start()
    peer, served = bench.kept(worker)
    killed(bench, served, worker)
    other = ServiceManager()
    bench.keeper.store_anew(other.store(bench.reactor), connections=True)
    name = f"parcel.{served.id}.1"
    assert f"+{name}" in other.sent
    (heir,) = successors(bench)
    assert is_alive(peer, heir.attach().sock)
    bench.settle()
    assert f"-{name}" in other.sent
    other.close()


def test_an_upgrade_stores_what_a_row_tells(storing: tuple[Bench, ServiceManager]) -> None:
    """The next version knows nothing of the row."""
    bench, manager = storing
    (worker,) = bench.start()
    peer, served = bench.kept(worker)
    killed(bench, served, worker)
    bench.upgrade().passes()
    bench.settle()
    board = f"-board.9-{worker.serial}-0.close.once"
    assert manager.sent.index(f"+parcel.{served.id}.1") < manager.sent.index(board)
    (held,) = bench.keeper.connections.connection_table
    assert is_alive(peer, held.sock)


def test_one_that_ends_before_another_has_it_leaves_no_row(
    storing: tuple[Bench, ServiceManager],
) -> None:
    bench, manager = storing
    (worker,) = bench.start()
    peer, served = bench.kept(worker)
    killed(bench, served, worker)
    bench.keeper.connections.close_unowned(served.id, "it was asked for")
    bench.settle()
    assert is_at_eof(peer)
    assert f"-board.9-{worker.serial}-0.close.once" in manager.sent


def test_without_its_scoreboard_in_the_store_a_handoff_tells(
    storing: tuple[Bench, ServiceManager],
) -> None:
    bench, manager = storing
    (worker,) = bench.start()
    _, served = bench.kept(worker)
    assert bench.keeper.store is not None
    bench.keeper.store.remove(f"socketkeep.board.9-{worker.serial}-0.close.once")
    killed(bench, served, worker)
    assert f"+parcel.{served.id}.1" in manager.sent


@pytest.mark.parametrize(("ended", "awaited"), [("detached", True), ("not yet", False)])
def test_whoever_may_have_been_sent_what_a_row_tells_is_awaited(
    scene: Scene, monkeypatch: pytest.MonkeyPatch, ended: str, awaited: bool
) -> None:
    """The keeper that died had judged it, and perhaps given it to a worker that has not come."""

    class Siblings:
        def siblings(self, memfds: list[int]) -> set[int]:
            return {1} if memfds else set()

        def has_mapped(self, *_: object, **__: object) -> bool:
            return False

    monkeypatch.setattr(_restoring, "System", Siblings)
    write_row(scene.board(2), 1, b"\x05", ended=ended, pid=2**22 - 1)
    stored = _restoring.Stored.of(scene.passed)
    assert stored.awaits(()) is awaited
    stored.close()
