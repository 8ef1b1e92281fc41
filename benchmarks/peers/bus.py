"""Pushes to connections by name: Socketkeep's own, and by hand over Redis, both in its workers.

A line is a verb and what it is for; any other is echoed, as the greeting is.
"""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections.abc import Awaitable, Callable
from typing import Final

from socketkeep import AsyncConnection, publish, push, resumable

#: Pushes of one worker that are under way at a time.
_AT_ONCE: Final = 64
_TIMES: Final = 20
#: Connections of a worker to Redis, to publish; of 4, 8, 16 and 32 the fastest.
_TO_REDIS: Final = 16

_members: Final[list[AsyncConnection]] = []  # of this worker, for who sends to each by itself

Send = Callable[[str, bytes], Awaitable[object]]


async def own(conn: AsyncConnection) -> None:
    """Push by the server."""
    await _serve(conn, _call, push)


@resumable
async def parked(conn: AsyncConnection) -> None:
    """Be called something, and wait."""
    async for line in conn.lines(keepends=True):
        verb, *words = line.decode().split()
        if verb == "name":
            conn.name = words[0]
            line = b"%d\n" % os.getpid()
        await conn.send(line)
        conn.commit()


async def _call(conn: AsyncConnection, name: str) -> None:
    conn.name = name
    conn.join("all")


async def redis(conn: AsyncConnection) -> None:
    """Push by way of Redis, to one connection of each worker that subscribes for all of its."""
    bus = _Bus.of_this_worker()
    await _serve(conn, bus.call, bus.send)


async def _serve(
    conn: AsyncConnection, call: Callable[[AsyncConnection, str], Awaitable[None]], send: Send
) -> None:
    _members.append(conn)
    async for line in conn.lines(keepends=True):
        verb, *words = line.decode().split()
        answer = line
        if verb == "name":
            await call(conn, words[0])
            answer = b"%d\n" % os.getpid()
        elif verb == "drive":
            number, names, seed = map(int, words)
            await _drive(send, number, names, seed)
        elif verb == "broadcast":
            answer = b"%f %f\n" % await _compare(conn, int(words[0]))
        await conn.send(answer)
    _members.remove(conn)


async def _drive(send: Send, number: int, names: int, seed: int) -> None:
    """Push `number` messages to random names."""
    rng = random.Random(seed)
    data = b"m" * 63 + b"\n"
    room = asyncio.Semaphore(_AT_ONCE)

    async def one() -> None:
        try:
            await send(f"n{rng.randrange(names)}", data)
        finally:
            room.release()

    async with asyncio.TaskGroup() as group:
        for _ in range(number):
            await room.acquire()
            group.create_task(one())


async def _compare(conn: AsyncConnection, members: int) -> tuple[float, float]:
    """Return the seconds of a message to a group, and of as many sends, the least of some."""
    data = b"m" * 63 + b"\n"
    others = [each for each in _members if each is not conn and each.name]
    assert len(others) == members
    by_group, by_send = [], []
    for _ in range(_TIMES):
        began = time.perf_counter()
        done = await publish("all", data)
        by_group.append(time.perf_counter() - began)
        assert done.delivered == members
        began = time.perf_counter()
        for each in others:
            await each.send(data)
        by_send.append(time.perf_counter() - began)
        await asyncio.sleep(0.01)  # the clients read
    return sorted(by_group)[_TIMES // 2], sorted(by_send)[_TIMES // 2]


class _Bus:
    """The connections of one worker to Redis."""

    _here: _Bus | None = None

    def __init__(self) -> None:
        from redis.asyncio import BlockingConnectionPool, Redis, UnixDomainSocketConnection

        path = os.environ["BENCH_REDIS"]
        pool = BlockingConnectionPool(
            max_connections=_TO_REDIS,
            timeout=None,
            connection_class=UnixDomainSocketConnection,
            path=path,
        )
        self._client = Redis(connection_pool=pool)
        self._subscriber = Redis(unix_socket_path=path).pubsub(ignore_subscribe_messages=True)
        self._connections: dict[bytes, AsyncConnection] = {}
        self._task: asyncio.Task[None] | None = None

    @classmethod
    def of_this_worker(cls) -> _Bus:
        if cls._here is None:
            cls._here = cls()
        return cls._here

    async def call(self, conn: AsyncConnection, name: str) -> None:
        self._connections[name.encode()] = conn
        await self._subscriber.subscribe(name)
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._listen())

    async def _listen(self) -> None:
        async for message in self._subscriber.listen():
            await self._connections[message["channel"]].send(message["data"])

    async def send(self, name: str, data: bytes) -> None:
        await self._client.publish(name, data)
