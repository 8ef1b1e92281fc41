"""How many slots there are: any number asked for, at a cost that does not grow faster than it."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from socketkeep._keeper.workers._slots import Slots
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
