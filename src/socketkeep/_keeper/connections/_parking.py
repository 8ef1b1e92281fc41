"""Parked connections: watched in the keeper's epoll until something arrives.

What is pushed to one is sent from here: where the kernel has taken a part of a push, the rest goes
out before the connection is woken.  Nothing is read here.  Bytes, EOF and errors alike wake a
connection, and its handler meets them as it would have in its worker: a reset may still have unread
data before it.
"""

from __future__ import annotations

import select
import socket
from collections.abc import Callable, Iterator, Sequence
from heapq import heapify, heappop, heappush
from typing import Final, Literal

from msgspec import structs

from socketkeep._base import _log
from socketkeep._keeper.loop._reactor import READABLE, WRITABLE, Reactor, ReactorTimer
from socketkeep._keeper.tables._connection_table import Close, HeldConnection
from socketkeep._stream._deadlines import Deadlines

#: Seconds between two steps of ending parked connections at a pace.
_SHORTEST: Final = 0.02
_RETRY: Final = 0.1
#: Seconds that a peer may take nothing of a push that has begun to go out.
_STALLED: Final = 30.0
_FEW: Final = 64


class Parking:
    """Watches connections that wait for input.

    `wake` is called with one to which something arrived, `close` with one that has been idle for
    `idle_timeout` seconds (0: never), that is past a deadline of its own, or that the server's end
    closes.

    first_bytes_timeouts: by listener, after how many seconds one is past it that has sent nothing;
    0: never.  `overdue` is called with each that is, and why, before it is closed.
    """

    def __init__(
        self,
        reactor: Reactor,
        wake: Callable[[HeldConnection], None],
        close: Close,
        idle_timeout: float,
        first_bytes_timeouts: Sequence[float] = (),
        overdue: Callable[[HeldConnection, str], None] | None = None,
    ) -> None:
        self._reactor = reactor
        self._wake = wake
        self._close = close
        self._idle_timeout = idle_timeout
        self._parked: dict[str, HeldConnection] = {}  # those parked longest come first
        self._idle_timer: ReactorTimer | None = None
        self._first_bytes_timeouts = first_bytes_timeouts
        self._overdue = overdue
        self._deadlines: list[tuple[float, str]] = []  # a heap; of those that have left, too
        self._deadline_timer: ReactorTimer | None = None
        self._stopping = self._closing = False
        self._throttle = _log.Throttle()

    def __len__(self) -> int:
        return len(self._parked)

    def __iter__(self) -> Iterator[HeldConnection]:
        return iter(tuple(self._parked.values()))

    def put(self, held: HeldConnection, *, timed: bool = True) -> None:
        """Watch a connection; `since` is when it was last active.

        timed: whether a moment may be set by which it ends.
        """
        if self._stopping:
            self._stop(held)
            return
        self._parked[held.id] = held
        try:
            self._reactor.register(
                held.sock.fileno(),
                _Arrival(self, held),
                WRITABLE if held.unsent else READABLE,
            )
        except OSError as error:
            # No memory, or max_user_watches: better served than not watched.
            self._throttle.warning("cannot park", error=error.strerror, **held.label)
            self._reactor.call_later(_RETRY, lambda: self._arrived(held))
        if held.unsent:
            self._watch_for_stall(held)
        if self._idle_timeout:
            self._expect_idle()
        if not timed:
            return
        if (due := self._due(held)[0]) is not None:
            heappush(self._deadlines, (due, held.id))
            if len(self._deadlines) > 2 * len(self._parked) + _FEW:
                self._gather_deadlines()
            self._expect_deadline()
        held.pack()

    def use(self, idle_timeout: float, first_bytes_timeouts: Sequence[float]) -> None:
        """Go by these limits from now on, those that are parked included."""
        if (idle_timeout, first_bytes_timeouts) == (self._idle_timeout, self._first_bytes_timeouts):
            return
        self._idle_timeout, self._first_bytes_timeouts = idle_timeout, first_bytes_timeouts
        if self._idle_timer is not None:
            self._idle_timer.cancel()
        if idle_timeout:
            self._expect_idle()
        self._gather_deadlines()
        self._expect_deadline()

    def stop(self, *, close: bool) -> None:
        """The server stops: what waits with nothing under way is closed.

        close: so is that to which something has arrived; if not, it is woken.
        """
        self._stopping = True
        self._closing = close
        for held in tuple(self._parked.values()):
            self._take_out(held)
            self._stop(held)

    def push(self, held: HeldConnection, data: bytes, told: Callable[[bool], None]) -> bool | None:
        """Send to a connection; return whether that has been done.

        None: the kernel had room for a part of it, or none; `told` will be told whether the rest
        has gone.  False: it is not parked here, or nobody is there to take it, which its handler
        will meet.
        """
        if self._parked.get(held.id) is not held or held.unsent:
            return False
        try:
            gone = self._send(held, data)
        except OSError:
            return False
        if not gone:
            held.told = told
            self._reactor.modify(held.sock.fileno(), WRITABLE)
            self._watch_for_stall(held)
            return None
        return True

    def wake(self, held: HeldConnection) -> None:
        """Give a connection to a worker, for that something is pushed to it, if it is parked."""
        if self._parked.get(held.id) is held and not held.unsent:
            self._take_out(held)
            self._rouse(held, "pushed")

    def wake_all(self) -> None:
        """Give all that are parked to workers, which have something to say to their peers."""
        for held in self:
            if not held.unsent:
                self._take_out(held)
                self._rouse(held)

    def end_slowly(self, apart: float, why: str, *, wake: bool) -> None:
        """End those that are parked, or give them to workers that do, so many seconds apart."""
        begun = self._reactor.clock()
        names = list(self._parked)
        done = 0

        def go_on() -> None:
            nonlocal done
            due = min(len(names), int((self._reactor.clock() - begun) / apart) + 1)
            for name in names[done:due]:
                held = self._parked.get(name)
                if held is None or held.unsent:
                    continue  # it is served, or its peer has still to take what was pushed
                if wake or says_something(held.sock):
                    self._take_out(held)
                    self._rouse(held)
                else:
                    self.close(held, why)
            done = due
            if done < len(names) and not self._stopping:
                self._reactor.call_later(max(_SHORTEST, apart), go_on)

        go_on()

    def close(self, held: HeldConnection, why: str) -> bool:
        """End a connection, in an orderly way, if it is parked here; return whether it was."""
        if self._parked.get(held.id) is not held:
            return False
        self._take_out(held)
        held.ownership.stopped()
        self._close(held, "closed", why)
        return True

    def _send(self, held: HeldConnection, data: bytes) -> bool:
        """Send what the kernel takes; return whether that is all.  Raises OSError."""
        try:
            count = held.sock.send(data, socket.MSG_DONTWAIT)
        except BlockingIOError:
            count = 0
        else:
            handoff = held.handoff
            held.handoff = structs.replace(handoff, bytes_out=handoff.bytes_out + count)
            held.pack()
            held.since = self._reactor.clock()
            self._parked[held.id] = self._parked.pop(held.id)  # those parked longest come first
        held.unsent = data[count:]
        return not held.unsent

    def _go_on_sending(self, held: HeldConnection, events: int) -> None:
        try:
            if events & WRITABLE and not self._send(held, held.unsent):
                return
            sent = not held.unsent
        except OSError:
            sent = False
        held.unsent = b""
        self._reactor.modify(held.sock.fileno(), READABLE)
        told, held.told = held.told, None
        if told is not None:
            told(sent)

    def _watch_for_stall(self, held: HeldConnection) -> None:
        def look() -> None:
            if self._parked.get(held.id) is not held or not held.unsent:
                return
            if self._reactor.clock() >= held.since + _STALLED:
                self.close(held, "its peer took nothing of a push that had begun to go out")
            else:
                self._watch_for_stall(held)

        self._reactor.call_later(_STALLED, look)

    def _arrived(self, held: HeldConnection, events: int = READABLE) -> None:
        if held.unsent and events & ~READABLE:
            self._go_on_sending(held, events)
        elif self._take_out(held):
            self._rouse(held)

    def _rouse(self, held: HeldConnection, why: Literal["parked", "pushed"] = "parked") -> None:
        held.ownership.woken()
        held.why = why
        self._wake(held)

    def _stop(self, held: HeldConnection) -> None:
        if not self._closing and not held.unsent and says_something(held.sock):
            self._rouse(held)
            return
        held.ownership.stopped()
        self._close(held, "closed", "the server stopped")

    def _take_out(self, held: HeldConnection) -> bool:
        """Watch it no longer; return whether it was parked."""
        self._reactor.unregister(held.sock.fileno())
        return self._parked.pop(held.id, None) is not None

    def _expect_idle(self) -> None:
        if self._idle_timer is None or not self._idle_timer.pending:
            first = next(iter(self._parked.values()), None)
            if first is not None:
                when = first.since + self._idle_timeout
                self._idle_timer = self._reactor.call_at(when, self._close_idle)

    def _close_idle(self) -> None:
        now = self._reactor.clock()
        for held in tuple(self._parked.values()):
            if held.since + self._idle_timeout > now:
                break
            self._take_out(held)
            held.ownership.idle()
            self._close(held, "closed", f"idle for {self._idle_timeout:g} s")
        self._expect_idle()

    def _due(self, held: HeldConnection) -> tuple[float | None, str]:
        """Return when the connection is past the first of its deadlines, and why it is then."""
        if held.parcel is not None:
            return None, ""
        handoff = held.handoff
        if not handoff.deadline and (handoff.bytes_in or not self._first_bytes_timeouts):
            return None, ""
        deadlines = Deadlines(handoff.deadline / 1e9 if handoff.deadline else None, None, None)
        timeouts = self._first_bytes_timeouts
        if not handoff.bytes_in and handoff.listener < len(timeouts) and timeouts[handoff.listener]:
            deadlines.patience = timeouts[handoff.listener]
            deadlines.first_by = handoff.accepted_at / 1e9 + deadlines.patience
        due = deadlines.next
        return due, "" if due is None else deadlines.look(due, 0)

    def _gather_deadlines(self) -> None:
        self._deadlines = [(at, each.id) for each in self if (at := self._due(each)[0]) is not None]
        heapify(self._deadlines)

    def _expect_deadline(self) -> None:
        if not self._deadlines:
            return
        first = self._deadlines[0][0]
        timer = self._deadline_timer
        if timer is not None and timer.pending:
            if timer.when <= first:
                return
            timer.cancel()
        self._deadline_timer = self._reactor.call_at(first, self._close_overdue)

    def _close_overdue(self) -> None:
        now = self._reactor.clock()
        while self._deadlines and self._deadlines[0][0] <= now:
            _, name = heappop(self._deadlines)
            held = self._parked.get(name)
            if held is None:
                continue
            due, why = self._due(held)
            if due is None or due > now:
                continue  # parked again meanwhile, with another, which stands for itself
            self._take_out(held)
            held.ownership.idle()
            if self._overdue is not None:
                self._overdue(held, why)
            self._close(held, "closed", why.removeprefix("ended: "))
        self._expect_deadline()


def says_something(sock: socket.socket) -> bool:
    """Return whether bytes, EOF or an error of the peer's are there."""
    poller = select.poll()
    poller.register(sock, select.POLLIN)
    return bool(poller.poll(0))


class _Arrival:
    """The call that the reactor makes when something arrives.

    Made by hand: a function takes 300 bytes with its cells, for each that is parked.
    """

    __slots__ = ("_held", "_parking")

    def __init__(self, parking: Parking, held: HeldConnection) -> None:
        self._parking = parking
        self._held = held

    def __call__(self, events: int) -> None:
        parking, held = self._parking, self._held
        if held.unsent:
            parking._arrived(held, events)
        elif parking._take_out(held):
            held.ownership.woken()
            held.why = "parked"
            parking._wake(held)
