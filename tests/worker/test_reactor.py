"""The async worker's own epoll: who is called, and who is not any more."""

from __future__ import annotations

import asyncio
import functools
import os
import socket
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import uvloop

from socketkeep import AsyncConnection
from tests.harness.seam import leased
from tests.worker.fakes import make_reactor

_DEADLINE = 10.0


def on_loops(test: Callable[[], Coroutine[Any, Any, None]]) -> Callable[[], None]:
    """Run a test on asyncio's loop, and on uvloop's."""

    @functools.wraps(test)
    def run() -> None:
        for factory in (asyncio.new_event_loop, uvloop.new_event_loop):
            with asyncio.Runner(loop_factory=factory) as runner:
                runner.run(test())

    return run


def _never() -> None:
    raise AssertionError("called, though another has its place")


class _Reader:
    """Has a function called."""

    def __init__(self, called: Callable[[], None]) -> None:
        self._called = called

    def _on_readable(self) -> None:
        self._called()


def _take(sock: socket.socket, called: asyncio.Event) -> None:
    sock.recv(100)
    called.set()


@asynccontextmanager
async def _pairs(
    count: int,
) -> AsyncIterator[tuple[Any, list[tuple[socket.socket, socket.socket]]]]:
    reactor = make_reactor()
    pairs = [socket.socketpair() for _ in range(count)]
    try:
        yield reactor, pairs
    finally:
        for ours, theirs in pairs:
            reactor.remove_reader(ours.fileno())
            ours.close()
            theirs.close()
        reactor.close()


@on_loops
async def test_each_that_is_readable_is_called_until_it_is_read() -> None:
    async with _pairs(3) as (reactor, pairs):
        called: list[int] = []
        enough = asyncio.Event()

        def note(number: int) -> None:
            called.append(number)
            if called.count(number) == 2:
                pairs[number][0].recv(100)
                if number == 2:
                    enough.set()

        for number, (ours, _) in enumerate(pairs):
            reactor.add_reader(ours.fileno(), _Reader(functools.partial(note, number)))
        for number in (0, 2):
            pairs[number][1].send(b"x")
        async with asyncio.timeout(_DEADLINE):
            await enough.wait()
        assert sorted(called) == [0, 0, 2, 2]


@on_loops
async def test_one_that_another_has_taken_out_meanwhile_is_not_called() -> None:
    async with _pairs(2) as (reactor, pairs):
        called: list[int] = []
        first_done = asyncio.Event()

        def end_the_other(number: int) -> None:
            called.append(number)
            reactor.remove_reader(pairs[1 - number][0].fileno())
            pairs[number][0].recv(100)
            first_done.set()

        for number, (ours, _) in enumerate(pairs):
            reactor.add_reader(ours.fileno(), _Reader(functools.partial(end_the_other, number)))
        for _, theirs in pairs:
            theirs.send(b"x")
        async with asyncio.timeout(_DEADLINE):
            await first_done.wait()
        await asyncio.sleep(0)
        assert len(called) == 1


@on_loops
async def test_a_callback_takes_the_place_of_the_one_before() -> None:
    async with _pairs(1) as (reactor, [(ours, theirs)]):
        called = asyncio.Event()
        reactor.add_reader(ours.fileno(), _Reader(_never))
        reactor.add_reader(ours.fileno(), _Reader(functools.partial(_take, ours, called)))
        theirs.send(b"x")
        async with asyncio.timeout(_DEADLINE):
            await called.wait()


@on_loops
async def test_a_number_that_was_closed_under_it_can_be_taken_out_and_watched_again() -> None:
    async with _pairs(2) as (reactor, [(ours, _), (other, theirs)]):
        fd = ours.fileno()
        reactor.add_reader(fd, _Reader(_never))
        ours.close()
        reactor.remove_reader(fd)
        called = asyncio.Event()
        os.dup2(other.fileno(), fd)
        try:
            reactor.add_reader(fd, _Reader(functools.partial(_take, other, called)))
            theirs.send(b"x")
            async with asyncio.timeout(_DEADLINE):
                await called.wait()
            reactor.remove_reader(fd)
        finally:
            os.close(fd)


class _Record:
    """What is behind, and says when it has been shown."""

    def __init__(self) -> None:
        self.shown = asyncio.Event()

    def _show(self) -> None:
        self.shown.set()


@on_loops
async def test_a_connection_waits_at_the_reactor_and_leaves_it_at_its_end() -> None:
    async with _pairs(1) as (reactor, [(ours, theirs)]):
        conn = AsyncConnection(ours, **leased(reactor=reactor))
        waiting = asyncio.ensure_future(conn.recv())
        await asyncio.sleep(0)
        assert list(reactor._readers) == [ours.fileno()]
        theirs.send(b"hello")
        async with asyncio.timeout(_DEADLINE):
            assert await waiting == b"hello"
            await conn.send(b"you")
            assert theirs.recv(10) == b"you"
            theirs.shutdown(socket.SHUT_WR)
            assert await conn.recv() == b""
            await conn.close()
        assert not reactor._readers
