"""The slots of the server: how many there are, and that each has a worker."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from itertools import islice
from typing import Final

from socketkeep._base import _log
from socketkeep._keeper.loop._reactor import Reactor
from socketkeep._keeper.tables._state import SavedSlots
from socketkeep._keeper.workers._generations import Generation
from socketkeep._keeper.workers._pool import WorkerPool
from socketkeep._keeper.workers._workers import Worker

_RETRY: Final = 1.0  # seconds until a worker that could not be started is tried again

#: Deaths in a slot that are replaced at once; each second that a worker lives makes up for one.
#: Workers that are killed from outside, ten a second for a while, must not leave a server without
#: any; one whose code makes it die each time must not take the machine.
_ALLOWED: Final = 40
_LONGEST_DELAY: Final = 5.0


class Pacing:
    """The pace at which dead workers are replaced: slower while those of a slot keep dying."""

    def __init__(self) -> None:
        self.deaths: dict[int, float] = {}  # by slot, less what was made up for

    def delay_after(self, slot: int, lived: float) -> float:
        """Return how many seconds to wait before the slot gets its next worker."""
        deaths = max(0.0, self.deaths.get(slot, 0.0) - lived) + 1
        self.deaths[slot] = deaths
        return min(_LONGEST_DELAY, max(0.0, deaths - _ALLOWED))


class Slots:
    """Keeps a worker of the serving generation in each slot.

    `serving` returns that generation, None while none serves or the server stops; `retire` is
    called with a worker that is too many.
    """

    def __init__(
        self,
        reactor: Reactor,
        pool: WorkerPool,
        serving: Callable[[], Generation | None],
        retire: Callable[[Worker], None],
    ) -> None:
        self._reactor = reactor
        self._pool = pool
        self._serving = serving
        self._retire = retire
        self._numbers: list[int] = []  # none until the first generation has told its model
        self._pacing = Pacing()
        self._delayed: dict[int, float] = {}  # until when
        self._throttle = _log.Throttle()

    def __len__(self) -> int:
        return len(self._numbers)

    @property
    def numbers(self) -> list[int]:
        """The slots' numbers, in no order."""
        return list(self._numbers)

    def scale(self, count: int) -> None:
        """Have `count` slots; those whose workers have the fewest connections go first."""
        more = count - len(self._numbers)
        if more > 0:
            taken = set(self._numbers)
            self._numbers += islice((n for n in range(count) if n not in taken), more)
            return
        opened: Counter[int] = Counter()
        for worker in self._pool:
            if worker.order is None:  # one that is being replaced, too, and not one that retires
                opened[worker.slot] += worker.open
        leaving = sorted(self._numbers, key=lambda slot: (opened[slot], -slot))[: -more or 0]
        self._numbers = sorted(set(self._numbers).difference(leaving))

    def fill(self) -> None:
        """Start the workers that are missing and retire those that are too many."""
        generation = self._serving()
        if generation is None:
            return
        workers = self._pool.of_generation(generation.number)
        filled = {worker.slot for worker in workers} | self._delayed.keys()
        for slot in self._numbers:
            if slot not in filled:
                self.start_worker(slot)
        wanted = set(self._numbers)
        for worker in workers:
            if worker.slot not in wanted:
                self._retire(worker)

    def start_worker(self, slot: int, replaces: Worker | None = None) -> None:
        """Start a worker in the slot, now or, when that is not possible, a moment later."""
        generation = self._serving()
        if generation is None:
            return
        if not generation.link.open:  # its template is being started again
            self._fill_later(slot, _RETRY)
            return
        try:
            self._pool.start(generation, slot, replaces)
        except OSError as error:
            self._throttle.warning("cannot start a worker", slot=slot, error=error.strerror)
            self._fill_later(slot, _RETRY)

    def worker_died(self, worker: Worker) -> None:
        """Fill the slot again if its worker was wanted, later when it keeps dying."""
        generation = self._serving()
        wanted = generation is not None and worker.generation == generation.number
        if wanted and worker.slot in self._numbers and worker.order is None:
            lived = self._reactor.clock() - worker.started_at
            self._fill_later(worker.slot, self._pacing.delay_after(worker.slot, lived))

    def snapshot(self) -> SavedSlots:
        """Return what the next version of the keeper goes on from."""
        return SavedSlots(
            numbers=self.numbers,
            deaths=dict(self._pacing.deaths),
            delayed=dict(self._delayed),
        )

    def restore(self, saved: SavedSlots) -> None:
        """Go on from what an earlier version had."""
        self._numbers = saved.numbers
        self._pacing.deaths = saved.deaths
        for slot, when in saved.delayed.items():
            self._fill_later(slot, when - self._reactor.clock())

    def _fill_later(self, slot: int, delay: float) -> None:
        self._delayed[slot] = self._reactor.clock() + delay

        def fill() -> None:
            self._delayed.pop(slot, None)
            self.fill()

        self._reactor.call_later(delay, fill)
