"""A look at which workers answer now, before something is said of their connections."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final

from socketkeep._keeper.loop._reactor import Reactor
from socketkeep._keeper.tables._records import WorkerState
from socketkeep._keeper.workers._workers import Worker
from socketkeep._wire._messages import Ping
from socketkeep._wire._scoreboard import BEAT

#: Seconds that a worker has to answer, and between two looks whether it has.
PATIENCE: Final = 1.0
_LOOK: Final = 0.02


def call_roll(
    reactor: Reactor, workers: Iterable[Worker], told: Callable[[list[Worker]], None]
) -> None:
    """Ask these workers whether they go on; `told` is called with those that do not answer.

    At once when all have, after `PATIENCE` otherwise.  A prefork worker is not asked: its loop
    stands still while its handler runs, as it should.
    """
    asked_at = reactor.clock()
    asked = [
        worker
        for worker in workers
        if worker.state in (WorkerState.READY, WorkerState.DRAINING) and worker.model != "prefork"
    ]
    for worker in asked:
        worker.link.send(Ping())

    def look() -> None:
        silent = [each for each in asked if each.scoreboard[BEAT] / 1e9 < asked_at]
        if silent and reactor.clock() < asked_at + PATIENCE:
            reactor.call_later(_LOOK, look)
        else:
            told(silent)

    look()
