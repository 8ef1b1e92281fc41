"""A layer of Django Channels, made of groups and pushes: no broker, and no connection to one.

Each worker has one endpoint, to which its channels' messages are pushed; in which of its channels a
message belongs stands in the message.  Groups of a layer are too many to be the server's own, so
they share a fixed number of those: a message goes once to each worker that has a member in one of
the same share, and is given there to the members.
"""

from __future__ import annotations

import asyncio
import importlib
import os
import re
import time
import zlib
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from secrets import token_hex
from typing import Any, Final, TypeVar

import msgspec

from socketkeep._base import _log
from socketkeep._base._errors import Busy, HandlerError
from socketkeep._names._client import Client
from socketkeep._names._naming import check_message
from socketkeep._names._pushing import PATIENCE, Endpoint, Office, office_for, place

T = TypeVar("T")

#: How many of the server's groups those of a layer share; a connection, and an endpoint, has 64.
_SHARES: Final = 48
_LONGEST_NAME: Final = 99  # Channels has names of less than 100 characters
_LONGEST_PREFIX: Final = 20
_NAME: Final = re.compile(r"[A-Za-z0-9_.-]+")
#: Seconds that a channel stays whose receive was cancelled: its consumer has most likely ended.
_STAYS: Final = 60.0

# What a message is for, as it is pushed.
_SEND: Final = 0
_GROUP: Final = 1
_JOIN: Final = 2
_LEAVE: Final = 3
_PROBE: Final = 4

_now: Callable[[], float] = time.monotonic

_DECODER: Final = msgspec.msgpack.Decoder(tuple[int, str, msgspec.Raw])


