"""Committed states in shared memory: what is left by a writer that dies at any moment."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from socketkeep._stream import _record as record
from socketkeep._stream._committed import STATE_LIMIT
from socketkeep._wire._scoreboard import Scoreboard, create_memfd

ROWS = 3


@pytest.fixture
def board() -> Iterator[Scoreboard]:
    fd = create_memfd(ROWS, states=True)
    try:
        yield Scoreboard(fd)
    finally:
        os.close(fd)


def pages(fd: int) -> int:
    return os.fstat(fd).st_blocks * 512


def test_a_board_without_states_has_none() -> None:
    fd = create_memfd(ROWS)
    board = Scoreboard(fd)
    os.close(fd)
    assert not board.keeps_states
    assert board.rows == ROWS
    assert board.state(0) is None


def test_nothing_put_is_no_state(board: Scoreboard) -> None:
    assert board.keeps_states
    assert board.rows == ROWS
    assert board.state(1) is None


@given(
    st.lists(
        st.tuples(
            st.integers(0, ROWS - 1),
            st.none() | st.binary(max_size=600) | st.just(b"x" * STATE_LIMIT),
        )
    )
)
def test_each_row_has_what_was_put_last(puts: list[tuple[int, bytes | None]]) -> None:
    fd = create_memfd(ROWS, states=True)
    writer, reader = Scoreboard(fd), Scoreboard(fd)
    os.close(fd)
    last: dict[int, bytes | None] = {}
    for row, state in puts:
        writer.shelf(row).put(state)
        last[row] = state
        assert {each: reader.state(each) for each in last} == last


def test_a_new_state_does_not_touch_the_one_that_counts(board: Scoreboard) -> None:
    """A writer that dies before it has written the word has left the earlier state whole."""
    for size in (10, STATE_LIMIT, 500, 513):
        board.shelf(0).put(b"a" * size)
        word = board.record(0)[record.STATE]
        board.shelf(0).put(b"b" * size)
        board.record(0)[record.STATE] = word
        assert board.state(0) == b"a" * size


def test_a_released_row_gives_the_memory_of_large_states_back() -> None:
    fd = create_memfd(ROWS, states=True)
    board = Scoreboard(fd)
    row = board.claim()
    assert row is not None
    before = pages(fd)
    board.shelf(row).put(b"x" * STATE_LIMIT)
    board.shelf(row).put(b"y" * STATE_LIMIT)
    assert pages(fd) >= before + 2 * STATE_LIMIT
    board.release(row)
    assert pages(fd) <= before + 4096
    assert board.state(row) is None
    os.close(fd)
