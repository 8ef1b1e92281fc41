"""Asking an async worker's connections to leave, a few at a time.

One that has left is served by nobody until the next worker has it.  If all left at once, the last
would be on its way for as long as all the moves take together; so the others are served meanwhile.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Iterable, Sized
from typing import Final, Protocol

from socketkeep._stream._lease import Order

#: How many connections may be on their way to the keeper at a time.  With 4 the processes wake each
#: other so often that a move takes half as much CPU time again; with 64 it takes no less.
WINDOW: Final = 16
#: The part of the time until the deadline after which all that is left is asked: the keeper takes
#: none, and handlers need some of that time to come to a safe point.
_PATIENCE: Final = 0.5


class Asked(Protocol):
    """A connection, to which an order is given."""

    def ask(self, order: Order) -> None: ...


class MoveWindow:
    """Gives connections an order: to move, to so many that `departures` has no more than `WINDOW`.

    `go_on` is to be called when some have gone.  A connection that is asked in the middle of a
    message, or whose handler takes its time to end, has no place in the window.
    """

    def __init__(self, departures: Sized) -> None:
        self._departures = departures
        self._loop = asyncio.get_running_loop()
        self._order: Order | None = None
        self._unasked: deque[Asked] = deque()
        self._soon = False  # it is gone on with in the loop's next turn

    def begin(self, order: Order, connections: Iterable[Asked]) -> None:
        """Give `order` to `connections`, in place of an earlier one and those it was for."""
        self._order = order
        self._unasked = deque(connections)
        if order.how != "move":
            self._ask(len(self._unasked))
            return
        self._ask_some()
        if self._unasked:
            patience = max(0.0, (order.deadline - time.monotonic()) * _PATIENCE)
            self._loop.call_later(patience, self._ask_all, order)

    def go_on(self) -> None:
        """Ask as many more as there is room for."""
        if self._unasked and not self._soon:
            self._soon = True
            self._loop.call_soon(self._ask_some)

    def _ask_some(self) -> None:
        self._soon = False
        self._ask(WINDOW - len(self._departures))
        if len(self._departures) < WINDOW:
            # Those that leave are among the departures in the loop's next turn; the others' places
            # are for others.
            self.go_on()

    def _ask_all(self, order: Order) -> None:
        if order is self._order:
            self._ask(len(self._unasked))

    def _ask(self, count: int) -> None:
        assert self._order is not None
        for _ in range(min(count, len(self._unasked))):
            self._unasked.popleft().ask(self._order)
