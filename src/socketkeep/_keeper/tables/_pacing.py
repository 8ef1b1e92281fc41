"""When to replace a worker that died: at once, later when it keeps dying.  No I/O."""

from __future__ import annotations

from typing import Final

#: Deaths in a slot that are replaced at once; each second that a worker lives makes up for one.
#: Workers that are killed from outside, ten a second for a while, must not leave a server without
#: any; one whose code makes it die each time must not take the machine.
_ALLOWED: Final = 40
_LONGEST_DELAY: Final = 5.0


class Pacing:
    """Delays between the lives of the worker in each slot."""

    def __init__(self) -> None:
        self.deaths: dict[int, float] = {}  # by slot, less what was made up for

    def delay_after(self, slot: int, lived: float) -> float:
        """Return how many seconds to wait before the slot gets its next worker."""
        deaths = max(0.0, self.deaths.get(slot, 0.0) - lived) + 1
        self.deaths[slot] = deaths
        return min(_LONGEST_DELAY, max(0.0, deaths - _ALLOWED))
