"""Which worker takes a new connection: those that serve fewer come first.

All workers of a generation wait at the same queue, and whichever runs could empty it.  So each
shows how many it serves in memory that the template makes and its workers inherit, and one that is
ahead of another leaves the queue to that one for some moments.  The other may be computing, stopped
or dead: then it shows nothing new meanwhile, and is waited for no more until it does.

The memory is a hint.  The keeper has no part in it, and a word that is wrong costs a bounded wait.
"""

from __future__ import annotations

import mmap
from typing import Final

#: How long a connection is left to others before this worker looks again, in seconds: the shortest
#: time that the loops can wait.
MOMENT: Final = 0.001
#: For how many moments: a process that is idle runs within them, also on a machine that is busy.
PATIENCE: Final = 10
#: By how many connections, and by which part of what the other serves, a worker may be ahead.  To
#: be level to the last one would have short connections change processes, which costs more than to
#: serve them.
LEEWAY: Final = 4

#: One for each of the most workers that a server can have.
_PLACES: Final = 1023
_WORD: Final = 8
_IN_USE: Final = 0  # the word that tells how many places have ever been taken; after it come they
_COUNT: Final = 2**32 - 1  # of a place: connections and one, 0: accepts none; above it: changes
_MASK: Final = 2**64 - 1


class Siblings:
    """The memory; made by the template."""

    def __init__(self) -> None:
        self.words: Final = memoryview(mmap.mmap(-1, (1 + _PLACES) * _WORD)).cast("Q")

    def seat(self, slot: int) -> None:
        """Make ready the place of the worker that is forked next; called by the template alone."""
        place = 1 + slot % _PLACES
        self.words[_IN_USE] = max(self.words[_IN_USE], place)
        self.words[place] = 0


class Standing:
    """One worker's place among its siblings."""

    def __init__(self, siblings: Siblings, slot: int) -> None:
        self._words = siblings.words
        self._place = 1 + slot % _PLACES
        self._changes = 0
        self._accepts = False  # as shown last
        self._moments = 0  # for which what is queued has been left to others
        self._seen: list[int] = []  # the words of all when the first of them began
        self._left_out: list[int] = []  # the words of those that did not come, as they were then

    def show(self, serving: int | None) -> None:
        """Show how many connections are served; None: no more are accepted for now."""
        if serving is not None:
            self._changes += _COUNT + 1
            self._words[self._place] = (self._changes + serving + 1) & _MASK
        elif self._accepts:
            self._words[self._place] = 0  # once: from now on another may have the slot
        self._accepts = serving is not None

    def is_ahead(self, serving: int) -> bool:
        """Whether a worker with that many has more than another that accepts, beyond the leeway."""
        return self._is_ahead(serving, self._others())

    def leaves(self, serving: int) -> bool:
        """Whether a connection that is queued is left to others for a moment."""
        others = self._others()
        if not self._is_ahead(serving, others):
            self._moments = 0
            return False
        if self._moments == 0:
            self._seen = others
        if self._moments == PATIENCE:
            self._moments = 0
            self._left_out = self._seen
            return False
        self._moments += 1
        return True

    def nobody_waits(self) -> None:
        """Note that the queue is empty: what comes next is waited with anew."""
        self._moments = 0

    def _others(self) -> list[int]:
        words = self._words
        others: list[int] = words[1 : 1 + min(words[_IN_USE], _PLACES)].tolist()
        if self._place <= len(others):
            others[self._place - 1] = 0
        return others

    def _is_ahead(self, serving: int, others: list[int]) -> bool:
        if self._left_out:
            # Those that have come since, by a slot that is new, were not left out.
            left_out = self._left_out + [0] * (len(others) - len(self._left_out))
            others = [each for each, then in zip(others, left_out, strict=True) if each != then]
        least = min([each & _COUNT for each in others if each], default=0)
        return least > 0 and serving >= least - 1 + max(LEEWAY, least // LEEWAY)
