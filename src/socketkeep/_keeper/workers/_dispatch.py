"""Dispatch of workers' messages: each to the one whom it concerns, and none of them further.

A message that makes no sense, or raises, changes nothing for anybody but the worker it is from.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, Protocol

import msgspec

from socketkeep._base._errors import OUT_OF_RESOURCES
from socketkeep._base._passing import Unfit
from socketkeep._keeper.tables._records import WorkerState
from socketkeep._keeper.workers._screening import Nonsense, Screening
from socketkeep._keeper.workers._workers import Worker
from socketkeep._wire._channel import Packet
from socketkeep._wire._messages import (
    Acknowledged,
    Attached,
    AttachRefused,
    ConnectionDetached,
    ConnectionEnded,
    Delivered,
    Free,
    Keep,
    OpenLine,
    Orphaned,
    Push,
    Ready,
    Registered,
    StartFailed,
    StartTls,
    Worn,
)

#: What a worker may have in wrong descriptors, and what of that is forgotten in a second.
_STRIKES: Final = 64
_FORGIVEN: Final = 1.0
#: What another one of the same connection counts for.
_AGAIN: Final = 0.01
#: What a message counts for by which the keeper stumbled, of the same.
_STUMBLE: Final = 8
_LONGEST_ERROR: Final = 65536


class Receiver(Protocol):
    """The part that is told of connections which workers give up and take over."""

    def take(self, worker: Worker, packet: Packet, handoff: ConnectionDetached | None) -> None: ...
    def take_parcel(self, worker: Worker, payload: bytes) -> bool: ...
    def attached(self, worker: Worker, message: Attached) -> None: ...
    def refused(self, worker: Worker, message: AttachRefused) -> None: ...
    def keep(self, worker: Worker, packet: Packet, message: Keep) -> None: ...
    def ended(self, worker: Worker, message: ConnectionEnded) -> None: ...
    def orphaned(self, worker: Worker, message: Orphaned) -> None: ...
    def start_tls(self, worker: Worker, packet: Packet, message: StartTls) -> None: ...
    def register(self, worker: Worker, packet: Packet, message: Registered) -> None: ...
    def open_line(self, worker: Worker, packet: Packet, message: OpenLine) -> None: ...
    def push(self, worker: Worker, message: Push, via: Any) -> None: ...
    def delivered(self, worker: Worker, message: Delivered) -> None: ...
    def seat_freed(self) -> None: ...
    def unfit(self, worker: Worker, packet: Packet) -> None: ...
    def worker_died(self, worker: Worker) -> None: ...
    def process_died(self, worker: Worker, pid: int) -> None: ...


class Judge(Protocol):
    """The part that is told of messages which were refused."""

    def refused(self, worker: Worker, why: str) -> None:
        """It is counted and logged, and no more."""

    def stumbled(self, worker: Worker, error: Exception) -> None:
        """The same, of one by which this process stumbled."""

    def condemn(self, worker: Worker, why: str) -> None:
        """And the worker is ended."""


class Dispatch:
    """Takes the packets of all workers; `ready` is called with a worker that can serve.

    `worn` is called with one that is to be replaced, and why.
    """

    receiver: Receiver
    worn: Callable[[Worker, str], None]

    def __init__(
        self,
        ready: Callable[[Worker], None],
        screening: Screening,
        judge: Judge,
        clock: Callable[[], float],
    ) -> None:
        self._ready = ready
        self._screening = screening
        self._judge = judge
        self._clock = clock

    def hear_line(self, worker: Worker, packet: Packet, via: object) -> None:
        """Do what comes by a line of the post's."""
        if isinstance(packet.message, Push | Delivered):
            self.hear(worker, packet, via)
        else:
            self._judge.condemn(worker, "by a line of the post it says what nobody says there")

    def hear(self, worker: Worker, packet: Packet, via: object = None) -> None:
        """Do what a worker's message asks for; who has received the packet closes it.

        via: the line by which it has come; None: the worker's channel.
        """
        try:
            self._screening.check(worker, packet)
            self._act(worker, packet, via)
        except Nonsense as error:
            self._judge.condemn(worker, str(error))
        except Unfit as error:
            self._judge.refused(worker, str(error))
            self._strike(worker, self._weight(worker, packet))
            self.receiver.unfit(worker, packet)
        except Exception as error:
            self._stumble(worker, error)

    def hear_parcel(self, worker: Worker, payload: bytes, descriptors: list[int]) -> bool:
        """Take back a connection that is parked, if the payload is its parcel; False: it is not."""
        try:
            return not descriptors and self.receiver.take_parcel(worker, payload)
        except Exception as error:
            self._stumble(worker, error)
            return True

    def garbled(self, worker: Worker, why: str) -> None:
        """Judge a worker that sent what is no message."""
        self._judge.condemn(worker, why)

    def _stumble(self, worker: Worker, error: Exception) -> None:
        self._judge.stumbled(worker, error)
        # That is the system's state, and nobody's fault.
        if not isinstance(error, OSError) or error.errno not in OUT_OF_RESOURCES:
            self._strike(worker, _STUMBLE)

    def _weight(self, worker: Worker, packet: Packet) -> float:
        """Return what a wrong descriptor counts for: a connection is offered again and again."""
        match packet.message:
            case (ConnectionDetached() | Keep()) as message if message.id in worker.unfit:
                return _AGAIN
            case (ConnectionDetached() | Keep()) as message:
                if len(worker.unfit) >= _STRIKES:
                    worker.unfit.clear()
                worker.unfit.add(message.id)
        return 1.0

    def _strike(self, worker: Worker, weight: float) -> None:
        now = self._clock()
        forgiven = (now - worker.struck_at) * _FORGIVEN
        worker.strikes = max(0.0, worker.strikes - forgiven) + weight
        worker.struck_at = now
        if worker.strikes > _STRIKES:
            self._judge.condemn(worker, "it goes on sending what cannot be")

    def _act(self, worker: Worker, packet: Packet, via: object) -> None:
        match packet.message:
            case Ready(pid=pid):
                if not worker.killed:
                    if not worker.forked:
                        worker.pid = pid  # to show it by, until the template's word has come
                    worker.state = WorkerState.READY
                    self._ready(worker)
            case StartFailed(error=error):
                worker.error = error[:_LONGEST_ERROR]
            case ConnectionDetached() as handoff:
                self.take(worker, packet, handoff)
            case None:
                self.receiver.take(worker, packet, None)
            case Attached() as message:
                self.receiver.attached(worker, message)
            case AttachRefused() as message:
                self.receiver.refused(worker, message)
            case Keep() as message:
                self.receiver.keep(worker, packet, message)
            case ConnectionEnded() as message:
                self.receiver.ended(worker, message)
            case Orphaned() as message:
                self.receiver.orphaned(worker, message)
            case StartTls() as message:
                self.receiver.start_tls(worker, packet, message)
            case Push() as message:
                self.receiver.push(worker, message, via)
            case Delivered() as message:
                self.receiver.delivered(worker, message)
            case Registered() as message:
                self.receiver.register(worker, packet, message)
            case OpenLine() as message:
                self.receiver.open_line(worker, packet, message)
            case Free():
                self.receiver.seat_freed()
            case Worn(reason=reason):
                self.worn(worker, reason)

    def take(self, worker: Worker, packet: Packet, handoff: ConnectionDetached) -> None:
        """A worker, or a process that it forked, gives up a connection."""
        if worker.adopted is None:
            self.receiver.take(worker, packet, handoff)
        elif worker.adopted.moves:
            known = msgspec.structs.replace(handoff, listener=worker.listener(handoff.listener))
            self.receiver.take(worker, packet, known)
        else:
            worker.link.send(Acknowledged(handoff.id, handoff.epoch, taken=False))
