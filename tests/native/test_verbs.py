"""The verbs of an async connection are coroutines, whichever core serves them, and lose no byte."""

from __future__ import annotations

import asyncio
import gc
import inspect
import os
import random
import re
import socket
import sys
import time
import warnings
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any, Final

import anyio
import pytest
import uvloop

from socketkeep import AsyncConnection, Busy, PeerReset, fork
from socketkeep._stream import _shell
from tests.harness.seam import (
    be_handler_of,
    core_in_python,
    leased,
    order_to,
    row_of,
    shared_words,
    without_times,
)
from tests.native.cores import compiled
from tests.native.scripts import Shelf, piece
from tests.native.seeds import seeds
from tests.worker.fakes import make_reactor

_DEADLINE: Final = 10.0
_LOOPS: Final[list[Callable[[], asyncio.AbstractEventLoop]]] = [
    asyncio.new_event_loop,
    uvloop.new_event_loop,
]

pytestmark = pytest.mark.timeout(180)


def on_loops(test: Callable[[], Coroutine[Any, Any, None]]) -> Callable[[], None]:
    """Run a test on asyncio's loop, and on uvloop's."""

    def run() -> None:
        for factory in _LOOPS:
            with asyncio.Runner(loop_factory=factory) as runner:
                runner.run(test())

    return run


@asynccontextmanager
async def connection(**fields: Any) -> AsyncIterator[tuple[AsyncConnection, socket.socket]]:
    """Yield a connection of a worker, and its peer."""
    reactor = make_reactor()
    ours, theirs = socket.socketpair()
    theirs.setblocking(False)
    conn = AsyncConnection(ours, **leased(record=shared_words(), reactor=reactor, **fields))
    try:
        async with asyncio.timeout(_DEADLINE):
            yield conn, theirs
    finally:
        theirs.close()
        await conn.abort()
        reactor.close()


async def waits(conn: AsyncConnection) -> None:
    """Return once a receive waits."""
    while not row_of(conn).waiting:  # noqa: ASYNC110 - a word of shared memory
        await asyncio.sleep(0)


@on_loops
async def test_a_call_is_a_coroutine_to_who_asks() -> None:
    async with connection() as (conn, peer):
        for call in (conn.recv(), conn.send(b"x"), conn.recv_exactly(1), anext(conn.lines())):
            assert asyncio.iscoroutine(call)
            assert inspect.getcoroutinestate(call) != inspect.CORO_SUSPENDED
            call.close()
        call = conn.recv()
        task = asyncio.get_running_loop().create_task(call)
        await waits(conn)
        assert inspect.getcoroutinestate(call) == inspect.CORO_SUSPENDED
        assert "rec" in repr(task)
        assert repr(call).startswith("<coroutine")
        peer.send(b"x")
        assert await task == b"x"
        with pytest.raises(RuntimeError, match="already awaited"):
            await call


@on_loops
async def test_a_call_that_nobody_awaits_is_told_of() -> None:
    async with connection() as (conn, _):
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            del told[:]
            conn.recv()  # type: ignore[unused-coroutine]
            conn.send(b"x")  # type: ignore[unused-coroutine]
            gc.collect()
        texts = [str(each.message) for each in told]
        assert len(texts) == 2
        assert all(re.fullmatch("coroutine '.*' was never awaited", text) for text in texts)


@on_loops
async def test_it_can_be_driven_by_hand() -> None:
    async with connection() as (conn, peer):
        call = conn.recv()
        assert call.send(None) is conn._waiter
        peer.send(b"x")
        with pytest.raises(StopIteration) as stop:
            call.send(None)
        assert stop.value.value == b"x"
        call = conn.recv()
        call.send(None)
        with pytest.raises(Busy):
            await conn.recv()
        with pytest.raises(KeyError, match="thrown"):
            call.throw(KeyError("thrown"))
        assert not conn._waiter.claimed
        assert not conn._waiter.pending
        assert not row_of(conn).waiting
        call = conn.recv()
        call.send(None)
        call.close()
        peer.send(b"y")
        assert await conn.recv() == b"y"


async def _abandons(conn: AsyncConnection, peer: socket.socket, how: str) -> None:
    """Have a receive of three bytes end, in some way, after two have come."""
    peer.send(b"ab")
    if how == "cancel":
        task = asyncio.ensure_future(conn.recv_exactly(3))
        await waits(conn)
        task.cancel("enough")
        with pytest.raises(asyncio.CancelledError, match="enough"):
            await task
    elif how == "timeout":
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await conn.recv_exactly(3)
    elif how == "wait_for":
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(conn.recv_exactly(3), 0.01)
    elif how == "group":

        async def fails() -> None:
            await waits(conn)
            raise KeyError

        with pytest.raises(ExceptionGroup):  # noqa: PT012 - the group's end raises it
            async with asyncio.TaskGroup() as group:
                group.create_task(conn.recv_exactly(3))
                group.create_task(fails())
    elif how == "anyio":
        with anyio.move_on_after(0.01) as scope:
            await conn.recv_exactly(3)
        assert scope.cancelled_caught
    else:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(conn.recv_exactly, 3)
            await waits(conn)
            tasks.cancel_scope.cancel()


