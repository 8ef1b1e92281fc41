"""Who takes a new connection: a burst is shared, and nobody is waited for without end."""

from __future__ import annotations

import os
import random
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from socketkeep._worker._accepting import _PLACES, LEEWAY, PATIENCE, Siblings, Standing

#: How often a worker may run within a moment.
TURNS = 8


@dataclass
class Worker:
    """One that looks at the queue each time that it runs, unless it has left it to others."""

    standing: Standing
    serving: int = 0
    holds: bool = False

    def run(self, queued: int) -> int:
        """Return how many it takes of those that are queued."""
        if self.holds or not queued:
            return 0
        self.holds = self.standing.leaves(self.serving)
        taken = 0 if self.holds else min(LEEWAY, queued)
        self.serving += taken
        self.standing.show(self.serving)
        return taken

    def moment(self, queued: int) -> None:
        """A moment is over."""
        self.holds = False
        if not queued:
            self.standing.nobody_waits()


def workers(serving: list[int]) -> list[Worker]:
    siblings = Siblings()
    made = []
    for slot, count in enumerate(serving):
        siblings.seat(slot)
        standing = Standing(siblings, slot)
        standing.show(count)
        made.append(Worker(standing, count))
    return made


def serve(crew: list[Worker], burst: int, order: random.Random) -> int:
    """Have the workers take a burst; return how many moments that took."""
    for moments in range(300):
        if not burst:
            return moments
        turns = crew * TURNS
        order.shuffle(turns)
        for worker in turns:
            burst -= worker.run(burst)
        for worker in crew:
            worker.moment(burst)
    raise AssertionError(f"{burst} wait still")


def leeway(least: int) -> int:
    return max(LEEWAY, least // LEEWAY)


@given(st.integers(1, 12), st.integers(0, 200), st.randoms(use_true_random=False))
def test_a_burst_is_shared(count: int, burst: int, order: random.Random) -> None:
    """Whoever runs first, and however often: no worker is further ahead than the leeway and a turn.

    In a burst of 80 over 4 that is from 15 to 25 each.
    """
    crew = workers([0] * count)
    serve(crew, burst, order)
    counts = [each.serving for each in crew]
    assert max(counts) < min(counts) + leeway(min(counts)) + LEEWAY


@given(
    st.lists(st.integers(0, 60), min_size=1, max_size=8),
    st.lists(st.integers(0, 60), max_size=8),
    st.integers(1, 300),
    st.randoms(use_true_random=False),
)
def test_who_does_not_come_is_not_waited_for(
    alive: list[int], dead: list[int], burst: int, order: random.Random
) -> None:
    """With others that compute, are stopped or were killed all are taken, and those share them."""
    crew = workers([*alive, *dead])[: len(alive)]
    catching_up = sum(max(alive) - each for each in alive) // LEEWAY
    assert serve(crew, burst, order) <= 2 * (PATIENCE + 1) + burst // LEEWAY + catching_up
    counts = [each.serving for each in crew]
    most = max(counts)
    if most > max(alive) + LEEWAY:
        assert most < min(counts) + leeway(min(counts)) + 2 * LEEWAY


@given(st.integers(2, 6), st.integers(8, 20), st.integers(1, 60), st.randoms(use_true_random=False))
def test_who_has_fewest_comes_first(
    count: int, more: int, burst: int, order: random.Random
) -> None:
    """A worker that starts beside others gets what is new until it is about level with them."""
    crew = workers([0, *[more] * (count - 1)])
    serve(crew, burst, order)
    assert crew[0].serving >= min(burst, more - leeway(more))


def test_who_was_left_out_counts_again_as_soon_as_it_shows_something() -> None:
    one, other = workers([9, 0])
    assert [one.standing.leaves(9) for _ in range(PATIENCE + 1)] == [True] * PATIENCE + [False]
    assert not one.standing.leaves(9), "the other has been waited for"
    other.standing.show(0)
    assert one.standing.leaves(9)


def test_a_queue_that_was_emptied_is_waited_with_anew() -> None:
    """Else an idle worker is left out for that nobody came."""
    one, _ = workers([9, 0])
    for _ in range(3 * PATIENCE):
        assert one.standing.leaves(9)
        one.standing.nobody_waits()


def test_who_comes_and_is_slow_is_not_waited_for_either() -> None:
    one, other = workers([9, 0])
    taken = 0
    for _ in range(3 * (PATIENCE + 1)):
        other.standing.show(0)
        taken += not one.standing.leaves(9)
    assert taken == 3


@given(st.integers(0, 2**20))
def test_a_worker_that_is_alone_leaves_nothing(serving: int) -> None:
    (alone,) = workers([serving])
    assert not alone.standing.leaves(serving)
    siblings = Siblings()
    assert not Standing(siblings, 3).leaves(serving), "nor one that no template has seated"


def test_who_accepts_nothing_is_not_waited_for() -> None:
    one, other = workers([9, 0])
    other.standing.show(None)
    assert not one.standing.leaves(9)


def test_who_accepts_no_more_leaves_the_place_to_the_next_in_its_slot() -> None:
    siblings = Siblings()
    for slot in (0, 1):
        siblings.seat(slot)
    one, old = Standing(siblings, 0), Standing(siblings, 1)
    old.show(30)
    siblings.seat(1)
    new = Standing(siblings, 1)
    old.show(None)
    new.show(2)
    old.show(None)
    assert one.is_ahead(2 + LEEWAY)
    assert not one.is_ahead(2 + LEEWAY - 1)


@pytest.mark.parametrize("word", [1, 2**63, 2**64 - 1])
def test_any_word_costs_a_bounded_wait(word: int) -> None:
    """User code runs in the workers, and may write anything."""
    (one,) = workers([9])
    memory = one.standing._words
    for place in range(len(memory)):
        memory[place] = word
    assert not all(one.standing.leaves(9) for _ in range(PATIENCE + 1))
    one.standing.show(9)


def test_slots_beyond_the_places_share_them() -> None:
    siblings = Siblings()
    siblings.seat(_PLACES + 1)
    siblings.seat(_PLACES - 1)
    Standing(siblings, _PLACES + 1).show(0)
    assert Standing(siblings, _PLACES - 1).is_ahead(LEEWAY)


@pytest.mark.process
def test_processes_share_the_memory() -> None:
    one, other = workers([9, 20])
    assert not one.standing.is_ahead(9)
    pid = os.fork()
    if pid == 0:
        other.standing.show(4)
        os._exit(0)
    os.waitpid(pid, 0)
    assert one.standing.is_ahead(9)
