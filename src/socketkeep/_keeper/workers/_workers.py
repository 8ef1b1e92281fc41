"""The keeper's record of one worker, and of one generation's template."""

from __future__ import annotations

import os
import socket
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from socketkeep._base import _log
from socketkeep._keeper.loop._reactor import READABLE, WRITABLE, Reactor, ReactorTimer
from socketkeep._keeper.loop._system import Exit
from socketkeep._keeper.tables._records import WorkerRecord, WorkerState, carried
from socketkeep._keeper.tables._state import KeepOpen, SavedLink, SavedPacket, SavedWorker
from socketkeep._wire._channel import (
    PASSED,
    Channel,
    ChannelClosed,
    Express,
    Garbled,
    Packet,
    channel_pair,
)
from socketkeep._wire._messages import Message, descriptors_of
from socketkeep._wire._scoreboard import (
    ACCEPTS_NO_MORE,
    OPEN,
    SEATS_HEARD,
    Scoreboard,
    id_of,
)

_RETRY: Final = 0.1
_FIRST_CHECK: Final = 1024
_MOST_PROMISES: Final = 64
#: How many connections the log names that end by one death: a worker may have 50,000.
_MOST_NAMED: Final = 10
#: How many packets are read before others have their turn: who is answered may go on and on.
PACKETS_AT_ONCE: Final = 16
#: How many can have been left at the end: more than there is room for.  While a process that has
#: the other end, too, sends as fast as this one reads, there is no last one.
_ALL_THAT_ARE_LEFT: Final = 4096


def note_garbled(why: str) -> None:
    _log.warning("message ignored: it is none", error=why)


def _ignore(_why: str) -> None:
    """Say nothing of what a process says that nobody hears any more."""


class Link:
    """A channel on the reactor: packets come as calls, and what must wait is sent later."""

    def __init__(
        self,
        reactor: Reactor,
        channel: Channel,
        on_packet: Callable[[Packet], None],
        on_closed: Callable[[], None],
        on_garbled: Callable[[str], None] = note_garbled,
        at_once: int = PACKETS_AT_ONCE,
        express: Express | None = None,
    ) -> None:
        """at_once: how many packets are read before others have their turn.

        express: as `Channel.receive` has it; it comes before `on_packet`.
        """
        self._express = express
        self._at_once = at_once
        self._reactor = reactor
        self._channel = channel
        self._on_packet = on_packet
        self._on_closed = on_closed
        self._on_garbled = on_garbled
        self._watching_writes = False
        self.open = True
        reactor.register(channel.fileno(), self._ready)
        if channel.wants_write:
            reactor.call_soon(self._flush)

    def send(self, message: Message, *, close_after: bool = False) -> None:
        """Send, or queue; to a process that has gone, nothing: its death is told by its pidfd.

        Raises OSError when there is no descriptor for the memfd that a large message needs.
        """
        if self.open:
            self._channel.enqueue(message, close_after=close_after)
            self._flush()
        elif close_after:
            for fd in descriptors_of(message):
                os.close(fd)

    def send_payload(self, payload: bytes, descriptor: int) -> None:
        """The same of a message as it goes over a channel, with one descriptor."""
        if self.open and not self._channel.send_payload(payload, descriptor):
            self._flush()

    def fileno(self) -> int:
        """Return this end's descriptor."""
        return self._channel.fileno()

    @property
    def waiting(self) -> int:
        """Return how many packets wait for room at the other end."""
        return self._channel.waiting

    def drain(self, most: int = _ALL_THAT_ARE_LEFT) -> None:
        """Deliver what has arrived, up to so many packets.

        A call that raises is a bug, and keeps none of the packets that follow from being heard.
        """
        for _ in range(most):
            if not self.open:
                return
            try:
                packet = self._channel.receive(self._express)
            except ChannelClosed:
                self._lost()
                return
            except Garbled as error:
                self._on_garbled(str(error))
                continue
            if packet is PASSED:
                continue
            if packet is None:
                return
            try:
                self._on_packet(packet)
            except Exception as error:
                self._reactor.failed(error)
            finally:
                packet.close()

    def snapshot(self, keep: KeepOpen) -> SavedLink | None:
        """Return what the next version of the keeper makes it anew from; None when it is closed."""
        if not self.open:
            return None
        queue = [
            SavedPacket(payload, [keep(fd) for fd in descriptors], close_after)
            for payload, descriptors, close_after in self._channel.queued
        ]
        return SavedLink(keep(self._channel.fileno()), queue)

    def finish(self) -> None:
        """Send no more, and go on hearing; a template takes that as the word to exit."""
        if self.open:
            self._channel.finish()

    def when_closed(self, call: Callable[[], None]) -> None:
        """Have `call` called when the far end has been closed by all who had it."""
        self._on_closed = call

    def close(self) -> None:
        """Close this end."""
        if self.open:
            self.open = False
            self._reactor.unregister(self._channel.fileno())
            self._channel.discard()
            self._channel.close()
            # What they call holds this link in turn: a worker, with the mapping of its scoreboard
            # and its descriptor, would stay until a collection that the keeper may never need.
            self._on_packet = Packet.close
            self._express = None
            self._on_closed = _nothing
            self._on_garbled = _ignore

    def _ready(self, events: int) -> None:
        if events & WRITABLE:
            self._flush()
        self.drain(self._at_once)

    def _flush(self) -> None:
        if not self.open:
            return
        try:
            self._channel.flush()
        except ChannelClosed:
            return  # what it sent before is still to be read; the end comes after that
        except OSError:
            # Writable, and yet the system has no room: to wait for it by epoll would spin.
            if self._watching_writes:
                self._watch_writes(False)
            self._reactor.call_later(_RETRY, self._flush)
        else:
            wanted = self._channel.wants_write
            if wanted != self._watching_writes:
                self._watch_writes(wanted)

    def _watch_writes(self, wanted: bool) -> None:
        self._watching_writes = wanted
        events = READABLE | WRITABLE if wanted else READABLE
        self._reactor.modify(self._channel.fileno(), events)

    def _lost(self) -> None:
        on_closed = self._on_closed
        self.close()
        on_closed()


