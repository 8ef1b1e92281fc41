"""A drain: nothing new is accepted, and what is open is served until it ends."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from socketkeep._keeper.connections._connections import Connections
from socketkeep._keeper.loop._reactor import Reactor, ReactorTimer
from socketkeep._keeper.workers._pool import WorkerPool
from socketkeep._wire._messages import CloseListeners

#: A connection that ends in a worker says nothing to the keeper.
_LOOK: Final = 0.05


class Drain:
    """Has workers go on without listeners until no connection is left.

    Workers are not retired before: connections are parked and woken meanwhile, and each that wakes
    needs a worker.  `empty` is called once nothing is open, or the time is over.
    """

    def __init__(
        self,
        reactor: Reactor,
        pool: WorkerPool,
        connections: Connections,
        empty: Callable[[], None],
    ) -> None:
        self._reactor = reactor
        self._pool = pool
        self._connections = connections
        self._empty = empty
        self._deadline = 0.0
        self._timer: ReactorTimer | None = None

    def begin(self, deadline: float) -> None:
        """Close the listeners of the workers that serve, and wait."""
        self._deadline = deadline
        for worker in self._pool:
            if worker.is_ready:
                worker.link.send(CloseListeners())
        self._look()

    def cancel(self) -> None:
        """Something else ends the server."""
        if self._timer is not None:
            self._timer.cancel()

    def _look(self) -> None:
        serving = any(worker.open or worker.arriving for worker in self._pool)
        late = self._reactor.clock() >= self._deadline
        if late or not (serving or self._connections):
            self._empty()
        else:
            self._timer = self._reactor.call_later(_LOOK, self._look)
