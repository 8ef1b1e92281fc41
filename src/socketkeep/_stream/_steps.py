"""What takes several waits, written once for sync and async code.

Such a thing is a generator: it does what can be done at once, and yields what it then waits for.
Who drives it waits in his own way: sync code by poll(2), see `drive`; async code on its loop, see
`_async_steps`; a worker's or the keeper's loop beside all else it does.
"""

from __future__ import annotations

import math
import select
import time
from collections.abc import Generator
from typing import Literal, NamedTuple, TypeAlias, TypeVar

from socketkeep._base._errors import TimedOut
from socketkeep._stream._modes import check_seconds
from socketkeep._stream._waiting import earlier

T = TypeVar("T")


class Want(NamedTuple):
    """A wait: until `fd` is readable or writable, or the monotonic clock has come to `until`.

    A pause is ended by the clock alone, or since nobody is at the other end any more.
    """

    fd: int
    direction: Literal["read", "write", "pause"]
    until: float | None = None


#: It is sent whether the descriptor is ready; False: `until` was first.
Steps: TypeAlias = Generator[Want, bool, T]


def drive(steps: Steps[T]) -> T:
    """Go through the steps, waiting where they want to; return what they return."""
    try:
        want = next(steps)
        while True:
            want = steps.send(_is_ready(want))
    except StopIteration as done:
        value: T = done.value
        return value
    finally:
        steps.close()


def _is_ready(want: Want) -> bool:
    poller = select.poll()
    poller.register(want.fd, select.POLLIN if want.direction == "read" else select.POLLOUT)
    if want.until is None:
        return bool(poller.poll())
    return bool(poller.poll(max(0, math.ceil((want.until - time.monotonic()) * 1000))))


def within(timeout: float | None, steps: Steps[T], operation: str) -> Steps[T]:
    """The same steps, which raise TimedOut when they take longer than `timeout` seconds."""
    begun = time.monotonic()
    end = None if timeout is None else begun + check_seconds(timeout)
    try:
        want = next(steps)
        while True:
            ready = yield want._replace(until=earlier(want.until, end))
            if not ready and end is not None and time.monotonic() >= end:
                elapsed = time.monotonic() - begun
                raise TimedOut(operation=operation, elapsed=elapsed, limit=timeout)
            want = steps.send(ready)
    except StopIteration as done:
        value: T = done.value
        return value
    finally:
        steps.close()
