"""The three modes of a socket as values, and a deadline that several operations share."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import TypeAlias


@dataclass(frozen=True, slots=True)
class Blocking:
    """Each operation waits until it is done."""


@dataclass(frozen=True, slots=True)
class NonBlocking:
    """An operation that cannot finish at once raises `WouldBlock`; calling it again goes on."""


@dataclass(frozen=True, slots=True)
class Timeout:
    """Each operation, as a whole, raises `TimedOut` after `seconds`.

    Args:
        seconds: How long an operation may take.

    Raises:
        ValueError: `seconds` is negative or not a number.
    """

    seconds: float

    def __post_init__(self) -> None:
        check_seconds(self.seconds)


@dataclass(frozen=True, slots=True)
class Deadline:
    """All operations together raise `TimedOut` once the moment has come.

    ``Deadline.after(5)`` is the usual way to make one.

    Args:
        at: The moment, on the clock of time.monotonic().
    """

    at: float

    @classmethod
    def after(cls, seconds: float) -> Deadline:
        """Return the deadline that lies `seconds` from now."""
        return cls(time.monotonic() + check_seconds(seconds))


Mode: TypeAlias = Blocking | NonBlocking | Timeout | Deadline


def check_seconds(seconds: float) -> float:
    """Return `seconds`, or raise ValueError when it is no duration."""
    if math.isnan(seconds) or seconds < 0:
        raise ValueError(f"a timeout is a number of seconds >= 0, not {seconds!r}")
    return seconds


def seconds_left(mode: Mode) -> float | None:
    """Return how long an operation that begins now may wait; None for as long as it takes.

    Raises TypeError for what is no mode, a class like `Blocking` in place of `Blocking()` among it.
    """
    match mode:
        case Blocking():
            return None
        case NonBlocking():
            return 0.0
        case Timeout(seconds):
            return seconds
        case Deadline(at):
            return max(0.0, at - time.monotonic())
        case _:
            raise TypeError(
                "a mode is Blocking(), NonBlocking(), Timeout(seconds) or Deadline.after(seconds), "
                f"not {mode!r}"
            )
