"""How many slots there are, at a cost that does not grow faster, and when one is filled again."""

from __future__ import annotations

import json
import random
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from socketkeep._keeper.workers._slots import Pacing, Slots
from tests.admin.control import commands_of
from tests.keeper.bench import Bench


def _slots() -> Slots:
    return Slots(None, [], lambda: None, lambda _worker: None)  # type: ignore[arg-type]


@given(st.lists(st.integers(1, 30), max_size=10))
def test_any_number(counts: list[int]) -> None:
    """As many as asked for, each once, and the lowest numbers that are free."""
    slots = _slots()
    for count in counts:
        before = set(slots.numbers)
        slots.scale(count)
        numbers = slots.numbers
        assert sorted(set(numbers)) == sorted(numbers)
        assert len(slots) == count
        if count <= len(before):
            assert set(numbers) <= before
        else:
            assert before <= set(numbers) <= before | set(range(count))


def test_the_cost() -> None:
    """Thirty times as many slots cost no thousand times as much."""

    def cost(count: int) -> float:
        took = []
        for _ in range(3):
            slots = _slots()
            began = time.process_time()
            slots.scale(count)
            slots.scale(1)
            took.append(time.process_time() - began)
        return min(took)

    assert cost(30_000) < 300 * cost(1000) + 0.05
    assert cost(30_000) < 2.0


class _Client:
    """Who asks, and hears the answer."""

    command = ""
    looks_only = False
    done: Any

    def finish(self, done: Any) -> None:
        self.done = done


@pytest.mark.parametrize("workers", [1001, 10**18, 0, -1, True, "many", None, 2.5])
def test_a_bound(bench: Bench, workers: object) -> None:
    """Beyond it the command is refused in one line, and nothing has changed."""
    client = _Client()
    request = json.dumps({"command": "scale", "arguments": {"workers": workers}}).encode()
    commands_of(bench.keeper).run(request, client)
    assert client.done.exit == 2
    assert client.done.error == (f"scale takes a number of workers, 1 to 1000, not {workers!r}")


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
