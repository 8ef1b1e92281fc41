"""Even load: connections that wait move from workers that have many to those that have few.

New connections are shared where they are accepted; this is for what has come about otherwise: a
worker that is new, or one whose connections have lasted.  It is a move as any other, of what is at
a safe point and idle.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from socketkeep._base import _log
from socketkeep._keeper.loop._reactor import Reactor
from socketkeep._keeper.tables._seats import at_most, surplus
from socketkeep._keeper.workers._workers import Worker
from socketkeep._wire._messages import GiveUp

#: Seconds between two looks.  What is uneven at two in a row is evened out.
_LOOK: Final = 0.5
#: By so many connections, or by this part of what each would have, two workers may differ: to be
#: level to the last one costs more moves than it is worth.
LEEWAY: Final = 6
SHARE: Final = 0.25
#: Seconds between two steps of a balance that was asked for, and how many steps there are.
_STEP: Final = 0.1
_STEPS: Final = 50

#: Told how many connections each worker has in the end.
Balanced = Callable[[list[int]], None]


class Balancing:
    """Evens out the load of `workers`, which are none where that cannot be.

    rate: how many connections a second may be moved without having been asked for, and how many at
    a time; None: none are.
    """

    def __init__(
        self,
        reactor: Reactor,
        workers: Callable[[], Sequence[Worker]],
        rate: tuple[float, int] | None,
    ) -> None:
        self._reactor = reactor
        self._workers = workers
        self._rate = rate
        self._credit = 0.0
        self._looked_at = 0.0
        self._looks = False
        self._was_uneven = False

    def use(self, rate: tuple[float, int] | None) -> None:
        """Move so many from now on."""
        self._rate = rate
        self.start()

    def start(self) -> None:
        """Look from time to time, if that is wanted."""
        if self._rate is not None and not self._looks:
            self._looks = True
            self._looked_at = self._reactor.clock()
            self._reactor.call_later(_LOOK, self._look)

    def balance(self, done: Balanced) -> None:
        """Make all workers have the same, as far as their connections can leave."""
        self._step(_STEPS, done)

    def _step(self, left: int, done: Balanced) -> None:
        workers = self._workers()
        loads = [worker.load for worker in workers]
        wanted = surplus(loads, 1)
        if not any(wanted) or not left:
            done(loads)
            return
        self._ask(workers, wanted)
        self._reactor.call_later(_STEP, lambda: self._step(left - 1, done))

    def _look(self) -> None:
        if self._rate is None:
            self._looks = False
            return
        rate, burst = self._rate
        now = self._reactor.clock()
        self._credit = min(float(burst), self._credit + rate * (now - self._looked_at))
        self._looked_at = now
        workers = self._workers()
        loads = [worker.load for worker in workers]
        mean = sum(loads) / max(1, len(loads))
        wanted = surplus(loads, max(LEEWAY, mean * SHARE))
        if any(wanted) and self._was_uneven:
            moves = at_most(wanted, int(self._credit))
            self._credit -= sum(moves)
            self._ask(workers, moves)
        self._was_uneven = any(wanted)
        self._reactor.call_later(_LOOK, self._look)

    def _ask(self, workers: Sequence[Worker], moves: Sequence[int]) -> None:
        if any(moves):
            _log.debug("rebalancing", connections=sum(moves))
        for worker, count in zip(workers, moves, strict=True):
            if count:
                worker.link.send(GiveUp(count))
