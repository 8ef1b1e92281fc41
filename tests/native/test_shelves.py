"""Where a committed state is put: the same bytes in C and in Python, whatever came before."""

from __future__ import annotations

import mmap
import random
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from socketkeep._wire._shelves import Shelves, StatePlace, end
from tests.harness.seam import WORDS, Row
from tests.native.cores import compiled, on_both

on_each = on_both("kind", StatePlace, "StatePlace")

_STATES = 4096
_SMALL = _STATES  # of the first row
_LARGE = 2 * _STATES
_MOST = 65536
_STEPS = 400


@pytest.fixture
def board() -> Iterator[mmap.mmap]:
    """The words of one row, and room for its states."""
    with mmap.mmap(-1, end(_STATES, 1)) as mapping:
        yield mapping


def words_of(board: mmap.mmap) -> memoryview:
    return memoryview(board)[: 8 * WORDS].cast("Q")


def named(board: mmap.mmap) -> tuple[bytes | None, bytes]:
    """Return the state that counts, and the record of a reply in front of it."""
    with words_of(board) as words:
        word = Row(words).state_at
    shelves = Shelves(board, 1, _STATES)
    return shelves.get(word), shelves.reply(word)


@on_each
def test_what_was_put_last_counts(kind: Any, board: mmap.mmap) -> None:
    place = kind(board, words_of(board), _SMALL, _LARGE)
    for state, reply in (
        (b"one", b""),
        (b"x" * 512, b""),
        (b"y" * 513, b""),
        (b"", b""),
        (b"two", b"a reply"),
        (None, b"another"),
        (b"z" * (_MOST - 9), b"the third"),
        (None, b""),
    ):
        place.put(state, reply)
        assert named(board) == (state, reply)


@on_each
def test_the_one_before_stays_until_the_next(kind: Any, board: mmap.mmap) -> None:
    """Also where another process goes on with the row: what it finds is not overwritten."""
    for size in (3, 600):
        words = words_of(board)
        for each in range(4):
            place = kind(board, words, _SMALL, _LARGE)
            before = Row(words).state_at
            place.put(bytes([each]) * size)
            assert Row(words).state_at != before
            if each:
                assert Shelves(board, 1, _STATES).get(before) == bytes([each - 1]) * size


def test_a_writer_that_dies_at_any_store_has_left_the_earlier_or_the_later(
    board: mmap.mmap,
) -> None:
    """Both at once: never the state of one and the reply of the other.

    In Python, whose stores can be told: in C they are the same, in the same order.
    """

    class Dies(Exception):
        pass

    def dying(stores: int) -> Callable[[], None]:
        left = [stores]

        def store() -> None:
            left[0] -= 1
            if left[0] < 0:
                raise Dies

        return store

    words = words_of(board)
    for size in (10, 600):
        before, after = ((b"S" * size, b"R" * size), (b"s" * size, b"r" * size))
        for stores in range(4):
            StatePlace(board, words, _SMALL, _LARGE).put(*before)
            store = dying(stores)
            watched: list[Any] = [_Watched(board, store), _Watched(words, store)]
            shelf = StatePlace(watched[0], watched[1], _SMALL, _LARGE)
            try:
                shelf.put(*after)
            except Dies:
                assert stores < 3
                assert named(board) == before
            else:
                assert stores == 3
                assert named(board) == after
    words.release()


class _Watched:
    """Memory of which each store is told before it is made."""

    def __init__(self, memory: Any, store: Callable[[], None]) -> None:
        self._memory = memory
        self._store = store

    def __getitem__(self, key: Any) -> Any:
        return self._memory[key]

    def __setitem__(self, key: Any, value: Any) -> None:
        self._store()
        self._memory[key] = value


@pytest.mark.skipif(compiled is None, reason="the compiled core does not run")
def test_both_leave_the_same_bytes() -> None:
    draw = random.Random(7)
    size = end(_STATES, 1)
    with mmap.mmap(-1, size) as one, mmap.mmap(-1, size) as other:
        places = [
            kind(board, words_of(board), _SMALL, _LARGE)
            for kind, board in ((StatePlace, one), (compiled.StatePlace, other))
        ]
        for _ in range(_STEPS):
            length = draw.choice((0, 1, 100, 500, 512, 513, 5000))
            state = draw.choice((None, draw.randbytes(length)))
            reply = draw.choice((b"", b"", draw.randbytes(draw.choice((1, 40, 512)))))
            for place in places:
                place.put(state, reply)
            assert named(one) == named(other)
        assert one[:] == other[:]
        del places, place


@pytest.mark.skipif(compiled is None, reason="the compiled core does not run")
def test_memory_that_is_not_there_is_refused(board: mmap.mmap) -> None:
    elsewhere = memoryview(bytearray(8 * WORDS)).cast("Q")
    words = words_of(board)
    for small, large in ((len(board) - 1000, _LARGE), (_SMALL, len(board) - 2 * _MOST + 1)):
        with pytest.raises(ValueError, match="no room for the states"):
            compiled.StatePlace(board, words, small, large)
    with pytest.raises(ValueError, match="the row is not in the memory"):
        compiled.StatePlace(board, elsewhere, _SMALL, _LARGE)
    place = compiled.StatePlace(board, words, _SMALL, _LARGE)
    with pytest.raises(ValueError, match="65536 bytes at most"):
        place.put(b"x" * _MOST, b"y")
    with pytest.raises(TypeError, match="a state is bytes or None, not str"):
        place.put("text")
    assert named(board) == (None, b"")
    del place, words
