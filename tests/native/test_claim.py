"""Who uses one direction of a connection: the compiled claim does what a lock does."""

from __future__ import annotations

import signal
import threading
from types import FrameType
from typing import Any

import pytest

from tests.native.cores import on_both

on_each = on_both("kind", threading.Lock, "Claim")

_THREADS = 8
_TURNS = 200


@on_each
def test_it_is_taken_once(kind: Any) -> None:
    claim = kind()
    assert not claim.locked()
    assert claim.acquire(False)
    assert claim.locked()
    assert not claim.acquire(False)
    assert not claim.acquire(timeout=0)
    assert not claim.acquire(timeout=0.001)
    claim.release()
    with claim:
        assert claim.locked()
    with pytest.raises(RuntimeError):
        claim.release()


@on_each
def test_who_waits_has_it_next(kind: Any) -> None:
    claim, got = kind(), []
    claim.acquire()
    waiting = threading.Thread(target=lambda: got.append(claim.acquire(timeout=30)))
    waiting.start()
    assert not claim.acquire(timeout=0.001)
    assert not got
    claim.release()
    waiting.join(30)
    assert got == [True]
    assert claim.locked()


@on_each
def test_nobody_is_in_it_with_another_and_nobody_is_forgotten(kind: Any) -> None:
    claim, inside, turns = kind(), 0, 0

    def take_turns() -> None:
        nonlocal inside, turns
        for turn in range(_TURNS):
            # Those whose time is over leave while others are being woken.
            if not claim.acquire(timeout=1e-6 if turn % 3 else -1):
                claim.acquire()
            inside += 1
            assert inside == 1
            turns += 1
            inside -= 1
            claim.release()

    threads = [threading.Thread(target=take_turns) for _ in range(_THREADS)]
    for each in threads:
        each.start()
    for each in threads:
        each.join(30)
    assert turns == _THREADS * _TURNS
    assert not claim.locked()


class Rung(Exception):
    pass


@on_each
def test_a_signals_handler_ends_a_wait(kind: Any) -> None:
    def ring(_number: int, _frame: FrameType | None) -> None:
        raise Rung

    before = signal.signal(signal.SIGALRM, ring)
    claim = kind()
    claim.acquire()
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.01)
        with pytest.raises(Rung):
            claim.acquire()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    claim.release()
    assert claim.acquire(False)
