"""Connections whose PROXY header is not whole yet: they wait here, and take no worker's seat.

A worker looks once, at the accept: the header of most is there by then.  What has not may never
come, from thousands at a time, and costs a descriptor and a timer here.  A wait in the worker would
take a seat in `thread` and a process in `fork`, and in `prefork` it would wait in turn for whoever
is served meanwhile.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Final

import msgspec

from socketkeep._base import _log
from socketkeep._base._admission import HEADER_TIME, Refusal
from socketkeep._keeper.loop._reactor import Reactor, ReactorTimer
from socketkeep._keeper.tables._connection_table import HeldConnection

if TYPE_CHECKING:  # for who is behind a proxy
    from socketkeep._net._proxied import Arrival, Reception

#: How many wait here at most.  One more sends the one away that has waited longest.
MOST: Final = 16384
_RETRY: Final = 0.1


class Porch:
    """Waits for headers; reads them, and nothing else.

    reception: how the connections of a listener, by its number, are met.
    `admit` is called with one whose header is there, `refuse` with one that is not to be served:
    for its header, or, with None, because the server stops.
    """

    def __init__(
        self,
        reactor: Reactor,
        reception: Callable[[int], Reception],
        admit: Callable[[HeldConnection], None],
        refuse: Callable[[HeldConnection, Refusal | None], None],
        most: int = MOST,
    ) -> None:
        self._reactor = reactor
        self._reception = reception
        self._admit = admit
        self._refuse = refuse
        self._most = most
        self._waiting: dict[
            str, HeldConnection
        ] = {}  # about in the order in which their time is over
        self._timer: ReactorTimer | None = None
        self._stopping = False
        self._throttle = _log.Throttle()

    def __len__(self) -> int:
        return len(self._waiting)

    def __iter__(self) -> Iterator[HeldConnection]:
        return iter(tuple(self._waiting.values()))

    def put(self, held: HeldConnection) -> None:
        """Wait for the rest of a parked connection's header: `header_by` says until when."""
        # A worker has said so, and may have said anything.
        latest = int((self._reactor.clock() + HEADER_TIME) * 1e9)
        held.handoff = msgspec.structs.replace(
            held.handoff, header_by=min(held.handoff.header_by, latest)
        )
        self._waiting[held.id] = held
        if self._stopping:
            self._turn_away(held, None)
            return
        if len(self._waiting) > self._most:
            oldest = next(iter(self._waiting.values()))
            self._turn_away(oldest, Refusal("no_room", f"{self._most} others wait for theirs"))
        try:
            self._reactor.register(held.sock.fileno(), lambda _events: self._look(held))
        except OSError as error:  # no memory, or max_user_watches
            self._throttle.warning("cannot wait for a header", error=error.strerror, **held.label)
            self._reactor.call_later(_RETRY, lambda: self._look(held))
        self._expect()

    def stop(self) -> None:
        """The server stops: nothing of what waits here has begun."""
        self._stopping = True
        for held in self:
            self._turn_away(held, None)

    def close(self, held: HeldConnection) -> bool:
        """End a connection, if it waits here; return whether it did."""
        if held.id not in self._waiting:
            return False
        self._turn_away(held, None)
        return True

    def _look(self, held: HeldConnection) -> None:
        if held.id not in self._waiting:
            return
        handoff = held.handoff
        try:
            found = self._reception(handoff.listener).go_on(held.sock, handoff.peer, handoff.unread)
        except Refusal as refusal:
            self._turn_away(held, refusal)
            return
        if isinstance(found, bytes):
            held.handoff = msgspec.structs.replace(handoff, unread=found)
        else:
            self._let_in(held, found)

    def _let_in(self, held: HeldConnection, arrival: Arrival) -> None:
        self._take_out(held)
        held.handoff = msgspec.structs.replace(
            held.handoff,
            peer=arrival.peer or held.handoff.peer,
            proxy=arrival.raw,
            unread=arrival.unread,
            header_by=0,
        )
        held.ownership.woken()
        self._admit(held)

    def _turn_away(self, held: HeldConnection, refusal: Refusal | None) -> None:
        self._take_out(held)
        held.ownership.idle()
        self._refuse(held, refusal)

    def _take_out(self, held: HeldConnection) -> None:
        del self._waiting[held.id]
        self._reactor.unregister(held.sock.fileno())

    def _expect(self) -> None:
        if self._timer is None or not self._timer.pending:
            first = next(iter(self._waiting.values()), None)
            if first is not None:
                self._timer = self._reactor.call_at(first.handoff.header_by / 1e9, self._expire)

    def _expire(self) -> None:
        now = self._reactor.clock()
        for held in self:
            if held.handoff.header_by / 1e9 > now:
                break
            try:
                arrival = self._reception(held.handoff.listener).late(held.handoff.unread)
            except Refusal as refusal:
                self._turn_away(held, refusal)
            else:
                self._let_in(held, arrival)
        self._expect()
