"""Ends workers whose loop makes no progress.

A worker that was stopped, or that is in a loop of C code, still holds its connections and may come
back at any time: it is killed, and only when it has been reaped are they given to others.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final

from socketkeep._base import _log
from socketkeep._keeper.loop._reactor import Reactor
from socketkeep._keeper.tables._records import WorkerState
from socketkeep._keeper.workers._workers import Worker
from socketkeep._wire._messages import Ping
from socketkeep._wire._scoreboard import BEAT

#: A worker is asked this often within the time it has.
_ASKED: Final = 4
_AHEAD: Final = 1.0
_SERVING: Final = (WorkerState.READY, WorkerState.DRAINING)


class Watchdog:
    """Asks each worker whether it goes on, and kills those that do not answer in time.

    `timeout` returns the seconds a worker of that model has, None for as long as it likes.
    """

    def __init__(
        self,
        reactor: Reactor,
        workers: Iterable[Worker],
        timeout: Callable[[str], float | None],
        kill: Callable[[Worker], None],
    ) -> None:
        self._reactor = reactor
        self._workers = workers
        self._timeout = timeout
        self._kill = kill
        self._asked: dict[int, float] = {}  # by serial: when a ping that is not answered was sent
        self._running = False

    def start(self, model: str) -> None:
        """Watch the workers, if those of `model` are to be watched."""
        timeout = self._timeout(model)
        if timeout and not self._running:
            self._running = True
            self._reactor.call_later(timeout / _ASKED, self._look)

    def _look(self) -> None:
        now = self._reactor.clock()
        shortest = None
        asked, self._asked = self._asked, {}
        for worker in self._workers:
            timeout = self._timeout(worker.model)
            if not timeout or worker.state not in _SERVING or worker.killed:
                continue
            shortest = timeout if shortest is None else min(shortest, timeout)
            sent = asked.get(worker.serial)
            # A time that is still to come was not written when it was.
            if sent is None or sent <= worker.scoreboard[BEAT] / 1e9 <= now + _AHEAD:
                worker.link.send(Ping())
                self._asked[worker.serial] = now
            elif now - sent < timeout:
                self._asked[worker.serial] = sent
            else:
                _log.error("worker killed: it made no progress", waited=timeout, **worker.label)
                worker.stuck = True
                self._kill(worker)
        self._running = shortest is not None
        if shortest is not None:
            self._reactor.call_later(shortest / _ASKED, self._look)
