"""Steps, gone through on a running loop."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any, Final, Protocol, TypeVar

from socketkeep._stream._lease import SharedReactor
from socketkeep._stream._waiting import Steps, Want

T = TypeVar("T")

#: Loops refuse timers much longer than this; a month is as good as never.
_LONGEST: Final = 30 * 86400.0
_TICK: Final = 0.001


async def drive(steps: Steps[T], reactor: SharedReactor | None = None) -> T:
    """Go through the steps, awaiting what they want; return what they return.

    reactor: watches the descriptors in place of the loop.
    """
    try:
        want = next(steps)
        while True:
            want = steps.send(await _is_ready(want, reactor))
    except StopIteration as done:
        value: T = done.value
        return value
    finally:
        steps.close()


async def _is_ready(want: Want, reactor: SharedReactor | None) -> bool:
    fd, direction, until = want
    loop = asyncio.get_running_loop()
    watch = _Watch(loop)
    if direction == "write":
        loop.add_writer(fd, watch._on_readable)
    elif reactor is None:
        loop.add_reader(fd, watch._on_readable)
    else:
        reactor.add_reader(fd, watch)
    timer = None if until is None else call_at(loop, until, settle, watch.ready, False)
    try:
        return await watch.ready
    finally:
        if timer is not None:
            timer.cancel()
        if direction == "write":
            loop.remove_writer(fd)
        else:
            (reactor or loop).remove_reader(fd)


class _Watch:
    """A reader: the loop or the reactor calls it when the descriptor is ready."""

    __slots__ = ("ready",)

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.ready: asyncio.Future[bool] = loop.create_future()

    def _on_readable(self) -> None:
        settle(self.ready, True)


def call_at(
    loop: asyncio.AbstractEventLoop, moment: float, callback: Callable[..., object], *args: object
) -> asyncio.TimerHandle:
    """Call back at a moment of the monotonic clock."""
    # By what is left, not loop.call_at: uvloop's clock has its own zero.  And a tick more, for it
    # rounds to milliseconds, and nothing may time out early.
    left = moment - time.monotonic() + _TICK
    return loop.call_later(min(max(left, 0.0), _LONGEST), callback, *args)


class Settled(Protocol):
    """A future, or what stands for one."""

    def done(self) -> bool: ...
    def set_result(self, result: Any, /) -> None: ...


def settle(future: Settled, result: object) -> None:
    """Set the result of a future that may have one already."""
    if not future.done():
        future.set_result(result)
