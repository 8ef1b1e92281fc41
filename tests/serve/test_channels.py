"""A layer of Channels, on an office without a server: two workers' layers, and their channels."""

from __future__ import annotations

import asyncio
import sys
import threading
import types
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass, field
from typing import Any

import msgspec
import pytest

from socketkeep import HandlerError, LimitExceeded, Published, Pushed
from socketkeep._names._pushing import Endpoint, place
from socketkeep._serve import _channels
from socketkeep.channels import Layer


@dataclass(eq=False)
class _Place:
    office: FakeOffice
    receive: Callable[[bytes], bool]
    lost: Callable[[], None] | None = None
    name: str = ""
    groups: frozenset[str] = frozenset()

    def call(self, name: str, groups: frozenset[str]) -> None:
        before = [each for each in self.office.places if each.name == name]
        self.name, self.groups = name, groups
        for each in before if name else ():
            if each is not self:
                each.name = ""
                if each.lost is not None:
                    self.office.loop.call_soon(each.lost)


class _Told(asyncio.Future[Any]):
    """What has become of a push: an answer that is there, later in the loop."""


@dataclass(eq=False)
class FakeOffice:
    """The post of a server all of whose workers are this process."""

    loop: asyncio.AbstractEventLoop
    places: list[_Place] = field(default_factory=list)
    spread: int = 0  # how many endpoints were published to

    def endpoint(
        self, receive: Callable[[bytes], bool], lost: Callable[[], None] | None = None
    ) -> Endpoint:
        made = _Place(self, receive, lost)
        self.places.append(made)
        return made

    def push(self, name: str, data: bytes, until: int) -> Any:
        found = [each for each in self.places if each.name == name]
        if not found:
            return self._told(Pushed("not connected"))
        return self._told(Pushed("delivered" if found[-1].receive(data) else "full", "1", 1))

    def publish(self, group: str, data: bytes, until: int) -> Any:
        members = [each for each in self.places if group in each.groups]
        self.spread += len(members)
        return self._told(Published(sum(each.receive(data) for each in members)))

    def who(self, text: str, until: int) -> Any:
        raise NotImplementedError

    def _told(self, answer: object) -> Any:
        told = _Told(loop=asyncio.get_running_loop())
        told.set_result(answer)
        return told


@pytest.fixture(autouse=True)
def channels_own_error(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Exception]]:
    class ChannelFull(Exception):
        """As Channels has it, which is not there to be imported."""

    module = types.ModuleType("channels.exceptions")
    module.ChannelFull = ChannelFull  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "channels", types.ModuleType("channels"))
    monkeypatch.setitem(sys.modules, "channels.exceptions", module)
    yield ChannelFull
    place.office = None


def run(main: Callable[[FakeOffice], Coroutine[Any, Any, None]]) -> None:
    async def served() -> None:
        place.office = office = FakeOffice(asyncio.get_running_loop())
        await asyncio.wait_for(main(office), 10)

    asyncio.run(served())


async def settled() -> None:
    """Let the loop turn until all is done that waits for nothing else."""
    for _ in range(20):
        await asyncio.sleep(0)


async def nothing_comes(layer: Layer, channel: str) -> bool:
    waiting = asyncio.ensure_future(layer.receive(channel))
    await settled()
    waiting.cancel()
    await asyncio.wait((waiting,))
    return waiting.cancelled()


def test_channels_and_groups_of_two_workers() -> None:
    """What is sent comes in its order, to a group once to each member, and to no one else."""

    async def main(office: FakeOffice) -> None:
        one, two = Layer(), Layer()
        mine, other, third = (
            await one.new_channel("chat"),
            await two.new_channel(),
            await two.new_channel(),
        )
        assert len({mine, other, third}) == 3
        for number in range(3):
            await two.send(mine, {"type": "a.b", "n": number, "bytes": b"\xff"})
        got = [await one.receive(mine) for _ in range(3)]
        assert got == [{"type": "a.b", "n": number, "bytes": b"\xff"} for number in range(3)]

        for channel in (mine, other, third):
            await one.group_add("room", channel)  # also where the channel is another worker's
        await two.group_discard("room", third)
        await one.group_discard("none", mine)
        await one.group_send("room", {"type": "hello"})
        assert (await one.receive(mine), await two.receive(other)) == ({"type": "hello"},) * 2
        assert office.spread == 2
        assert await nothing_comes(two, third)
        await two.flush()
        await one.group_send("room", {"type": "again"})
        assert await one.receive(mine) == {"type": "again"}
        assert office.spread == 3

    run(main)


def test_a_channel_of_any_name(channels_own_error: type[Exception]) -> None:
    """Whoever receives on it has what is sent to it; the last who has begun to.

    What was sent before anybody received waits where it was sent, and follows.
    """

    async def main(office: FakeOffice) -> None:
        one, two = Layer(capacity=3), Layer()
        for number in range(3):
            await one.send("thumbnails", {"type": str(number)})
        with pytest.raises(channels_own_error, match="is full"):
            await one.send("thumbnails", {"type": "3"})
        assert await one.receive("thumbnails") == {"type": "0"}
        assert [await two.receive("thumbnails") for _ in "12"] == [{"type": "1"}, {"type": "2"}]
        for receiver in (one, two):
            waiting = asyncio.ensure_future(receiver.receive("thumbnails"))
            await settled()
            await one.send("thumbnails", {"type": "make"})
            assert await waiting == {"type": "make"}

    run(main)


