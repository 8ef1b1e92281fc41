"""The scoreboard: rows are claimed and freed, counted, and seen by another process."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from socketkeep._wire import _scoreboard as scoreboard
from tests.harness.seam import EPOCH, How, Row, order_to

#: From where a process can import the tests.
ROOT = Path(__file__).parents[2]


def make(rows: int = 4) -> scoreboard.Scoreboard:
    fd = scoreboard.create_memfd(rows)
    try:
        return scoreboard.Scoreboard(fd)
    finally:
        os.close(fd)


def make_two(rows: int = 4) -> tuple[scoreboard.Scoreboard, scoreboard.Scoreboard]:
    """Return two maps of one scoreboard, as the worker and the keeper have."""
    fd = scoreboard.create_memfd(rows)
    try:
        return scoreboard.Scoreboard(fd), scoreboard.Scoreboard(fd)
    finally:
        os.close(fd)


def claim(board: scoreboard.Scoreboard, number: int) -> int:
    row = board.claim()
    assert row is not None
    Row(board.record(row)).number = number
    return row


def test_rows_are_given_out_once_until_they_are_exhausted() -> None:
    board = make(3)
    assert board.rows == 3
    assert sorted(claim(board, number) for number in (1, 2, 3)) == [0, 1, 2]
    assert board[scoreboard.OPEN] == 3
    assert board.claim() is None
    assert board[scoreboard.OPEN] == 3


def test_a_freed_row_is_given_out_again_and_is_clear() -> None:
    board = make(1)
    row = claim(board, 7)
    words = board.record(row)
    Row(words).bytes_in = 5
    board.set_peer(row, "127.0.0.1:1")
    board.release(row)
    assert board[scoreboard.OPEN] == 0
    again = board.claim()
    assert again == row
    assert list(board.record(row)) == [0] * scoreboard.ROW_WORDS
    assert board.peer(row) == ""


@pytest.mark.parametrize(
    ("ended", "counter"),
    [
        ("closed", "closed"),
        ("released", "closed"),
        ("reset", "reset"),
        ("detached", "detached"),
        ("not yet", "lost"),
    ],
)
def test_the_end_is_counted(ended: str, counter: str) -> None:
    board = make()
    row = claim(board, 1)
    Row(board.record(row)).ended = ended
    Row(board.record(row)).handler_errors = 2
    board.release(row)
    counted = {name: board[word] for name, word in scoreboard.COUNTERS.items() if board[word]}
    assert counted == {counter: 1, "handler_errors": 2}


def test_the_counters_have_words_of_their_own() -> None:
    words = [
        *scoreboard.COUNTERS.values(),
        scoreboard.OPEN,
        scoreboard.RETIRE_HOW,
        scoreboard.RETIRE_AT,
    ]
    assert len(set(words)) == len(words)
    assert max(words) < scoreboard.HEADER_WORDS


def test_taken_are_those_with_a_number() -> None:
    worker, keeper = make_two()
    assert list(keeper.taken()) == []
    first, second, third = (claim(worker, number) for number in (11, 12, 13))
    worker.release(second)
    assert worker.claim() == second, "claimed, and not yet entered"
    assert [(row, Row(words).number) for row, words in keeper.taken()] == [
        (first, 11),
        (third, 13),
    ]


def test_columns_are_the_words_of_those_that_are_taken() -> None:
    """Also beyond the first chunk of rows, with holes between them."""
    worker, keeper = make_two(2000)
    rows = [claim(worker, number) for number in range(1, 1501)]
    for row in rows[::3]:
        worker.release(row)
    for row, words in worker.taken():
        Row(words).epoch = row + 7
    expected = [(row, Row(words).number, row + 7) for row, words in keeper.taken()]
    assert len(expected) == 1000
    assert list(keeper.columns(EPOCH)) == expected
    plain = [(row, number) for row, number, _ in expected]
    assert list(keeper.rows_of_part(1, 0)) == plain
    assert list(keeper.rows_of_part(64, 5)) == [each for each in plain if each[1] % 64 == 5]


@given(st.lists(st.booleans(), max_size=30))
def test_the_open_rows_are_those_claimed_and_not_released(steps: list[bool]) -> None:
    worker, keeper = make_two(5)
    rows: list[int] = []
    for number, wanted in enumerate(steps, 1):
        if wanted:
            row = worker.claim()
            assert (row is None) == (len(rows) == 5)
            if row is not None:
                assert row not in rows
                Row(worker.record(row)).number = number
                rows.append(row)
        elif rows:
            worker.release(rows.pop(0))
        assert keeper[scoreboard.OPEN] == len(rows)
        assert sorted(row for row, _ in keeper.taken()) == sorted(rows)


def test_the_peer_is_cut_at_64_bytes() -> None:
    board = make(2)
    first, second = claim(board, 1), claim(board, 2)
    board.set_peer(second, "[::1]:65535")
    board.set_peer(first, "x" * 63 + "é" + "y" * 100)
    assert board.peer(first) == "x" * 63 + "\N{REPLACEMENT CHARACTER}"
    assert board.peer(second) == "[::1]:65535", "the next row is untouched"
    assert Row(board.record(second)).number == 2


@pytest.mark.parametrize("how", ["move", "close", "finish"])
def test_the_order_to_retire_is_seen_in_the_other_map(how: How) -> None:
    keeper, handler = make_two()
    before = handler.order
    keeper.retire(order_to(how, at=12.5))
    told = handler.order
    assert before is None
    assert told is not None
    assert (told.how, told.deadline) == (how, 12.5)


def test_an_order_without_deadline_is_far_away() -> None:
    board = make()
    board.retire(order_to("finish", at=float("inf")))
    assert board.order is not None
    assert board.order.deadline > 1e9


_SERVES_IN_A_CHILD = """
import os, sys
from tests.harness.seam import Row, board_in, count_accepted
board = board_in(int(sys.argv[1]))
row = board.claim()
words = board.record(row)
Row(words).number = 42
count_accepted(board)
pid = os.fork()
if pid == 0:
    Row(words).bytes_in += 1000
    Row(words).pid = os.getpid()
    board.set_peer(row, "a peer")
    os._exit(0)
