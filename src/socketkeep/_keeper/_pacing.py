"""When to replace a worker that died: at once, later when it keeps dying.  No I/O."""

from __future__ import annotations

from typing import Final

_SHORT_LIFE: Final = 5.0  # seconds; a worker that lived longer has worked
_FIRST_DELAY: Final = 0.1
_LONGEST_DELAY: Final = 5.0


class Pacing:
    """Delays between the lives of the worker in each slot."""

    def __init__(self) -> None:
        self.short_lives: dict[int, int] = {}  # in a row, by slot

    def delay_after(self, slot: int, lived: float) -> float:
        """Return how many seconds to wait before the slot gets its next worker."""
        if lived >= _SHORT_LIFE:
            self.short_lives.pop(slot, None)
            return 0.0
        count = self.short_lives.get(slot, 0)
        self.short_lives[slot] = count + 1
        if count == 0:
            return 0.0  # one death is an accident
        return min(_LONGEST_DELAY, _FIRST_DELAY * 2.0 ** min(count - 1, 16))
