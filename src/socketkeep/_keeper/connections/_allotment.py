"""Telling the workers of the serving generation how many connections they may accept."""

from __future__ import annotations

from typing import Final

from socketkeep._config._server_options import ServeConfig
from socketkeep._keeper.connections._connections import Connections
from socketkeep._keeper.loop._reactor import Reactor, ReactorTimer
from socketkeep._keeper.tables import _seats
from socketkeep._keeper.tables._records import WorkerState
from socketkeep._keeper.workers._generations import Generation
from socketkeep._keeper.workers._pool import WorkerPool

_AGAIN: Final = 0.1
_LEAVING: Final = (WorkerState.DRAINING, WorkerState.DEAD)


class Allotment:
    """Shares the seats out whenever workers or connections came or went (`_seats` has the sums)."""

    def __init__(
        self, reactor: Reactor, pool: WorkerPool, connections: Connections, config: ServeConfig
    ) -> None:
        self._reactor = reactor
        self._pool = pool
        self._connections = connections
        self._config = config
        self._timer: ReactorTimer | None = None

    def use(self, config: ServeConfig) -> None:
        """Go by these options from now on."""
        self._config = config

    def share_out(self, generation: Generation, slots: int, paused: bool) -> None:
        """Tell each worker of `generation` what it may accept; nothing while `paused`."""
        workers = [w for w in self._pool.of_generation(generation.number) if w.is_ready]
        workers.sort(key=lambda worker: worker.slot)
        if not workers:
            return
        each = _seats.seats_of_model(generation.model, self._config.threads)
        count = max(len(workers), slots)
        shares = _seats.shares(each, count, self._config.max_connections)
        for worker, share in zip(workers, shares, strict=False):
            if share > worker.seats:
                self._reactor.call_soon(self._connections.moves.dispatch)
            worker.seats = share
        most = self._config.max_connections
        scarce = each != _seats.UNBOUNDED or most > 0
        if scarce and not most and self._connections.moves.waiting:
            # They and the accept queues take turns, and the keeper sees to that.
            for worker in workers:
                self._pool.allot(worker, 0)
            self._look_again()
            return
        coming = self._coming() if scarce else 0
        bounds = [worker.bound for worker in workers] if most else None
        loads = [worker.load for worker in workers]
        limits = _seats.accept_limits([worker.seats for worker in workers], loads, coming, bounds)
        full = False
        if bounds is not None:
            limits = _seats.within(limits, bounds, most - coming)
            full = coming + sum(loads) >= most
        if scarce and self._connections.moves.waiting:
            limits = [0] * len(workers)
        for worker, limit in zip(workers, limits, strict=True):
            self._pool.allot(worker, 0 if paused else limit, full=full)
        keeping = limits != [worker.seats for worker in workers]
        if coming or keeping:
            self._look_again()

    def _look_again(self) -> None:
        """See later: a connection that ends in a worker frees a seat and says nothing."""
        if self._timer is None or not self._timer.pending:
            self._timer = self._reactor.call_later(_AGAIN, self._dispatch_again)

    def _dispatch_again(self) -> None:
        self._connections.moves.dispatch()
        if self._connections.moves.waiting:
            self._look_again()

    def admits(self, generation: Generation) -> bool:
        """Return whether the keeper may accept one more for a worker that has a free seat.

        Not where there are seats enough: there workers accept for themselves.  Nor in the place of
        one that is served by a retiring worker and needs a seat in those that stay.
        """
        if not self._is_scarce(generation):
            return False
        workers = [w for w in self._pool.of_generation(generation.number) if w.is_ready]
        if sum(max(0, worker.free_seats) for worker in workers) <= self._leaving():
            return False
        most = self._config.max_connections
        return not most or self._coming() + sum(worker.bound for worker in workers) < most

    def has_room(self) -> bool:
        """Return whether one more may be served at the end: workers accept nothing then."""
        most = self._config.max_connections
        if not most:
            return True
        waiting = self._connections.moves.waiting + len(self._connections.parking)
        return waiting + sum(worker.load for worker in self._pool) < most

    def _is_scarce(self, generation: Generation) -> bool:
        """Return whether connections may have to wait for a seat."""
        each = _seats.seats_of_model(generation.model, self._config.threads)
        return each != _seats.UNBOUNDED or self._config.max_connections > 0

    def _coming(self) -> int:
        """Return how many connections have no seat, and are to have one before any new one."""
        coming = self._connections.moves.waiting + self._leaving()
        if self._config.max_connections:
            coming += len(self._connections.parking)
        return coming

    def _leaving(self) -> int:
        """Return how many connections of retiring workers need a seat in those that stay."""
        if self._config.max_connections:
            return sum(worker.bound for worker in self._pool if worker.state in _LEAVING)
        return sum(worker.load for worker in self._pool if worker.moves_its_connections)
