"""The keeper: the one long-lived process.  It decides; workers serve.  No user code runs here."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from functools import partial
from typing import Final, Literal

from socketkeep._base import _log
from socketkeep._base._mistakes import OptionError
from socketkeep._config._address_lists import NO_LISTS, AddressLists, read_lists
from socketkeep._config._chosen import closing_time, handlers_time, worker_timeout
from socketkeep._config._renewal import Origins, Renewal, renew
from socketkeep._config._server_options import (
    DEFAULT_WORKERS,
    MOST_WORKERS,
    ServeConfig,
    bound_addresses,
    listener_settings,
    rate_of,
)
from socketkeep._config._tuning import tune
from socketkeep._guard._terms import GuardTerms
from socketkeep._keeper.connections._allotment import Allotment
from socketkeep._keeper.connections._balancing import Balancing
from socketkeep._keeper.connections._connections import Connections
from socketkeep._keeper.connections._disconnecting import Disconnecting
from socketkeep._keeper.connections._edges import Edges
from socketkeep._keeper.connections._fdstore import LISTENER, FdStore, listener_name
from socketkeep._keeper.connections._fullness import Fullness
from socketkeep._keeper.connections._inlets import Inlets
from socketkeep._keeper.connections._queues import Queues
from socketkeep._keeper.loop._children import ChildWatch
from socketkeep._keeper.loop._closer import LingeringCloser
from socketkeep._keeper.loop._notify import Herald
from socketkeep._keeper.loop._reactor import Reactor, ReactorTimer
from socketkeep._keeper.loop._system import System
from socketkeep._keeper.rollout._drain import Drain
from socketkeep._keeper.rollout._grounds import Grounds
from socketkeep._keeper.rollout._holding import Holding
from socketkeep._keeper.rollout._rollout import Done, Rollout, RolloutOutcome
from socketkeep._keeper.rollout._superseded import Superseded
from socketkeep._keeper.rollout._upgrades import Upgrades
from socketkeep._keeper.tables._connection_table import HeldConnection
from socketkeep._keeper.tables._records import AdoptedWorker, WorkerState
from socketkeep._keeper.tables._state import SavedKeeper
from socketkeep._keeper.workers._generations import (
    EXIT_LOAD_FAILED,
    EXIT_START_FAILED,
    Generation,
    GenerationEvent,
    LoadFailure,
    Templates,
)
from socketkeep._keeper.workers._lanes import Lanes
from socketkeep._keeper.workers._pool import KILL_GRACE, WorkerPool
from socketkeep._keeper.workers._recycling import Recycling
from socketkeep._keeper.workers._roll_call import call_roll
from socketkeep._keeper.workers._screening import Screening
from socketkeep._keeper.workers._slots import Slots
from socketkeep._keeper.workers._watchdog import Watchdog
from socketkeep._keeper.workers._workers import Worker
from socketkeep._net._listener import Listener
from socketkeep._stream._lease import Order, Why
from socketkeep._version import VERSION
from socketkeep._wire._channel import Channel
from socketkeep._wire._messages import Began, Forked, ForkFailed, ReattachOffer
from socketkeep._wire._scoreboard import COUNTERS

_EXIT_FAILED: Final = 1
_EXIT_USAGE: Final = 2
#: The options by which the keeper lets in connections that it accepts, and counts them.
_BY_ADDRESS: Final = frozenset(
    (
        *("max_per_address", "accept_rate_per_address", "over_limit"),
        *("allow", "deny", "allow_file", "deny_file"),
    )
)
_LAST_LOOK: Final = 2.0  # seconds that a stop waits for processes that nobody knew to end
#: Seconds after the graceful timeout until what is left is ended at once: each worker has been
#: killed by then.
LATE: Final = KILL_GRACE + 1.0
#: Seconds that the sudden end may take, from QUIT or from the moment above.
LAST_RESORT: Final = 3.0
_LONGEST: Final = 1000  # characters of a template's that are logged
_RETRY: Final = 1.0  # seconds until a template that has ended is started again
#: How many can wait in the queue of a listener that others have made, if the system is as it comes.
_USUAL_BACKLOG: Final = 4096


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
        rendezvous: str = "",
        census: int = -1,
        lists: AddressLists = NO_LISTS,
        inlets: Inlets | None = None,
    ) -> None:
        """Make a keeper that has yet to `start`, or to `restore` what an earlier version left.

        inlets: those that this had; None: they are to be made.
        census: the memfd of the one that this had, -1: none.  lists: of the files of networks.
        """
        self.config = config  # of the generation that serves
        self.origins: Origins | None = None
        self.boot: Final = boot
        self.name: Final = name
        self.version: Final = VERSION
        self.listeners: Final = listeners
        self.started_at = reactor.clock()
        self.current: Generation | None = None
        self.failure: LoadFailure | None = None
        self.holding: Final = Holding(reactor, self._load_again)
        self.order: Order | None = None
        self.paused = False
        self.herald: Herald | None = None
        self.store: FdStore | None = None
        self.guard: GuardTerms | None = None
        self.grounds: Grounds | None = None
        settings = listener_settings(config, len(listeners))
        starts_tls = {n for n, said in enumerate(settings) if said.tls and said.tls.asked}
        self.inlets: Final = Inlets.made_for(settings) if inlets is None else inlets
        #: What connections are accepted from, by the listeners' numbers.
        doors = [self.inlets.doors.get(n, listener) for n, listener in enumerate(listeners)]
        plain_ends = bool(self.inlets.doors or starts_tls)
        screening = Screening(boot, listeners, plain_ends=plain_ends, starts_tls=starts_tls)
        self.screening: Final = screening
        self.lanes: Final = Lanes(config, len(listeners), census, lists)
        self.lists = lists
        self.pool = WorkerPool(
            *(reactor, system, config, self._worker_ready, self._worker_died, self._changed),
            *(screening, self.lanes),
        )
        self.closer = LingeringCloser(reactor)
        self._queues = Queues(doors)
        self.connections = Connections(
            reactor,
            config,
            [listener.text for listener in listeners],
            self._queues,
            self.closer,
            self._targets,
            self._changed,
            screening,
            self._newcomer,
            boot,
            self._hosts,
            self.lanes.doorkeeper,
            lambda: self.current.on_taken if self.current is not None else "close",
            lambda: self.current is not None and self.current.on_push,
        )
        self.pool.dispatch.receiver = self.connections
        self.connections.keep_row = self.pool.keep_row
        self.connections.let_go_of_row = self.pool.let_go_of_row
        self.disconnecting: Final = Disconnecting(
            reactor, self.connections, self.pool, self.pool.kill
        )
        self.connections.hear = self.pool.dispatch.hear_line
        self.balancing: Final = Balancing(reactor, self._balanced, rate_of(config.rebalance))
        self.edges = Edges(
            *(reactor, system, config, listeners, name),
            self.inlets.outlets,
            self._changed,
            self.lanes.memfd
            if any(settings[n].accept_rate != "off" for n in self.inlets.outlets)
            else -1,
            screening.believe_maker,
            boot,
        )
        self.connections.shake_hands = self.edges.shake_hands
        self.connections.ask_bytes = self.edges.ask_bytes
        self.templates = Templates(
            *(reactor, system, listeners, boot, name, rendezvous, self, screening),
            self.inlets.doors,
        )
        self.reloads = Rollout(
            reactor,
            self.templates,
            self.pool,
            lambda: self.slots.numbers,
            config.start_timeout,
            self._switch,
            self._rolled_back,
            self._reload_ended,
            self._prepare,
        )
        self.superseded: Final = Superseded(reactor, self.pool, config.keep)
        self.upgrades = Upgrades(
            reactor,
            system,
            self.reloads,
            config.start_timeout,
            self.reload,
            self._changed,
        )
        self.upgrades.settle = self._settle_store
        self.upgrades.obstacle = self._obstacle_to_upgrade
        self._reactor = reactor
        self.system: Final = system
        self.slots: Final = Slots(reactor, self.pool, self._serving, self._retire)
        self._allotment = Allotment(reactor, self.pool, self.connections, config)
        self.fullness: Final = Fullness(
            reactor, listeners, config.max_connections, self._allotment.has_room
        )
        self._recycling = Recycling(
            reactor,
            system,
            config,
            self._recyclable,
            lambda worker: self.slots.start_worker(worker.slot, replaces=worker),
        )
        self.pool.dispatch.worn = self._recycling.ask
        self._watchdog = Watchdog(
            reactor, self.pool, lambda model: worker_timeout(self.config, model), self.pool.kill
        )
        self._drain = Drain(reactor, self.connections.moves.dispatch, self._drained)
        self._at_once = False  # it ends without serving anybody
        self._pace = 0.0  # how many connections a second a drain ends
        self._settings_stored = 0  # their number, which the next ones exceed
        self._leaves = False  # it ends, and others go on with what it holds
        self._throttle = _log.Throttle()
        self._listening = {
            os.fstat(each.fileno()).st_ino for each in (*listeners, *self.inlets.doors.values())
        }
        self._left_over = ChildWatch(reactor, system)
        self._last_look: ReactorTimer | None = None

    def use_store(self, store: FdStore, *, connections: bool = True) -> None:
        """Keep what must outlive this process in the store, from here on.

        connections: those, too, and not listeners alone.
        """
        self.store = store
        if store.edges_stay:
            self.edges.use_store(store)
        if connections:
            self.pool.store = self.connections.connection_table.store = store
            store.names_of = self.connections.post.names
        for address, listener in self._bound():
            store.add(listener_name(address), listener.fileno())
        self._store_settings()

    def store_anew(self, store: FdStore, *, connections: bool) -> None:
        """Keep all of it in a store that has nothing yet, in the place of one that has gone."""
        self.use_store(store, connections=connections)
        if connections:
            for worker in self.pool:
                if worker.board_as:
                    store.add(worker.board_as, worker.memfd)
                else:
                    store.add_board(worker.serial, worker.policy, worker.memfd)
            table = self.connections.connection_table
            for held in table:
                if not held.handoff.header_by:  # else it has not begun
                    store.put_anew(held)
            table.store_told()  # the rows may go once that is stored

    def _store_settings(self) -> None:
        if self.store is not None and self.origins is not None and self.origins.path:
            encoded = self.origins.encoded()
            self._settings_stored = self.store.put_settings(encoded, self._settings_stored)

    def _settle_store(self) -> None:
        """This version is about to be replaced: have all be stored that the next one goes by."""
        self.connections.connection_table.store_told()
        if self.store is not None:
            self.store.settle()

    def use_no_store(self) -> None:
        """Nobody stores any more."""
        self.store = self.pool.store = self.connections.connection_table.store = None
        self.edges.use_store(None)

    def listener_renewed(self, listener: Listener) -> None:
        """A listener has another socket: store that one."""
        if self.store is not None:
            for address, each in self._bound():
                if each is listener:
                    self.store.remove(listener_name(address))
                    self.store.add(listener_name(address), listener.fileno())

    def _bound(self) -> list[tuple[str, Listener]]:
        """Return the listeners of the configured addresses, which stand behind those passed."""
        bound = self.listeners[len(self.listeners) - len(self.config.bind) :]
        return list(zip(bound_addresses(self.config), bound, strict=True))

    # What people ask for.

    def start(self) -> None:
        """Load the first generation; `failure` is set, and the loop ends, when it cannot serve."""
        self.system.become_subreaper()
        self.reloads.request()
        self.edges.start()
        self._recycling.start()
        self.fullness.start()
        self.balancing.start()

    def reload(self, done: Done | None = None) -> None:
        """Load the user's code anew and move the connections to it.

        `done` is told how it ended; at once, and that it cannot be, when the server is stopping.
        """
        if self.order is not None:
            if done is not None:
                done(RolloutOutcome(_EXIT_FAILED, 0, "cannot reload: the server is stopping"))
            return
        _log.info("reload asked for")
        self.edges.renew()
        if self.upgrades.active:
            self.upgrades.reload_later(done)
        else:
            self.reloads.request(done)
        if self.herald is not None:
            self.herald.reload_asked()

    def upgrade(self, done: Done | None = None) -> None:
        """Become the version of the package that is installed now, then reload.

        `done` is told why that cannot be; what comes after it is told by the new version, to whom
        it is given (`finish_upgrade`).
        """
        if self.order is not None:
            if done is not None:
                done(RolloutOutcome(_EXIT_FAILED, 0, "cannot upgrade: the server is stopping"))
            return
        self.upgrades.request(done)

    def finish_upgrade(self, done: Done) -> None:
        """Bring up workers of this version, too; called after `restore`, before the loop runs."""
        self.reloads.request(done, upgraded=True)
        if self.herald is not None:
            self.herald.reload_asked()

    def adopt(self, offer: ReattachOffer, channel: Channel) -> None:
        """Take over a worker that another keeper started and left when it died.

        Its connections move to this keeper's workers once there are any.  When it serves another
        target, or listeners that this server has not, they stay where they are and are drained.
        """
        ours = [listener.text for listener in self.listeners]
        theirs = tuple(ours.index(text) if text in ours else -1 for text in offer.listeners)
        same = offer.target == self.config.target
        adopted = AdoptedWorker(same and -1 not in theirs, theirs)
        worker = self.pool.adopt(offer, channel, adopted)
        why = "" if same else f"it serves {offer.target}"
        why = why or ("" if adopted.moves else "it has listeners that this server has not")
        fields = {"drained": why} if why else {}
        _log.info("worker adopted", connections=worker.open, **worker.label, **fields)
        if self.order is not None:
            self.pool.retire(worker, self.order)
        elif self.current is not None:
            self._retire(worker)
        self._changed()

    @property
    def state(self) -> str:
        """Return what the server as a whole is doing: "starting", "running", "reloading", …"""
        if self.order is not None:
            return "draining" if self.order.how == "finish" else "stopping"
        if self.current is None:
            return "holding" if self.holding else "starting"
        if self.reloads.coming is not None:
            return "reloading"
        return "upgrading" if self.upgrades.active else "running"

    @property
    def accepting(self) -> bool:
        """Return whether new connections are served."""
        if self.order is not None or self.current is None or self.paused:
            return False
        return any(worker.is_ready for worker in self.pool.of_generation(self.current.number))

    @property
    def summary(self) -> str:
        """The server's figures in a line, for who watches it from outside."""
        workers = sum(worker.state is not WorkerState.DEAD for worker in self.pool)
        connections = self.pool.connections + len(self.connections)
        generation = self.current.number if self.current else 0
        return (
            f"{self.state}: generation {generation}, {workers} workers, {connections} connections"
        )

    def scale(self, workers: int) -> None:
        """Have so many workers: those with the fewest connections go first.

        One at least, and `MOST_WORKERS` at most, whatever was asked for.
        """
        if self.order is not None:
            return
        self.slots.scale(max(1, min(workers, MOST_WORKERS)))
        _log.info("scaled", workers=len(self.slots))
        self._refill()

    def pause(self) -> None:
        """Accept nothing until the next reload."""
        if self.order is None:
            _log.info("accepting paused until the next reload")
            self.paused = True
            self._allot()

    def stop(self, how: Literal["close", "finish"]) -> None:
        """End: `finish` serves until every connection has ended, `close` no longer than needed.

        Both are bounded by the graceful timeout, after which asking again ends it at once.
        """
        if self.order is not None and (how == "finish" or self.order.how == "close"):
            if how == "close" and self._reactor.clock() >= self.order.deadline:
                self.stop_now()
            return
        self._stop(how)

    def drain(self, pace: float = 0.0) -> None:
        """As `stop("finish")`, but so many connections a second are ended; 0: none by itself."""
        if self.order is None:
            self._pace = pace
        self.stop("finish")

    def _stop(self, how: Literal["close", "finish"]) -> None:
        _log.info("stopping" if how == "close" else "draining")
        deadline = self._reactor.clock() + self.config.graceful_timeout
        if how == "close":
            self._pace = 0.0
        elif self._pace:
            deadline += (self.pool.connections + len(self.connections)) / self._pace
        if self.order is not None:  # a drain becomes a stop, and has no more time for that
            deadline = min(deadline, self.order.deadline)
        why: Why = "stop" if how == "close" else "drain"
        self.order = order = Order(how, deadline, why)
        # First, so that nothing that fails from here on keeps the end from coming.
        self._reactor.call_at(deadline + LATE, self.stop_now)
        self._attempt_each(
            partial(self.closer.end_by, deadline),
            self._drain.cancel,
            self.holding.end,
            self._take_in_queues,
            partial(self.edges.admit, False),
            *(listener.close for listener in self.listeners),
            self.inlets.close,
            lambda: self.store.remove_all(LISTENER) if self.store is not None else None,
            *self._ends_of_beginnings(),
            partial(self._begin_end, order),
            self._changed,
        )

    def _ends_of_beginnings(self) -> list[Callable[[], object]]:
        """Return what gives up all that is only coming: versions, generations, workers."""
        return [
            self.upgrades.cancel,
            lambda: self.reloads.cancel("the server stops"),
            self._end_current,
            *(
                partial(self.pool.kill, worker)
                for worker in self.pool
                if worker.state is WorkerState.STARTING
            ),
        ]

    def leave(self) -> None:
        """End, and leave listeners and connections in the store for the next server.

        As `stop` where there is none that outlives this one.  What is not stored is ended in order.
        """
        leaves = self.store is not None and self.config.guard.startswith("unix:")
        if self.order is not None or not leaves:
            self.stop("close")
            return
        _log.info("leaving: what is stored waits for the next server")
        self._leaves = True
        deadline = self._reactor.clock() + self.config.graceful_timeout
        self.holding.end()
        if self.current is None:  # what there is, an earlier keeper has left
            resumes = all(worker.resumable for worker in self.pool)
        else:
            resumes = self.current.resumable
        self.order = order = Order("move" if resumes else "close", deadline)
        self._reactor.call_at(deadline + LATE, self.stop_now)
        for listener in self.listeners:
            listener.leave_file()  # it is the next server's
        self._attempt_each(
            partial(self.closer.end_by, deadline),
            self.connections.porch.stop,
            partial(self.edges.admit, False),
            *self._ends_of_beginnings(),
            self.connections.end_unstored,
            partial(self._retire_all, order),
            self._changed,
        )

    def _holds_nothing(self) -> bool:
        """Return whether nothing is served, or waits.

        One that leaves ends what is not stored in order.
        """
        if self._leaves and self.pool.empty:
            self.connections.moves.end(lambda held: bool(held.stored_as))
            return True
        return self.pool.empty and not self.connections

    def _take_in_queues(self) -> None:
        """Have what is in the accept queues wait here: with its last handle each queue is reset.

        Not where nobody is there to serve it, nor what another process is there to serve.
        """
        occupied = [] if self._at_once or not self._targets() else self._queues.occupied()
        if not occupied:
            return
        mine = self._not_of_others(occupied)
        # What is in a queue now are the first so many that come out of it.
        self.connections.take_in(mine, max(self.config.backlog, _USUAL_BACKLOG) + 1)
        if self._queues:
            _log.info("accept queues taken in", connections=len(self._queues))

    def _not_of_others(self, listeners: Sequence[Listener]) -> list[Listener]:
        """Return those listeners that no other process goes on with, as far as can be told.

        One that was passed to this process is somebody's unless it is seen to be nobody's; one that
        this has bound may have been taken over, by `socketkeep adopt`.
        """
        inodes = {os.fstat(listener.fileno()).st_ino: listener for listener in listeners}
        others, all_seen = self.system.held_by_others(inodes)
        bound = [each for address, each in self._bound() if not address.startswith("fd://")]
        bound += self.inlets.doors.values()
        mine = []
        for inode, listener in inodes.items():
            if inode in others or not (all_seen or listener in bound):
                _log.info("accept queue left to another process", address=listener.text)
            else:
                mine.append(listener)
        return mine

    def _begin_end(self, order: Order) -> None:
        """End, now, or when those that are waited for have been served."""
        targets = self._targets()
        resumes = self.current is not None and self.current.resumable
        until = order.deadline - closing_time(self.config)
        if not targets or self._at_once:
            self._end(order)
        elif order.how == "finish" and self._pace:
            if not resumes:
                self.connections.wind_up(resumes=False)
            self._retire_at_pace(order, targets)
            self._drain.begin(until, self._nothing_is_open)
        elif order.how == "finish" and (resumes or self._queues):
            if not resumes:
                self.connections.wind_up(resumes=False)
            self.pool.close_listeners()
            if self._has_last_word:
                self._retire_all(order, staying=targets)
                self.connections.parking.wake_all()
            self._drain.begin(until, self._nothing_is_open)
        elif order.how == "close":
            self.connections.wind_up(resumes=resumes, all_served=self._has_last_word)
            if self.connections.waiting:
                self._retire_all(order, staying=targets)
                self._drain.begin(until, self._nobody_waits)
            else:
                self._end(order)
        else:
            self._end(order)

    @property
    def _has_last_word(self) -> bool:
        """Return whether the service has a word for each peer whose connection is to end."""
        return self.current is not None and self.current.on_leaving

    def _nothing_is_open(self) -> bool:
        if any(worker.open or worker.arriving for worker in self.pool):
            return False
        return not (self.connections and self._targets())

    def _nobody_waits(self) -> bool:
        return not (self.connections.moves or self._queues) or not self._targets()

    def _end_current(self) -> None:
        if self.current is not None:
            self.templates.end(self.current)
            self.pool.abandon(self.current.number)

    def _attempt_each(self, *steps: Callable[[], object]) -> None:
        """Take each of the steps, whatever becomes of the others."""
        for step in steps:
            self._reactor.attempt(step)

    def _end(self, order: Order) -> None:
        """Have every worker end as `order` says, and close what has none."""
        self._attempt_each(
            partial(self._retire_all, order),
            self.connections.stop,
            self._changed,
        )

    def _retire_all(self, order: Order, staying: Collection[Worker] = ()) -> None:
        """Tell every worker to end by `order`, or as it was told already, if that is sooner.

        staying: those that are still to be given connections.
        """

        def retire(worker: Worker) -> None:
            if worker.state is not WorkerState.DEAD or worker.fork_children:
                earlier = worker.order.deadline if worker.order else order.deadline
                theirs = replace(order, deadline=min(earlier, order.deadline))
                self.pool.retire(worker, theirs, more=worker in staying)

        self._attempt_each(*(partial(retire, worker) for worker in self.pool))

    def _retire_at_pace(self, order: Order, staying: Collection[Worker]) -> None:
        """Have the connections be ended one after another, the parked ones among them."""
        now, pace = self._reactor.clock(), self._pace
        counts = {worker: worker.open for worker in self.pool}
        parked = len(self.connections.parking)
        total = sum(counts.values()) + parked

        def retire(number: int, worker: Worker) -> None:
            apart = total / (pace * max(1, counts[worker]))
            theirs = replace(order, how="close", begins=now + number / pace, apart=apart)
            self.pool.retire(worker, theirs, more=worker in staying)

        alive = [each for each in self.pool if each.state is not WorkerState.DEAD]
        self._attempt_each(*(partial(retire, number, each) for number, each in enumerate(alive)))
        if parked:
            self.connections.parking.end_slowly(
                total / (pace * parked), "the server is drained", wake=self._has_last_word
            )

    def _drained(self) -> None:
        assert self.order is not None
        self._end(self.order)

    def stop_now(self) -> None:
        """End at once: connections are closed by the kernel.

        After `LAST_RESORT` seconds whatever still runs is ended, whatever the tables say of it.
        """
        _log.info("stopping at once")
        self._at_once = True
        self._reactor.call_later(LAST_RESORT, self._end_by_force)
        self._leaves = False
        if self.order is None or self.order.how != "close":
            self._stop("close")
        self._attempt_each(
            self.pool.kill_all,
            self.templates.kill_all,
            self.edges.kill_all,
            self._drain.cancel,
            self.connections.stop,
            self.closer.finish_all,
            self._changed,
        )

    def _end_by_force(self) -> None:
        """The last resort: what keeps the server is a mistake, or in the kernel."""
        left = self.system.end_descendants()
        _log.error("ended by force", processes=left, connections=len(self.connections))
        self._reactor.stop()

    def restore(self, saved: SavedKeeper) -> None:
        """Go on from what an earlier version of the keeper left, in place of `start`."""
        self.system.become_subreaper()
        self.started_at = saved.started_at
        self.paused = saved.paused
        self.upgrades.completed = saved.upgrades + 1
        self.reloads.resume(saved.reloads, saved.reloads_completed)
        generations = {each.number: Generation.restored(each) for each in saved.generations}
        self.current = current = generations[saved.current]
        for generation in generations.values():
            generation.config, generation.lists = self.config, self.lists
        self.templates.place = saved.place
        self.templates.restore(generations, saved.templates)
        self.pool.restore(saved.pool)
        self.slots.restore(saved.slots)
        self.closer.restore(saved.closing, self._changed)
        self.connections.restore(saved.connections)
        self.connections.restore_post(saved.post, self.pool)
        for pid in saved.makers:
            self.screening.believe_maker(pid)
        self.edges.restore(saved.edges)
        self._recycling.start()
        self.fullness.start()
        self.balancing.start()
        for worker in self.pool:
            self._watchdog.start(worker.model)
        self._reactor.call_soon(self.system.reaper.reap)
        if not current.link.open:
            self._reactor.call_later(_RETRY, lambda: self._restart_template(current))
        self._refill()

    def counters(self) -> Counter[str]:
        """Return the totals since the start, of workers past and present."""
        totals = Counter(self.pool.totals)
        for worker in self.pool:
            for name, word in COUNTERS.items():
                totals[name] += worker.scoreboard.count(word)
        totals.update(self.connections.totals)
        for outcome, count in self.connections.post.totals.items():
            totals[f"pushes {outcome}"] += count
        return totals

    # What templates and workers tell.

    def generation_loaded(self, generation: Generation) -> None:
        if not self.slots:
            self.slots.scale(self.config.workers or DEFAULT_WORKERS[generation.model])
        if generation is self.reloads.coming:
            self.reloads.loaded(generation)
        else:
            self._refill()

    def generation_failed(self, generation: Generation, failure: LoadFailure) -> None:
        if generation is self.reloads.coming:
            self.reloads.fail(generation, failure)
        elif generation is self.current and self.order is None:
            # Workers serve on without it; only new ones need it.
            _log.error("template ended", generation=generation.number, error_text=failure.error)
            self.pool.abandon(generation.number)
            self._reactor.call_later(_RETRY, lambda: self._restart_template(generation))

    def template_ended(self) -> None:
        self._changed()

    def worker_forked(self, forked: Forked, generation: Generation) -> None:
        self.pool.forked(forked, generation)

    def worker_began(self, began: Began, generation: Generation) -> None:
        self.pool.began(began, generation)

    def worker_fork_failed(self, failed: ForkFailed, generation: Generation) -> None:
        self.pool.fork_failed(failed, generation)
        self._throttle.warning("cannot fork", process="template", error=failed.error[:_LONGEST])

    def template_condemned(self, generation: Generation, why: str) -> None:
        self.pool.totals["refused_messages"] += 1
        self._throttle.error(
            "template killed: what it said cannot be",
            kind="template",
            why=why,
            generation=generation.number,
        )

    def _worker_ready(self, worker: Worker) -> None:
        _log.info("worker ready", **worker.label)
        worker.expires_at = self._recycling.expiry()
        self._watchdog.start(worker.model)
        self.reloads.worker_ready(worker)
        if worker.replaces is not None and worker.replaces.state is WorkerState.READY:
            self._retire(worker.replaces)
        worker.replaces = None
        self._changed()

    def _worker_died(self, worker: Worker) -> None:
        coming = self.reloads.coming
        if coming is not None and worker.generation == coming.number:
            self.reloads.worker_died(worker)
        else:
            self.slots.worker_died(worker)
        self._changed()

    # What follows from it.

    def _prepare(self, generation: Generation) -> LoadFailure | None:
        generation.config, generation.lists = self.config, self.lists
        # The first generation is where the server was started, on what it has just bound.
        if self.current is None:
            return None
        try:
            generation.renewal = self.renewal()
        except OptionError as error:
            return LoadFailure(_EXIT_USAGE, str(error))
        generation.config = generation.renewal.config
        try:
            generation.lists = read_lists(generation.config)
            self.lanes.prepare(generation.config)
        except OptionError as error:
            return LoadFailure(EXIT_LOAD_FAILED, str(error))
        except OSError as error:
            return LoadFailure(
                EXIT_START_FAILED, f"connections cannot be counted: {error.strerror}"
            )
        why = "" if self.grounds is None else self.grounds.renew()
        return LoadFailure(EXIT_LOAD_FAILED, why) if why else None

    def renewal(self) -> Renewal:
        """Return what a reload that began now would go by.  Raises OptionError."""
        if self.origins is None:
            return Renewal(self.config, None)
        return renew(self.origins, self.config, os.environ)

    def _go_by(self, renewal: Renewal, generation: Generation) -> None:
        """Go by the options with which this generation, that serves now, has begun."""
        if renewal.origins != self.origins:
            self.origins = renewal.origins
            self._store_settings()
        for what, changes in (
            (partial(_log.info, "options changed"), renewal.applied),
            (partial(_log.warning, "options need a restart"), renewal.waiting),
        ):
            if changes:
                what(**{change.option.key: change.text for change in changes})
        changed = {change.option.key for change in renewal.applied}
        if not changed:
            return
        before, config = self.config, renewal.config
        self.config = config
        self.pool.use(config)
        if changed & _BY_ADDRESS:
            self.lanes.use(config, self.lists)
        self.connections.use(config, self.lanes.doorkeeper)
        self.edges.use(config)
        self._allotment.use(config)
        self._recycling.use(config)
        self.balancing.use(rate_of(config.rebalance))
        self.fullness.most = config.max_connections
        self.reloads.start_timeout = self.upgrades.start_timeout = config.start_timeout
        if self.grounds is not None:
            self.grounds.use(config)
        if changed & {"log_level", "log_format"}:
            _log.configure(
                config.log_level, config.log_format, config.log_file, self.system.account
            )
        if "backlog" in changed:
            for _, listener in self._bound():
                listener.sock.listen(config.backlog)
        for listener, was, now in zip(
            self.listeners,
            listener_settings(before, len(self.listeners)),
            listener_settings(config, len(self.listeners)),
            strict=True,
        ):
            if now != was:
                tune(listener.sock, now, was)
        if "workers" in changed:
            self.slots.scale(config.workers or DEFAULT_WORKERS[generation.model])
        for worker in self.pool.of_generation(generation.number):  # they were ready before this
            worker.expires_at = self._recycling.expiry()
            self._watchdog.start(worker.model)

    def _switch(self, generation: Generation) -> None:
        self.lists = generation.lists
        if self.lanes.doorkeeper is not None:
            self.lanes.doorkeeper.use(self.lists)
        if self.grounds is not None:
            self.grounds.settle()
        old, self.current = self.current, generation
        self.holding.end()
        if generation.renewal is not None:
            self._go_by(generation.renewal, generation)
        if generation.upgraded:
            self.connections.upgraded = generation.number
        self.paused = False
        if old is not None:
            old.step(GenerationEvent.SUPERSEDED)
            self.templates.end(old)
            self.pool.abandon(old.number)
        replaced = [
            worker
            for worker in self.pool
            if worker.generation != generation.number and worker.order is None
        ]
        moving = sum(worker.open for worker in replaced)
        for worker in replaced:
            self._retire(worker)
        until = self._reactor.clock() + handlers_time(self.config)
        self.superseded.watch(generation.number, replaced, until)
        for listener in self.listeners if old is None else ():
            _log.info("listening", **_shown(listener))
        _log.info(
            "ready" if old is None else "reload done",
            generation=generation.number,
            workers=len(self.slots),
            connections=moving,
        )
        self._allot()
        self._refill()

    def _rolled_back(self, generation: Generation, failure: LoadFailure) -> None:
        if self.grounds is not None:
            self.grounds.give_up()
        if self.current is not None:
            _log.error("reload failed", generation=generation.number, error_text=failure.error)
            return
        if self.order is not None:
            return
        if self.connections or (self.guard is not None and self.guard.starts):
            self._hold(failure)
            return
        self.failure = failure
        self.pool.let_go_of_adopted()  # they serve on; this server never came to be
        self.stop("close")

    def _hold(self, failure: LoadFailure) -> None:
        """Stay with what an earlier keeper has left: it would be closed with this one."""
        again = self.holding.go_on(failure.error)
        _log.error(
            "no code to serve by: what is held waits",
            error_text=failure.error,
            connections=len(self.connections) + self.pool.connections,
            again=again,
        )
        self._changed()

    def _obstacle_to_upgrade(self) -> str:
        """Return why the next version would have no generation to go on with; "": it has."""
        if not self.holding:
            return ""
        return f"cannot upgrade: no code is loaded ({self.holding.why}): mend it, and reload"

    def _load_again(self) -> None:
        if self.reloads.coming is None:
            self.reloads.request()

    def _reload_ended(self) -> None:
        self.upgrades.go_on()

    def _retire(self, worker: Worker) -> None:
        if worker.state is WorkerState.STARTING:
            self.pool.kill(worker)
            return
        deadline = self._reactor.clock() + self.config.graceful_timeout
        # A handler that is not resumable is never called on a connection that is under way.
        kept = self.config.keep != "none" and self.current is not None and self.current.resumable
        if worker.adopted is not None and not worker.adopted.moves:
            kept = False
        self.pool.retire(worker, Order("move" if kept else "finish", deadline, "reload"))

    def _serving(self) -> Generation | None:
        """Return the generation that new workers belong to; None when there are to be none."""
        return self.current if self.order is None else None

    def _refill(self) -> None:
        self.slots.fill()
        self._changed()

    def _recyclable(self) -> list[Worker]:
        generation = self._serving()
        if generation is None or self.reloads.coming is not None:
            return []
        workers = self.pool.of_generation(generation.number)
        return workers if all(worker.is_ready for worker in workers) else []

    def _restart_template(self, generation: Generation) -> None:
        if generation is self.current and self.order is None:
            try:
                self.templates.start(generation)
            except OSError as error:
                self._throttle.warning("cannot start a template", error=error.strerror)
                self._reactor.call_later(_RETRY, lambda: self._restart_template(generation))

    def _targets(self) -> list[Worker]:
        """Return the workers that connections may be given to.

        Of those that have been with another worker none, where the handler is not resumable.
        """
        current = self.current
        if self._leaves or current is None or not (current.resumable or self.order is not None):
            return []
        return [
            worker
            for worker in self.pool
            if (
                worker.state is WorkerState.READY
                or (worker.more and worker.state is WorkerState.DRAINING)
            )
            and worker.generation == current.number
            and not worker.killed
        ]

    def call_roll(self, told: Callable[[list[Worker]], None]) -> None:
        """Tell which workers do not answer, within a second."""
        call_roll(self._reactor, self.pool, told)

    def cannot_balance(self) -> str:
        """Return why connections cannot move from one worker to another for their load, or ""."""
        if self.order is not None or self.current is None:
            return f"the server is {self.state}"
        if self.current.model not in ("async", "thread"):
            return f"in the {self.current.model} model each connection has a process of its own"
        if not self.current.resumable or self.config.keep == "none":
            return "its connections cannot move: the handler is not resumable, or --keep is none"
        return ""

    def _balanced(self) -> list[Worker]:
        """Return the workers whose load is to be even; none while others come or go."""
        if self.cannot_balance() or self.paused or self.reloads.coming is not None:
            return []
        return self._hosts()

    def _hosts(self) -> list[Worker]:
        """Return the workers that new connections may be given to."""
        if self.current is None or self.order is not None:
            return []
        workers = self.pool.of_generation(self.current.number)
        return [w for w in workers if w.is_ready and not w.killed]

    def _newcomer(self) -> HeldConnection | None:
        """Accept a new connection in a worker's place, if there may be one more."""
        if self.order is not None:
            room = self._queues and self._allotment.has_room()
            return self.connections.accept() if room else None
        if self.current is None or self.paused or not self._queues.has_somebody():
            return None
        if not self._allotment.admits(self.current):
            return None
        return self.connections.accept()

    def _allot(self) -> None:
        if self.current is not None:
            self._allotment.share_out(self.current, len(self.slots), self.paused)
            self.edges.admit(self.order is None and not self.paused)

    def _changed(self) -> None:
        self.superseded.look()
        if self.herald is not None:
            # Soon, not now: a reload that is done may have another behind it.
            self._reactor.call_soon(self.herald.look)
        if self.order is None:
            self._reactor.call_soon(self._allot)
        elif self._holds_nothing() and not (self.closer or self.templates or self.upgrades):
            if self.edges:
                self.edges.retire(self.order.deadline)
            else:
                self._stop_when_alone()

    def _stop_when_alone(self) -> None:
        """End the loop, and first the processes that nobody knew of and that have the port.

        A worker of which the keeper has never heard: those who forked it were killed before they
        could say so.  What the user's code has left running is not touched: it has no listener.
        """
        if self._last_look is None:
            self._last_look = self._reactor.call_later(_LAST_LOOK, self._reactor.stop)
        found = self.system.holding(self.system.reaper.strangers, self._listening)
        for pid in found:
            _log.warning("process killed: it was nobody's, and had a listener", pid=pid)
            self._left_over.watch(pid, lambda _ended: self._changed())
            self._left_over.kill(pid)
        if not self._left_over:
            self._reactor.stop()


def _shown(listener: Listener) -> dict[str, object]:
    """Return the fields of a listener's log line."""
    fields: dict[str, object] = {"address": listener.text}
    if listener.dual_stack:
        fields["serves"] = "IPv6 and IPv4"
    if listener.name:
        fields["name"] = listener.name
    return fields
