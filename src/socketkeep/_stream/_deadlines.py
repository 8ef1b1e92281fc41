"""Until when a connection may go on, whatever passes over it.

An idle timeout begins anew with each byte; these do not, so that a peer that sends a byte now and
then gains nothing by it.
"""

from __future__ import annotations

from typing import Final

from socketkeep._stream._waiting import earlier

#: A moment that does not come: later than any that can be told in nanoseconds.
NEVER: Final = 1e9

_PASSED: Final = "ended: its deadline has passed"


class Deadlines:
    """The moments of one connection, on the monotonic clock; None: never.

    at: its deadline.  first_by: when its first byte must have come, `patience` seconds after it was
    accepted.  passed: which of them has ended it, in words; "": none has.
    """

    __slots__ = ("at", "first_by", "passed", "patience")

    def __init__(self, at: float | None, first_by: float | None, patience: float | None) -> None:
        self.at = at
        self.first_by = first_by
        self.patience = patience
        self.passed = ""

    @property
    def next(self) -> float | None:
        """Return when to look again."""
        return earlier(self.at, self.first_by)

    def look(self, now: float, received: int) -> str:
        """Return why the connection is at its end, "" when it is not.

        received: how many bytes have come.
        """
        if received:
            self.first_by = None
        if self.first_by is not None and now >= self.first_by:
            self.passed = f"ended: it sent nothing for {self.patience:g} s"
        elif self.at is not None and now >= self.at:
            self.passed = _PASSED
        return self.passed
