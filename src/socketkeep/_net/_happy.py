"""Happy Eyeballs (RFC 8305): which of a name's addresses to try, and when.  No I/O, no clock.

A machine with a broken route to one family of addresses must not make its users wait for that
route's timeout: attempts begin one after the other, a little apart, and the first to succeed wins.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable
from typing import Final, Generic, TypeVar

#: Seconds between the beginnings of two attempts, the RFC's "Connection Attempt Delay".
DELAY: Final = 0.25

T = TypeVar("T")


def interleave(candidates: Iterable[T], family: Callable[[T], Hashable]) -> list[T]:
    """Return the candidates so that their families take turns, beginning with the first one's.

    Within a family the order stays: it is the resolver's, by RFC 6724.
    """
    queues: dict[Hashable, list[T]] = {}
    for candidate in candidates:
        queues.setdefault(family(candidate), []).append(candidate)
    rounds = max(map(len, queues.values()), default=0)
    return [queue[turn] for turn in range(rounds) for queue in queues.values() if turn < len(queue)]


class Race(Generic[T]):
    """The beginnings of the attempts.  Whoever makes them asks `due`, and tells what `failed`.

    clock: returns seconds, and never goes back.
    """

    def __init__(
        self, candidates: Iterable[T], clock: Callable[[], float], delay: float = DELAY
    ) -> None:
        self._waiting = list(candidates)
        self._clock = clock
        self._delay = delay
        self._running = 0
        self._next_at = clock()

    def due(self) -> T | None:
        """Return the candidate to try now, and count it as begun; None when none is due."""
        if not self._waiting or self._clock() < self._next_at:
            return None
        self._running += 1
        self._next_at = self._clock() + self._delay
        return self._waiting.pop(0)

    def failed(self) -> None:
        """Note that an attempt has failed: the next one need not wait for its turn."""
        self._running -= 1
        self._next_at = self._clock()

    def next_at(self) -> float | None:
        """Return when, on the clock, the next candidate is due; None when there is none left."""
        return self._next_at if self._waiting else None

    def lost(self) -> bool:
        """Return whether every attempt has failed."""
        return not self._waiting and not self._running