class Layer:
    """A channel layer of the server that the application runs in.

    In Django's settings::

        CHANNEL_LAYERS = {"default": {"BACKEND": "socketkeep.channels.Layer"}}

    A message is at most 64 KiB, and comes at most once: what waits in a worker that ends is lost.
    To a channel of any name, which nobody receives on yet, it waits in the worker that has sent it.

    Args:
        control: The path of the server's control socket; with it other programs on the machine, a
            command of Django's or a task queue, may send to channels and groups, too.
        prefix: The beginning of the names that it uses at the server; layers of different prefixes
            know nothing of each other.
        capacity: The messages that may wait for a channel, as Channels has it.  One that is too
            much raises ChannelFull, of a group it is left out.
        channel_capacity: The capacity of channels by their names, as Channels has it.
        expiry: Seconds for which a message waits, as Channels has it.
        group_expiry: Seconds for which a channel stays in a group, as Channels has it.
    """

    extensions: Final = ("groups", "flush")

    def __init__(
        self,
        *,
        control: str | os.PathLike[str] = "",
        prefix: str = "channels",
        capacity: int = 100,
        channel_capacity: Mapping[str, int] | None = None,
        expiry: float = 60,
        group_expiry: float = 86400,
    ) -> None:
        if _NAME.fullmatch(prefix) is None or len(prefix) > _LONGEST_PREFIX:
            raise ValueError(
                f"a prefix is 1 to {_LONGEST_PREFIX} letters, digits or ._-, not {prefix!r}"
            )
        self.expiry: float = expiry
        self.group_expiry: float = group_expiry
        self.capacity: int = capacity
        self.channel_capacity: dict[str, int] = dict(channel_capacity or {})
        self._prefix = prefix
        self._client = Client(control) if control else None
        self._desk: _Desk | None = None

    async def new_channel(self, prefix: str = "specific") -> str:
        """Return the name of a new channel of this worker's.

        Args:
            prefix: The beginning of the name.

        Raises:
            HandlerError: This is no worker of a server.
        """

        async def new() -> str:
            return (await self._open()).new_channel(prefix)

        return await self._at_home(new)

    async def send(self, channel: str, message: Mapping[str, Any]) -> None:
        """Have whoever receives on a `channel` have a `message`.

        Raises:
            ChannelFull: Too many wait for it already.
        """
        name, data = self._address(channel), self._pack(_SEND, channel, message)
        outcome = await self._push(name, data)
        if outcome == "not connected" and "!" not in channel and place.office is not None:

            async def held() -> None:
                await (await self._open()).hold(channel)

            await self._at_home(held)
            outcome = await self._push(name, data)
        if outcome == "full":
            raise _channel_full(f"the channel {channel} is full")

    async def receive(self, channel: str) -> dict[str, Any]:
        """Return the next message of a `channel`: of a worker's own, or of any name."""
        self._address(channel)

        async def received() -> dict[str, Any]:
            return await (await self._open()).receive(channel)

        return await self._at_home(received)

    async def group_add(self, group: str, channel: str) -> None:
        """Have a `channel` be in a `group`, in whichever worker it is."""
        await self._join_or_leave(_JOIN, group, channel)

    async def group_discard(self, group: str, channel: str) -> None:
        """Have a `channel` not be in a `group`."""
        await self._join_or_leave(_LEAVE, group, channel)

    async def group_send(self, group: str, message: Mapping[str, Any]) -> None:
        """Have each channel of a `group` have a `message`, but for those that are full."""
        data = self._pack(_GROUP, _checked("group", group), message)
        await self._publish(self._share_of(group), data)

    async def flush(self) -> None:
        """Forget the channels and groups of this worker."""
        if self._desk is None:
            return

        async def flushed() -> None:
            (await self._open()).flush()

        await self._at_home(flushed)

    # Where it lives.

    async def _at_home(self, do: Callable[[], Awaitable[T]]) -> T:
        """Do it in the worker's loop, whichever loop this is."""
        loop = office_for("a channel layer").loop
        if loop is None:
            raise HandlerError("refused: a channel layer is for async workers: give -k async")
        if loop is asyncio.get_running_loop():
            return await do()

        async def done() -> T:
            return await do()

        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(done(), loop))

    async def _open(self) -> _Desk:
        """Return this worker's desk; in its loop."""
        desk = self._desk
        if desk is None or desk.pid != os.getpid():
            desk = self._desk = _Desk(self, office_for("a channel layer"))
        await desk.opened()
        return desk

    async def _push(self, name: str, data: bytes) -> str:
        check_message(data)
        if place.office is None and self._client is not None:
            return (await asyncio.to_thread(self._client.push, name, data)).outcome
        return (await office_for("a channel layer").push(name, data, _until())).outcome

    async def _publish(self, group: str, data: bytes) -> None:
        check_message(data)
        if place.office is None and self._client is not None:
            await asyncio.to_thread(self._client.publish, group, data)
        else:
            await office_for("a channel layer").publish(group, data, _until())

    async def _join_or_leave(self, what: int, group: str, channel: str) -> None:
        name, data = self._address(channel), self._pack(what, _checked("group", group), channel)
        desk = self._desk
        if desk is None or desk.pid != os.getpid() or not desk.has(channel):
            await self._push(name, data)  # another worker's
            return

        async def joined() -> None:
            await (await self._open()).join_or_leave(what, group, channel)

        await self._at_home(joined)

    # Names.

    def _address(self, channel: str) -> str:
        """Return the name at the server of who receives on a channel.  Raises TypeError."""
        _checked("channel", channel, "!")
        before, mark, _ = channel.partition("!")
        return self.desk_name(before.rpartition(".")[2]) if mark else f"{self._prefix} {channel}"

    def desk_name(self, client: str) -> str:
        return f"{self._prefix} desk {client}"

    def _share_of(self, group: str) -> str:
        return f"{self._prefix} {zlib.crc32(group.encode()) % _SHARES}"

    def shares_of(self, groups: Mapping[str, object]) -> frozenset[str]:
        return frozenset(map(self._share_of, groups))

    def _pack(self, what: int, to: str, message: object) -> bytes:
        return msgspec.msgpack.encode((what, to, message))

    def capacity_of(self, channel: str) -> int:
        """Return how many messages may wait for a channel.  For the library."""
        for pattern, most in self.channel_capacity.items():
            if _matches(pattern, channel):
                return most
        return self.capacity


