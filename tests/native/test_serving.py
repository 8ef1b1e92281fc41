"""The coroutine of a connection's task, with both cores."""

from __future__ import annotations

import asyncio
import gc
import sys
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any
from weakref import ref

import pytest

from socketkeep._worker._handler_runner import HandlerRunner
from tests.native.cores import on_both

pytestmark = on_both("make", HandlerRunner, "HandlerRunner")

Make = Callable[..., Any]
handled: ContextVar[object] = ContextVar("handled", default=None)


class Ends:
    """Notes what it is told of the ends; `rest` makes what is awaited then."""

    def __init__(self, rest: Callable[[], Any] | None = None) -> None:
        self.told: list[object] = []
        self.rest = rest

    def __call__(self, entry: object, conn: object, error: BaseException | None) -> Any:
        assert sys.exception() is error
        self.told.append((entry, conn, type(error)))
        return None if self.rest is None else self.rest()


def run(make: Make, call: Callable[[Any], Any], ends: Ends) -> None:
    async def body() -> None:
        await asyncio.create_task(make(handled, call, ends).serve("entry", "conn"))
        assert handled.get() is None, "it is the task's"

    asyncio.run(body())


def test_the_handler_is_awaited_and_then_the_end(make: Make) -> None:
    steps: list[object] = []

    async def call(conn: object) -> str:
        steps.append((conn, handled.get()))
        await asyncio.sleep(0)
        return "nobody asks for it"

    async def rest() -> None:
        steps.append("rest")
        await asyncio.sleep(0)
        steps.append("done")

    ends = Ends(rest)
    run(make, call, ends)
    assert ends.told == [("entry", "conn", type(None))]
    assert steps == [("conn", "conn"), "rest", "done"]


def test_what_it_raises_is_told(make: Make) -> None:
    async def late(_: object) -> None:
        await asyncio.sleep(0)
        raise KeyError

    def at_once(_: object) -> None:
        raise LookupError

    def nothing(_: object) -> int:
        return 7

    for call, error in ((late, KeyError), (at_once, LookupError), (nothing, TypeError)):
        ends = Ends()
        run(make, call, ends)
        assert ends.told == [("entry", "conn", error)]


def test_another_awaitable_is_awaited_too(make: Make) -> None:
    ends = Ends()
    run(make, lambda _: asyncio.sleep(0), ends)
    run(make, lambda _: asyncio.ensure_future(asyncio.sleep(0)), ends)
    assert ends.told == [("entry", "conn", type(None))] * 2


def test_an_error_of_the_end_is_the_tasks(make: Make) -> None:
    async def call(_: object) -> None: ...

    async def rest() -> None:
        await asyncio.sleep(0)
        raise ZeroDivisionError

    def at_once() -> None:
        raise OverflowError

    with pytest.raises(ZeroDivisionError):
        run(make, call, Ends(rest))
    with pytest.raises(OverflowError):
        run(make, call, Ends(at_once))


@pytest.mark.parametrize("swallowed", [False, True])
def test_a_cancellation_goes_to_who_waits(make: Make, swallowed: bool) -> None:
    async def call(_: object) -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            if not swallowed:
                raise

    async def body() -> None:
        ends = Ends()
        task = asyncio.create_task(make(handled, call, ends).serve("entry", "conn"))
        await asyncio.sleep(0)
        task.cancel()
        await task
        error = type(None) if swallowed else asyncio.CancelledError
        assert ends.told == [("entry", "conn", error)]

    asyncio.run(body())


def test_a_cancellation_of_the_end_is_the_tasks(make: Make) -> None:
    async def call(_: object) -> None: ...
    async def rest() -> None:
        await asyncio.Event().wait()

    async def body() -> None:
        task = asyncio.create_task(make(handled, call, Ends(rest)).serve("entry", "conn"))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(body())


def test_it_is_a_coroutine_as_others_are(make: Make) -> None:
    async def call(_: object) -> None:
        await asyncio.sleep(0)
        with pytest.raises(ValueError, match="already executing"):
            made.send(None)
        with pytest.raises(ValueError, match="already executing"):
            made.throw(KeyError())

    ends = Ends()
    made = make(handled, call, ends).serve("entry", "conn")
    assert asyncio.iscoroutine(made)
    made.send(None)
    with pytest.raises(StopIteration):
        made.send(None)
    assert ends.told == [("entry", "conn", type(None))]
    with pytest.raises(RuntimeError, match="cannot reuse already awaited coroutine"):
        made.send(None)
    with pytest.raises(RuntimeError, match="cannot reuse already awaited coroutine"):
        made.throw(KeyError())
    made.close()
    handled.set(None)


def test_thrown_into_before_its_first_step_it_has_not_been(make: Make) -> None:
    async def call(_: object) -> None: ...

    ends = Ends()
    made = make(handled, call, ends).serve("entry", "conn")
    with pytest.raises(KeyError):
        made.throw(KeyError("text"))
    with pytest.raises(RuntimeError, match="cannot reuse already awaited coroutine"):
        made.send(None)
    assert ends.told == []


def test_closed_it_lets_go(make: Make) -> None:
    class Conn: ...

    conn, left = Conn(), []

    async def call(_: object) -> None:
        try:
            await asyncio.sleep(0)
        finally:
            left.append("left")

    made = make(handled, call, Ends(None)).serve("entry", conn)
    made.send(None)
    handled.set(None)
    seen = ref(conn)
    del conn, made
    gc.collect()
    assert seen() is None
    assert left == ["left"]


def test_what_is_thrown_is_an_exception(make: Make) -> None:
    async def call(_: object) -> None:
        await asyncio.sleep(0)

    ends = Ends()
    made = make(handled, call, ends).serve("entry", "conn")
    made.send(None)
    with pytest.raises(StopIteration):
        made.throw(KeyError("text"))
    handled.set(None)
    assert ends.told == [("entry", "conn", KeyError)]
