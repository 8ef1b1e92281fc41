"""Asking connections to leave, a few at a time."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from socketkeep import AsyncConnection, resumable
from socketkeep._worker._departures import WINDOW, MoveWindow
from tests.harness.seam import How, order_to
from tests.worker.fakes import Place, a_place


class Departures:
    """Those on their way, which end when the test says so."""

    def __init__(self) -> None:
        self.names: list[int] = []

    def __len__(self) -> int:
        return len(self.names)


class Conn:
    """A connection that leaves `turns` turns of the loop after it was asked; None: never."""

    def __init__(self, name: int, turns: int | None, departures: Departures) -> None:
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


class Scene:
    """Connections that leave after so many turns each, and those asked so far."""

    def __init__(self, turns: Sequence[int | None]) -> None:
        self.departures = Departures()
        self.conns = [Conn(each, after, self.departures) for each, after in enumerate(turns)]
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


def play(turns: Sequence[int | None], scenario: Callable[[Scene], Awaitable[None]]) -> None:
    async def run() -> None:
        await scenario(Scene(turns))

    asyncio.run(run())


def test_no_more_than_the_window_is_on_its_way() -> None:
    async def scenario(scene: Scene) -> None:
        scene.begin()
        await scene.settle()
        assert scene.asked == len(scene.departures) == WINDOW
        for taken in (1, 3, WINDOW):
            before = scene.asked
            scene.taken(taken)
            await scene.settle()
            assert scene.asked == before + taken
            assert len(scene.departures) == WINDOW

    play([0] * 5 * WINDOW, scenario)


def test_those_that_do_not_leave_at_once_keep_nobody_waiting() -> None:
    async def scenario(scene: Scene) -> None:
        scene.begin()
        await scene.settle()
        assert scene.asked == len(scene.conns)

    play([None, 10_000] * 2 * WINDOW, scenario)


def test_when_none_is_taken_all_are_asked_well_before_the_deadline() -> None:
    async def scenario(scene: Scene) -> None:
        order = scene.begin(seconds=0.2)
        async with asyncio.timeout(10):
            await scene.conns[-1].was_asked.wait()
        assert [conn.orders for conn in scene.conns] == [[order]] * len(scene.conns)

    play([0] * 3 * WINDOW, scenario)


def test_a_later_order_takes_the_place_of_the_first() -> None:
    async def scenario(scene: Scene) -> None:
        first = scene.begin(seconds=0.01)
        second = scene.begin(seconds=60)
        await asyncio.sleep(0.02)  # beyond the time that the first would have waited
        await scene.settle()
        asked = [conn.orders for conn in scene.conns]
        assert asked == [[first, second]] * WINDOW + [[]] * 2 * WINDOW
        finish = scene.begin("finish")
        await scene.settle()
        assert [conn.orders[-1] for conn in scene.conns] == [finish] * 3 * WINDOW

    play([0] * 3 * WINDOW, scenario)


@given(
    st.lists(st.one_of(st.none(), st.integers(0, 3)), max_size=80),
    st.lists(st.integers(1, 2 * WINDOW), min_size=1, max_size=5),
)
def test_each_is_asked_once_whenever_the_others_leave(
    turns: list[int | None], steps: list[int]
) -> None:
    async def scenario(scene: Scene) -> None:
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

    play(turns, scenario)


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
