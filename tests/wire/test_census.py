"""Counts by address in shared memory: of several processes, and of one that has died."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from socketkeep._wire._census import Census, create_memfd

ADDRESS = b"\x7f\0\0\1"


@pytest.fixture
def memfd() -> Iterator[int]:
    """The memory of a census for four processes."""
    fd = create_memfd(4)
    yield fd
    os.close(fd)


def test_all_lanes_count_together(memfd: int) -> None:
    """No more are let in than there may be, whichever process each comes to."""
    keeper, one, other = (Census(memfd, lane) for lane in range(3))
    keeper.clear(1)
    keeper.clear(2)
    place = one.place(ADDRESS)
    assert place == other.place(ADDRESS)
    assert [one.enter(place, 3), other.enter(place, 3), keeper.enter(place, 3)] == [True] * 3
    assert not any(each.enter(place, 3) for each in (keeper, one, other))
    assert {each.total(place) for each in (keeper, one, other)} == {3}
    other.add(place, -1)
    assert one.enter(place, 3)
    assert one.enter(one.place(b"\x7f\0\0\2"), 1)


def test_a_dead_process_counts_no_more(memfd: int) -> None:
    """Its lane is the next one's, with nothing in it."""
    keeper, one = Census(memfd, 0), Census(memfd, 1)
    keeper.clear(1)
    place = keeper.place(ADDRESS)
    keeper.add(place, 1)
    one.add(place, 2)
    keeper.clear(1)
    assert Census(memfd, 1).total(place) == 1


def test_addresses_hardly_meet(memfd: int) -> None:
    """With 500 addresses at a limit another one has its own count, of a hundred others each."""
    census = Census(memfd, 0)
    for number in range(500):
        census.add(census.place(number.to_bytes(4)), 10)
    others = [census.place(number.to_bytes(8)) for number in range(100)]
    assert sum(census.total(place) for place in others) <= 10


def test_a_process_without_a_lane_counts_nothing(memfd: int) -> None:
    """And sees what the others count."""
    keeper, none = Census(memfd, 0), Census(memfd, -1)
    place = none.place(ADDRESS)
    assert none.enter(place, 1)
    assert none.enter(place, 1)
    keeper.add(place, 2)
    assert not none.enter(place, 1)


def test_what_is_no_census_is_refused() -> None:
    """Before it is mapped."""
    fd = os.memfd_create("none")
    try:
        with pytest.raises(ValueError, match="a memfd came without its seals"):
            Census(fd, 0)
    finally:
        os.close(fd)


def test_the_rate_of_an_address(memfd: int) -> None:
    """A burst at once, then one for each interval, in all processes together; a pause fills it."""
    one, other = Census(memfd, 1), Census(memfd, 2)
    place, now = one.place(ADDRESS), 10**12
    both = [one, other]

    def spend(count: int, at: int) -> int:
        return sum(both[n % 2].spend(place, 100, 3, now + at) for n in range(count))

    assert spend(5, 0) == 3
    assert [spend(2, 99), spend(2, 100), spend(2, 250), spend(2, 300)] == [0, 1, 1, 1]
    assert spend(9, 10_000) == 3
    assert one.spend(one.place(b"\x7f\0\0\2"), 100, 3, now)


def test_the_rate_of_all(memfd: int) -> None:
    """As of an address; who has come too soon makes the next one wait the longer."""
    one, other, now = Census(memfd, 1), Census(memfd, 2), 10**12
    for _ in range(3):
        assert one.wait(100, 3, now) == 0
        other.accepted(100, now)
    assert [one.wait(100, 3, now), one.wait(100, 3, now + 60)] == [100, 40]
    assert one.wait(100, 3, now + 100) == other.wait(100, 3, now + 100) == 0
    one.accepted(100, now + 100)
    other.accepted(100, now + 100)
    assert one.wait(100, 3, now + 100) == 200


def test_the_rates_of_listeners(memfd: int) -> None:
    """Each has its account, but for the last of very many, which have one together."""
    one, other, now = Census(memfd, 1), Census(memfd, 2), 10**12
    accounts = [Census.account_of(each) for each in (None, 0, 1)]
    assert len(set(accounts)) == 3
    one.accepted(100, now, accounts[1])
    waits = [other.wait(100, 1, now, each) for each in accounts]
    assert waits == [0, 100, 0]
    other.accepted(100, now, Census.account_of(9_998))
    assert one.wait(100, 1, now, Census.account_of(9_999)) == 100
    assert one.exceeds(one.place(ADDRESS), 0) is False, "it stands in nobody else's place"
