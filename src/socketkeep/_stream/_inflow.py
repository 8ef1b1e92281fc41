"""The rate at which bytes are received of one connection.

A bucket of tokens with room for one second's worth.  Where it is empty the receive waits: what
comes meanwhile stays in the kernel, whose window then closes, so that the peer waits and nothing is
lost.
"""

from __future__ import annotations

from typing import Final

#: How many seconds' worth may come at once after a pause.
_BURST: Final = 1.0
#: For how many seconds' worth a receive waits: for each byte by itself would cost a system call.
_HELPING: Final = 0.05


class Inflow:
    """The account of one connection.

    rate: bytes a second.  received: how many it has received so far.  full_at: when the bucket will
    be full again, on the monotonic clock.
    """

    __slots__ = ("_helping", "_rate", "_received", "full_at")

    def __init__(self, rate: int, received: int, full_at: float) -> None:
        self.full_at = full_at
        self._rate = rate
        self._received = received
        self._helping = max(1.0, rate * _HELPING)

    def room(self, now: float, received: int) -> int:
        """Return how many bytes may be received now; 0: none before `next`."""
        new, self._received = max(0, received - self._received), received
        self.full_at = max(self.full_at, now) + new / self._rate
        left = (_BURST - (self.full_at - now)) * self._rate
        return int(left) if left >= self._helping else 0

    @property
    def next(self) -> float:
        """Return when there will be room again."""
        return self.full_at - _BURST + self._helping / self._rate
