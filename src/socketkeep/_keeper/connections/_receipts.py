"""The word to an async worker that a connection it gave up is held here.

A worker that retires lets go of as many as have no receipt yet, and serves the others meanwhile.  A
receipt waits while the next workers lag: else all would leave as fast as they can be taken here,
and wait here, served by nobody, for workers that have an application to call for each.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sized
from typing import Final

from socketkeep._keeper.loop._reactor import Reactor, ReactorTimer
from socketkeep._keeper.workers._workers import Worker
from socketkeep._wire._messages import Acknowledged

#: How many may be on their way to the next workers for a receipt to be given at once.
_MOST: Final = 16
#: Seconds that a receipt waits at most: the next worker may take none for long.
_PATIENCE: Final = 0.1


class Receipts:
    """Gives receipts, in time with the next workers; `moving` has those that they lack."""

    def __init__(self, reactor: Reactor, moving: Sized) -> None:
        self._reactor = reactor
        self._moving = moving
        self._withheld: deque[tuple[Worker, str, int]] = deque()
        self._timer: ReactorTimer | None = None

    def give(self, worker: Worker, name: str, epoch: int, *, parked: bool) -> None:
        """Tell the worker that what it gave up is held, now or when others have arrived."""
        paced = worker.model == "async" and not parked
        if not paced or not (self._withheld or len(self._moving) >= _MOST):
            worker.link.send(Acknowledged(name, epoch, taken=True))
            return
        self._withheld.append((worker, name, epoch))
        if self._timer is None or not self._timer.pending:
            self._timer = self._reactor.call_later(_PATIENCE, self.give_all)

    def go_on(self) -> None:
        """Give what has waited, as far as there is room: some have arrived."""
        room = _MOST - len(self._moving)
        while self._withheld and room > 0:
            self._give_first()
            room -= 1

    def give_all(self) -> None:
        """Give all that has waited."""
        while self._withheld:
            self._give_first()

    def _give_first(self) -> None:
        worker, name, epoch = self._withheld.popleft()
        worker.link.send(Acknowledged(name, epoch, taken=True))
