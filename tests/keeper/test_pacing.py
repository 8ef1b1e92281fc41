"""When a worker that died is replaced."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from socketkeep._keeper._pacing import Pacing


def test_one_early_death_is_an_accident() -> None:
    assert Pacing().delay_after(0, lived=0.1) == 0


def test_the_delay_doubles_up_to_a_bound_and_a_long_life_ends_it() -> None:
    pacing = Pacing()
    delays = [pacing.delay_after(0, lived=1) for _ in range(9)]
    assert delays == [0, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5, 5]
    assert pacing.delay_after(0, lived=5) == 0
    assert [pacing.delay_after(0, lived=1) for _ in range(2)] == [0, 0.1]


def test_each_slot_has_its_own_pace() -> None:
    pacing = Pacing()
    for _ in range(5):
        pacing.delay_after(0, lived=0)
    assert pacing.delay_after(1, lived=0) == 0


@given(st.lists(st.floats(0, 4.9), min_size=2, max_size=40))
def test_no_delay_is_shorter_than_the_one_before(lives: list[float]) -> None:
    pacing = Pacing()
    delays = [pacing.delay_after(3, lived) for lived in lives]
    assert delays == sorted(delays)
    assert max(delays) <= 5
