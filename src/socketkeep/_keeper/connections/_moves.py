"""Connections on their way from one worker to another.

The keeper holds each of them by a descriptor of its own, from the worker's `Detached` until the
next worker's `Attached`: whichever of the two dies in between, the connection lives.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import islice
from typing import Final, Literal

import msgspec

from socketkeep._base import _log
from socketkeep._base._passing import SURELY_INLINE, close_without_waiting
from socketkeep._keeper.connections._post import Post
from socketkeep._keeper.loop._reactor import Reactor, ReactorTimer
from socketkeep._keeper.tables._connection_table import (
    ON_ITS_WAY,
    Close,
    ConnectionTable,
    HeldConnection,
)
from socketkeep._keeper.tables._names import NamedConnection
from socketkeep._keeper.tables._ownership import Ownership, OwnershipState, Stale
from socketkeep._keeper.tables._turns import Turns
from socketkeep._keeper.tables._waits import WaitsByReason
from socketkeep._keeper.workers._workers import Worker
from socketkeep._wire._messages import Attach, Attached, AttachRefused, Crowded
from socketkeep._wire._parcels import attach_parcel

_RETRY: Final = 0.1
_TICK: Final = 1e-6
#: Why a connection is given to a worker that has been parked.
_PARKED: Final = ("parked", "pushed")


class Moves:
    """Gives each connection that is to move to the worker with the most room.

    `targets` returns the workers that may be given connections now, `hosts` those that may be given
    such as no handler has had yet.  `newcomer` accepts a new connection, if one waits and there may
    be one more: while others wait for a seat they and the accept queues take turns, and workers
    accept nothing by themselves.  So they do at the server's end, when `queued` says how many the
    keeper has taken from those queues.  `changed` is called whenever a connection came, went, or
    was given, so that the seats kept free for them can be counted anew.  `close` is called with
    what no worker took in time, or when the server stops; what is new waits on, as it would in the
    queue.
    `keeps` says whether the keeper goes on holding a handle once a worker has attached, of each
    connection; of one that was parked it does anyway: it will most likely be parked again, and then
    comes back without a descriptor.
    `takes_for_attached` says whether one that was parked is a worker's as soon as it has been sent,
    without a word of the worker's: what became of it should that die its rows tell.
    """

    def __init__(
        self,
        reactor: Reactor,
        connection_table: ConnectionTable,
        targets: Callable[[], Iterable[Worker]],
        newcomer: Callable[[], HeldConnection | None],
        queued: Callable[[], int],
        changed: Callable[[], None],
        close: Close,
        orphan_timeout: float,
        keeps: bool,
        hosts: Callable[[], Iterable[Worker]],
        takes_for_attached: bool,
    ) -> None:
        self._reactor = reactor
        self._connection_table = connection_table
        self._targets = targets
        self._hosts = hosts
        self._newcomer = newcomer
        self._queued = queued
        self._changed = changed
        self._close = close
        self._orphan_timeout = orphan_timeout
        self._keeps = keeps
        self._takes_for_attached = takes_for_attached
        self.waits: Final = WaitsByReason()
        self.post: Post | None = None  # which knows what connections are called
        self._moving: dict[str, HeldConnection] = {}
        self._waiting: dict[
            str, HeldConnection
        ] = {}  # sent to no worker yet, in the order they came
        self._disordered = False  # but for those that came back from a worker
        self._latest = 0.0  # when the last of them came
        self._turns = Turns()
        self._nobody_new = False  # as this dispatch has found
        self._unanswered: dict[int, dict[str, None]] = {}  # by worker, in the order they were sent
        self._expiry: ReactorTimer | None = None
        self._stays_waiting: Callable[[HeldConnection], bool] | None = None  # at the end: who may
        self._crowded = False
        self._throttle = _log.Throttle()

    def __len__(self) -> int:
        return len(self._moving)

    def __iter__(self) -> Iterator[HeldConnection]:
        return iter(tuple(self._moving.values()))

    @property
    def waiting(self) -> int:
        """Return how many have been sent to no worker yet."""
        return len(self._waiting)

    def put(self, held: HeldConnection) -> None:
        """Find a worker for a connection that none has."""
        self._enter(held)
        if self._stays_waiting is None:
            self._reactor.call_soon(self.dispatch)
        elif self._stays_waiting(held):
            self._go_on()
        else:
            self._stop(held)

    def _enter(self, held: HeldConnection) -> None:
        # Later than the one before by what a clock can tell, so that the order can be told by it.
        held.since = self._latest = max(self._reactor.clock(), self._latest + _TICK)
        self._moving[held.id] = self._waiting[held.id] = held
        if self._expiry is None or not self._expiry.pending:
            self._expect_expiry()

    def dispatch(self) -> None:
        """Give each connection that waits to a worker, while there is one with a free seat."""
        if self._waiting or self._crowded or self._queued():
            if self._disordered:
                self._disordered = False
                in_order = sorted(self._waiting.items(), key=lambda item: item[1].since)
                self._waiting = dict(in_order)
            targets = tuple(self._targets())
            waiting: Iterable[HeldConnection] = self._waiting.values()
            if not targets:
                # Of a handler that is not resumable: it can be called on what is new.
                targets = tuple(self._hosts())
                waiting = [held for held in waiting if held.why == "accepted"]
            room = {worker: free for worker in targets if (free := worker.free_seats) > 0}
            free = sum(room.values())
            line = iter(tuple(islice(waiting, free)))
            self._nobody_new = False
            while free and (held := self._turns.next(lambda: next(line, None), self._welcome)):
                # The most free seats, not the fewest connections: shares of --max-connections
                # differ.
                target = max(room, key=room.__getitem__)
                if self._give(held, target):
                    room[target] -= 1
                    free -= 1
            was_crowded = self._crowded
            self._tell_crowded(targets)
            if was_crowded and self._waiting and self._takes_for_attached:
                return  # what each worker may accept is what it was told before
        self._changed()

    def _welcome(self) -> HeldConnection | None:
        """Return a new connection, if it is to have a seat though others wait for one.

        Not where none waits: there workers accept for themselves, as long as they do.
        """
        if self._nobody_new or not (self._waiting or self._queued()):
            return None
        held = self._newcomer()
        if held is not None:
            self._enter(held)
        else:
            self._nobody_new = True
        return held

    def attached(self, worker: Worker, message: Attached) -> None:
        """The worker holds the connection: let go of it here, or hold it as the worker's."""
        taken = self._taken(worker, message.id, message.epoch)
        if taken is not None:
            taken.row = message.row  # a worker of an earlier version says so all the same
            return
        held = self._answer(worker, message.id, message.epoch, Ownership.attached)
        if held is None:
            return
        del self._moving[held.id]
        self._count_wait(held)
        if self._stays(held):
            held.row = message.row
            if held.parcel is None:
                # The worker has them: of one that is owned they count no more.
                msgspec.structs.force_setattr(held.handoff, "unread", b"")
                msgspec.structs.force_setattr(held.handoff, "state", None)
            self._connection_table.put(held)
        else:
            self._connection_table.forget(held)
            close_without_waiting(held.sock.detach())
            worker.welcome(held.id)
        self._reactor.call_soon(self.dispatch)  # as all that changes its sums: they are made once

    def refused(self, worker: Worker, message: AttachRefused) -> None:
        """The worker cannot take it: find another."""
        taken = self._taken(worker, message.id, message.epoch)
        if taken is not None:
            taken.ownership.refused(message.epoch)
            worker.departures += 1
            self.take_back(worker, taken)
            self._reactor.call_later(_RETRY, self._go_on)
            return
        name = message.id or next(iter(self._unanswered.get(worker.serial, ())), "")
        held = self._moving.get(name)
        epoch = message.epoch if message.id or held is None else held.ownership.epoch
        held = self._answer(worker, name, epoch, Ownership.refused)
        if held is not None:
            worker.departures += 1
            self._come_back(held)
            # Not at once: the worker that refused may be the only one, and be out of descriptors.
            self._reactor.call_later(_RETRY, self._go_on)

    def worker_died(self, worker: Worker) -> set[str]:
        """The worker has been reaped: what it did not acknowledge, it never touched.

        Return the names of those.
        """
        names = self._unanswered.pop(worker.serial, {})
        worker.arriving -= len(names)
        for name in names:
            held = self._moving[name]
            try:
                held.ownership.receiver_died()
            except Stale as error:
                self._reactor.failed(error)
                continue
            self._come_back(held)
        self._go_on()
        return set(names)

    def take_back(self, worker: Worker, held: HeldConnection) -> None:
        """Have one wait again that the worker was taken to have, and has not received."""
        self._connection_table.disown(held, worker.serial)
        self._moving[held.id] = held
        self._come_back(held)

    def _taken(self, worker: Worker, name: str, epoch: int) -> HeldConnection | None:
        """Return the connection if it is the worker's only by what is taken to be so."""
        held = self._connection_table.get(name)
        if held is None or held.row != ON_ITS_WAY:
            return None
        owner = held.ownership
        its_own = owner.state is OwnershipState.OWNED and owner.worker == worker.serial
        return held if its_own and owner.epoch == epoch else None

    def _count_wait(self, held: HeldConnection) -> None:
        self.waits[held.why].add(self._reactor.clock() - held.since)

    def _come_back(self, held: HeldConnection) -> None:
        """Wait again, at the place that it had: who was refused has waited longer than the rest."""
        if self.post is not None:
            self.post.taken_back(held.id)
        self._waiting[held.id] = held
        self._disordered = True

    def close(self, held: HeldConnection, why: str) -> None:
        """End a connection, if it was sent to no worker yet."""
        if held.id in self._waiting:
            held.ownership.stopped()
            self._drop(held, "closed", why)

    def snapshot(self) -> tuple[list[str], dict[int, list[str]]]:
        """Return what waits for a worker, and what each worker has not answered yet."""
        return list(self._waiting), {
            serial: list(names) for serial, names in self._unanswered.items()
        }

    def restore(
        self,
        moving: Iterable[HeldConnection],
        waiting: Iterable[str],
        unanswered: Mapping[int, list[str]],
    ) -> None:
        """Go on with what an earlier version was moving."""
        self._moving = {held.id: held for held in moving}
        self._waiting = {name: self._moving[name] for name in waiting}
        self._unanswered = {serial: dict.fromkeys(names) for serial, names in unanswered.items()}
        self._crowded = True  # a worker may have been told so: it is to be told what holds now
        self._expect_expiry()
        self._go_on()

    def end(self, stays: Callable[[HeldConnection], bool]) -> None:
        """The server ends: close what waits, and what comes from now on, unless it `stays`."""
        self._stays_waiting = stays
        for held in tuple(self._waiting.values()):
            if not stays(held):
                self._stop(held)

    def stop(self) -> None:
        """No worker will come: close what waits, and what comes from now on."""
        self.end(_nobody)

    def _stop(self, held: HeldConnection) -> None:
        held.ownership.stopped()
        self._drop(held, "closed", "the server stopped")

    def _go_on(self) -> None:
        """Give what waits to a worker or, when the server stops, close it."""
        if self._stays_waiting is _nobody:
            self.stop()
        else:
            self._reactor.call_soon(self.dispatch)

    def _give(self, held: HeldConnection, worker: Worker) -> bool:
        """Send it to the worker; return whether that could be done."""
        epoch = held.ownership.next_epoch
        parcel = held.parcel
        taken = self._is_taken(held, parcel)
        known = self.post.names.by_id.get(held.id) if self.post is not None else None
        if known is not None or held.redelivered or not self._stays(held):
            parcel = None
        try:
            if parcel is not None:
                returnable = self._connection_table.store is None
                payload = attach_parcel(parcel, epoch, held.why, returnable, taken)
                worker.link.send_payload(payload, held.sock.fileno())
            else:
                self._send(held, worker, known, taken=taken)
        except OSError:
            # No descriptor for the memfd of a large state: this process is at its limit.
            self._reactor.call_later(_RETRY, self._go_on)
            return False
        except Exception as error:
            # It cannot be sent to any; those that wait behind it can.
            self._reactor.failed(error)
            held.ownership.expired()
            self._drop(held, "lost", "it could not be sent to a worker")
            return False
        held.ownership.assigned(worker.serial)
        del self._waiting[held.id]
        worker.given += 1
        if self.post is not None and known is not None:
            self.post.given(held.id, worker, epoch)
        if taken:
            held.ownership.attached(epoch)
            held.row = ON_ITS_WAY
            del self._moving[held.id]
            self._count_wait(held)
            self._connection_table.give(held, worker.serial)
            return True
        worker.arriving += 1
        self._unanswered.setdefault(worker.serial, {})[held.id] = None
        return True

    def _send(
        self, held: HeldConnection, worker: Worker, known: NamedConnection | None, *, taken: bool
    ) -> None:
        held.unpack()
        handoff = held.handoff
        stays = self._stays(held)
        attach = Attach(
            id=handoff.id,
            epoch=held.ownership.next_epoch,
            attached=held.why,
            listener=handoff.listener,
            peer=handoff.peer,
            state=handoff.state,
            unread=handoff.unread,
            accepted_at=handoff.accepted_at,
            bytes_in=handoff.bytes_in,
            bytes_out=handoff.bytes_out,
            connection=held.sock.fileno(),
            redelivered=held.redelivered,
            proxy=handoff.proxy,
            deadline=handoff.deadline,
            inflow_full_at=handoff.inflow_full_at,
            reply=handoff.reply,
            written=handoff.written,
            taken_in=handoff.taken_in,
            trace=handoff.trace,
            kept=stays,
            # With the store a message that is unread when this process is killed costs a connection
            # that the next keeper would have had.
            returnable=stays and self._connection_table.store is None,
            taken=taken,
        )
        if self.post is not None and known is not None:
            self.post.flush_to(worker)
            attach = msgspec.structs.replace(
                attach, name=known.name, groups=sorted(known.groups), labels=dict(known.labels)
            )
        worker.link.send(attach)

    def _is_taken(self, held: HeldConnection, parcel: bytes | None) -> bool:
        """Return whether it is its worker's as soon as it has been sent.

        Not what may be in a memfd: at its limit a worker gets none, and cannot say what has come.
        """
        if held.why not in _PARKED or not self._takes_for_attached or self._connection_table.store:
            return False
        if parcel is not None:
            return True
        handoff = held.handoff
        return len(handoff.unread) + len(handoff.state or b"") + len(handoff.proxy) <= SURELY_INLINE

    def _stays(self, held: HeldConnection) -> bool:
        """Return whether the handle stays here once a worker has attached."""
        # The service manager, which stores handles for the next keeper, is told of less that way.
        return self._keeps or (held.why in _PARKED and self._connection_table.store is None)

    def _answer(
        self, worker: Worker, name: str, epoch: int, step: Callable[[Ownership, int], None]
    ) -> HeldConnection | None:
        held = self._moving.get(name)
        try:
            if held is None or held.ownership.worker != worker.serial:
                raise Stale("not with this worker")
            step(held.ownership, epoch)
        except Stale as error:
            self._throttle.error(
                "refused a stale message", kind="stale", id=name, error=str(error), **worker.label
            )
            return None
        del self._unanswered[worker.serial][name]
        worker.arriving -= 1
        return held

    def use(self, orphan_timeout: float, *, takes_for_attached: bool) -> None:
        """Go by these options from now on, with those that wait included."""
        self._orphan_timeout = orphan_timeout
        self._takes_for_attached = takes_for_attached
        if self._expiry is not None:
            self._expiry.cancel()
        self._expect_expiry()

    def _tell_crowded(self, targets: Iterable[Worker]) -> None:
        """Have those that wait for input make room for those that wait for a seat."""
        self._crowded = crowded = bool(self._waiting or self._queued())
        for worker in targets:
            if worker.crowded is not crowded:
                worker.scoreboard.crowded = worker.crowded = crowded
                if crowded and worker.model == "prefork":  # its only handler may be waiting
                    worker.link.send(Crowded())

    def _expect_expiry(self) -> None:
        # One timer, for those that have waited longest: one for each that comes would outlive it
        # by far, and thousands come and go a second.
        if self._waiting and (self._expiry is None or not self._expiry.pending):
            oldest = min(
                (held.since for held in self._waiting.values() if _is_old(held)), default=0
            )
            if oldest:
                self._expiry = self._reactor.call_at(
                    oldest + self._orphan_timeout, self._expire_overdue
                )

    def _expire_overdue(self) -> None:
        now = self._reactor.clock()
        for held in tuple(self._waiting.values()):
            if _is_old(held) and held.since + self._orphan_timeout <= now:
                held.ownership.expired()
                _log.warning(
                    "connection closed: no worker took it",
                    waited=self._orphan_timeout,
                    **held.label,
                )
                self._drop(held, "lost", "no worker took it")
        self._expect_expiry()

    def _drop(self, held: HeldConnection, counted: Literal["closed", "lost"], why: str) -> None:
        del self._moving[held.id], self._waiting[held.id]
        self._close(held, counted, why)
        self._changed()


def _nobody(_held: HeldConnection) -> bool:
    return False


def _is_old(held: HeldConnection) -> bool:
    """Return whether a handler has had it, so that its peer is in the middle of something."""
    return held.why != "accepted"
