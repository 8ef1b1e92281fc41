"""How many connections each worker may accept."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from socketkeep._keeper.tables._seats import (
    UNBOUNDED,
    accept_limits,
    at_most,
    seats_of_model,
    shares,
    surplus,
    within,
)
from tests.harness.configuration import Model

SEATS = st.integers(0, 20)
#: The seats of each worker, and how many of them are taken.
WORKERS = st.lists(st.tuples(SEATS, SEATS), min_size=1, max_size=6)
COMING = st.integers(0, 40)


@pytest.mark.parametrize(
    ("model", "seats"),
    [("prefork", 1), ("thread", 64), ("fork", UNBOUNDED), ("async", UNBOUNDED)],
)
def test_seats_of_a_model(model: Model, seats: int) -> None:
    assert seats_of_model(model, 64) == seats


@given(st.integers(1, 100), st.integers(1, 50), st.integers(1, 1000))
def test_shares_add_up_to_the_limit_or_fill_the_workers(
    seats: int, workers: int, limit: int
) -> None:
    given_out = shares(seats, workers, limit)
    assert len(given_out) == workers
    assert max(given_out) <= seats
    assert max(given_out) - min(given_out) <= 1
    assert sum(given_out) == min(limit, sum(given_out) if max(given_out) == seats else limit)
    assert sum(given_out) <= limit


@given(st.integers(1, 100), st.integers(1, 50))
def test_without_a_limit_each_has_all_its_seats(seats: int, workers: int) -> None:
    assert shares(seats, workers, 0) == [seats] * workers


@given(WORKERS, COMING)
def test_a_limit_is_never_more_than_the_seats(workers: list[tuple[int, int]], coming: int) -> None:
    seats, taken = [list(column) for column in zip(*workers, strict=True)]
    limits = accept_limits(seats, taken, coming)
    assert len(limits) == len(seats)
    assert all(0 <= limit <= total for limit, total in zip(limits, seats, strict=True))


@given(WORKERS, COMING)
def test_those_that_come_find_a_seat(workers: list[tuple[int, int]], coming: int) -> None:
    """Accepting as many as they may, the workers leave room for those that are on their way."""
    seats, taken = [list(column) for column in zip(*workers, strict=True)]
    limits = accept_limits(seats, taken, coming)
    after = [max(have, limit) for have, limit in zip(taken, limits, strict=True)]
    if sum(taken) + coming <= sum(seats):
        assert sum(after) + coming <= sum(seats)
    else:
        assert after == taken, "there is no room for any other"


@given(WORKERS, COMING)
def test_no_seat_is_kept_for_nobody(workers: list[tuple[int, int]], coming: int) -> None:
    seats, taken = [list(column) for column in zip(*workers, strict=True)]
    limits = accept_limits(seats, taken, coming)
    beyond = sum(max(0, have - total) for have, total in zip(taken, seats, strict=True))
    assert sum(seats) - sum(limits) == min(sum(seats), coming + beyond)
    if not coming and not beyond:
        assert limits == seats


@given(st.lists(st.tuples(SEATS, SEATS), min_size=1, max_size=6), SEATS)
def test_what_may_come_to_be_served_is_bounded(workers: list[tuple[int, int]], spare: int) -> None:
    """Whichever workers have heard their limits: no worker gets what another may still take."""
    limits, bounds = [list(column) for column in zip(*workers, strict=True)]
    permitted = within(limits, bounds, sum(bounds) + spare)
    assert all(least <= limit for least, limit in zip(permitted, limits, strict=True))
    risen = [max(0, limit - bound) for limit, bound in zip(permitted, bounds, strict=True)]
    wanted = sum(max(0, limit - bound) for limit, bound in zip(limits, bounds, strict=True))
    assert sum(risen) == min(spare, wanted)


@given(WORKERS, COMING)
def test_seats_that_are_kept_stay_where_they_are(
    workers: list[tuple[int, int]], coming: int
) -> None:
    """Else limits would go to and fro, and a seat stand free until all have heard of it."""
    seats, taken = [list(column) for column in zip(*workers, strict=True)]
    taken = [min(have, total) for have, total in zip(taken, seats, strict=True)]
    limits = accept_limits(seats, taken, coming)
    bounds = [max(limit, have) for limit, have in zip(limits, taken, strict=True)]
    assert accept_limits(seats, taken, coming, bounds) == limits


@pytest.mark.parametrize(
    ("loads", "leeway", "given"),
    [
        ([], 0, []),
        ([7], 0, [0]),
        ([80, 0, 0, 0], 6, [60, 0, 0, 0]),
        ([23, 20, 17, 20], 6, [0, 0, 0, 0]),  # no more than the leeway
        ([27, 20, 13, 20], 6, [7, 0, 0, 0]),
        ([3, 0, 0], 1, [2, 0, 0]),
        ([1, 0, 0], 1, [0, 0, 0]),
        ([5, 5, 0], 1, [1, 1, 0]),
    ],
)
def test_what_a_worker_has_too_many(loads: list[int], leeway: int, given: list[int]) -> None:
    assert surplus(loads, leeway) == given


def test_no_more_move_than_may() -> None:
    assert at_most([5, 4, 3], 7) == [5, 2, 0]
    assert at_most([5, 4, 3], 0) == [0, 0, 0]
