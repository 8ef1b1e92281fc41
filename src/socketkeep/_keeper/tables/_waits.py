"""The times that connections which moved were with no worker."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable
from typing import Final

import msgspec

from socketkeep._stream._lease import Attached

#: The upper bounds of the classes, in seconds; beyond the last there is one more.
BOUNDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


class Waits(msgspec.Struct):
    """Waits that are over: how many in each class of `BOUNDS`, their sum, the longest; seconds."""

    why: str
    counts: list[int] = msgspec.field(default_factory=lambda: [0] * (len(BOUNDS) + 1))
    seconds: float = 0.0
    longest: float = 0.0

    def add(self, seconds: float) -> None:
        """Count one."""
        self.counts[bisect_left(BOUNDS, seconds)] += 1
        self.seconds += seconds
        self.longest = max(self.longest, seconds)


class WaitsByReason:
    """The waits of each reason that a connection is attached for."""

    def __init__(self) -> None:
        self._waits: dict[str, Waits] = {}

    def __getitem__(self, why: Attached) -> Waits:
        waits = self._waits.get(why)
        if waits is None:
            waits = self._waits[why] = Waits(why)
        return waits

    def snapshot(self) -> list[Waits]:
        """Return what the next version of the keeper goes on from."""
        return list(self._waits.values())

    def restore(self, saved: Iterable[Waits]) -> None:
        """Go on from what an earlier version counted, if it had the same classes."""
        self._waits = {waits.why: waits for waits in saved if len(waits.counts) == len(BOUNDS) + 1}
