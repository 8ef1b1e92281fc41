"""The workers: started, heard, retired and reaped."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Final, Protocol

from socketkeep._base import _log
from socketkeep._base._passing import Unfit
from socketkeep._config._chosen import closing_time
from socketkeep._config._server_options import ServeConfig
from socketkeep._keeper.loop._children import ChildWatch
from socketkeep._keeper.loop._reactor import Reactor
from socketkeep._keeper.loop._system import Exit, System
from socketkeep._keeper.tables import _seats
from socketkeep._keeper.tables._crash_policy import Policy
from socketkeep._keeper.tables._records import AdoptedWorker, WorkerState
from socketkeep._keeper.tables._state import KeepOpen, SavedPool, SavedWorker
from socketkeep._keeper.workers._dispatch import Dispatch
from socketkeep._keeper.workers._generations import Generation
from socketkeep._keeper.workers._lanes import Lanes
from socketkeep._keeper.workers._recruiting import adopted_worker, new_worker
from socketkeep._keeper.workers._screening import Nonsense, Screening
from socketkeep._keeper.workers._workers import PACKETS_AT_ONCE, Link, Worker, restored_link
from socketkeep._stream import _record as record
from socketkeep._stream._lease import Order
from socketkeep._wire._channel import Channel
from socketkeep._wire._descriptors import ring
from socketkeep._wire._messages import (
    Began,
    CloseListeners,
    Forked,
    ForkFailed,
    ReattachOffer,
    Retire,
    Seats,
)
from socketkeep._wire._scoreboard import COUNTERS, DETACHED, id_of, is_plausible

#: For so many seconds beyond its deadline a worker is believed to be ending by itself.
KILL_GRACE: Final = 0.5
#: A worker that has closed its channel is about to end; one that has not ended after so long is
#: ended: nothing could be asked of it any more.
_HANG_UP: Final = 2.0
#: How many workers are remembered that said that they run, and whose template has not said so.
_MOST_BEGUN: Final = 2000


class Boards(Protocol):
    """Keeps the scoreboards where they outlive the keeper."""

    def add_board(self, serial: int, policy: Policy, memfd: int) -> None: ...
    def has_board(self, serial: int, policy: Policy) -> bool: ...
    def remove_board(self, serial: int, policy: Policy) -> None: ...
    def remove(self, name: str) -> None: ...


class WorkerPool:
    """Every worker process of the server, of all generations.

    It knows how to start, retire and reap workers, and not which there should be: it tells
    `ready`, `died`, and `changed` when a process has ended that was no worker any more, and others
    decide.
    """

    def __init__(
        self,
        reactor: Reactor,
        system: System,
        config: ServeConfig,
        ready: Callable[[Worker], None],
        died: Callable[[Worker], None],
        changed: Callable[[], None],
        screening: Screening,
        lanes: Lanes,
    ) -> None:
        self._lanes = lanes
        self.dispatch: Final = Dispatch(ready, screening, self, reactor.clock)
        self._throttle = _log.Throttle()
        self.store: Boards | None = None
        self.totals: Counter[str] = Counter()  # of the workers that have ended
        self._reactor = reactor
        self._system = system
        self._config = config
        self._died = died
        self._changed = changed
        self._children = ChildWatch(reactor, system)
        self._workers: dict[int, Worker] = {}
        self._serial = 0
        self._killing = False
        self._begun: dict[int, int] = {}  # pids of workers that said that they run, by serial

    def use(self, config: ServeConfig) -> None:
        """Go by these options from now on."""
        self._config = config

    def __iter__(self) -> Iterator[Worker]:
        return iter(tuple(self._workers.values()))

    def __len__(self) -> int:
        return len(self._workers)

    @property
    def empty(self) -> bool:
        """Return whether there is no worker and no process of one."""
        return not self._workers and not self._children

    @property
    def connections(self) -> int:
        """Return how many connections the workers have, less those that are counted as moving.

        One of those less where it has ended before the keeper has heard that it arrived.
        """
        return sum(worker.load - worker.arriving for worker in self)

    def of_generation(self, number: int) -> list[Worker]:
        """Return the workers of a generation that serve or are starting."""
        alive = (WorkerState.STARTING, WorkerState.READY)
        return [w for w in self if w.generation == number and w.state in alive]

    def start(self, generation: Generation, slot: int, replaces: Worker | None = None) -> Worker:
        """Have the generation's template fork a worker into `slot`.  Raises OSError."""
        config = generation.config
        worker, channel, message = new_worker(
            self._serial + 1,
            slot,
            generation,
            _seats.rows_of_model(generation.model, config.threads),
            states=config.keep == "crash",
            census=self._lanes.memfd,
            lane=self._lanes.assign(self),
        )
        self._serial += 1
        worker.started_at = self._reactor.clock()
        worker.replaces = replaces
        self._listen(worker, channel)
        if self.store is not None:
            self.store.add_board(worker.serial, worker.policy, worker.memfd)
        self._expect_ready(worker)
        generation.link.send(message, close_after=True)
        return worker

    def adopt(self, offer: ReattachOffer, channel: Channel, adopted: AdoptedWorker) -> Worker:
        """Take over a worker of a keeper that has died, which accepts no more.

        The channel, the scoreboard and the event are this pool's from here on.
        """
        if offer.pid in self._children.pids:
            raise Unfit(f"the process {offer.pid} is a worker already")
        worker = adopted_worker(self._serial + 1, offer, adopted)
        pidfd = self._open_proven(worker, offer.pid)
        if pidfd is None:
            raise Unfit(f"the process {offer.pid} does not have the scoreboard that it offers")
        self._serial += 1
        worker.started_at = self._reactor.clock()
        self._listen(worker, channel)
        self._children.watch(offer.pid, partial(self._ended, worker), adopted=True, pidfd=pidfd)
        return worker

    def _listen(self, worker: Worker, channel: Channel) -> None:
        worker.link = Link(
            self._reactor,
            channel,
            partial(self.dispatch.hear, worker),
            partial(self._hung_up, worker),
            partial(self.dispatch.garbled, worker),
            _packets_at_once(worker),
            partial(self.dispatch.hear_parcel, worker),
        )
        self._workers[worker.serial] = worker

    def _hung_up(self, worker: Worker) -> None:
        """Its channel has closed; when it has ended, its pidfd says so."""

        def end() -> None:
            ended = worker.serial not in self._workers or worker.state is WorkerState.DEAD
            if not ended and not worker.killed:
                self.condemn(worker, "it has closed its channel, and goes on")

        worker.timers.append(self._reactor.call_later(_HANG_UP, end))

    # What makes no sense.

    def refused(self, worker: Worker, why: str) -> None:
        """A message of a worker was refused."""
        self.totals["refused_messages"] += 1
        self._throttle.error("refused a message", kind="refused", why=why, **worker.label)

    def stumbled(self, worker: Worker, error: Exception) -> None:
        """A message of a worker raised what nobody has foreseen."""
        self.refused(worker, f"{type(error).__name__}: {error}")
        self._reactor.failed(error)

    def condemn(self, worker: Worker, why: str) -> None:
        """End a worker that says what cannot be; its connections are judged when it is reaped."""
        self.totals["refused_messages"] += 1
        if not worker.rogue:
            worker.rogue = True
            self._throttle.error(
                "worker killed: what it said cannot be", kind="rogue", why=why, **worker.label
            )
        self.kill(worker)

    def serving_in(self, pid: int) -> Worker | None:
        """Return the adopted worker of which the process `pid` serves a connection."""
        for worker in self:
            rows = worker.scoreboard.taken() if worker.adopted is not None else ()
            if any(words[record.PID] == pid for _, words in rows) and self._proves(worker, pid):
                return worker
        return None

    def let_go_of_adopted(self) -> None:
        """Leave the adopted workers to themselves again, for a server that cannot start."""
        for worker in self:
            if worker.adopted is not None:
                self._children.unwatch(worker.pid)
                for pid in worker.fork_children:
                    self._children.unwatch(pid)
                self._drop(worker)

    def forked(self, message: Forked, generation: Generation) -> None:
        """The template forked the worker; this process is its parent.

        Raises Nonsense when the process is not the template's to give, or the worker is another's.
        """
        if self._begun.pop(message.serial, None) == message.pid:
            return  # the worker has said so
        worker = self._workers.get(message.serial)
        if message.pid in self._children.pids or not (
            self._system.reaper.remembers(message.pid)
            or self._is_forked_by(message.pid, generation.pid, worker)
        ):
            raise Nonsense(f"the process {message.pid} is not one that it has forked")
        if not 0 < message.serial <= self._serial:
            raise Nonsense(f"there has been no worker {message.serial}")
        if worker is not None and (worker.forked or worker.generation != generation.number):
            raise Nonsense(f"the worker {message.serial} was not to be forked by it")
        self._runs(message.serial, message.pid)

    def began(self, message: Began, generation: Generation) -> None:
        """A worker runs, and says so itself: who forked it may have been killed before its word.

        What it says is not held against its template, whose word may have come or may yet come.
        """
        worker = self._workers.get(message.serial)
        known = message.pid in self._children.pids or (worker is not None and worker.forked)
        if known or not 0 < message.serial <= self._serial:
            return
        if worker is not None and worker.generation != generation.number:
            return
        if self._is_forked_by(message.pid, generation.pid, worker):
            self._begun[message.serial] = message.pid
            while len(self._begun) > _MOST_BEGUN:
                del self._begun[next(iter(self._begun))]
            self._runs(message.serial, message.pid)

    def _runs(self, serial: int, pid: int) -> None:
        worker = self._workers.get(serial)
        if worker is None:
            # It was given up before its fork was told.
            self._children.watch(pid, lambda _exit: self._changed())
            self._children.kill(pid)
            return
        worker.pid, worker.forked = pid, True
        self._children.watch(pid, partial(self._ended, worker))
        if worker.killed:
            self.kill(worker)

    def _is_forked_by(self, pid: int, template: int, worker: Worker | None) -> bool:
        if self._system.is_forked_by(pid, template):
            return True
        # It may have left the template's group already.
        return worker is not None and self._system.has_mapped(pid, worker.memfd, child=False)

    def fork_failed(self, message: ForkFailed, generation: Generation) -> None:
        """The system had no room for the worker.  Raises Nonsense when it is another's.

        One that runs is no matter: who forked it was killed after that, and the template cannot
        tell.
        """
        worker = self._workers.get(message.serial)
        if worker is None:
            return
        if worker.generation != generation.number:
            raise Nonsense(f"the worker {message.serial} was not to be forked by it")
        if not worker.forked:
            self._never_ran(worker, message.error)

    def abandon(self, generation: int) -> None:
        """The generation's template has gone: the workers it had not forked yet never will be."""
        for worker in self:
            if worker.generation == generation and not worker.forked:
                self._never_ran(worker, "its template ended before it was forked")

    def close_listeners(self) -> None:
        """Have the workers that serve go on without accepting."""
        for worker in self:
            if worker.is_ready:
                worker.link.send(CloseListeners())

    def retire(self, worker: Worker, order: Order, *, more: bool = False) -> None:
        """Have a worker give up its connections as `order` says and end; kill it when late.

        more: not before it is told again; until then it is given connections, to serve by the same
        order.
        """
        assert order.how != "end"  # that is for one connection
        if worker.order is None:
            worker.detached_before = worker.scoreboard.count(DETACHED)
        worker.order = order
        worker.more = more
        if worker.state is WorkerState.DEAD:
            self._tell_fork_children(worker, order)
        else:
            worker.state = WorkerState.DRAINING
            why = order.why if order.why != "disconnect" else ""
            pace = order.begins, order.apart
            worker.link.send(Retire(order.how, self._handlers_have(order), more, why, *pace))
        self._bound(worker, order)

    def allot(self, worker: Worker, accept_below: int, *, full: bool = False) -> None:
        """Tell a worker how many connections it may accept, if that has changed."""
        departures = worker.departures if self._config.max_connections else 0
        if worker.told != (accept_below, departures, full):
            worker.told = accept_below, departures, full
            worker.accept_below = accept_below
            worker.link.send(Seats(accept_below, departures, full, worker.promise(accept_below)))

    def kill_all(self) -> None:
        """End every worker at once, and those that are still to be forked as they come."""
        self._killing = True
        for worker in self:
            self.kill(worker)
            if not worker.forked:
                self._never_ran(worker, "the server was stopped")

    def kill(self, worker: Worker) -> None:
        """End a worker at once, and the processes it forked."""
        worker.killed = True
        if worker.forked and worker.exit is None:
            self._children.kill(worker.pid)
        for pid in worker.fork_children:
            self._children.kill(pid)

    def snapshot(self, keep: KeepOpen) -> SavedPool:
        """Return what the next version of the keeper goes on from."""
        known = {worker.pid for worker in self}.union(*(w.fork_children for w in self))
        return SavedPool(
            serial=self._serial,
            totals=dict(self.totals),
            workers=[worker.snapshot(keep) for worker in self],
            doomed=sorted(self._children.pids - known),
        )

    def restore(self, saved: SavedPool) -> None:
        """Take over the workers of an earlier version: hear them, watch them, end them in time."""
        self._serial = saved.serial
        self.totals = Counter(saved.totals)
        for each in saved.workers:
            try:
                worker = Worker.restored(each)
            except Unfit as error:
                # Nothing can be known of what it serves: it ends, and the kernel closes that.
                _log.error("worker killed: its scoreboard is none", pid=each.pid, error=error)
                self._end_unreadable(each)
                continue
            self._workers[each.serial] = worker
            worker.link = restored_link(
                self._reactor,
                each.link,
                partial(self.dispatch.hear, worker),
                partial(self._hung_up, worker),
                partial(self.dispatch.garbled, worker),
                _packets_at_once(worker),
                partial(self.dispatch.hear_parcel, worker),
            )
            self._watch_restored(worker)
        for each in saved.workers:
            if each.replaces is not None and each.serial in self._workers:
                self._workers[each.serial].replaces = self._workers.get(each.replaces)
        for pid in saved.doomed:
            self._children.watch(pid, lambda _exit: self._changed())
            self._children.kill(pid)

    def _end_unreadable(self, saved: SavedWorker) -> None:
        pids = {saved.pid} if saved.forked and saved.exit is None else set()
        for pid in pids.union(saved.fork_children):
            self._children.watch(
                pid, lambda _exit: self._changed(), adopted=saved.adopted is not None
            )
            self._children.kill(pid)
        for fd in (saved.memfd, saved.wake, saved.link.fd if saved.link else -1):
            if fd >= 0:
                os.close(fd)

    def _watch_restored(self, worker: Worker) -> None:
        adopted = worker.adopted is not None
        if worker.forked and worker.state is not WorkerState.DEAD:
            self._children.watch(worker.pid, partial(self._ended, worker), adopted=adopted)
        for pid in worker.fork_children:
            ended = partial(self._fork_child_ended, worker, pid)
            self._children.watch(pid, ended, adopted=adopted)
        if worker.killed:
            self.kill(worker)
        if worker.order is not None:
            self._bound(worker, worker.order)
        if worker.state is WorkerState.STARTING:
            self._expect_ready(worker)

    def _ended(self, worker: Worker, ended: Exit) -> None:
        # Each by itself: one that raises must not keep the worker on the books for ever.
        attempt = self._reactor.attempt
        attempt(worker.link.drain)
        worker.exit = ended
        self._log_end(worker, ended)
        worker.state = WorkerState.DEAD
        attempt(partial(self._adopt_fork_children, worker))
        attempt(partial(self.dispatch.receiver.worker_died, worker))
        attempt(partial(self._lanes.worker_died, worker, worker.fork_children))
        attempt(partial(self._settle_rows, worker, lambda pid: pid not in worker.fork_children))
        worker.tell_fates()
        if not worker.fork_children:
            self._forget(worker)
        self._died(worker)

    def _adopt_fork_children(self, worker: Worker) -> None:
        """Processes that a dead `fork` worker forked are this process's children now.

        They go on serving their connections; the worker stays on the books until the last ends.
        """
        if worker.model != "fork" or not worker.open:
            return
        known = {w.pid for w in self} | {p for w in self for p in w.fork_children}
        # What stands in a row is no more than a hint: the worker, and any other process of it,
        # could have written there whom it would have the keeper kill.
        hinted = {words[record.PID] for _, words in worker.scoreboard.taken()}
        if worker.adopted is None:
            hinted &= self._system.children()
        for pid in hinted - known - self._children.pids:
            ended = partial(self._fork_child_ended, worker, pid)
            if worker.adopted is None:
                if self._proves(worker, pid):
                    worker.fork_children.add(pid)
                    self._children.watch(pid, ended)
            elif (pidfd := self._open_proven(worker, pid)) is not None:
                worker.fork_children.add(pid)
                self._children.watch(pid, ended, adopted=True, pidfd=pidfd)
        if worker.order is not None:
            self._tell_fork_children(worker, worker.order)
        if self._killing or worker.rogue or self._is_late(worker):
            self.kill(worker)

    def _proves(self, worker: Worker, pid: int) -> bool:
        """Return whether a process is one of the worker's: it has its scoreboard mapped."""
        return self._system.has_mapped(pid, worker.memfd, child=worker.adopted is None)

    def _open_proven(self, worker: Worker, pid: int) -> int | None:
        """Return a pidfd of a process that is another's child and one of the worker's."""
        if not self._proves(worker, pid):
            return None
        try:
            pidfd = self._system.open_pidfd(pid)
        except OSError:
            return None
        if self._proves(worker, pid):  # still, and so it is the one that was opened
            return pidfd
        os.close(pidfd)
        return None

    def _tell_fork_children(self, worker: Worker, order: Order) -> None:
        """Do what their parent would: they read the order from the scoreboard, once woken."""
        worker.scoreboard.retire(replace(order, deadline=self._handlers_have(order)))
        ring(worker.wake)

    def _handlers_have(self, order: Order) -> float:
        """Return until when handlers may go on, which is before all is to be over."""
        return order.deadline - closing_time(self._config)

    def _fork_child_ended(self, worker: Worker, pid: int, _exit: Exit) -> None:
        worker.fork_children.discard(pid)
        attempt = self._reactor.attempt
        attempt(worker.link.drain)
        attempt(partial(self.dispatch.receiver.process_died, worker, pid))
        attempt(partial(self._lanes.worker_died, worker, worker.fork_children))
        attempt(partial(self._settle_rows, worker, pid.__eq__))
        worker.tell_fates()
        if not worker.fork_children:
            self._forget(worker)
        self._changed()

    def _never_ran(self, worker: Worker, error: str) -> None:
        worker.error = error
        worker.state = WorkerState.DEAD
        self._forget(worker)
        self._died(worker)

    def keep_row(self, worker: Worker, row: int) -> bool:
        """Leave a row of a worker that has died as it is, in the store; return whether that goes.

        By it the next keeper would go on with a connection that is on its way to another worker.
        """
        boards = self.store
        if boards is None or worker.board_as or not worker.scoreboard.keeps_states:
            return False
        if boards.has_board(worker.serial, worker.policy):
            worker.telling.add(row)
        return row in worker.telling

    def let_go_of_row(self, worker: Worker, row: int) -> None:
        """Free a row that was left as it is: nobody goes by it any more."""
        worker.telling.discard(row)
        worker.scoreboard.release(row)
        forgotten = worker.serial not in self._workers
        if forgotten and not worker.telling and self.store is not None:
            self.store.remove_board(worker.serial, worker.policy)

    def _forget(self, worker: Worker) -> None:
        self._drop(worker)
        self._reactor.attempt(partial(self._settle_rows, worker, lambda _pid: True))
        for name, word in COUNTERS.items():
            self.totals[name] += worker.scoreboard.count(word)
        self.totals["detached"] += len(worker.telling)

    def _drop(self, worker: Worker) -> None:
        del self._workers[worker.serial]
        if self.store is not None:
            if not worker.telling:
                self.store.remove_board(worker.serial, worker.policy)
            self.store.remove(worker.board_as)
        worker.link.close()
        os.close(worker.wake)
        os.close(worker.memfd)
        for timer in worker.timers:
            timer.cancel()  # it would keep the mapping of the scoreboard, and its descriptor

    def _settle_rows(self, worker: Worker, of: Callable[[int], bool]) -> None:
        """Count the connections of processes that have ended."""
        nonsense = 0
        for row, words in worker.scoreboard.taken():
            if not of(words[record.PID]) or row in worker.telling:
                continue
            if not is_plausible(words):
                nonsense += 1
            elif words[record.ENDED] == record.Ended.NOT_YET:
                peer = worker.scoreboard.peer(row)
                worker.note_lost("not_kept", id=id_of(words), peer=peer)
            worker.scoreboard.release(row)
        if nonsense:
            _log.warning("rows that make no sense", rows=nonsense, **worker.label)

    def _expect_ready(self, worker: Worker) -> None:
        if self._config.start_timeout:
            when = worker.started_at + self._config.start_timeout
            worker.timers.append(self._reactor.call_at(when, lambda: self._kill_unready(worker)))

    def _bound(self, worker: Worker, order: Order) -> None:
        when = order.deadline + KILL_GRACE
        worker.timers.append(self._reactor.call_at(when, lambda: self._kill_late(worker)))

    def _is_late(self, worker: Worker) -> bool:
        order = worker.order
        return order is not None and self._reactor.clock() >= order.deadline + KILL_GRACE

    def _kill_unready(self, worker: Worker) -> None:
        if worker.state is WorkerState.STARTING:
            error = f"not ready within {self._config.start_timeout:g} s"
            if worker.forked:
                worker.error = error
                self.kill(worker)
            else:
                self._never_ran(worker, error)

    def _kill_late(self, worker: Worker) -> None:
        if worker.serial in self._workers:
            _log.warning("worker killed: it did not end in time", open=worker.open, **worker.label)
            self.kill(worker)

    def _log_end(self, worker: Worker, ended: Exit) -> None:
        retired = worker.state is WorkerState.DRAINING and ended.status in (0, None)
        expected = retired or (worker.killed and not (worker.stuck or worker.rogue))
        log = _log.info if expected else _log.warning
        if not expected:
            self.totals["worker_deaths"] += 1
        fields: dict[str, object] = {"error_text": worker.error} if worker.error else {}
        if worker.detached_before is not None:
            fields["moved"] = worker.scoreboard.count(DETACHED) - worker.detached_before
        log("worker exited", status=str(ended), **worker.label, **fields)


def _packets_at_once(worker: Worker) -> int:
    """Return how many packets of a worker's are read in a row.

    One that serves one connection at a time says one thing at a time: to look whether there is more
    costs as much as to be told of it.
    """
    return 1 if worker.model == "prefork" else PACKETS_AT_ONCE
