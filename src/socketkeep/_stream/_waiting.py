"""Waiting for one direction of one descriptor, and for a word from the server meanwhile."""

from __future__ import annotations

import math
import select
import time
from select import poll  # the system's, whatever the user's code puts in its place
from typing import Final

#: poll(2) takes milliseconds in a C int.  Who waits longer than these 24 days is woken once more.
_LONGEST: Final = 2**31 - 1
_LONG: Final = 86400.0 * 20


class Poller:
    """A poll object that stays registered from one wait to the next.

    wake_fd: a second descriptor, which interrupts the wait; None when there is none.
    """

    __slots__ = ("_poll", "_wake_fd", "fd", "poll")

    def __init__(self, fd: int, events: int, wake_fd: int | None) -> None:
        self.fd = fd
        self._wake_fd = wake_fd
        self._poll = poll()
        self.poll = self._poll.poll
        self._poll.register(fd, events)
        if wake_fd is not None:
            self._poll.register(wake_fd, select.POLLIN)

    def wait(self, until: float | None) -> tuple[bool, bool]:
        """Wait until `until` on the monotonic clock, None for as long as it takes.

        Returns whether the descriptor is ready (an error or a hang-up is ready too), and whether
        the wait was interrupted.
        """
        if until is None:
            events = self._poll.poll()
        else:
            left = min((until - time.monotonic()) * 1000, _LONGEST)
            events = self._poll.poll(max(0, math.ceil(left)))
        if len(events) == 1:
            ready = events[0][0] == self.fd
            return ready, not ready
        return bool(events), bool(events)

    def alone(self, until: float | None) -> bool:
        """Wait as `wait` does; return whether the descriptor is ready, and nothing else has come.

        Where the clock stops before `until` the wait is over, too.
        """
        if until is None:
            events = self._poll.poll()
        else:
            left = until - time.monotonic()
            events = self._poll.poll(left * 1000 if 0.0 < left < _LONG else 0)
        return len(events) == 1 and events[0][0] == self.fd

    def ready(self) -> bool:
        """Whether the descriptor is ready now."""
        return any(fd == self.fd for fd, _ in self._poll.poll(0))

    def called(self) -> bool:
        """Whether a wait would be interrupted now."""
        return any(fd == self._wake_fd for fd, _ in self._poll.poll(0))

    def ignore_wake(self) -> None:
        """Wait for the descriptor alone from here on."""
        if self._wake_fd is not None:
            self._poll.unregister(self._wake_fd)
            self._wake_fd = None

    @property
    def ignores_wake(self) -> bool:
        return self._wake_fd is None


def earlier(one: float | None, other: float | None) -> float | None:
    """Return the earlier of two moments, where None is never."""
    if one is None:
        return other
    if other is None:
        return one
    return min(one, other)
