"""The server's end, as long as it waits for something: what is open, or what has no seat yet."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from socketkeep._keeper.loop._reactor import Reactor, ReactorTimer

#: A connection that ends in a worker says nothing to the keeper.
_LOOK: Final = 0.05


class Drain:
    """Has those that wait for a seat given one, until there is nothing more to wait for.

    Workers have no listeners meanwhile, and do not exit: each that is parked and wakes, and each
    that was in the accept queue, needs a worker.  `dispatch` gives them the seats that have become
    free; `over` is called once nothing is left, or the time is over.
    """

    def __init__(
        self, reactor: Reactor, dispatch: Callable[[], None], over: Callable[[], None]
    ) -> None:
        self._reactor = reactor
        self._dispatch = dispatch
        self._over = over
        self._is_empty: Callable[[], bool] = bool
        self._deadline = 0.0
        self._timer: ReactorTimer | None = None

    def begin(self, deadline: float, is_empty: Callable[[], bool]) -> None:
        """Wait until `is_empty` says so."""
        self._deadline = deadline
        self._is_empty = is_empty
        self._look()

    def cancel(self) -> None:
        """Something else ends the server."""
        if self._timer is not None:
            self._timer.cancel()

    def _look(self) -> None:
        if self._reactor.clock() >= self._deadline or self._is_empty():
            self._over()
        else:
            self._timer = self._reactor.call_later(_LOOK, self._look)
            self._dispatch()
