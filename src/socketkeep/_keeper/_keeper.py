"""The keeper: the one long-lived process.  It decides; workers serve.  No user code runs here."""

from __future__ import annotations

import random
import signal
from collections import Counter
from collections.abc import Sequence
from typing import Final, Literal

from socketkeep import _log
from socketkeep._assignment import Order
from socketkeep._config import DEFAULT_WORKERS, ServeConfig
from socketkeep._keeper import _seats
from socketkeep._keeper._closer import Closer
from socketkeep._keeper._generations import (
    Failure,
    Generation,
    GenerationEvent,
    Templates,
)
from socketkeep._keeper._moves import Moves
from socketkeep._keeper._pacing import Pacing
from socketkeep._keeper._pool import WorkerPool
from socketkeep._keeper._reactor import Reactor, Timer
from socketkeep._keeper._reloads import Done, Outcome, Reloads
from socketkeep._keeper._system import System
from socketkeep._keeper._workers import Worker, WorkerState
from socketkeep._listener import Listener
from socketkeep._wire._messages import Forked, ForkFailed
from socketkeep._wire._scoreboard import COUNTERS

_EXIT_FAILED: Final = 1
_RETRY: Final = 1.0  # seconds until what the system had no room for is tried again
_ALLOT_EVERY: Final = 0.1
_RECYCLE_EVERY: Final = 1.0

_LEAVING: Final = (WorkerState.DRAINING, WorkerState.DEAD)

SIGNALS: Final = (
    signal.SIGTERM,
    signal.SIGINT,
    signal.SIGQUIT,
    signal.SIGHUP,
    signal.SIGUSR1,
    signal.SIGUSR2,
    signal.SIGTTIN,
    signal.SIGTTOU,
    signal.SIGWINCH,
)


