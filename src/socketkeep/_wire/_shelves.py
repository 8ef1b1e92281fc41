"""Committed states in the scoreboard's memory: written without a system call, left by the dead.

Each row has two places for a small state and two for a large one, so that a new state never
overwrites the one that counts.  Which counts is said by one word of the row, written last: where it
is and its length, or 0 for no state.  Places that were never used cost no memory.

In front of a state may stand, in the same place, the record of the reply that it follows
(`_stream/_replies.py`): both count from one store on.  The word says where the state is, so that a
reader of an earlier version finds it, and where in its place that is says how long the record is.
"""

from __future__ import annotations

import mmap
from contextlib import suppress
from typing import Final

from socketkeep import _native
from socketkeep._base._passing import Unfit
from socketkeep._stream._committed import STATE_LIMIT
from socketkeep._stream._record import STATE, Record

_SMALL: Final = 512
_PLACES: Final = 2
_SMALL_ROW: Final = _SMALL * _PLACES
_LARGE_ROW: Final = STATE_LIMIT * _PLACES
_OFFSET_BITS: Final = 40
_OFFSET: Final = (1 << _OFFSET_BITS) - 1
#: What stands for no state behind a record: msgpack's nil, which no commit puts.
_NO_STATE: Final = b"\xc0"


def end(start: int, rows: int) -> int:
    """Return the offset at which the states of `rows` that begin at `start` end."""
    return _large_start(start, rows) + rows * _LARGE_ROW


def _large_start(start: int, rows: int) -> int:
    # Whole pages, so that the memory of a large state can be given back.
    page = mmap.PAGESIZE
    return -(-(start + rows * _SMALL_ROW) // page) * page


class StatePlace:
    """The place of one connection's state."""

    __slots__ = ("_large", "_map", "_other_large", "_other_small", "_small", "_words")

    def __init__(self, mapping: mmap.mmap, words: Record, small: int, large: int) -> None:
        self._map = mapping
        self._words = words
        # By turns: the one that is next is never the one that counts.
        self._small, self._other_small = small, small + _SMALL
        self._large, self._other_large = large, large + STATE_LIMIT
        counts = words[STATE] & _OFFSET
        if small <= counts < small + _SMALL:
            self._small, self._other_small = self._other_small, small
        elif large <= counts < large + STATE_LIMIT:
            self._large, self._other_large = self._other_large, large

    def put(self, state: bytes | None, reply: bytes = b"") -> None:
        """Replace the state, and the record of a reply in front of it, at once and as a whole.

        Who dies in the middle of this has left the earlier ones or these.  Both together are to
        have no more bytes than a state may have.
        """
        if state is None:
            if not reply:
                self._words[STATE] = 0
                return
            state = _NO_STATE
        front = len(reply)
        size = len(state)
        if front + size <= _SMALL:
            offset = self._small
            self._small, self._other_small = self._other_small, offset
        else:
            offset = self._large
            self._large, self._other_large = self._other_large, offset
        if front:
            self._map[offset : offset + front] = reply
            offset += front
        self._map[offset : offset + size] = state
        self._words[STATE] = (size + 1) << _OFFSET_BITS | offset


_make_place: Final = _native.compiled_or(StatePlace, "StatePlace")


class Shelves:
    """The states of a scoreboard's rows, from the offset `start` of its mapping on."""

    def __init__(self, mapping: mmap.mmap, rows: int, start: int) -> None:
        self._map = mapping
        self._small = start
        self._large = _large_start(start, rows)
        self._end = end(start, rows)

    def place(self, row: int, words: Record) -> StatePlace:
        """Return the place of a row's state; `words` are the row."""
        small = self._small + row * _SMALL_ROW
        return _make_place(self._map, words, small, self._large + row * _LARGE_ROW)

    def get(self, word: int) -> bytes | None:
        """Return the state that `word` names.  Raises Unfit when there is no room for one."""
        if not word:
            return None
        state = self._get(word)
        return None if state == _NO_STATE and self._front(word) else state

    def reply(self, word: int) -> bytes:
        """Return the record in front of the state that `word` names, b"" where there is none.

        Raises Unfit when there is no room for one, but not for what stands in it.
        """
        if not word:
            return b""
        self._get(word)
        offset = word & _OFFSET
        return self._map[offset - self._front(word) : offset]

    def _front(self, word: int) -> int:
        """Return how many bytes stand in front of a state in its place."""
        offset = word & _OFFSET
        if offset >= self._large:
            return (offset - self._large) % STATE_LIMIT
        return (offset - self._small) % _SMALL

    def _get(self, word: int) -> bytes:
        offset = word & _OFFSET
        size = (word >> _OFFSET_BITS) - 1
        if not 0 <= size <= STATE_LIMIT or not self._small <= offset <= self._end - size:
            raise Unfit("the place of a state is none")
        return self._map[offset : offset + size]

    def clear(self, row: int, word: int) -> None:
        """Give back the memory of a row's large states, if the last one was large."""
        if word & _OFFSET >= self._large:
            with suppress(OSError):  # only memory, and the next connection in the row uses it
                self._map.madvise(mmap.MADV_REMOVE, self._large + row * _LARGE_ROW, _LARGE_ROW)
