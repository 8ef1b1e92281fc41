"""Connections that leave a worker whose loop must not block: asked a few at a time, handed over.

One that has left is served by nobody until the next worker has it.  If all left at once, the last
would be on its way for as long as all the moves take together; so the others are served meanwhile
(`MoveWindow`), and those on their way are the `Departures`.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Iterable, Sized
from typing import Final, Protocol

from socketkeep._base import _log
from socketkeep._base._structs import replace
from socketkeep._stream import _record as record
from socketkeep._stream._aio import AsyncConnection
from socketkeep._stream._lease import Handoff, Order
from socketkeep._stream._record import Ended
from socketkeep._wire._channel import Channel, ChannelClosed
from socketkeep._wire._messages import Acknowledged
from socketkeep._worker._entry import Entry
from socketkeep._worker._handing import Reserve
from socketkeep._worker._roster import Roster

_RETRY: Final = 0.1
#: How many connections may be on their way to the keeper at a time.  With 4 the processes wake each
#: other so often that a move takes half as much CPU time again; with 64 it takes no less.
WINDOW: Final = 16
#: The part of the time until the deadline after which all that is left is asked: the keeper takes
#: none, and handlers need some of that time to come to a safe point.
_PATIENCE: Final = 0.5
#: At a pace: seconds between two looks who is next, and how many are asked in one.  A loop that was
#: busy for long makes up for it, and not by all at once.
_SHORTEST: Final = 0.02
_MOST_AT_ONCE: Final = 64


class Departures:
    """The detached connections that are still held here: the keeper has not taken them yet.

    `settled` is called with each once this handle is closed.  One that cannot be handed over is
    offered again until `deadline` (of the monotonic clock), and then closed in an orderly way.
    One that was to be parked is given to `serve_on` instead, as all are when the keeper is gone,
    for which `gone` is called.
    """

    def __init__(
        self,
        channel: Channel,
        roster: Roster,
        settled: Callable[[Entry], None],
        serve_on: Callable[[Entry, Handoff], None],
        gone: Callable[[], None],
    ) -> None:
        self.deadline = 0.0
        self._channel = channel
        self._roster = roster
        self._settled = settled
        self._serve_on = serve_on
        self._gone = gone
        self._reserve = Reserve()
        self._loop = asyncio.get_running_loop()
        self.held: dict[str, tuple[Entry, Handoff]] = {}
        self._offered: deque[str] = deque()  # in the order in which the keeper answers
        self.closing: set[asyncio.Task[None]] = set()

    def __len__(self) -> int:
        return len(self.held) + len(self.closing)

    def offer(self, entry: Entry, handoff: Handoff) -> None:
        """Hand a connection to the keeper."""
        self.held[entry.lease.id] = entry, handoff
        self._send(entry.lease.id)

    def acknowledged(self, message: Acknowledged) -> None:
        """Take the keeper's answer; it has no id when the offer itself did not arrive."""
        name = message.id or (self._offered[0] if self._offered else "")
        if name not in self._offered:
            return
        self._offered.remove(name)
        if message.taken:
            entry, handoff = self.held.pop(name)
            self._let_go(entry, handoff)
        else:
            self._retry(name)

    def give_up(self) -> None:
        """The keeper is gone, and nobody will take them."""
        self._offered.clear()
        for name in tuple(self.held):
            # One by one: a worker that has nothing more, as it would seem, ends.
            entry, handoff = self.held.pop(name)
            if entry.record[record.ENDED] == record.TAKEN:
                # Its answer has gone with it, but another worker may be serving the connection.
                self._let_go(entry, handoff)
            else:
                self._serve_on(entry, handoff)

    def _let_go(self, entry: Entry, handoff: Handoff) -> None:
        handoff.sock.close()
        self._reserve.refill()
        self._settled(entry)

    def _send(self, name: str) -> None:
        if name not in self.held:
            return  # given up since
        entry, handoff = self.held[name]
        try:
            detached = self._roster.detached(entry, handoff)
            connection = handoff.sock.fileno()
            self._channel.send_now(replace(detached, connection=connection))
        except ChannelClosed:
            self._loop.call_soon(self._gone)
        except OSError as error:
            # No descriptor for the memfd of a large state: this process is at its limit.
            if self._reserve.spend():
                self._send(name)
                return
            _log.debug("cannot hand over yet", id=name, error=error.strerror)
            self._retry(name)
        else:
            self._offered.append(name)

    def _retry(self, name: str) -> None:
        if time.monotonic() < self.deadline:
            self._loop.call_later(_RETRY, self._send, name)
        elif self.held[name][1].parked:
            self._serve_on(*self.held.pop(name))
        else:
            self._close(name)

    def _close(self, name: str) -> None:
        entry, handoff = self.held.pop(name)
        entry.record[record.ENDED] = Ended.CLOSED
        _log.warning("connection closed: the keeper did not take it", id=name, peer=entry.peer)
        closing = self._loop.create_task(AsyncConnection(handoff.sock).close())
        self.closing.add(closing)

        def closed(task: asyncio.Task[None]) -> None:
            self.closing.discard(task)
            self._settled(entry)

        closing.add_done_callback(closed)


class Asked(Protocol):
    """A connection, to which an order is given."""

    def ask(self, order: Order) -> None: ...


class MoveWindow:
    """Gives connections an order: to move, to so many that `departures` has no more than `WINDOW`.

    `go_on` is to be called when some have gone.  A connection that is asked in the middle of a
    message, or whose handler takes its time to end, has no place in the window.
    """

    def __init__(self, departures: Sized) -> None:
        self._departures = departures
        self._loop = asyncio.get_running_loop()
        self._order: Order | None = None
        self._unasked: deque[Asked] = deque()
        self._asked = 0  # how many have been given this order
        self._soon = False  # it is gone on with in the loop's next turn

    def begin(self, order: Order, connections: Iterable[Asked]) -> None:
        """Give `order` to `connections`, in place of an earlier one and those it was for."""
        self._order = order
        self._asked = 0
        self._unasked = deque(connections)
        if order.how != "move":
            if order.apart:
                self._ask_in_turn(order)
            else:
                self._ask(len(self._unasked))
            return
        self._ask_some()
        if self._unasked:
            patience = max(0.0, (order.deadline - time.monotonic()) * _PATIENCE)
            self._loop.call_later(patience, self._ask_all, order)

    def go_on(self) -> None:
        """Ask as many more as there is room for."""
        if self._unasked and not self._soon:
            self._soon = True
            self._loop.call_soon(self._ask_some)

    def _ask_some(self) -> None:
        self._soon = False
        self._ask(WINDOW - len(self._departures))
        if len(self._departures) < WINDOW:
            # Those that leave are among the departures in the loop's next turn; the others' places
            # are for others.
            self.go_on()

    def _ask_in_turn(self, order: Order) -> None:
        """Ask those whose turn it is by now, and the next when it is theirs."""
        if order is not self._order or not self._unasked:
            return
        now = time.monotonic()
        turns = (now - order.begins) / order.apart
        self._ask(min(int(turns) + 1 - self._asked, _MOST_AT_ONCE) if turns >= 0 else 0)
        again = order.begins + self._asked * order.apart
        self._loop.call_later(max(_SHORTEST, again - now), self._ask_in_turn, order)

    def _ask_all(self, order: Order) -> None:
        if order is self._order:
            self._ask(len(self._unasked))

    def _ask(self, count: int) -> None:
        assert self._order is not None
        for _ in range(min(count, len(self._unasked))):
            self._asked += 1
            self._unasked.popleft().ask(self._order)
