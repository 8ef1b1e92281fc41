"""Modes as values."""

from __future__ import annotations

import math
import time

import pytest

from socketkeep._modes import Blocking, Deadline, NonBlocking, Timeout, seconds_left


def test_equal_modes_are_equal() -> None:
    assert Timeout(2.5) == Timeout(2.5) != Timeout(3)
    assert {Blocking(), Blocking(), NonBlocking()} == {Blocking(), NonBlocking()}


@pytest.mark.parametrize("seconds", [-1, -0.001, math.nan])
def test_no_negative_timeouts(seconds: float) -> None:
    with pytest.raises(ValueError, match="a timeout is a number of seconds >= 0"):
        Timeout(seconds)
    with pytest.raises(ValueError, match="a timeout is a number of seconds >= 0"):
        Deadline.after(seconds)


def test_how_long_an_operation_may_wait() -> None:
    assert seconds_left(Blocking()) is None
    assert seconds_left(NonBlocking()) == 0
    assert seconds_left(Timeout(2.5)) == 2.5
    left = seconds_left(Deadline.after(10))
    assert left is not None
    assert 9 < left <= 10
    assert seconds_left(Deadline(time.monotonic() - 1)) == 0
