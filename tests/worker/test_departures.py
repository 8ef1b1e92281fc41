"""Handing connections to the keeper from a loop that must not block."""

from __future__ import annotations

import asyncio
import os
import select
import socket
import time
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from socketkeep import resumable
from socketkeep._worker._departures import Departures
from tests.harness.lines import Lines
from tests.harness.seam import Row, handoff
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
