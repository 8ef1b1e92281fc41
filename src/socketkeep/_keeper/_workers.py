"""The keeper's record of one worker, and of one generation's template."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from typing import Final, Literal

from socketkeep._assignment import Order
from socketkeep._keeper._reactor import READABLE, WRITABLE, Reactor
from socketkeep._keeper._system import Exit
from socketkeep._keeper._verdict import Policy
from socketkeep._wire._channel import Channel, ChannelClosed, Packet
from socketkeep._wire._messages import Message
from socketkeep._wire._scoreboard import DETACHED, OPEN, Scoreboard

Model = Literal["fork", "prefork", "thread", "async"]


_RETRY: Final = 0.1


class Link:
    """A channel on the reactor: packets come as calls, and what must wait is sent later."""

    def __init__(
        self,
        reactor: Reactor,
        channel: Channel,
        on_packet: Callable[[Packet], None],
        on_closed: Callable[[], None],
    ) -> None:
        self._reactor = reactor
        self._channel = channel
        self._on_packet = on_packet
        self._on_closed = on_closed
        self._watching_writes = False
        self.open = True
        reactor.register(channel.fileno(), self._ready)

    def send(
        self, message: Message, descriptors: tuple[int, ...] = (), *, close_after: bool = False
    ) -> None:
        """Send, or queue; to a process that has gone, nothing: its death is told by its pidfd.

        Raises OSError when there is no descriptor for the memfd that a large message needs.
        """
        if self.open:
            self._channel.enqueue(message, descriptors, close_after=close_after)
            self._flush()
        elif close_after:
            for fd in descriptors:
                os.close(fd)

    def drain(self) -> None:
        """Deliver what has arrived."""
        while self.open:
            try:
                packet = self._channel.receive()
            except ChannelClosed:
                self._lost()
                return
            if packet is None:
                return
            self._on_packet(packet)

    def finish(self) -> None:
        """Send no more, and go on hearing; a template takes that as the word to exit."""
        if self.open:
            self._channel.finish()

    def close(self) -> None:
        """Close this end."""
        if self.open:
            self.open = False
            self._reactor.unregister(self._channel.fileno())
            self._channel.close()
            # What they call holds this link in turn: a worker, with the mapping of its scoreboard
            # and its descriptor, would stay until a collection that the keeper may never need.
            self._on_packet = Packet.close
            self._on_closed = _nothing

    def _ready(self, events: int) -> None:
        if events & WRITABLE:
            self._flush()
        self.drain()

    def _flush(self) -> None:
        if not self.open:
            return
        try:
            self._channel.flush()
        except ChannelClosed:
            return  # what it sent before is still to be read; the end comes after that
        except OSError:
            # Writable, and yet the system has no room: to wait for it by epoll would spin.
            self._watch_writes(False)
            self._reactor.call_later(_RETRY, self._flush)
        else:
            self._watch_writes(self._channel.wants_write)

    def _watch_writes(self, wanted: bool) -> None:
        if wanted != self._watching_writes:
            self._watching_writes = wanted
            events = READABLE | WRITABLE if wanted else READABLE
            self._reactor.modify(self._channel.fileno(), events)

    def _lost(self) -> None:
        on_closed = self._on_closed
        self.close()
        on_closed()


def _nothing() -> None:
    """The channel has been closed: nobody need be told."""


class WorkerState(Enum):
    """Where a worker is in its life; it only moves down this list."""

    STARTING = "starting"
    READY = "ready"
    DRAINING = "draining"
    DEAD = "dead"


@dataclass(slots=True, eq=False)
class Worker:
    """One worker process, from the request to fork it until it has been reaped."""

    serial: Final[int]
    slot: Final[int]
    generation: Final[int]
    model: Final[Model]
    resumable: Final[bool]  # whether its handler is
    policy: Final[Policy]
    scoreboard: Final[Scoreboard]
    wake: Final[int]  # eventfd that wakes the handlers that poll it
    started_at: Final[float]
    link: Link = field(init=False)
    state: WorkerState = WorkerState.STARTING
    pid: int = 0
    forked: bool = False  # the template has said so
    order: Order | None = None
    seats: int = 0  # how many connections it may serve
    accept_below: int = 0  # what it was last told of them
    arriving: int = 0  # connections sent to it and not yet acknowledged
    departures: int = 0  # connections that were taken from it
    replaces: Worker | None = None
    error: str = ""
    killed: bool = False  # by the keeper
    exit: Exit | None = None
    fork_children: set[int] = field(default_factory=set)  # pids, once it has died
    expires_at: float = float("inf")

    @property
    def is_ready(self) -> bool:
        return self.state is WorkerState.READY

    @property
    def open(self) -> int:
        """How many connections it serves."""
        return self.scoreboard[OPEN]

    @property
    def free_seats(self) -> int:
        # What the keeper has taken leaves its seat before the worker reads the next message.
        leaving = max(0, self.departures - self.scoreboard[DETACHED])
        return self.seats - self.open - self.arriving + leaving

    @property
    def moves_its_connections(self) -> bool:
        """Whether what it serves is on its way to other workers."""
        return self.order is not None and self.order.how == "move" and self.resumable

    @property
    def label(self) -> dict[str, object]:
        """The fields by which log lines name it."""
        return {"slot": self.slot, "pid": self.pid, "generation": self.generation}
