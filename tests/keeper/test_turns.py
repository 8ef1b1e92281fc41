"""Whose turn it is: nobody waits for more than twice as many as waited when it came."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Final

from hypothesis import given
from hypothesis import strategies as st

from socketkeep._keeper.tables._turns import Turns

#: One who comes into a line, or a seat that becomes free.
STEPS: Final = st.lists(st.sampled_from(["woken", "new", "seat"]), max_size=200)


def first_of(line: deque[int]) -> Callable[[], int | None]:
    return lambda: line.popleft() if line else None


@given(STEPS)
def test_nobody_waits_longer_than_twice_the_fair_share(steps: list[str]) -> None:
    """Counted in seats: by arrival alone it would be as many as waited, itself included."""
    turns = Turns()
    lines: dict[str, deque[int]] = {"woken": deque(), "new": deque()}
    fair: list[int] = []  # of each that came, how many waited then
    came: list[int] = []  # and how many seats had been given
    seats = 0
    for step in (*steps, *["seat"] * len(steps)):
        if step != "seat":
            lines[step].append(len(fair))
            fair.append(sum(map(len, lines.values())))
            came.append(seats)
            continue
        waited = any(lines.values())
        served = turns.next(first_of(lines["woken"]), first_of(lines["new"]))
        assert (served is not None) == waited, "no seat stays free while somebody waits"
        if served is not None:
            seats += 1
            assert seats - came[served] <= 2 * fair[served]
    assert not any(lines.values())


@given(st.lists(st.sampled_from(["woken", "new"]), max_size=50))
def test_each_line_is_served_in_its_order(arrivals: list[str]) -> None:
    turns = Turns()
    lines: dict[str, deque[int]] = {"woken": deque(), "new": deque()}
    for number, line in enumerate(arrivals):
        lines[line].append(number)
    order = {line: list(waiting) for line, waiting in lines.items()}
    served = [turns.next(first_of(lines["woken"]), first_of(lines["new"])) for _ in arrivals]
    for line, expected in order.items():
        assert [number for number in served if number in expected] == expected, line


def test_a_turn_that_nobody_took_is_not_lost() -> None:
    """Those who came back have been served while no new one was there: the next new one is next."""
    turns = Turns()
    woken, new = deque([1, 2, 3]), deque[int]()
    assert [turns.next(first_of(woken), first_of(new)) for _ in range(2)] == [1, 2]
    new.append(9)
    assert turns.next(first_of(woken), first_of(new)) == 9
    assert turns.next(first_of(woken), first_of(new)) == 3
    assert turns.next(first_of(woken), first_of(new)) is None
