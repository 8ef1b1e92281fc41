"""The fate of connections whose code another generation has replaced."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Final

from socketkeep._base import _log
from socketkeep._keeper.loop._reactor import Reactor
from socketkeep._keeper.tables._staying import Staying, why_it_stays
from socketkeep._keeper.workers._pool import WorkerPool
from socketkeep._keeper.workers._workers import Worker
from socketkeep._stream import _record as record
from socketkeep._wire._scoreboard import CLOSED, DETACHED, LOST, RESET

_ENDS: Final = (CLOSED, RESET, LOST)
#: Seconds before the end at which it is looked who is still there: at the end itself workers close
#: them, and may be first.
_BEFORE_THE_END: Final = 0.1


@dataclass(slots=True)
class Fate:
    """The counts of a generation's connections that moved, ended by themselves, or were cut.

    cut: by why they had stayed; those that were open when the time of handlers was as good as over.
    """

    moved: int = 0
    ended: int = 0
    cut: Counter[Staying] = field(default_factory=Counter)


@dataclass(slots=True, eq=False)
class _Batch:
    """The workers that one reload has retired."""

    generation: int  # that replaced them
    workers: dict[Worker, tuple[int, int]]  # with what each had moved and ended before
    told: list[Callable[[Fate], None]]
    fate: Fate = field(default_factory=Fate)


class Superseded:
    """Watches the workers that a reload has retired, until the last of them has ended.

    `look` is to be called when a worker may have ended.
    """

    def __init__(self, reactor: Reactor, pool: WorkerPool, keep: str) -> None:
        self._reactor = reactor
        self._pool = pool
        self._keep = keep
        self._batches: list[_Batch] = []

    def watch(self, generation: int, workers: Iterable[Worker], until: float) -> None:
        """Follow these workers, which `generation` has replaced.

        until: when handlers are cut off, by the reactor's clock.
        """
        batch = _Batch(generation, {worker: _ends_of(worker) for worker in workers}, [])
        if batch.workers:
            self._batches.append(batch)
            self._reactor.call_at(until - _BEFORE_THE_END, lambda: self._cut(batch))

    def workers_of(self, generation: int) -> list[Worker]:
        """Return those that `generation` has replaced and that are still there."""
        return [
            worker
            for batch in self._batches
            if batch.generation == generation
            for worker in batch.workers
        ]

    def when_gone(self, generation: int, told: Callable[[Fate], None]) -> None:
        """Call `told` once the last worker that `generation` has replaced has ended."""
        for batch in self._batches:
            if batch.generation == generation:
                batch.told.append(told)
                return
        told(Fate())

    def look(self) -> None:
        """Settle what has ended."""
        there = set(self._pool)
        for batch in tuple(self._batches):
            for worker in [each for each in batch.workers if each not in there]:
                moved, ended = batch.workers.pop(worker)
                now_moved, now_ended = _ends_of(worker)
                batch.fate.moved += now_moved - moved
                batch.fate.ended += now_ended - ended
            if not batch.workers:
                self._batches.remove(batch)
                self._gone(batch)

    def _cut(self, batch: _Batch) -> None:
        for worker in batch.workers:
            for _, words in worker.scoreboard.taken():
                if words[record.ENDED] == record.NOT_YET:
                    why = why_it_stays(worker.resumable, self._keep, words[record.STATUS])
                    batch.fate.cut[why or Staying.BUSY] += 1

    def _gone(self, batch: _Batch) -> None:
        fate = batch.fate
        fate.ended = max(0, fate.ended - fate.cut.total())
        _log.info(
            "earlier code gone",
            generation=batch.generation,
            moved=fate.moved,
            ended=fate.ended,
            **{f"cut_{why.name.lower()}": count for why, count in fate.cut.items()},
        )
        for told in batch.told:
            told(fate)


def _ends_of(worker: Worker) -> tuple[int, int]:
    board = worker.scoreboard
    return board.count(DETACHED), sum(map(board.count, _ENDS))
