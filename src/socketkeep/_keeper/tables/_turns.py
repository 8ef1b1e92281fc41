"""Turns for the seats that become free: a policy without I/O.

Two lines wait for seats: connections that are served already and came back with something to say,
and new ones in the kernel's accept queue.  Neither may be preferred for ever.  To merge them by
the moment of arrival would be fairer still, but the kernel does not tell since when the first of
its queue waits.  So they take turns: whoever comes at place N of its line is served after at most
N of its own and N of the other, which is at most twice as many as waited when it came.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


class Turns:
    """Takes from one line and the other by turns, and from one alone while the other is empty."""

    def __init__(self) -> None:
        self._newcomers_next = True

    def next(self, waiting: Callable[[], T | None], newcomer: Callable[[], T | None]) -> T | None:
        """Return who gets the seat: what one of these returned, None when both returned None.

        Each takes the first of its line, and is called no more than once.
        """
        lines = (newcomer, waiting) if self._newcomers_next else (waiting, newcomer)
        for line in lines:
            found = line()
            if found is not None:
                # Where the other line was empty its turn is not lost: the next of it is the next.
                self._newcomers_next = line is waiting
                return found
        return None