class _Channel:
    """The messages of one channel, and who is in it."""

    __slots__ = ("groups", "messages", "receivers", "until")

    def __init__(self, capacity: int) -> None:
        self.messages: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(capacity)
        self.groups: set[str] = set()
        self.receivers = 0
        self.until = float("inf")  # when it is forgotten, if nobody has received


class _Desk:
    """A layer in one worker: its channels, and what is pushed to them."""

    def __init__(self, layer: Layer, office: Office) -> None:
        self.pid: Final = os.getpid()
        self._client = token_hex(8)
        self._layer = layer
        self._office = office
        self._channels: dict[str, _Channel] = {}
        self._groups: dict[str, set[str]] = {}
        self._shares: frozenset[str] = frozenset()
        self._endpoint = office.endpoint(self._take)
        self._general: dict[str, Endpoint] = {}  # of channels that are of no worker
        self._open: asyncio.Task[None] | None = None
        self._look_at = 0.0
        self._throttle = _log.Throttle()

    async def opened(self) -> None:
        """Wait until the server knows it."""
        if self._open is None:
            self._endpoint.call(self._layer.desk_name(self._client), frozenset())
            self._open = asyncio.get_running_loop().create_task(self._known())
        await asyncio.shield(self._open)

    async def _known(self) -> None:
        """Wait until what has been said so far is known to all: it goes the same way."""
        probe = msgspec.msgpack.encode((_PROBE, "", None))
        await self._office.push(self._layer.desk_name(self._client), probe, _until())

    # Channels.

    def has(self, channel: str) -> bool:
        return channel in self._channels

    def new_channel(self, prefix: str) -> str:
        self._forget_left()
        name = f"{prefix}.{self._client}!{token_hex(12)}"
        self._layer._address(name)
        self._enter(name).until = _now() + self._layer.group_expiry
        return name

    def _enter(self, name: str) -> _Channel:
        channel = self._channels[name] = _Channel(self._layer.capacity_of(name))
        return channel

    async def hold(self, name: str) -> None:
        """Have what is sent to a channel that nobody receives on wait here.  Raises ChannelFull."""
        self._forget_left()
        if name not in self._general:
            try:
                channel = await self._begin_to_receive(name)
            except Busy as error:
                raise _channel_full(str(error)) from error
            channel.until = _now() + self._layer.expiry

    async def receive(self, name: str) -> dict[str, Any]:
        channel = self._channels.get(name)
        if channel is None or ("!" not in name and name not in self._general):
            channel = await self._begin_to_receive(name)
        channel.receivers += 1
        left = True
        try:
            while True:
                at, data = await channel.messages.get()
                # By whole seconds, as channels_redis counts them: none goes before its time.
                if int(_now()) < at + self._layer.expiry:
                    break
            left = False
        finally:
            channel.receivers -= 1
            stays = min(_STAYS, self._layer.group_expiry) if left else self._layer.group_expiry
            channel.until = _now() + stays
        message: dict[str, Any] = msgspec.msgpack.decode(data)
        return message

    async def _begin_to_receive(self, name: str) -> _Channel:
        before, mark, _ = name.partition("!")
        if mark and before.rpartition(".")[2] != self._client:
            raise AssertionError(f"the channel {name} is another worker's: only that one receives")
        if not mark:
            endpoint = self._office.endpoint(self._take, partial(self._lose, name))
            endpoint.call(self._layer._address(name), frozenset())
            self._general[name] = endpoint
        channel = self._channels.get(name) or self._enter(name)
        if not mark:
            await self._known()
        return channel

    def _lose(self, name: str) -> None:
        """Another worker receives on a channel of any name: what waits is for it."""
        self._general.pop(name, None)
        channel = self._channels.get(name)
        while channel is not None and not channel.messages.empty():
            _, data = channel.messages.get_nowait()
            packed = self._layer._pack(_SEND, name, msgspec.Raw(data))
            self._office.push(self._layer._address(name), packed, _until())

    def _forget_left(self) -> None:
        """Forget channels on which nobody has received for long."""
        now = _now()
        if now < self._look_at:
            return
        self._look_at = now + _STAYS
        for name, channel in tuple(self._channels.items()):
            if not channel.receivers and channel.until <= now:
                for group in tuple(channel.groups):
                    self._leave(group, name)
                del self._channels[name]
                self._close_general(name)
        self._show_groups()

    def _close_general(self, name: str) -> None:
        endpoint = self._general.pop(name, None)
        if endpoint is not None:
            endpoint.call("", frozenset())

    def flush(self) -> None:
        self._groups.clear()
        for name in tuple(self._general):
            self._close_general(name)
        self._channels.clear()
        self._show_groups()

    # Groups.

    async def join_or_leave(self, what: int, group: str, channel: str) -> None:
        if self._change(what, group, channel):
            await self._known()

    def _change(self, what: int, group: str, channel: str) -> bool:
        """Have a channel join or leave; return whether the server was told something."""
        if channel not in self._channels:
            return False
        if what == _JOIN:
            self._groups.setdefault(group, set()).add(channel)
            self._channels[channel].groups.add(group)
        else:
            self._leave(group, channel)
        return self._show_groups()

    def _leave(self, group: str, channel: str) -> None:
        members = self._groups.get(group, set())
        members.discard(channel)
        if not members:
            self._groups.pop(group, None)
        self._channels[channel].groups.discard(group)

    def _show_groups(self) -> bool:
        shares = self._layer.shares_of(self._groups)
        if shares == self._shares:
            return False
        self._shares = shares
        self._endpoint.call(self._layer.desk_name(self._client), shares)
        return True

    # What is pushed.

    def _take(self, data: bytes) -> bool:
        try:
            return self._take_in(data)
        except msgspec.DecodeError as error:
            self._throttle.warning("pushed to a layer, and no message", error=str(error))
            return True

    def _take_in(self, data: bytes) -> bool:
        what, to, raw = _DECODER.decode(data)
        if what == _SEND:
            channel = self._channels.get(to)
            return channel is None or _put(channel, bytes(raw))
        if what == _GROUP:
            self._take_for_group(to, bytes(raw))
        elif what in (_JOIN, _LEAVE):
            self._change(what, to, msgspec.msgpack.decode(raw, type=str))
        return True

    def _take_for_group(self, group: str, data: bytes) -> None:
        members = self._groups.get(group, ())
        full = sum(not _put(self._channels[each], data) for each in members)
        if full:
            self._throttle.warning(
                "channels of a group are full",
                group=group,
                full=full,
                members=len(members),
            )