class Keeper:
    """One server: its listeners, generations and workers, and the connections between them."""

    def __init__(
        self,
        config: ServeConfig,
        reactor: Reactor,
        system: System,
        listeners: Sequence[Listener],
        boot: int,
        name: str = "",
    ) -> None:
        self.config: Final = config
        self.boot: Final = boot
        self.name: Final = name
        self.listeners: Final = listeners
        self.started_at: Final = reactor.clock()
        self.current: Generation | None = None
        self.failure: Failure | None = None
        self.order: Order | None = None
        self.paused = False
        self.pool = WorkerPool(
            reactor, system, config, boot, self._worker_ready, self._worker_died, self._changed
        )
        self.closer = Closer(reactor)
        self.moves = Moves(
            reactor, self.closer, self._targets, self._changed, config.orphan_timeout
        )
        self.pool.receiver = self.moves
        self.templates = Templates(reactor, system, config, listeners, boot, name, self)
        self.reloads = Reloads(
            reactor,
            self.templates,
            self.pool,
            lambda: self._slots,
            config.start_timeout,
            self._switch,
            self._rolled_back,
        )
        self._reactor = reactor
        self.system: Final = system
        self._slots: list[int] = []  # known once the first generation has told its model
        self._pacing = Pacing()
        self._waiting_slots: set[int] = set()  # to be filled after a delay
        self._throttle = _log.Throttle()
        self._allot_timer = Timer(0.0, lambda: None)
        self._allot_timer.cancel()
        self._interrupted = False

    # What people ask for.

    def start(self) -> None:
        """Load the first generation; `failure` is set, and the loop ends, when it cannot serve."""
        self.system.become_subreaper()
        self.reloads.request()
        if self.config.worker_lifetime or self.config.worker_max_rss:
            self._reactor.call_later(_RECYCLE_EVERY, self._recycle)

    def reload(self, done: Done | None = None) -> None:
        """Load the user's code anew and move the connections to it.

        `done` is told how it ended; at once, and that it cannot be, when the server is stopping.
        """
        if self.order is not None:
            if done is not None:
                done(Outcome(_EXIT_FAILED, 0, "cannot reload: the server is stopping"))
            return
        _log.info("reload asked for")
        self.reloads.request(done)

    @property
    def state(self) -> str:
        """What the server as a whole is doing: "starting", "running", "reloading", …"""
        if self.order is not None:
            return "draining" if self.order.how == "finish" else "stopping"
        if self.current is None:
            return "starting"
        return "running" if self.reloads.coming is None else "reloading"

    @property
    def slots(self) -> int:
        """How many workers there should be."""
        return len(self._slots)

    def scale(self, workers: int) -> None:
        """Have so many workers, one at least: those with the fewest connections go first."""
        if self.order is not None:
            return
        workers = max(1, workers)
        while len(self._slots) < workers:
            self._slots.append(next(n for n in range(workers) if n not in self._slots))
        while len(self._slots) > workers:
            opened = Counter({worker.slot: worker.open for worker in self.pool})
            self._slots.remove(min(self._slots, key=lambda slot: (opened[slot], -slot)))
        _log.info("scaled", workers=workers)
        self._reconcile()

    def stop(self, how: Literal["close", "finish"]) -> None:
        """End: `finish` serves until every connection has ended, `close` no longer than needed.

        Both are bounded by the graceful timeout.
        """
        if self.order is not None and (how == "finish" or self.order.how == "close"):
            return
        _log.info("stopping" if how == "close" else "draining")
        deadline = self._reactor.clock() + self.config.graceful_timeout
        self.order = Order(how, deadline)
        for listener in self.listeners:
            listener.close()
        self.reloads.cancel("the server stops")
        if self.current is not None:
            self.templates.end(self.current)
            self.pool.abandon(self.current.number)
        for worker in self.pool:
            if worker.state is WorkerState.STARTING:
                self.pool.kill(worker)
            elif worker.state is not WorkerState.DEAD or worker.fork_children:
                earlier = worker.order.deadline if worker.order else deadline
                self.pool.retire(worker, Order(how, min(earlier, deadline)))
        self.moves.stop()
        self._changed()

    def stop_now(self) -> None:
        """End at once: connections are closed by the kernel."""
        _log.info("stopping at once")
        self.stop("close")
        self.pool.kill_all()
        self.templates.kill_all()
        self.closer.finish_all()
        self._changed()

    def act_on_signal(self, number: int) -> None:
        """Do what a signal asks for; called on the loop, never in the handler."""
        match number:
            case signal.SIGINT if self._interrupted:
                self.stop_now()
            case signal.SIGTERM | signal.SIGINT:
                self._interrupted = self._interrupted or number == signal.SIGINT
                self.stop("close")
            case signal.SIGQUIT:
                self.stop_now()
            case signal.SIGHUP:
                self.reload()
            case signal.SIGUSR1:
                _log.reopen()
                _log.info("log reopened")
            case signal.SIGUSR2:
                _log.warning("this version cannot upgrade the keeper: restart it instead")
            case signal.SIGTTIN:
                self.scale(len(self._slots) + 1)
            case signal.SIGTTOU:
                self.scale(len(self._slots) - 1)
            case signal.SIGWINCH if self.order is None:
                _log.info("accepting paused until the next reload")
                self.paused = True
                self._allot()

    def counters(self) -> Counter[str]:
        """Return the totals since the start, of workers past and present."""
        totals = Counter(self.pool.totals)
        for worker in self.pool:
            for name, word in COUNTERS.items():
                totals[name] += worker.scoreboard[word]
        totals["lost"] += self.moves.expired
        return totals

    # What templates and workers tell.

    def generation_loaded(self, generation: Generation) -> None:
        if not self._slots:
            count = self.config.workers or DEFAULT_WORKERS[generation.model]
            self._slots = list(range(count))
        if generation is self.reloads.coming:
            self.reloads.loaded(generation)
        else:
            self._reconcile()

    def generation_failed(self, generation: Generation, failure: Failure) -> None:
        if generation is self.reloads.coming:
            self.reloads.fail(generation, failure)
        elif generation is self.current and self.order is None:
            # Workers serve on without it; only new ones need it.
            _log.error("template ended", generation=generation.number, error_text=failure.error)
            self.pool.abandon(generation.number)
            self._reactor.call_later(_RETRY, lambda: self._restart_template(generation))

    def template_ended(self) -> None:
        self._changed()

    def worker_forked(self, forked: Forked) -> None:
        self.pool.forked(forked)

    def worker_fork_failed(self, failed: ForkFailed) -> None:
        self._throttle.warning("cannot fork", process="template", error=failed.error)
        self.pool.fork_failed(failed)

    def _worker_ready(self, worker: Worker) -> None:
        _log.info("worker ready", **worker.label)
        worker.expires_at = self._expiry()
        self.reloads.worker_ready(worker)
        if worker.replaces is not None and worker.replaces.state is WorkerState.READY:
            self._retire(worker.replaces)
        worker.replaces = None
        self._changed()

    def _worker_died(self, worker: Worker) -> None:
        coming = self.reloads.coming
        if coming is not None and worker.generation == coming.number:
            self.reloads.worker_died(worker)
        elif self._is_wanted(worker):
            lived = self._reactor.clock() - worker.started_at
            self._refill_later(worker.slot, self._pacing.delay_after(worker.slot, lived))
        self._changed()

    def _is_wanted(self, worker: Worker) -> bool:
        serving = self.current is not None and worker.generation == self.current.number
        return serving and worker.slot in self._slots and worker.order is None

    # What follows from it.

    def _switch(self, generation: Generation) -> None:
        old, self.current = self.current, generation
        self.paused = False
        if old is not None:
            old.step(GenerationEvent.SUPERSEDED)
            self.templates.end(old)
            self.pool.abandon(old.number)
        moving = 0
        for worker in self.pool:
            if worker.generation != generation.number and worker.order is None:
                moving += worker.open
                self._retire(worker)
        _log.info(
            "ready" if old is None else "reload done",
            generation=generation.number,
            workers=len(self._slots),
            connections=moving,
        )
        self._allot()
        self._reconcile()

    def _rolled_back(self, generation: Generation, failure: Failure) -> None:
        if self.current is not None:
            _log.error("reload failed", generation=generation.number, error_text=failure.error)
            return
        if self.order is None:
            self.failure = failure
            self.stop("close")

    def _retire(self, worker: Worker) -> None:
        if worker.state is WorkerState.STARTING:
            self.pool.kill(worker)
            return
        deadline = self._reactor.clock() + self.config.graceful_timeout
        # A handler that is not resumable is never called on a connection that is under way.
        kept = self.config.keep != "none" and self.current is not None and self.current.resumable
        self.pool.retire(worker, Order("move" if kept else "finish", deadline))

    def _reconcile(self) -> None:
        """Start the workers that are missing and retire those that are too many."""
        generation = self.current
        if generation is None or self.order is not None:
            return
        workers = self.pool.of_generation(generation.number)
        filled = {worker.slot for worker in workers} | self._waiting_slots
        for slot in self._slots:
            if slot not in filled:
                self._start_worker(generation, slot)
        for worker in workers:
            if worker.slot not in self._slots:
                self._retire(worker)
        self._changed()

    def _start_worker(
        self, generation: Generation, slot: int, replaces: Worker | None = None
    ) -> None:
        if not generation.link.open:
            self._refill_later(slot, _RETRY)
            return
        try:
            self.pool.start(generation, slot, replaces)
        except OSError as error:
            self._throttle.warning("cannot start a worker", slot=slot, error=error.strerror)
            self._refill_later(slot, _RETRY)

    def _refill_later(self, slot: int, delay: float) -> None:
        self._waiting_slots.add(slot)

        def refill() -> None:
            self._waiting_slots.discard(slot)
            self._reconcile()

        self._reactor.call_later(delay, refill)

    def _restart_template(self, generation: Generation) -> None:
        if generation is self.current and self.order is None:
            try:
                self.templates.start(generation)
            except OSError as error:
                self._throttle.warning("cannot start a template", error=error.strerror)
                self._reactor.call_later(_RETRY, lambda: self._restart_template(generation))

    def _recycle(self) -> None:
        """Replace one worker that is too old or too big; the replacement is ready first."""
        self._reactor.call_later(_RECYCLE_EVERY, self._recycle)
        generation = self.current
        if generation is None or self.order is not None or self.reloads.coming is not None:
            return
        workers = self.pool.of_generation(generation.number)
        if any(worker.state is not WorkerState.READY for worker in workers):
            return
        for worker in workers:
            reason = self._reason_to_recycle(worker)
            if reason:
                _log.info("recycling worker", reason=reason, **worker.label)
                self._start_worker(generation, worker.slot, replaces=worker)
                return

    def _reason_to_recycle(self, worker: Worker) -> str:
        if self._reactor.clock() >= worker.expires_at:
            return "lifetime"
        limit = self.config.worker_max_rss
        if limit and self.system.resident_bytes(worker.pid) > limit:
            return "memory"
        return ""

    def _expiry(self) -> float:
        lifetime = self.config.worker_lifetime
        if not lifetime:
            return float("inf")
        jitter = random.uniform(0, self.config.worker_lifetime_jitter)
        return self._reactor.clock() + lifetime + jitter

    def _targets(self) -> list[Worker]:
        """Return the workers that detached connections may be given to."""
        if self.current is None or not self.current.resumable:
            return []
        return [w for w in self.pool.of_generation(self.current.number) if w.is_ready]

    def _allot(self) -> None:
        """Tell each worker how many connections it may accept."""
        if self.current is None:
            return
        workers = [w for w in self.pool.of_generation(self.current.number) if w.is_ready]
        workers.sort(key=lambda worker: worker.slot)
        if not workers:
            return
        each = _seats.seats_of_model(self.current.model, self.config.threads)
        count = max(len(workers), len(self._slots))
        shares = _seats.shares(each, count, self.config.max_connections)
        for worker, share in zip(workers, shares, strict=False):
            if share > worker.seats:
                self._reactor.call_soon(self.moves.dispatch)
            worker.seats = share
        coming = 0
        if each != _seats.UNBOUNDED or self.config.max_connections:
            coming = self.moves.waiting + self._leaving()
        limits = _seats.accept_limits(
            [worker.seats for worker in workers],
            [worker.open + worker.arriving for worker in workers],
            coming,
        )
        for worker, limit in zip(workers, limits, strict=True):
            self.pool.allot(worker, 0 if self.paused else limit)
        keeping = limits != [worker.seats for worker in workers]
        if (coming or keeping) and not self._allot_timer.pending:
            # A connection that ends in a worker frees a seat and says nothing.
            self._allot_timer = self._reactor.call_later(_ALLOT_EVERY, self.moves.dispatch)

    def _leaving(self) -> int:
        """How many connections of retiring workers need a seat in those that stay."""
        return sum(
            worker.open
            for worker in self.pool
            if worker.moves_its_connections
            or (self.config.max_connections and worker.state in _LEAVING)
        )

    def _changed(self) -> None:
        if self.order is None:
            self._reactor.call_soon(self._allot)
        elif self.pool.empty and not (self.moves or self.closer or self.templates):
            self._reactor.stop()
