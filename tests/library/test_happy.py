"""Happy Eyeballs' decisions, on a clock that the test moves."""

from __future__ import annotations

from socketkeep._net._happy import DELAY, Race, interleave


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def family(candidate: str) -> str:
    return candidate[0]


def test_families_take_turns_beginning_with_the_first() -> None:
    assert interleave(["6a", "6b", "6c", "4a"], family) == ["6a", "4a", "6b", "6c"]
    assert interleave(["4a", "4b", "6a", "6b"], family) == ["4a", "6a", "4b", "6b"]
    assert interleave(["4a"], family) == ["4a"]
    assert interleave([], family) == []


def test_attempts_begin_a_delay_apart() -> None:
    clock = Clock()
    race = Race(["a", "b", "c"], clock)
    assert race.due() == "a"
    assert race.due() is None
    assert race.next_at() == 100 + DELAY
    clock.now += DELAY - 0.001
    assert race.due() is None
    clock.now += 0.001
    assert race.due() == "b"
    assert race.due() is None
    clock.now += 10
    assert race.due() == "c"
    assert race.next_at() is None
    assert not race.lost()


def test_a_failure_makes_the_next_one_due_at_once() -> None:
    clock = Clock()
    race = Race(["a", "b", "c"], clock)
    race.due()
    clock.now += 0.01
    race.failed()
    assert race.due() == "b"
    assert race.next_at() == clock.now + DELAY, "the delay runs from the last beginning"
    assert race.due() is None


def test_it_is_lost_when_every_attempt_has_failed() -> None:
    clock = Clock()
    race = Race(["a", "b"], clock)
    assert race.due() == "a"
    race.failed()
    assert not race.lost()
    assert race.due() == "b"
    assert not race.lost()
    race.failed()
    assert race.lost()
    assert race.due() is None
    assert Race([], clock).lost()
