"""Connections that leave a loop that must not block: a few at a time, handed to the keeper."""

from __future__ import annotations

import asyncio
import os
import select
import socket
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from socketkeep import AsyncConnection, resumable
from socketkeep._worker._departures import WINDOW, Departures, MoveWindow
from tests.harness.lines import Lines
from tests.harness.seam import How, Row, handoff, order_to
from tests.wire.limits import out_of_descriptors
from tests.wire.sending import message
from tests.worker.fakes import Place, a_place

LARGE = b"s" * 40_000


@resumable
async def handle(conn: object) -> None: ...


class Scene:
    """Departures, and what becomes of them."""

    def __init__(self, place: Place) -> None:
        self.place = place
        self.roster = place.roster()
        self.settled: list[Any] = []
        self.left: list[int] = []  # at each settlement: how many are still here
        self._settlement = asyncio.Event()
        self.served_on: list[Any] = []
        self.departures = Departures(
            place.environment.channel,
            self.roster,
            self._settle,
            lambda entry, _handoff: self.served_on.append(entry),
            self._gone,
        )
        self.departures.deadline = time.monotonic() + 10

    def _gone(self) -> None:
        self.departures.give_up()

    def detached(self, state: bytes) -> tuple[Any, Any]:
        """Return a connection that its handler has given up."""
        _, accepted = self.place.connection()
        entry = self.roster.accepted(accepted, 0)
        assert entry is not None
        return entry, handoff(accepted, state, b"")

    def offer(self, state: bytes = b"\x01") -> tuple[str, socket.socket]:
        """Offer a connection; return its id and its peer."""
        entry, handoff = self.detached(state)
        self.departures.offer(entry, handoff)
        return entry.lease.id, self.place.peers[-1]

    def next_offer(self) -> tuple[str, int]:
        """Return the id of the offer that reached the keeper, and the connection."""
        offer, (fd,) = self.place.wait_for("Detached")
        return offer.id, fd

    def answered(self, name: str, epoch: int, *, taken: bool) -> None:
        """Hear the keeper's answer to an offer."""
        self.departures.acknowledged(message("Acknowledged", name, epoch, taken=taken))

    async def arrival(self) -> None:
        """Wait until something has reached the keeper."""
        loop = asyncio.get_running_loop()
        arrived = asyncio.Event()
        loop.add_reader(self.place.keeper.fileno(), arrived.set)
        async with asyncio.timeout(10):
            await arrived.wait()
        loop.remove_reader(self.place.keeper.fileno())

    async def settlement(self) -> None:
        """Wait until a connection has been settled."""
        async with asyncio.timeout(10):
            await self._settlement.wait()

    def _settle(self, entry: Any) -> None:
        self.settled.append(entry)
        self.left.append(len(self.departures))
        self._settlement.set()


Scenario = Callable[[Scene], Awaitable[None]]


def play(scenario: Scenario) -> None:
    async def run() -> None:
        complaints: list[dict[str, object]] = []
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: complaints.append(context))
        with a_place(handle, "async") as place:
            await scenario(Scene(place))
        assert not complaints

    asyncio.run(run())


def test_taken() -> None:
    async def scenario(scene: Scene) -> None:
        name, peer = scene.offer()
        got, fd = scene.next_offer()
        assert got == name
        assert len(scene.departures) == 1
        scene.answered(name, 1, taken=True)
        assert len(scene.departures) == 0
        (entry,) = scene.settled
        assert entry.sock.fileno() == -1
        os.close(fd)
        assert peer.recv(1) == b"", "the keeper's was the last handle"

    play(scenario)


def test_taken_by_a_keeper_that_died_before_its_answer_arrived() -> None:
    """Another worker may have it: what the row says counts, and the rest is served on here."""

    async def scenario(scene: Scene) -> None:
        scene.offer()
        _, fd = scene.next_offer()
        os.close(fd)
        scene.offer()
        offer, (fd,) = scene.place.wait_for("Detached")
        os.close(fd)
        board = scene.place.environment.scoreboard
        Row(board.record(offer.row)).ended = "taken"
        scene.departures.give_up()
        assert [entry.lease.id for entry in scene.settled] == [offer.id]
        assert scene.settled[0].sock.fileno() == -1
        (other,) = scene.served_on
        assert other.sock.fileno() >= 0
        other.sock.close()
        assert len(scene.departures) == 0

    play(scenario)


def test_a_worker_has_what_it_is_to_serve_on_when_another_has_gone() -> None:
    """Having nothing, it would end, and all that it serves with it."""

    async def scenario(scene: Scene) -> None:
        scene.offer()
        offer, (fd,) = scene.place.wait_for("Detached")
        os.close(fd)
        Row(scene.place.environment.scoreboard.record(offer.row)).ended = "taken"
        scene.offer()
        os.close(scene.next_offer()[1])
        scene.departures.give_up()
        assert scene.left == [1]
        (other,) = scene.served_on
        other.sock.close()

    play(scenario)