def _put(channel: _Channel, data: bytes) -> bool:
    try:
        channel.messages.put_nowait((_now(), data))
    except asyncio.QueueFull:
        return False
    return True


def _checked(what: str, name: object, more: str = "") -> str:
    """Return a name of Channels'.  Raises TypeError."""
    if isinstance(name, str) and 0 < len(name) <= _LONGEST_NAME:
        before, mark, after = name.partition(more) if more else (name, "", "")
        if _NAME.fullmatch(before) and (not mark or _NAME.fullmatch(after)):
            return name
    raise TypeError(
        f"a {what} has 1 to {_LONGEST_NAME} ASCII letters, digits, hyphens, underscores or periods,"
        f" and this is {name!r}"
    )


def _matches(pattern: object, channel: str) -> bool:
    """Return whether a channel has the capacity of a pattern.

    A pattern is as Channels has it, with * and ?, or compiled.
    """
    if isinstance(pattern, re.Pattern):
        return pattern.match(channel) is not None
    from fnmatch import fnmatchcase

    return fnmatchcase(channel, str(pattern))


def _channel_full(text: str) -> Exception:
    """Return what Channels' own code catches."""
    error: Exception = importlib.import_module("channels.exceptions").ChannelFull(text)
    return error


def _until() -> int:
    return time.monotonic_ns() + int(PATIENCE * 1e9)