@pytest.mark.parametrize("how", ["cancel", "timeout", "wait_for", "group", "anyio", "anyio group"])
def test_who_gives_up_loses_no_byte(how: str) -> None:
    async def scenario() -> None:
        async with connection() as (conn, peer):
            for _ in range(3):
                await _abandons(conn, peer, how)
                assert not row_of(conn).waiting
                peer.send(b"c")
                assert await conn.recv_exactly(3) == b"abc"
            task = asyncio.ensure_future(conn.recv())
            await waits(conn)
            peer.send(b"d")
            task.cancel()  # the bytes are there already
            with pytest.raises(asyncio.CancelledError):
                await task
            assert await conn.recv() == b"d"

    on_loops(scenario)()


@on_loops
async def test_a_cancelled_send_has_sent_nothing_before_its_turn() -> None:
    async with connection() as (conn, peer):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(conn.send, b"first")
        task = asyncio.ensure_future(conn.send(b"never"))
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await conn.send(b"second")
        assert peer.recv(100) == b"firstsecond"
        peer.close()
        with pytest.raises(ConnectionError, match=r"^send to .* failed: the peer") as caught:
            await conn.send(b"x")
        assert isinstance(caught.value.__cause__, OSError)


@on_loops
async def test_what_the_kernel_does_not_take_follows() -> None:
    async with connection() as (conn, peer):
        data = bytes(range(256)) * 20_000
        task = asyncio.ensure_future(conn.send(data))
        got = b""
        while len(got) < len(data):
            got += await asyncio.get_running_loop().sock_recv(peer, 1 << 20)
        await task
        assert got == data


@on_loops
async def test_a_task_that_is_dropped_while_it_waits_lets_go_of_all() -> None:
    async with connection() as (conn, peer):
        before = 0
        for _ in range(3):  # the first may leave something made once
            call = conn.recv()
            call.send(None)
            del call
            before, held = sys.getrefcount(conn), before
        assert before == held
        peer.send(b"x")
        assert await conn.recv() == b"x"


@pytest.mark.parametrize("loop", _LOOPS)
def test_a_child_forked_while_another_task_waits(
    loop: Callable[[], asyncio.AbstractEventLoop],
) -> None:
    """The child goes on with a connection on a loop of its own; the parent's wait is its own."""

    async def scenario() -> int:
        ours, theirs = socket.socketpair()
        given, its_peer = socket.socketpair()
        theirs.setblocking(False)
        conn, goes = AsyncConnection(ours), AsyncConnection(given)
        task = asyncio.ensure_future(conn.recv())
        await waits(conn)
        pid = fork([goes])
        if not pid:
            return await _child(goes)
        its_peer.send(b"to the child")
        async with asyncio.timeout(_DEADLINE):
            _, status = await asyncio.to_thread(os.waitpid, pid, 0)
            assert os.waitstatus_to_exitcode(status) == 0
            assert its_peer.recv(100) == b"to the child"
            theirs.send(b"to the parent")
            assert await task == b"to the parent"
        await conn.abort()
        theirs.close()
        its_peer.close()
        return 0

    with asyncio.Runner(loop_factory=loop) as runner:
        runner.run(scenario())


async def _child(conn: AsyncConnection) -> int:
    """Echo once, on another loop, and end the process."""
    import threading

    async def serve() -> None:
        await conn.send(await conn.recv())

    codes: list[int] = []

    def run() -> None:
        try:
            asyncio.run(asyncio.wait_for(serve(), _DEADLINE))
            codes.append(0)
        except BaseException:
            codes.append(1)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    os._exit(codes[0])


# Equal traces.


