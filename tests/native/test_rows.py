"""The rows of a scoreboard: the same words in C and in Python, whatever is done with them."""

from __future__ import annotations

import random
from typing import Any

import pytest

from socketkeep._wire._scoreboard import (
    ACCEPTED,
    CLOSED,
    CROWDED,
    HEADER_WORDS,
    LOST,
    OPEN,
    ROW_WORDS,
    Rows,
)
from tests.harness.seam import ENDED, ENDS, Row
from tests.native.cores import compiled, on_both

on_each = on_both("kind", Rows, "Rows")

_ROWS = 70
_STEPS = 5000


def memory(rows: int = _ROWS) -> memoryview:
    return memoryview(bytearray((HEADER_WORDS + rows * ROW_WORDS) * 8)).cast("Q")


def row_of(words: memoryview, row: int) -> memoryview:
    start = HEADER_WORDS + row * ROW_WORDS
    return words[start : start + ROW_WORDS]


@on_each
def test_all_are_given_out_once_and_those_that_were_freed_again(kind: Any) -> None:
    words = memory(3)
    rows = kind(words, 3)
    assert sorted([rows.claim(None), rows.reserve(), rows.claim(None)]) == [0, 1, 2]
    assert rows.claim(None) is rows.reserve() is None
    assert words[OPEN] == 2, "who reserves counts by himself"
    rows.release(1)
    assert words[OPEN] == 1
    assert words[LOST] == 1, "it has not said how it ended"
    assert rows.claim(ACCEPTED) == 1
    assert words[ACCEPTED] == 1
    rows.give_back(1, ACCEPTED)
    assert (words[ACCEPTED], words[OPEN]) == (0, 1)


@on_each
@pytest.mark.parametrize("ended", ENDS)
def test_it_is_settled_where_nobody_is_to_be_told(kind: Any, ended: str) -> None:
    words = memory()
    rows = kind(words, _ROWS)
    here = ended in ("closed", "reset", "released")
    for told in ("kept", "committed", "crowded", ""):
        row = rows.claim(None)
        of = Row(row_of(words, row))
        of.number = 1
        of.ended = ended
        of.keep = "kept" if told == "kept" else "not offered"
        of.state_at = 8 if told == "committed" else 0
        words[CROWDED] = told == "crowded"
        settled = here and not told
        assert rows.settle(row) is settled
        assert words[OPEN] == (0 if settled else 1)
        assert any(row_of(words, row)) is not settled
        if not settled:
            rows.release(row)
    assert bool(words[CLOSED]) is (ended in ("closed", "released"))


@pytest.mark.skipif(compiled is None, reason="there is no compiled core")
def test_both_write_the_same_words() -> None:
    drawn = random.Random(1)
    both = [(words := memory(), kind(words, _ROWS)) for kind in (Rows, compiled.Rows)]
    taken: list[int] = []
    for number in range(_STEPS):
        step = drawn.randrange(5)
        if step == 0 or not taken:
            claimed = {rows.claim(ACCEPTED) for _, rows in both}
            assert len(claimed) == 1
            if (row := claimed.pop()) is not None:
                taken.append(row)
            continue
        row = drawn.choice(taken)
        end = drawn.choice((*range(len(ENDS)), 6, 2**64 - 1))
        errors = drawn.choice((0, 1, 2**64 - 1))
        for words, _ in both:
            of = row_of(words, row)
            of[ENDED] = end
            known = Row(of)
            known.number, known.handler_errors = number, errors
        if step == 1:
            for _, rows in both:
                rows.release(row)
            taken.remove(row)
        elif step == 2:
            settled = {rows.settle(row) for _, rows in both}
            assert len(settled) == 1
            if settled.pop():
                taken.remove(row)
        elif step == 3:
            for _, rows in both:
                rows.give_back(row, ACCEPTED)
            taken.remove(row)
        assert both[0][0] == both[1][0], f"step {number}: {step}"


@pytest.mark.skipif(compiled is None, reason="there is no compiled core")
def test_there_is_no_row_and_no_word_beyond_the_memory() -> None:
    rows = compiled.Rows(memory(2), 2)
    for row in (2, 2**32, -1):
        with pytest.raises((IndexError, OverflowError)):
            rows.release(row)
        with pytest.raises((IndexError, OverflowError)):
            rows.settle(row)
        with pytest.raises((IndexError, OverflowError)):
            rows.give_back(row, None)
    with pytest.raises(IndexError):
        rows.claim(HEADER_WORDS)
    with pytest.raises(ValueError, match="words for all its rows"):
        compiled.Rows(memory(2), 3)
    with pytest.raises(ValueError, match="words for all its rows"):
        compiled.Rows(memory(2), 2**32 - 1)


@pytest.mark.skipif(compiled is None, reason="there is no compiled core")
def test_a_row_that_is_freed_too_often_does_not_reach_beyond_the_memory() -> None:
    """By the keeper, of a worker that has written anything."""
    rows = compiled.Rows(memory(2), 2)
    for _ in range(100):
        rows.release(1)
    assert [rows.reserve() for _ in range(5)].count(None) == 1
