"""Modes as values."""

from __future__ import annotations

import math
import re
import socket
from typing import Any

import pytest

from socketkeep import Blocking, Connection, Deadline, NonBlocking, Timeout


def test_equal_modes_are_equal() -> None:
    assert Timeout(2.5) == Timeout(2.5) != Timeout(3)
    assert {Blocking(), Blocking(), NonBlocking()} == {Blocking(), NonBlocking()}


@pytest.mark.parametrize("seconds", [-1, -0.001, math.nan])
def test_no_negative_timeouts(seconds: float) -> None:
    with pytest.raises(ValueError, match="a timeout is a number of seconds >= 0"):
        Timeout(seconds)
    with pytest.raises(ValueError, match="a timeout is a number of seconds >= 0"):
        Deadline.after(seconds)


@pytest.mark.parametrize("wrong", [None, 2.5, Blocking, "blocking", True])
def test_what_is_no_mode_is_refused_with_what_is_one(wrong: Any) -> None:
    """A class in the place of its object, or a bare number, must not come to wait for ever."""
    says = re.escape(f"Timeout(seconds) or Deadline.after(seconds), not {wrong!r}")
    ours, peer = socket.socketpair()
    with ours, peer:
        with pytest.raises(TypeError, match=says):
            Connection(ours, mode=wrong)
        assert ours.fileno() >= 0, "after the error the socket is the caller's still"
        with Connection(ours, mode=Timeout(5)) as conn:
            with pytest.raises(TypeError, match=says):
                conn.mode = wrong
            with pytest.raises(TypeError, match=says), conn.using(wrong):
                pass
            assert conn.mode == Timeout(5)
            peer.close()