def test_not_taken_is_offered_again() -> None:
    async def scenario(scene: Scene) -> None:
        name, _ = scene.offer()
        for _ in range(2):
            got, fd = scene.next_offer()
            os.close(fd)
            assert got == name
            scene.answered(name, 1, taken=False)
            await scene.arrival()
        _, fd = scene.next_offer()
        scene.answered(name, 1, taken=True)
        os.close(fd)
        assert len(scene.settled) == 1

    play(scenario)


def readable(scene: Scene) -> bool:
    """Whether something has reached the keeper."""
    return bool(select.select([scene.place.keeper], [], [], 0)[0])


def test_an_answer_without_an_id_is_to_the_offer_that_waits_longest() -> None:
    """Also when an earlier one was refused and has not been offered again yet."""

    async def scenario(scene: Scene) -> None:
        first, _ = scene.offer(LARGE)
        second, _ = scene.offer(LARGE)
        for _ in range(2):
            os.close(scene.next_offer()[1])
        lost = message("Acknowledged", "", 0, taken=False)
        scene.departures.acknowledged(lost)
        scene.departures.acknowledged(lost)
        offered = set()
        for _ in range(2):
            await scene.arrival()
            name, fd = scene.next_offer()
            os.close(fd)
            offered.add(name)
            scene.answered(name, 1, taken=True)
        assert offered == {first, second}
        assert len(scene.settled) == 2

    play(scenario)


def test_an_answer_to_nothing_is_nothing() -> None:
    async def scenario(scene: Scene) -> None:
        scene.answered("", 0, taken=False)
        scene.answered("9-9-9", 1, taken=True)
        assert scene.settled == []

    play(scenario)


def test_not_taken_by_the_deadline_is_closed_in_an_orderly_way(log: Lines) -> None:
    async def scenario(scene: Scene) -> None:
        scene.departures.deadline = 0
        name, peer = scene.offer()
        os.close(scene.next_offer()[1])
        scene.answered(name, 1, taken=False)
        assert len(scene.departures) == 1, "until it has been closed"
        peer.setblocking(False)
        loop = asyncio.get_running_loop()
        assert await loop.sock_recv(peer, 1) == b""
        peer.close()
        await scene.settlement()
        assert len(scene.departures) == 0

    play(scenario)
    assert "connection closed: the keeper did not take it" in log.events()


@pytest.mark.parametrize("noticed_by", ["the send", "the loop", "both"])
def test_the_keeper_is_gone(noticed_by: str) -> None:
    async def scenario(scene: Scene) -> None:
        if noticed_by == "the send":
            scene.place.keeper.close()
        _, peer = scene.offer()
        if noticed_by == "both":
            # It was refused and is to be offered again, when the loop sees that nobody is there.
            name, fd = scene.next_offer()
            os.close(fd)
            scene.answered(name, 1, taken=False)
        if noticed_by != "the send":
            scene.place.keeper.close()
            scene.departures.give_up()
        await asyncio.sleep(0.15)  # longer than an offer is put off
        (entry,) = scene.served_on
        assert scene.settled == []
        assert len(scene.departures) == 0
        entry.sock.send(b"alive")
        assert peer.recv(5) == b"alive"
        entry.sock.close()

    play(scenario)


@pytest.mark.parametrize("reserve", [True, False])
def test_at_the_descriptor_limit_a_large_state_has_the_reserve_or_waits(reserve: bool) -> None:
    async def scenario(scene: Scene) -> None:
        entry, handoff = scene.detached(LARGE)
        if not reserve:
            scene.departures._reserve.spend()
        with out_of_descriptors():
            scene.departures.offer(entry, handoff)
            assert readable(scene) == reserve
        await scene.arrival()
        name, fd = scene.next_offer()
        os.close(fd)
        assert name == entry.lease.id
        scene.answered(name, 1, taken=True)

    play(scenario)


class Leaving:
    """Those on their way, which end when the test says so."""

    def __init__(self) -> None:
        self.names: list[int] = []

    def __len__(self) -> int:
        return len(self.names)


class Asked:
    """A connection that leaves `turns` turns of the loop after it was asked; None: never."""

    def __init__(self, name: int, turns: int | None, departures: Leaving) -> None:
        self._name = name
        self._turns = turns
        self._departures = departures
        self.orders: list[Any] = []
        self.was_asked = asyncio.Event()

    def ask(self, order: Any) -> None:
        self.was_asked.set()
        self.orders.append(order)
        if self._turns is not None:
            self._wait(self._turns)

    def _wait(self, turns: int) -> None:
        loop = asyncio.get_running_loop()
        if turns:
            loop.call_soon(self._wait, turns - 1)
        else:
            loop.call_soon(self._departures.names.append, self._name)