def test_what_is_too_much(channels_own_error: type[Exception]) -> None:
    """A channel that is full is told to the sender; in a group it misses what has no room."""

    async def main(office: FakeOffice) -> None:
        layer = Layer(capacity=3, channel_capacity={"tiny.*": 1})
        plain, tiny = await layer.new_channel(), await layer.new_channel("tiny")
        for channel, most in ((plain, 3), (tiny, 1)):
            for _ in range(most):
                await layer.send(channel, {"type": "x"})
            with pytest.raises(channels_own_error, match="is full"):
                await layer.send(channel, {"type": "x"})
            await layer.group_add("all", channel)
            await layer.receive(channel)
        for number in (1, 2):
            await layer.group_send("all", {"type": str(number)})
        assert await layer.receive(tiny) == {"type": "1"}
        assert await nothing_comes(layer, tiny)
        with pytest.raises(LimitExceeded, match="at most 65536 bytes"):
            await layer.send(plain, {"text": "x" * 70000})
        await layer.group_send("all", {"type": "on"})

    run(main)


def test_what_is_old_or_left_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    """Messages after a minute, and channels whose receive was cancelled, with their groups."""
    now = 1000.0
    monkeypatch.setattr(_channels, "_now", lambda: now)

    async def main(office: FakeOffice) -> None:
        nonlocal now
        layer = Layer()
        left, stays = await layer.new_channel(), await layer.new_channel()
        for channel in (left, stays):
            await layer.group_add("room", channel)
        assert await nothing_comes(layer, left)
        await layer.group_send("room", {"type": "old"})
        now += 59
        await layer.new_channel()
        await layer.group_send("room", {"type": "new"})
        now += 2
        await layer.new_channel()
        assert await layer.receive(stays) == {"type": "new"}
        desk = layer._desk
        assert desk is not None
        assert (desk.has(left), desk.has(stays)) == (False, True)
        assert desk._groups == {"room": {stays}}
        await layer.group_discard("room", stays)
        assert office.places[0].groups == frozenset()

    run(main)


@pytest.mark.parametrize(("age", "there"), [(60.0, True), (60.4, True), (60.6, False)])
def test_a_message_goes_at_the_whole_second_behind_its_time(
    monkeypatch: pytest.MonkeyPatch, age: float, there: bool
) -> None:
    now = 1000.5
    monkeypatch.setattr(_channels, "_now", lambda: now)

    async def main(office: FakeOffice) -> None:
        nonlocal now
        layer = Layer(expiry=60)
        channel = await layer.new_channel()
        await layer.send(channel, {"type": "old"})
        now += age
        await layer.send(channel, {"type": "new"})
        assert (await layer.receive(channel) == {"type": "old"}) == there

    run(main)


@pytest.mark.parametrize("name", ["", "=+135!", "a b", "é", "n" * 100, "a!b!c", 7, None])
def test_names_that_cannot_be(name: Any) -> None:
    """As Channels refuses them, and a channel that is another worker's to receive on."""

    async def main(office: FakeOffice) -> None:
        layer = Layer()
        calls = (
            lambda: layer.send(name, {}),
            lambda: layer.receive(name),
            lambda: layer.group_add("room", name),
            lambda: layer.group_send(name or "!", {}),
        )
        for call in calls:
            with pytest.raises(TypeError, match=r"1 to 99 ASCII letters"):
                await call()
        with pytest.raises(AssertionError, match="another worker's"):
            await layer.receive("specific.0123456789abcdef!x")

    run(main)


def test_from_another_loop_and_outside_of_a_server(tmp_path: Any) -> None:
    """As Django's sync views send, and what cannot be done without a worker says so."""

    async def main(office: FakeOffice) -> None:
        layer = Layer()
        channel = await layer.new_channel()
        thread = threading.Thread(
            target=lambda: asyncio.run(layer.send(channel, {"type": "from a thread"}))
        )
        thread.start()
        await asyncio.to_thread(thread.join)
        assert await layer.receive(channel) == {"type": "from a thread"}
        names: list[str] = []
        thread = threading.Thread(target=lambda: names.append(asyncio.run(layer.new_channel())))
        thread.start()
        await asyncio.to_thread(thread.join)
        await layer.send(names[0], {"type": "x"})
        assert await layer.receive(names[0]) == {"type": "x"}

    run(main)
    place.office = None
    for call in (lambda: Layer().new_channel(), lambda: Layer().group_send("room", {})):
        with pytest.raises(HandlerError, match="a channel layer is for the handlers of a server"):
            asyncio.run(call())
    with pytest.raises(OSError, match="No such file"):
        asyncio.run(Layer(control=tmp_path / "none.sock").group_send("room", {}))
    for prefix in ("", "a b", "x" * 21):
        with pytest.raises(ValueError, match="a prefix is 1 to 20"):
            Layer(prefix=prefix)


def test_what_is_no_message_is_passed_over() -> None:
    """Whoever pushes to a layer's own names ends nothing by it."""

    async def main(office: FakeOffice) -> None:
        layer = Layer()
        channel = await layer.new_channel()
        for data in (b"", b"\xc1", msgspec.msgpack.encode([2, "room", 7])):
            office.push(office.places[0].name, data, 0)
        await layer.send(channel, {"type": "x"})
        assert await layer.receive(channel) == {"type": "x"}

    run(main)
