"""Waiting for one direction of one descriptor: by a poller, and as steps.

A `Poller` hears a word from the server meanwhile.

What takes several waits is written once for sync and async code, as steps: a generator that does
what can be done at once, and yields what it then waits for.  Who drives it waits in his own way:
sync code by poll(2), see `drive`; async code on its loop, see `_async_steps`; a worker's or the
keeper's loop beside all else it does.
"""

from __future__ import annotations

import math
import select
import time
from collections.abc import Generator
from select import poll  # the system's, whatever the user's code puts in its place
from typing import Final, Literal, NamedTuple, TypeAlias, TypeVar

from socketkeep import _native
from socketkeep._base._errors import TimedOut
from socketkeep._stream._modes import check_seconds

T = TypeVar("T")

#: What a wait has found: the descriptor is ready, or the wait was interrupted, or both.
READY: Final = 1
WOKEN: Final = 2

#: RETIRE_HOW of the scoreboard.
ORDERED: Final = 10

#: poll(2) takes milliseconds in a C int.  Who waits longer than these 24 days is woken once more.
_LONGEST: Final = 2**31 - 1


class Poller:
    """A poller that waits for one descriptor again and again.

    wake_fd: a second descriptor, which interrupts the wait; None when there is none.
    """

    __slots__ = ("_poll", "_wake_fd", "fd")

    def __init__(self, fd: int, events: int, wake_fd: int | None) -> None:
        self.fd = fd
        self._wake_fd = wake_fd
        self._poll = poll()
        self._poll.register(fd, events)
        if wake_fd is not None:
            self._poll.register(wake_fd, select.POLLIN)

    def until(self, moment: float | None, /) -> int:
        """Wait until `moment` on the monotonic clock, None for as long as it takes.

        Returns 0 when it has come, READY when the descriptor is ready (an error or a hang-up is
        ready too), WOKEN when the wait was interrupted, or the sum of both.
        """
        if moment is None:
            return self._found(self._poll.poll())
        left = min((moment - time.monotonic()) * 1000, _LONGEST)
        return self.within(max(0, math.ceil(left)))

    def within(self, milliseconds: int, /) -> int:
        """Wait as `until` does, for so long at most; 0: only look."""
        return self._found(self._poll.poll(milliseconds))

    def _found(self, events: list[tuple[int, int]]) -> int:
        return sum(READY if fd == self.fd else WOKEN for fd, _ in events)

    def ignore_wake(self) -> None:
        """Wait for the descriptor alone from here on."""
        if self._wake_fd is not None:
            self._poll.unregister(self._wake_fd)
            self._wake_fd = None

    @property
    def ignores_wake(self) -> bool:
        return self._wake_fd is None


class Orders:
    """The orders at which connections look before each receive: whether the worker has one.

    wake_fd: interrupts a wait for input, when there is more to look at.  header: of the scoreboard.
    """

    __slots__ = ("_header", "wake_fd")

    def __init__(self, wake_fd: int, header: memoryview, /) -> None:
        self.wake_fd = wake_fd
        self._header = header

    @property
    def given(self) -> bool:
        return self._header[ORDERED] != 0


make_orders: Final = _native.compiled_or(Orders, "Orders")
make_poller: Final = _native.compiled_or(Poller, "Poller")


def earlier(one: float | None, other: float | None) -> float | None:
    """Return the earlier of two moments, where None is never."""
    if one is None:
        return other
    if other is None:
        return one
    return min(one, other)


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
