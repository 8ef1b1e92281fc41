"""What workers say: each message to the one whom it concerns."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import msgspec

from socketkeep._keeper._workers import Worker, WorkerState
from socketkeep._wire._channel import Packet
from socketkeep._wire._messages import (
    Acknowledged,
    Attached,
    Detached,
    Ended,
    Free,
    Keep,
    Orphaned,
    Ready,
    Refused,
    StartFailed,
)


class Receiver(Protocol):
    """Who is told of connections that workers give up and take over."""

    def take(self, worker: Worker, packet: Packet, parcel: Detached | None) -> None: ...
    def attached(self, worker: Worker, message: Attached) -> None: ...
    def refused(self, worker: Worker, message: Refused) -> None: ...
    def keep(self, worker: Worker, packet: Packet, message: Keep) -> None: ...
    def ended(self, worker: Worker, message: Ended) -> None: ...
    def orphaned(self, worker: Worker, message: Orphaned) -> None: ...
    def seat_freed(self) -> None: ...
    def worker_died(self, worker: Worker) -> None: ...
    def process_died(self, worker: Worker, pid: int) -> None: ...


class Hearing:
    """Takes the packets of all workers; `ready` is called with a worker that can serve."""

    receiver: Receiver

    def __init__(self, ready: Callable[[Worker], None]) -> None:
        self._ready = ready

    def hear(self, worker: Worker, packet: Packet) -> None:
        """Do what a worker's message asks for."""
        match packet.message:
            case Ready(pid=pid) if not worker.killed:
                worker.pid = pid  # the template's word of it may still be on its way
                worker.state = WorkerState.READY
                self._ready(worker)
            case StartFailed(error=error):
                worker.error = error
            case Detached() as parcel:
                self.take(worker, packet, parcel)
            case None:
                self.receiver.take(worker, packet, None)
            case Attached() as message:
                self.receiver.attached(worker, message)
            case Refused() as message:
                self.receiver.refused(worker, message)
            case Keep() as message:
                self.receiver.keep(worker, packet, message)
            case Ended() as message:
                self.receiver.ended(worker, message)
            case Orphaned() as message:
                self.receiver.orphaned(worker, message)
            case Free():
                self.receiver.seat_freed()
            case _:
                packet.close()

    def take(self, worker: Worker, packet: Packet, parcel: Detached) -> None:
        """A worker, or a process that it forked, gives up a connection."""
        if worker.adopted is None:
            self.receiver.take(worker, packet, parcel)
        elif worker.adopted.moves:
            known = msgspec.structs.replace(parcel, listener=worker.listener(parcel.listener))
            self.receiver.take(worker, packet, known)
        else:
            packet.close()
            worker.link.send(Acknowledged(parcel.id, parcel.epoch, taken=False))