class Side:
    """A connection on one of the cores, and its peer."""

    def __init__(self, fields: dict[str, Any], reactor: Any) -> None:
        self.mine, self.peer = socket.socketpair()
        self.peer.setblocking(False)
        self.mine.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 8192)
        self.shelf = Shelf()
        shelf = self.shelf if fields["resumable"] else None
        self.conn = AsyncConnection(
            self.mine, **leased(record=shared_words(), shelf=shelf, reactor=reactor, **fields)
        )
        self.lines = self.conn.lines(64, commit=fields["resumable"])
        self.tasks: list[asyncio.Future[Any]] = []
        self.told: list[str] = []

    def begin(self, verb: Callable[..., Any], *given: Any, **named: Any) -> None:
        async def run() -> None:
            be_handler_of(self.conn)
            try:
                self.told.append(repr(await verb(*given, **named)))
            except BaseException as error:
                self.told.append(f"{type(error).__name__}: {str(error).partition(' from ')[0]}")

        self.tasks.append(asyncio.ensure_future(run()))

    def act(self, step: int, drawn: random.Random) -> None:
        conn = self.conn
        match step:
            case 0 | 1 | 2 | 3:
                try:
                    self.peer.send(piece(drawn) or b"x")
                except OSError as error:
                    self.told.append(type(error).__name__)
            case 4 | 5:
                self.begin(conn.recv, drawn.choice((1, 10, 65536)))
            case 6:
                self.begin(conn.recv_exactly, drawn.choice((0, 3, 90000)))
            case 7 | 8:
                self.begin(anext, self.lines)
            case 9:
                self.begin(conn.recv_until, b"ab", 40)
            case 10:
                self.begin(conn.recv, 5, timeout=0)
            case 11 | 12:
                self.begin(conn.send, piece(drawn))
            case 13:
                try:
                    conn.commit(drawn.randrange(5))
                except OSError as error:  # it sends what is gathered
                    self.told.append(type(error).__name__)
            case 14 | 15:
                if self.tasks:
                    self.tasks[-1].cancel()
            case 16:
                try:
                    self.peer.recv(drawn.choice((10, 70000)))
                except OSError as error:
                    self.told.append(type(error).__name__)
            case 17 if drawn.random() < 0.1 and self.peer.fileno() >= 0:
                self.peer.shutdown(socket.SHUT_WR)
            case 18 if drawn.random() < 0.1:
                self.peer.close()
            case 19 if drawn.random() < 0.1:
                conn.ask(order_to(drawn.choice(("move", "close", "finish")), float("inf")))
            case 20 if drawn.random() < 0.1:
                self.begin(conn.close, linger=0)
            case 21 if drawn.random() < 0.5:
                conn.gather()

    def left(self) -> object:
        conn = self.conn
        waiter = conn._waiter
        return (
            *(
                self.told,
                without_times(conn.core.record),
                conn.unread,
                conn.core.life.state,
                self.shelf.states,
            ),
            *(waiter.claimed, waiter.pending, conn._gathered),
        )


async def _settled(sides: list[Side]) -> list[object]:
    """Return what is left on each side, once it is equal, or the deadline is over.

    A timer that both have, for records that are behind or an end that lingers, may be due between
    two looks.
    """
    deadline = time.monotonic() + _DEADLINE
    while True:
        for _ in range(5):
            await asyncio.sleep(0)
        left = [side.left() for side in sides]
        if left[0] == left[1] or time.monotonic() > deadline:
            return left


async def _script(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = random.Random(seed)
    fields = {"resumable": drawn.random() < 0.5, "unread": drawn.choice((b"", b"", b"ab\nb"))}
    reactor = make_reactor() if drawn.random() < 0.7 else None
    sides = [Side(fields, reactor)]
    with monkeypatch.context() as patched:
        patched.setattr(
            *(_shell, "core_of"),
            lambda sock, lease, hooks: core_in_python(sock, {"lease": lease, "hooks": hooks}),
        )
        sides.append(Side(fields, reactor))
    assert compiled is None or isinstance(sides[0].conn.core, compiled.FastCore)
    try:
        for number in range(50):
            step, own = drawn.randrange(22), drawn.getrandbits(48)
            for side in sides:
                side.act(step, random.Random(own))
            for _ in range(drawn.choice((0, 1, 5, 5))):
                await asyncio.sleep(0)
            if number % 5 == 4:
                mine, other = await _settled(sides)
                assert mine == other, f"seed {seed}, step {number}: {step} ({fields})"
    finally:
        for side in sides:
            for task in side.tasks:
                task.cancel()
            await asyncio.gather(*side.tasks, return_exceptions=True)
            await side.conn.abort()
            side.mine.close()  # where it was detached
            side.peer.close()
        if reactor is not None:
            reactor.close()


@pytest.mark.parametrize("loop", _LOOPS)
def test_both_cores_give_equal_traces(
    loop: Callable[[], asyncio.AbstractEventLoop], monkeypatch: pytest.MonkeyPatch
) -> None:
    with asyncio.Runner(loop_factory=loop) as runner:
        for seed in seeds():
            runner.run(_script(seed, monkeypatch))


@on_loops
async def test_a_reset_is_told_of_as_such() -> None:
    reactor = make_reactor()
    with socket.create_server(("127.0.0.1", 0)) as server:
        peer = socket.create_connection(server.getsockname())
        ours, _ = server.accept()
    conn = AsyncConnection(ours, **leased(reactor=reactor))
    task = asyncio.ensure_future(conn.recv())
    await asyncio.sleep(0)
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    peer.close()
    async with asyncio.timeout(_DEADLINE):
        with pytest.raises(PeerReset):
            await task
    await conn.abort()
    reactor.close()
