"""Reloads: the next generation loads and gets ready while the present one serves, then they change.

One at a time.  A reload asked for while another runs is done after it, once however often it was
asked for: the code that counts is the newest, and a queue of reloads would only load it again.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from socketkeep._base import _log
from socketkeep._keeper.loop._reactor import Reactor, ReactorTimer
from socketkeep._keeper.tables._records import GenerationState, WorkerState
from socketkeep._keeper.workers._generations import (
    EXIT_LOAD_FAILED,
    EXIT_START_FAILED,
    Generation,
    GenerationEvent,
    LoadFailure,
    Templates,
)
from socketkeep._keeper.workers._pool import WorkerPool
from socketkeep._keeper.workers._workers import Worker

#: How many workers may end before any has become ready, until the first start is given up.
_ATTEMPTS_AT_START: Final = 3


@dataclass(frozen=True, slots=True)
class RolloutOutcome:
    """The end of a reload: `exit_code` 0, or why the earlier generation serves on."""

    exit_code: int
    generation: int
    error: str = ""


Done = Callable[[RolloutOutcome], None]


class Rollout:
    """Brings up the next generation, and switches to it or rolls it back.

    `prepare` is called before one begins and returns why it cannot, or None; `switch` with the
    generation that is ready, `give_up` when it is rolled back, `ended` when no other follows.
    """

    def __init__(
        self,
        reactor: Reactor,
        templates: Templates,
        pool: WorkerPool,
        slots: Callable[[], list[int]],
        start_timeout: float,
        switch: Callable[[Generation], None],
        give_up: Callable[[Generation, LoadFailure], None],
        ended: Callable[[], None],
        prepare: Callable[[Generation], LoadFailure | None],
    ) -> None:
        self._reactor = reactor
        self._templates = templates
        self._pool = pool
        self._slots = slots
        self.start_timeout = start_timeout  # of those that begin from now on
        self._switch = switch
        self._give_up = give_up
        self._ended = ended
        self._prepare = prepare
        self._number = 0
        self._deaths = 0
        self._timer: ReactorTimer | None = None
        self._done: list[Done] = []
        self._done_next: list[Done] = []
        self._again = False
        self._upgraded = False
        self.coming: Generation | None = None
        self.completed = 0
        self.last_duration: float | None = None  # seconds; of the last that was not rolled back
        self._began = 0.0

    @property
    def begun(self) -> int:
        """Return how many generations have been begun."""
        return self._number

    def resume(self, begun: int, completed: int) -> None:
        """Go on from where an earlier version of the keeper was."""
        self._number, self.completed = begun, completed

    def request(self, done: Done | None = None, *, upgraded: bool = False) -> None:
        """Reload, or, while a reload runs, once more after it.

        upgraded: it brings a new version of the package, and what it moves is told so.
        """
        self._upgraded = self._upgraded or upgraded
        if self.coming is not None:
            self._again = True
            if done is not None:
                self._done_next.append(done)
            return
        if done is not None:
            self._done.append(done)
        self._begin()

    def cancel(self, error: str) -> None:
        """Roll back what is under way, for a server that stops."""
        self._again = False
        self._done, self._done_next = self._done + self._done_next, []
        if self.coming is not None:
            self.fail(self.coming, LoadFailure(1, error))

    def loaded(self, generation: Generation) -> None:
        """The coming generation's code is loaded: start its workers."""
        self._fork(generation, self._slots())

    def worker_ready(self, worker: Worker) -> None:
        """Switch once each slot has a worker that is ready."""
        generation = self.coming
        if generation is not None and worker.generation == generation.number:
            self._switch_if_ready(generation)

    def worker_died(self, worker: Worker) -> None:
        """A worker of the coming generation ended before it was ready."""
        generation = self.coming
        if generation is None or worker.generation != generation.number:
            return
        if worker.slot not in self._slots():  # scaled down meanwhile
            self._switch_if_ready(generation)
            return
        self._deaths += 1
        first_start = self.completed == 0 and generation.number == 1
        if first_start and not worker.error and self._deaths < _ATTEMPTS_AT_START:
            self._fork(generation, [worker.slot])
            return
        why = worker.error or f"ended before it was ready: {worker.exit}"
        self.fail(generation, LoadFailure(EXIT_START_FAILED, f"worker {worker.slot}: {why}"))

    def fail(self, generation: Generation, failure: LoadFailure) -> None:
        """Roll back: end what was started of the generation; the present one serves on."""
        self._clear()
        self._templates.end(generation)
        generation.step(GenerationEvent.FAILED)
        for worker in self._pool.of_generation(generation.number):
            self._pool.kill(worker)  # it has accepted nothing yet
        self._pool.abandon(generation.number)
        self._give_up(generation, failure)
        self._tell(RolloutOutcome(failure.exit_code, generation.number, failure.error))

    def _begin(self) -> None:
        self._number += 1
        self._began = self._reactor.clock()
        self._deaths = 0
        generation = Generation(number=self._number, upgraded=self._upgraded)
        self._upgraded = False
        self.coming = generation
        _log.info("reload started" if self._number > 1 else "starting", generation=self._number)
        if self.start_timeout:
            self._timer = self._reactor.call_later(
                self.start_timeout, lambda: self._overdue(generation)
            )
        failure = self._prepare(generation)
        if failure is not None:
            self._cannot_begin(generation, failure)
            return
        try:
            self._templates.start(generation)
        except OSError as error:
            text = f"cannot start the process that loads the code: {error.strerror}"
            self._cannot_begin(generation, LoadFailure(EXIT_START_FAILED, text))

    def _cannot_begin(self, generation: Generation, failure: LoadFailure) -> None:
        self._clear()
        self._give_up(generation, failure)
        self._tell(RolloutOutcome(failure.exit_code, generation.number, failure.error))

    def _fork(self, generation: Generation, slots: list[int]) -> None:
        try:
            for slot in slots:
                self._pool.start(generation, slot)
        except OSError as error:
            self.fail(
                generation,
                LoadFailure(EXIT_START_FAILED, f"cannot start a worker: {error.strerror}"),
            )

    def _switch_if_ready(self, generation: Generation) -> None:
        workers = self._pool.of_generation(generation.number)
        ready = {w.slot for w in workers if w.state is WorkerState.READY}
        missing = set(self._slots()) - {w.slot for w in workers}
        if missing:  # scaled up meanwhile
            self._fork(generation, sorted(missing))
        elif ready >= set(self._slots()):
            self._finish(generation)

    def _finish(self, generation: Generation) -> None:
        self._clear()
        generation.step(GenerationEvent.READY)
        self.completed += 1
        if self.completed > 1:
            self.last_duration = self._reactor.clock() - self._began
        self._switch(generation)
        self._tell(RolloutOutcome(0, generation.number))

    def _overdue(self, generation: Generation) -> None:
        if self.coming is generation:
            loading = generation.state is GenerationState.LOADING
            what = "its code was not loaded" if loading else "its workers were not ready"
            self.fail(
                generation,
                LoadFailure(
                    EXIT_LOAD_FAILED if loading else EXIT_START_FAILED,
                    f"{what} within {self.start_timeout:g} s (--start-timeout)",
                ),
            )

    def _clear(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self.coming = None

    def _tell(self, outcome: RolloutOutcome) -> None:
        calls, self._done = self._done, self._done_next
        self._done_next = []
        for done in calls:
            done(outcome)
        if self._again:
            self._again = False
            self._begin()
        else:
            self._ended()