os.waitpid(pid, 0)
print(pid)
"""


@pytest.mark.process
def test_what_a_worker_and_its_child_write_the_keeper_reads() -> None:
    fd = scoreboard.create_memfd(4)
    keeper = scoreboard.Scoreboard(fd)
    done = subprocess.run(
        [sys.executable, "-c", _SERVES_IN_A_CHILD, str(fd)],
        cwd=ROOT,
        pass_fds=[fd],
        check=True,
        capture_output=True,
        timeout=20,
    )
    os.close(fd)
    ((row, words),) = keeper.taken()
    assert Row(words).number == 42
    assert Row(words).bytes_in == 1000
    assert Row(words).pid == int(done.stdout)
    assert keeper.peer(row) == "a peer"
    assert keeper[scoreboard.ACCEPTED] == 1


def test_threads_do_not_lose_each_others_counts() -> None:
    board = make(64)

    def work() -> None:
        for _ in range(300):
            row = board.claim()
            assert row is not None
            Row(board.record(row)).ended = "closed"
            board.release(row)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert board[scoreboard.OPEN] == 0
    assert board[scoreboard.CLOSED] == 1200


@given(*[st.integers(0, 2**63 - 1)] * 3)
def test_an_id_says_who_minted_it(boot: int, minted_by: int, number: int) -> None:
    name = scoreboard.connection_id(boot, minted_by, number)
    assert scoreboard.parse_connection_id(name) == (boot, minted_by, number)
    assert len(scoreboard.connection_id(1, 2, 3)) == 5


def test_a_row_that_is_given_back_was_never_claimed() -> None:
    board = make(1)
    row = board.claim(scoreboard.ACCEPTED)
    assert row is not None
    Row(board.record(row)).bytes_in = 5
    board.give_back(row, scoreboard.ACCEPTED)
    assert (board[scoreboard.OPEN], board[scoreboard.ACCEPTED], board.balance) == (0, 0, 0)
    assert board.claim() == row
    assert list(board.record(row)) == [0] * scoreboard.ROW_WORDS


def test_what_is_due_for_one_process_is_not_for_the_next() -> None:
    ours, theirs = make_two()
    word = scoreboard.UNSERVED_TOLD
    assert ours.is_due(word, 60)
    assert not theirs.is_due(word, 60)
    assert theirs.is_due(word, 0)
    assert theirs.is_due(scoreboard.FORKED_TOLD, 60)
