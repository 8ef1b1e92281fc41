"""Committed states in shared memory: what is left by a writer that dies at any moment."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.harness.seam import Row, board_in, make_board

ROWS = 3
#: The largest state that may be committed.
STATE_LIMIT = 64 * 1024


@pytest.fixture
def board() -> Iterator[Any]:
    fd, made = make_board(ROWS, states=True)
    try:
        yield made
    finally:
        os.close(fd)


def pages(fd: int) -> int:
    return os.fstat(fd).st_blocks * 512


def test_a_board_without_states_has_none() -> None:
    fd, board = make_board(ROWS)
    os.close(fd)
    assert not board.keeps_states
    assert board.rows == ROWS
    assert board.state(0) is None


def test_nothing_put_is_no_state(board: Any) -> None:
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
    fd, writer = make_board(ROWS, states=True)
    reader = board_in(fd)
    os.close(fd)
    last: dict[int, bytes | None] = {}
    for row, state in puts:
        writer.shelf(row).put(state)
        last[row] = state
        assert {each: reader.state(each) for each in last} == last


def test_a_new_state_does_not_touch_the_one_that_counts(board: Any) -> None:
    """A writer that dies before it has written the word has left the earlier state whole."""
    for size in (10, STATE_LIMIT, 500, 513):
        board.shelf(0).put(b"a" * size)
        word = Row(board.record(0)).state_at
        board.shelf(0).put(b"b" * size)
        Row(board.record(0)).state_at = word
        assert board.state(0) == b"a" * size


def test_a_released_row_gives_the_memory_of_large_states_back() -> None:
    fd, board = make_board(ROWS, states=True)
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


# Replies in front of states.


@given(
    st.lists(
        st.tuples(
            st.none() | st.sampled_from([1, 10, 479, 480, 481, 600, 30_000]),
            st.sampled_from([0, 1, 32, 511, 512, 600, 30_000]),
        )
    )
)
def test_state_and_reply_count_together(puts: list[tuple[int | None, int]]) -> None:
    fd, writer = make_board(ROWS, states=True)
    reader = board_in(fd)
    os.close(fd)
    shelf, other = writer.shelf(1), writer.shelf(2)
    other.put(b"other", b"another")
    assert reader.reply(1) == b""
    for number, (state_size, reply_size) in enumerate(puts):
        state = None if state_size is None else bytes([number % 128]) * state_size
        reply = bytes([number % 128 + 128]) * reply_size
        shelf.put(state, reply)
        assert (reader.state(1), reader.reply(1)) == (state, reply)
        shelf = writer.shelf(1)  # as in a process that was forked meanwhile
    assert (reader.state(2), reader.reply(2)) == (b"other", b"another")


@pytest.mark.parametrize("room", [512, STATE_LIMIT])
def test_what_fits_exactly(board: Any, room: int) -> None:
    for reply in (b"r" * (room - 1), b"r" * 32):
        state = b"s" * (room - len(reply))
        board.shelf(0).put(state, reply)
        assert (board.state(0), board.reply(0)) == (state, reply)


@given(st.integers(0, 2**64 - 1))
def test_a_word_of_a_hostile_worker_names_a_place_of_the_board_or_none(word: int) -> None:
    fd, board = make_board(ROWS, states=True)
    os.close(fd)
    Row(board.record(0)).state_at = word
    try:
        state, reply = board.state(0), board.reply(0)
    except ValueError:
        return
    assert len(reply) + len(state or b"") <= 2 * STATE_LIMIT
