"""Connections on their way from one worker to another.

The keeper holds each of them by a descriptor of its own, from the worker's `Detached` until the
next worker's `Attached`: whichever of the two dies in between, the connection lives.
"""

from __future__ import annotations

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

        When the descriptor did not arrive (this process is at its limit) the worker is told that,
        and still has it.
        """
        fds = packet.descriptors
        acknowledge = fds[1] if len(fds) > 1 else -1
        taken = parcel is not None and bool(fds) and parcel.id not in self._moves
        if parcel is None or not taken:
            if packet.truncated:
                _log.warning("out of file descriptors", process="keeper", wanted="a connection")
            packet.close()
        else:
            ownership = Ownership(State.OWNED, parcel.epoch, worker.serial)
            ownership.detached(parcel.epoch)
            sock = socket.socket(fileno=fds[0])
            self._moves[parcel.id] = Move(parcel, sock, ownership, self._reactor.clock())
            self._reactor.call_later(self._orphan_timeout, self._expire_overdue)
        if acknowledge >= 0 and taken:
            os.write(acknowledge, _ACKNOWLEDGED)
            os.close(acknowledge)
        elif acknowledge < 0:
            name, epoch = (parcel.id, parcel.epoch) if parcel else ("", 0)
            worker.link.send(Acknowledged(name, epoch, taken))
        if self._stopping:
            self.stop()
        self._reactor.call_soon(self.dispatch)

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
            self._reactor.call_later(0.1, self.dispatch)

    def worker_died(self, worker: Worker) -> None:
        """The worker has been reaped: what it did not acknowledge, it never touched."""
        for name in self._unanswered.pop(worker.serial, ()):
            self._moves[name].ownership.receiver_died()
        self._reactor.call_soon(self.dispatch)

    def stop(self) -> None:
        """No worker will come: close what waits, and what comes from now on."""
        self._stopping = True
        for move in self:
            if move.ownership.worker is None:
                move.ownership.stopped()
                self._close(move)

    def _give(self, move: Move, worker: Worker) -> None:
        parcel = move.parcel
        epoch = move.ownership.assigned(worker.serial)
        worker.arriving += 1
        self._unanswered.setdefault(worker.serial, []).append(parcel.id)
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
        worker.link.send(attach, (move.sock.fileno(),))

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
        overdue = self._reactor.clock() - self._orphan_timeout
        for move in self:
            if move.since <= overdue and move.ownership.worker is None:
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
        del self._moves[move.parcel.id]
        self._closer.close(move.sock, move.ownership.drained)
        self._changed()
