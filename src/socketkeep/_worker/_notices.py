"""Notices to sync handlers beyond the scoreboard: why, and which alone are asked to leave.

In memory that a worker makes before it forks anything: its loop writes it, and the threads and
processes that serve its connections read it.  The scoreboard has no place for it, which other
versions read; it says that there is something to look for.
"""

from __future__ import annotations

import mmap
import os
import time
from dataclasses import replace
from typing import Final

from socketkeep._stream import _record as record
from socketkeep._stream._lease import Order, Why
from socketkeep._stream._record import Record
from socketkeep._wire._scoreboard import Scoreboard

#: How many connections may be asked alone at a time; who comes later is asked when one has gone.
MOST_ASKED: Final = 32
#: Seconds for which the handlers' wake descriptor stays readable for those that are asked, and
#: after which it is made so again: a handler may have looked just before it was.
_PULSE: Final = 0.005
_AGAIN: Final = 0.2
#: Seconds that a handler which is woken, and is not meant, stays away from that descriptor.
BRIEFLY: Final = 0.001

_HOWS: Final = ("move", "close", "end", "finish")
_WHYS: Final[tuple[Why, ...]] = ("stop", "drain", "reload", "disconnect")
_LATEST: Final = 2**63

# The first words: how many places are in use; why there is an order for all, as its number and one.
_IN_USE: Final = 0
_WHY: Final = 1
_BEGINS: Final = 2
_APART: Final = 3
_PLACES: Final = 4
# The words of a place.
_NUMBER: Final = 0  # written last, and cleared first
_MINTED_BY: Final = 1
_EPOCH: Final = 2
_ORDER: Final = 3  # how and why
_DEADLINE: Final = 4
_SIZE: Final = 5


class Notices:
    """The reason for the worker's order; and the connections that are asked alone."""

    def __init__(self) -> None:
        size = (_PLACES + MOST_ASKED * _SIZE) * 8
        self._words: Final = memoryview(mmap.mmap(-1, size)).cast("Q")

    def explain(self, order: Order) -> None:
        """Note what the scoreboard does not say of the order for all."""
        self._words[_BEGINS] = int(order.begins * 1e9)
        self._words[_APART] = int(order.apart * 1e9)
        self._words[_WHY] = _WHYS.index(order.why) + 1

    def explained(self, order: Order) -> Order:
        """Return the order that the scoreboard has, with that."""
        why = self._words[_WHY]
        if not why:
            return order
        begins, apart = self._words[_BEGINS] / 1e9, self._words[_APART] / 1e9
        return replace(order, why=_WHYS[why - 1], begins=begins, apart=apart)

    def asked(self, words: Record) -> Order | None:
        """Return the order that is for this connection alone, if there is one."""
        if not self._words[_IN_USE]:
            return None
        for start in range(_PLACES, len(self._words), _SIZE):
            place = self._words[start : start + _SIZE]
            if place[_NUMBER] and _is_of(place, words):
                how, why = divmod(place[_ORDER], len(_WHYS))
                at = place[_DEADLINE]
                deadline = float("inf") if at >= _LATEST else at / 1e9
                return Order(_HOWS[how], deadline, _WHYS[why])
        return None

    def ask(self, words: Record, order: Order) -> bool:
        """Note an order for one connection, in place of an earlier one; return if there is room."""
        free = -1
        for start in range(_PLACES, len(self._words), _SIZE):
            place = self._words[start : start + _SIZE]
            if not place[_NUMBER]:
                free = start if free < 0 else free
            elif _is_of(place, words):
                self._write(start, words, order)
                return True
        if free < 0:
            return False
        self._write(free, words, order)
        self._words[_IN_USE] += 1
        return True

    def forget(self, words: tuple[int, int, int]) -> None:
        """Free the place of a connection that has gone: its number, who minted it, its epoch."""
        for start in range(_PLACES, len(self._words), _SIZE):
            if tuple(self._words[start : start + _ORDER]) == words:
                self._words[start + _NUMBER] = 0
                self._words[_IN_USE] -= 1

    def _write(self, start: int, words: Record, order: Order) -> None:
        place = self._words[start : start + _SIZE]
        place[_NUMBER] = 0
        place[_MINTED_BY] = words[record.MINTED_BY]
        place[_EPOCH] = words[record.EPOCH]
        place[_ORDER] = _HOWS.index(order.how) * len(_WHYS) + _WHYS.index(order.why)
        place[_DEADLINE] = int(min(order.deadline * 1e9, _LATEST))
        place[_NUMBER] = words[record.NUMBER]


def _is_of(place: memoryview, words: Record) -> bool:
    return (place[_NUMBER], place[_MINTED_BY], place[_EPOCH]) == _key(words)


def _key(words: Record) -> tuple[int, int, int]:
    return words[record.NUMBER], words[record.MINTED_BY], words[record.EPOCH]


class NoticeDelivery:
    """Has single connections hear their order, for the loop of a sync worker.

    wake_fd: what wakes all the handlers, an eventfd that nobody else reads; -1: they hear without.
    """

    def __init__(self, notices: Notices, board: Scoreboard, wake_fd: int) -> None:
        self._notices = notices
        self._board = board
        self._wake_fd = wake_fd
        self._asked: dict[tuple[int, int, int], Record] = {}
        self._rings_until = 0.0
        self._next = 0.0

    def notify(self, words: Record, order: Order) -> bool:
        """Give a connection its order; return whether there is room for it."""
        if not self._notices.ask(words, order):
            return False
        self._asked[_key(words)] = words
        self._board.look = True
        self._next = 0.0
        self.check()
        return True

    @property
    def patience(self) -> float | None:
        """Return how many seconds the loop may wait before it calls `check`; None: as it likes."""
        if not self._asked and not self._rings_until:
            return None
        return max(0.0, (self._rings_until or self._next) - time.monotonic())

    def check(self, *, retired: bool = False) -> None:
        """Wake the handlers if it is time, and see who has gone.

        retired: they have an order all together, and stay awake.
        """
        if not self._asked and not self._rings_until:
            return
        now = time.monotonic()
        for key, words in tuple(self._asked.items()):
            if _key(words) != key or words[record.ENDED]:
                self._notices.forget(key)
                del self._asked[key]
        if not self._asked:
            self._board.look = False
        if retired:
            self._rings_until = 0.0
        elif self._rings_until and (now >= self._rings_until or not self._asked):
            self._rings_until = 0.0
            if self._wake_fd >= 0:
                os.eventfd_read(self._wake_fd)
        elif self._asked and not self._rings_until and now >= self._next:
            self._next = now + _AGAIN
            if self._wake_fd >= 0:
                os.eventfd_write(self._wake_fd, 1)
                self._rings_until = now + _PULSE
