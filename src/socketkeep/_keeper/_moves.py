"""Connections on their way from one worker to another.

The keeper holds each of them by a descriptor of its own, from the worker's `Detached` until the
next worker's `Attached`: whichever of the two dies in between, the connection lives.
"""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from socketkeep import _log
from socketkeep._keeper._closer import Closer
from socketkeep._keeper._ownership import Ownership, Stale, State
from socketkeep._keeper._reactor import Reactor
from socketkeep._keeper._workers import Worker
from socketkeep._wire._channel import Packet
from socketkeep._wire._messages import Acknowledged, Attach, Attached, Detached, Refused

_ACKNOWLEDGED: Final = b"\1"
_RETRY: Final = 0.1


@dataclass(slots=True, eq=False)
class Move:
    """One connection that the keeper holds."""

    parcel: Detached
    sock: socket.socket
    ownership: Ownership
    since: float


class Moves:
    """Takes detached connections and gives each to the worker with the most room.

    `targets` returns the workers that may be given connections now.  `changed` is called whenever a
    connection came, went, or was given, so that the seats kept free for them can be counted anew.
    """

    def __init__(
        self,
        reactor: Reactor,
        closer: Closer,
        targets: Callable[[], Iterable[Worker]],
        changed: Callable[[], None],
        orphan_timeout: float,
    ) -> None:
        self._reactor = reactor
        self._closer = closer
        self._targets = targets
        self._changed = changed
        self._orphan_timeout = orphan_timeout
        self._moves: dict[str, Move] = {}
        self._unanswered: dict[int, list[str]] = {}  # by worker, in the order they were sent
        self._stopping = False
        self._throttle = _log.Throttle()
        self.expired = 0

    def __len__(self) -> int:
        return len(self._moves)

    def __iter__(self) -> Iterator[Move]:
        return iter(tuple(self._moves.values()))

    @property
    def waiting(self) -> int:
        """How many have been sent to no worker yet."""
        return sum(move.ownership.worker is None for move in self._moves.values())

    def take(self, worker: Worker, packet: Packet, parcel: Detached | None) -> None:
        """A worker detached a connection: hold it, say so, and find it another worker.

        When not all of the descriptors arrived (this process is at its limit) the worker is told
        that, and still has it.
        """
        if packet.truncated:
            self._throttle.warning(
                "out of file descriptors", process="keeper", wanted="a connection"
            )
        if parcel is None or packet.truncated or parcel.id in self._moves:
            packet.close()
            # One that waits at a pipe sees EOF there, and does not mind this.
            name, epoch = (parcel.id, parcel.epoch) if parcel else ("", 0)
            worker.link.send(Acknowledged(name, epoch, taken=False))
            return
        connection, *pipe = packet.descriptors
        ownership = Ownership(State.OWNED, parcel.epoch, worker.serial)
        ownership.detached(parcel.epoch)
        now = self._reactor.clock()
        self._moves[parcel.id] = Move(parcel, socket.socket(fileno=connection), ownership, now)
        self._reactor.call_at(now + self._orphan_timeout, self._expire_overdue)
        for fd in pipe:
            with contextlib.suppress(BrokenPipeError):  # the sender died: it is held all the same
                os.write(fd, _ACKNOWLEDGED)
            os.close(fd)
        if not pipe:
            worker.link.send(Acknowledged(parcel.id, parcel.epoch, taken=True))
        self._go_on()

    def dispatch(self) -> None:
        """Give each connection that waits to a worker, while there is one with a free seat."""
        pending = [move for move in self._moves.values() if move.ownership.worker is None]
        if pending:
            room = [worker for worker in self._targets() if worker.free_seats > 0]
            for move in pending:
                if not room:
                    break
                # The most free seats, not the fewest connections: shares of --max-connections
                # differ.
                target = max(room, key=lambda worker: worker.free_seats)
                self._give(move, target)
                if target.free_seats <= 0:
                    room.remove(target)
        self._changed()

    def attached(self, worker: Worker, message: Attached) -> None:
        """The worker holds the connection: let go of it here."""
        move = self._answer(worker, message.id, message.epoch, Ownership.attached)
        if move is not None:
            del self._moves[move.parcel.id]
            move.sock.close()
            self._changed()

    def refused(self, worker: Worker, message: Refused) -> None:
        """The worker cannot take it: find another."""
        name = message.id or next(iter(self._unanswered.get(worker.serial, ())), "")
        move = self._moves.get(name)
        epoch = message.epoch if message.id or move is None else move.ownership.epoch
        if self._answer(worker, name, epoch, Ownership.refused) is not None:
            # Not at once: the worker that refused may be the only one, and be out of descriptors.
            self._reactor.call_later(_RETRY, self._go_on)

    def worker_died(self, worker: Worker) -> None:
        """The worker has been reaped: what it did not acknowledge, it never touched."""
        for name in self._unanswered.pop(worker.serial, ()):
            self._moves[name].ownership.receiver_died()
        self._go_on()

    def stop(self) -> None:
        """No worker will come: close what waits, and what comes from now on."""
        self._stopping = True
        for move in self:
            if move.ownership.worker is None:
                move.ownership.stopped()
                self._close(move)

    def _go_on(self) -> None:
        """What waits is given to a worker, or, when the server stops, closed."""
        if self._stopping:
            self.stop()
        else:
            self._reactor.call_soon(self.dispatch)

    def _give(self, move: Move, worker: Worker) -> None:
        parcel = move.parcel
        epoch = move.ownership.assigned(worker.serial)
        attach = Attach(
            id=parcel.id,
            epoch=epoch,
            attached="reload",
            listener=parcel.listener,
            peer=parcel.peer,
            state=parcel.state,
            unread=parcel.unread,
            accepted_at=parcel.accepted_at,
            bytes_in=parcel.bytes_in,
            bytes_out=parcel.bytes_out,
        )
        try:
            worker.link.send(attach, (move.sock.fileno(),))
        except OSError:
            # No descriptor for the memfd of a large state: this process is at its limit.
            move.ownership.refused(epoch)
            self._reactor.call_later(_RETRY, self._go_on)
            return
        worker.arriving += 1
        self._unanswered.setdefault(worker.serial, []).append(parcel.id)

    def _answer(
        self, worker: Worker, name: str, epoch: int, step: Callable[[Ownership, int], None]
    ) -> Move | None:
        move = self._moves.get(name)
        try:
            if move is None or move.ownership.worker != worker.serial:
                raise Stale("not with this worker")
            step(move.ownership, epoch)
        except Stale as error:
            _log.error("refused a stale message", id=name, error=str(error), **worker.label)
            return None
        self._unanswered[worker.serial].remove(name)
        worker.arriving -= 1
        return move

    def _expire_overdue(self) -> None:
        now = self._reactor.clock()
        for move in self:
            if move.since + self._orphan_timeout <= now and move.ownership.worker is None:
                move.ownership.expired()
                self.expired += 1
                _log.warning(
                    "connection closed: no worker took it",
                    id=move.parcel.id,
                    peer=move.parcel.peer,
                    waited=self._orphan_timeout,
                )
                self._close(move)

    def _close(self, move: Move) -> None:
        def drained() -> None:
            move.ownership.drained()
            self._changed()

        del self._moves[move.parcel.id]
        self._closer.close(move.sock, drained)
        self._changed()
