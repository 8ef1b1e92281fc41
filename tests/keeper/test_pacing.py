"""When a worker that died is replaced."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from socketkeep._keeper.workers._slots import Pacing


def test_a_worker_that_dies_each_time_is_replaced_more_and_more_slowly() -> None:
    pacing = Pacing()
    delays = [pacing.delay_after(0, lived=0) for _ in range(50)]
    assert delays == [0] * 40 + [1, 2, 3, 4, 5, 5, 5, 5, 5, 5]


def test_a_long_life_ends_it() -> None:
    pacing = Pacing()
    for _ in range(43):
        pacing.delay_after(0, lived=0)
    assert pacing.delay_after(0, lived=43) == 0


def test_ten_kills_a_second_for_twenty_seconds_delay_no_worker_of_four() -> None:
    pacing, kills = Pacing(), random.Random(7)
    born = dict.fromkeys(range(4), 0.0)
    for tick in range(200):
        now, slot = tick / 10, kills.randrange(4)
        assert pacing.delay_after(slot, lived=now - born[slot]) == 0
        born[slot] = now


def test_each_slot_has_its_own_pace() -> None:
    pacing = Pacing()
    for _ in range(50):
        pacing.delay_after(0, lived=0)
    assert pacing.delay_after(1, lived=0) == 0


@given(st.lists(st.floats(0, 100), max_size=60))
def test_it_is_bounded_and_a_longer_life_never_means_a_longer_wait(lives: list[float]) -> None:
    pacing, longer = Pacing(), Pacing()
    for lived in lives:
        delay = pacing.delay_after(3, lived)
        assert 0 <= longer.delay_after(3, lived + 1) <= delay <= 5