def _nothing() -> None:
    """The channel has been closed: nobody need be told."""


def restored_link(
    reactor: Reactor,
    saved: SavedLink | None,
    on_packet: Callable[[Packet], None],
    on_closed: Callable[[], None],
    on_garbled: Callable[[str], None],
    at_once: int = PACKETS_AT_ONCE,
    express: Express | None = None,
) -> Link:
    """Make a link anew from what `Link.snapshot` returned."""
    if saved is not None:
        queued = [(each.payload, each.descriptors, each.close_after) for each in saved.queue]
        channel = Channel(socket.socket(fileno=saved.fd), queued, wary=True)
        return Link(reactor, channel, on_packet, on_closed, on_garbled, at_once, express)
    ours, theirs = channel_pair()
    theirs.close()
    link = Link(reactor, Channel(ours, wary=True), on_packet, on_closed, on_garbled)
    link.close()
    return link


@dataclass(slots=True, eq=False, kw_only=True)
class Worker(WorkerRecord):
    """One worker process, and what this version of the keeper alone knows of it."""

    scoreboard: Final[Scoreboard]
    link: Link = field(init=False)
    more: bool = False  # it was told to wait for connections that are still to come
    told: tuple[int, int, bool] | None = None  # all of it; None: since before an upgrade
    replaces: Worker | None = None
    exit: Exit | None = None
    strikes: float = 0.0  # what counts against it of what it said, by `struck_at`
    struck_at: float = 0.0
    unfit: set[str] = field(default_factory=set)  # ids of which a descriptor was a wrong one
    guests: set[str] | None = field(default_factory=set)
    guests_checked: int = _FIRST_CHECK  # how many there may be until it is looked who has ended
    timers: list[ReactorTimer] = field(default_factory=list)
    detached_before: int | None = None  # connections that it gave away, when it was told to end
    fates: Counter[str] = field(default_factory=Counter)  # of connections whose owner died
    named: int = 0  # of those that were lost, in the log
    board_as: str = ""  # the store's name for its scoreboard, where an earlier keeper gave it one
    crowded: bool | None = None  # what its scoreboard says of it; None: since before an upgrade
    telling: set[int] = field(default_factory=set)  # rows that `WorkerPool.keep_row` has left
    _words: int = field(init=False)  # how often it was told how many it may accept

    def __post_init__(self) -> None:
        self._words = self.promises[-1][0] if self.promises else 0

    def listener(self, number: int) -> int:
        """Return this server's number of what the worker calls the listener `number`, or -1."""
        if self.adopted is None:
            return number
        known = self.adopted.listeners
        return known[number] if 0 <= number < len(known) else -1

    def welcome(self, guest: str) -> None:
        """Note the id of a connection that it was given."""
        if self.guests is None:
            return
        self.guests.add(guest)
        if len(self.guests) > self.guests_checked:
            # It says nothing when one ends.
            there = {id_of(words) for _, words in self.scoreboard.taken()}
            self.guests &= there | {guest}
            self.guests_checked = max(_FIRST_CHECK, 2 * len(self.guests))

    @property
    def is_ready(self) -> bool:
        return self.state is WorkerState.READY

    @property
    def open(self) -> int:
        """Return how many connections it serves, by what it says."""
        return max(0, min(self.scoreboard[OPEN], self.scoreboard.rows) - len(self.telling))

    @property
    def free_seats(self) -> int:
        if self.state is WorkerState.DEAD:
            return self.seats - self.open
        load = self.scoreboard.balance + self.given - self.departures
        return self.seats - min(max(0, load), self.scoreboard.rows + self.arriving)

    @property
    def load(self) -> int:
        """Return how many connections take its seats.

        These are those it serves, and those that were sent to it.

        What the keeper was given back counts until it has heard of it.  So each is counted once at
        any moment, whichever rows the worker has made or freed for them by now.
        """
        if self.state is WorkerState.DEAD:
            return self.open
        load = self.scoreboard.balance + self.given - self.departures
        return min(max(0, load), self.scoreboard.rows + self.arriving)

    def promise(self, accept_below: int) -> int:
        """Note that it is told that; return the serial number to tell it by.

        What it has been told and may still go by is noted, as (serial number, how many, how many
        had been sent to it), as if nothing had ever left it, since each that leaves makes it fewer.
        """
        self._words += 1
        most = accept_below + self.departures
        while self.promises and self.promises[-1][1] - self.promises[-1][2] <= most - self.given:
            self.promises.pop()  # whichever of the two it goes by, this one allows as many
        self.promises.append((self._words, most, self.given))
        if len(self.promises) > _MOST_PROMISES:
            # It hears none of them: of the two oldest what allows more.
            (_, one, given), (serial, other, later) = self.promises[:2]
            self.promises[:2] = [(serial, max(one, other), min(given, later))]
        return self._words

    @property
    def may_have(self) -> int:
        """Up to how many connections it may have without another word: all that it may go by."""
        heard = self.scoreboard[SEATS_HEARD]
        if not self.promises or heard == ACCEPTS_NO_MORE or self.state is WorkerState.DEAD:
            return 0
        while len(self.promises) > 1 and self.promises[1][0] <= heard:
            del self.promises[0]
        # What was sent to it later than the word may come on top, unless it has arrived by now.
        return max(
            most - self.departures + min(self.given - given, self.arriving)
            for _, most, given in self.promises
        )

    @property
    def bound(self) -> int:
        """Return how many connections it has, or may yet accept."""
        may_have = self.may_have  # before `load`: what it accepted by an earlier word is in that
        return max(may_have, self.load)

    @property
    def moves_its_connections(self) -> bool:
        """Return whether what it serves is on its way to other workers."""
        return self.order is not None and self.order.how == "move" and self.resumable

    def snapshot(self, keep: KeepOpen) -> SavedWorker:
        """Return what the next version of the keeper knows it by."""
        keep(self.memfd)
        keep(self.wake)
        return SavedWorker(
            **carried(self, WorkerRecord),
            link=self.link.snapshot(keep),
            replaces=self.replaces.serial if self.replaces else None,
            exit=self.exit.status if self.exit else None,
            rows=self.scoreboard.rows,
        )

    @classmethod
    def restored(cls, saved: SavedWorker) -> Worker:
        """Make the record anew, but for `link` and `replaces`."""
        return cls(
            scoreboard=Scoreboard(saved.memfd, saved.rows, wary=True),
            exit=None if saved.exit is None else Exit(saved.exit),
            **carried(saved, WorkerRecord),
        )

    def note_lost(self, because: str, **connection: object) -> None:
        """Count a connection that ends by a death; the log names the first ones of each death."""
        if self.named < _MOST_NAMED:
            self.named += 1
            _log.warning("connection lost", **connection, why=because, **self.label)
        self.fates[f"lost_{because}"] += 1

    def take_fates(self) -> Counter[str]:
        """Return what became of the connections whose owner has died, and count anew."""
        fates, self.fates, self.named = self.fates, Counter(), 0
        return fates

    def tell_fates(self) -> None:
        """Log in one line what became of the connections whose owner has died."""
        fates = self.take_fates()
        if fates:
            _log.info("connections after a death", **fates, **self.label)

    @property
    def label(self) -> dict[str, object]:
        """The fields by which log lines name it."""
        return {"slot": self.slot, "pid": self.pid, "generation": self.generation}