class Asking:
    """Connections that leave after so many turns each, and those asked so far."""

    def __init__(self, turns: Sequence[int | None]) -> None:
        self.departures = Leaving()
        self.conns = [Asked(each, after, self.departures) for each, after in enumerate(turns)]
        self.move_window = MoveWindow(self.departures)

    @property
    def asked(self) -> int:
        return sum(bool(conn.orders) for conn in self.conns)

    def begin(self, how: How = "move", seconds: float = 60) -> Any:
        order = order_to(how, seconds)
        self.move_window.begin(order, self.conns)
        return order

    def taken(self, count: int) -> None:
        """The keeper takes so many, each of which is told on its own."""
        for _ in range(count):
            self.departures.names.pop(0)
            self.move_window.go_on()

    async def settle(self) -> None:
        """Wait until nothing more happens by itself."""
        for _ in range(2 * len(self.conns) + 10):
            await asyncio.sleep(0)


def ask_by(turns: Sequence[int | None], scenario: Callable[[Asking], Awaitable[None]]) -> None:
    async def run() -> None:
        await scenario(Asking(turns))

    asyncio.run(run())


def test_no_more_than_the_window_is_on_its_way() -> None:
    async def scenario(scene: Asking) -> None:
        scene.begin()
        await scene.settle()
        assert scene.asked == len(scene.departures) == WINDOW
        for taken in (1, 3, WINDOW):
            before = scene.asked
            scene.taken(taken)
            await scene.settle()
            assert scene.asked == before + taken
            assert len(scene.departures) == WINDOW

    ask_by([0] * 5 * WINDOW, scenario)


def test_those_that_do_not_leave_at_once_keep_nobody_waiting() -> None:
    async def scenario(scene: Asking) -> None:
        scene.begin()
        await scene.settle()
        assert scene.asked == len(scene.conns)

    ask_by([None, 10_000] * 2 * WINDOW, scenario)


def test_when_none_is_taken_all_are_asked_well_before_the_deadline() -> None:
    async def scenario(scene: Asking) -> None:
        order = scene.begin(seconds=0.2)
        async with asyncio.timeout(10):
            await scene.conns[-1].was_asked.wait()
        assert [conn.orders for conn in scene.conns] == [[order]] * len(scene.conns)

    ask_by([0] * 3 * WINDOW, scenario)


def test_a_later_order_takes_the_place_of_the_first() -> None:
    async def scenario(scene: Asking) -> None:
        first = scene.begin(seconds=0.01)
        second = scene.begin(seconds=60)
        await asyncio.sleep(0.02)  # beyond the time that the first would have waited
        await scene.settle()
        asked = [conn.orders for conn in scene.conns]
        assert asked == [[first, second]] * WINDOW + [[]] * 2 * WINDOW
        finish = scene.begin("finish")
        await scene.settle()
        assert [conn.orders[-1] for conn in scene.conns] == [finish] * 3 * WINDOW

    ask_by([0] * 3 * WINDOW, scenario)


@given(
    st.lists(st.one_of(st.none(), st.integers(0, 3)), max_size=80),
    st.lists(st.integers(1, 2 * WINDOW), min_size=1, max_size=5),
)
def test_each_is_asked_once_whenever_the_others_leave(
    turns: list[int | None], steps: list[int]
) -> None:
    async def scenario(scene: Asking) -> None:
        order = scene.begin()
        await scene.settle()
        late = sum(bool(after) for after in turns)
        step = 0
        while scene.departures.names:
            assert len(scene.departures) <= WINDOW + late
            scene.taken(min(steps[step % len(steps)], len(scene.departures)))
            step += 1
            await scene.settle()
        assert [conn.orders for conn in scene.conns] == [[order]] * len(turns)

    ask_by(turns, scenario)


def offered(place: Place) -> Any:
    """Return what the worker offers next; the keeper has it by its message alone."""
    message, descriptors = place.wait_for("Detached")
    for fd in descriptors:
        os.close(fd)
    return message


@resumable
async def answer(conn: AsyncConnection) -> None:
    async for line in conn.lines(commit=True):
        await conn.send(line)


def test_who_is_not_asked_yet_is_served() -> None:
    count = WINDOW + 2
    with a_place(answer, "async", rows=count) as place:
        thread = place.start()
        for number in range(count):
            place.attach(f"b007-1-{number + 1}")
            place.wait_for("Attached")
        place.retire("move", 60)
        leaving = [offered(place) for _ in range(WINDOW)]
        left = {int(each.id.rpartition("-")[2]) for each in leaving}
        others = [peer for number, peer in enumerate(place.peers, 1) if number not in left]
        for peer in others:
            peer.sendall(b"served\n")
            assert peer.recv(100) == b"served"
        assert place.said() == [], "the window is full"
        for each in leaving:
            place.acknowledge(each, taken=True)
        for _ in others:
            each = offered(place)
            place.acknowledge(each, taken=True)
        thread.join(10)
        assert not thread.is_alive()
