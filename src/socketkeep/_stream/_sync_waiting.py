"""How sync code waits, for no longer than its mode says, and hears the server meanwhile."""

from __future__ import annotations

import math
import select
import socket
import threading
import time
from typing import Final, Never, TypeAlias

from socketkeep._base._errors import Closed, TimedOut, WouldBlock
from socketkeep._stream._assignment import Assignment, Order, Retirement
from socketkeep._stream._exchange import Exchange
from socketkeep._stream._lifecycle import Detached
from socketkeep._stream._modes import Blocking, Deadline, Mode, Timeout, check_seconds, seconds_left
from socketkeep._stream._record import WAITING
from socketkeep._stream._waiting import Poller, earlier

Data: TypeAlias = bytes | bytearray | memoryview

#: An operation's limit in seconds, and its end on the monotonic clock.  (None, None): wait for as
#: long as it takes; (0.0, None): do not wait at all.
Span: TypeAlias = tuple[float | None, float | None]

_FOR_EVER: Final[Span] = (None, None)
_TO_THE_END: Final = "to the end"
FOR_A_MOMENT: Final = "for a moment"
#: Milliseconds for poll(2): where there is no one number for each wait.
IMPATIENT: Final = -1.0
_LONGEST: Final = 86400.0 * 20
#: Milliseconds: how long a receive waits for input before it looks whether it is to be parked,
#: where others may be waiting for its seat, and where there are seats enough.
_SHORT_MOMENT: Final = 1
_LONG_MOMENT: Final = 20
#: Seconds: who waits for so long has time for a long moment.
_MUCH: Final = 0.1
#: Seconds: how long threads of one connection wait for a word to pass between them.
MOMENT: Final = 0.05
#: Seconds between two looks whether an order that is not obeyed yet has become one to close.
_LOOK_AGAIN: Final = 1.0


def waits_of(mode: Mode) -> tuple[float | None, float | None]:
    """Return how long an operation that begins now may wait, see `seconds_left`, and each wait.

    The second is for poll(2), or IMPATIENT.
    """
    if type(mode) is Blocking:
        return None, None
    if type(mode) is Timeout and 0.0 < mode.seconds < _LONGEST:
        return mode.seconds, mode.seconds * 1000
    return seconds_left(mode), IMPATIENT


class SyncWaiting(Exchange):
    """The base of `SyncExchange`: the mode, and the waits for input and for room."""

    __slots__ = (
        "_leaves_at",
        "_limit",
        "_mode",
        "_patience",
        "_quick",
        "_readable",
        "_reading",
        "_sending",
        "_unsent",
        "_waited",
        "_writable",
    )

    def __init__(
        self, sock: socket.socket, *, mode: Mode, assignment: Assignment | None = None
    ) -> None:
        # First: after a TypeError the socket is the caller's still.
        self._limit, self._patience = waits_of(mode)
        super().__init__(sock, assignment=assignment)
        self._mode = mode
        self._reading = threading.Lock()
        self._sending = threading.Lock()
        self._readable: Poller | None = None
        self._writable: Poller | None = None
        self._unsent: tuple[Data, int] | None = None  # an unfinished send's data, and bytes gone
        self._leaves_at = 0.0  # when it obeys an order to move; 0: there was none yet
        self._waited = 0.0  # seconds in vain, in a moment that is over: not once more for one input
        self._quick = self._quickness()

    def _reset_after_fork(self) -> None:
        # Other threads' locks were copied as they were, and who would open them is not here.
        self._reading = threading.Lock()
        self._sending = threading.Lock()
        self._readable = self._writable = None

    def _span(self, timeout: float | None) -> Span:
        if timeout is None:
            limit = self._limit
            if limit is None:
                return _FOR_EVER
            if isinstance(self._mode, Deadline):
                return seconds_left(self._mode), self._mode.at
        else:
            limit = check_seconds(timeout)
        return limit, (time.monotonic() + limit if limit else None)

    def _order(self) -> Order | None:
        retirement = self._assignment.retirement
        return None if retirement is None else retirement.order

    def _poller(self, fd: int, events: int) -> Poller:
        retirement = self._assignment.retirement
        return Poller(fd, events, None if retirement is None else retirement.wake_fd)

    def _watch_input(self) -> Poller:
        self._readable = poller = self._poller(self._input_fd, select.POLLIN)
        return poller

    def _await_input(self, span: Span) -> bool:
        """Wait where nothing but input is waited for; return False if there is more to look at.

        What that is, the time that is over or a word of the server's, the slower wait finds out.
        """
        poller = self._readable or self._watch_input()
        moment = None
        if self._quick is FOR_A_MOMENT:
            moment = None if self._waited else self._moment(span[0])
            if moment is None:
                return False
        record = self._record
        record[WAITING] = 1
        try:
            if moment is None:
                return poller.alone(span[1])
            if moment:
                return self._comes_within(moment, poller)
            events = poller.poll(0)
            if not events:  # others wait for the seat
                self._park_idle(time.monotonic())
            return len(events) == 1 and events[0][0] == poller.fd
        finally:
            record[WAITING] = 0

    def _moment(self, limit: float | None) -> int | None:
        """Return how many milliseconds a receive may wait without care, None: not at all.

        limit: of the wait in all, in seconds.
        """
        assigned = self._assignment
        retirement = assigned.retirement
        longest = _LONG_MOMENT
        if assigned.keeping is not None:
            left = assigned.keeping.at - time.monotonic()
            if left <= 0.0:
                return None
            longest = min(longest, math.ceil(left * 1000))
        if retirement is not None and assigned.park_after is not None and retirement.crowded:
            return 0
        if (limit is not None and limit < _MUCH) or (retirement is not None and retirement.full):
            return _SHORT_MOMENT
        if assigned.park_after is not None and assigned.park_after < _MUCH:
            return _SHORT_MOMENT
        return longest

    def _comes_within(self, moment: int, poller: Poller) -> bool:
        """Wait a moment; return whether the descriptor is ready, and nothing else has come."""
        events = poller.poll(moment)
        if not events:
            self._waited = moment / 1000
        return len(events) == 1 and events[0][0] == poller.fd

    def _quickness(self) -> object:
        """Return how a receive may wait with less care than `_wait` takes; false: not at all."""
        assigned = self._assignment
        if assigned.idle_timeout is not None or self._peeking is not None:
            return None
        tended = assigned.park_after is not None or assigned.keeping is not None
        return FOR_A_MOMENT if tended else _TO_THE_END

    def _wait_readable(self, operation: str, wanted: int | None, span: Span) -> None:
        poller = self._readable or self._watch_input()
        if self._peeking is not None:
            self._peeking.before_wait()
        self._record[WAITING] = 1
        try:
            self._wait(poller, operation, self._buffer.size, wanted, span)
        finally:
            self._record[WAITING] = 0

    def _wait_writable(self, done: int, size: int, span: Span) -> None:
        if span == (0.0, None):
            raise self._unfinished("send", done, size, span)
        if self._writable is None:
            self._writable = self._poller(self._fd, select.POLLOUT)
        self._wait(self._writable, "send", done, size, span)
        if self._life.over:  # closed meanwhile by another thread
            raise self._refusal("send")

    def _wait(
        self, poller: Poller, operation: str, done: int, wanted: int | None, span: Span
    ) -> None:
        """Wait until the descriptor is ready; raise when a limit or the server's order is first."""
        assigned = self._assignment
        retirement = assigned.retirement
        receiving = operation != "send"
        tended = receiving and (assigned.park_after is not None or assigned.keeping is not None)
        # Not under an order: a peer that asks every moment would keep it from being obeyed.
        if tended and self._order() is None and self._comes_soon(poller, span[0]):
            return
        since = 0.0
        if assigned.idle_timeout is not None or tended:
            since = time.monotonic() - self._waited
        self._waited = 0.0
        while True:
            until = span[1]
            order = self._order()
            if tended:
                until = earlier(until, self._tend(since, parking=order is None))
            if order is not None:
                poller.ignore_wake()
                self._obey_waiting(order, poller, operation)
                until = earlier(until, order.deadline)
                now = time.monotonic()
                if now < self._leaves_at:
                    until = earlier(until, min(self._leaves_at, now + _LOOK_AGAIN))
                elif order.how == "finish":  # a drain may yet become a stop
                    until = earlier(until, now + _LOOK_AGAIN)
            elif retirement is not None and poller.ignores_wake:
                until = earlier(until, time.monotonic() + MOMENT)
            ready, woken = poller.wait(earlier(until, self._idle_at(since)))
            if woken and retirement is not None:
                if receiving:
                    retirement.woken()
                else:
                    self._hear_out(poller, retirement)
            elif ready:
                return
            else:
                self._check_time(operation, done, wanted, span, since)
                if tended and order is None:
                    self._park_idle(since)
                if receiving and order is not None and retirement is not None:
                    retirement.woken()

    def _comes_soon(self, poller: Poller, limit: float | None) -> bool:
        """Wait a moment, without the care that a longer wait takes: it costs as much as a recv(2).

        Not when the connection is to be offered to the keeper, or others wait for the seat.
        """
        if self._waited:
            return False
        moment = self._moment(limit)
        if not moment:
            return False
        return self._comes_within(moment, poller)

    def _tend(self, since: float, *, parking: bool) -> float | None:
        """Entrust the connection to the keeper if it is time.

        Returns when to look again, or when a wait that began at `since` is to end in parking.
        """
        assigned = self._assignment
        keeping = assigned.keeping
        at: float | None = None
        if keeping is not None and self._tls is None:  # the keys of TLS die with the process
            at = keeping.at
            if time.monotonic() >= at:
                at = keeping.offer()
                if at is None:
                    assigned.keeping = None
                    self._quick = self._quickness()
                else:
                    keeping.at = at
        if parking and assigned.park_after is not None and self._movable():
            park_at = self._park_at(since)
            if self._sending.locked():  # a push is going out
                park_at = max(park_at, time.monotonic() + MOMENT)
            at = earlier(at, park_at)
        return at

    def _park_at(self, since: float) -> float:
        assigned = self._assignment
        retirement = assigned.retirement
        if retirement is not None and (retirement.crowded or retirement.is_awaited()):
            return since  # nothing is readable: that is enough
        return since + (assigned.park_after or 0.0)

    def _park_idle(self, since: float) -> None:
        """Leave to be parked if nothing has come for long enough, and this is a safe point."""
        if self._assignment.park_after is None or not self._movable():
            return
        if time.monotonic() >= self._park_at(since) and self._sending.acquire(blocking=False):
            self._leave_parked()

    def _leave_parked(self) -> Never:
        """Leave, and let go of the lock for sending, unless another thread has ended it."""
        try:
            if self._life.over:
                raise self._refusal("park")
            self._leave(parked=True)
        finally:
            self._sending.release()
        raise Detached("the connection was detached from this worker, to be parked")

    def _hear_out(self, poller: Poller, retirement: Retirement) -> None:
        """Hear, as a sender, what the server has to say, unless a receiver is there to hear it.

        Only who holds the receivers' lock calls `woken`: two threads that poll one descriptor would
        take the word from each other, and the one that came too late would wait on.
        """
        if not self._reading.acquire(blocking=False):
            poller.ignore_wake()  # look from time to time whether the receiver has heard it
            return
        try:
            if retirement.order is None and poller.called():
                retirement.woken()
        finally:
            self._reading.release()

    def _obey(self, operation: str) -> None:
        """Do as the server's order says, if there is one and this is the moment."""
        order = self._order()
        if order is None:
            return
        left = min(order.deadline - time.monotonic(), threading.TIMEOUT_MAX)
        # A push in flight goes out whole; one that comes later finds the connection detached.
        moves = order.how == "move" and self._may_leave(left) and self._movable()
        if moves and self._sending.acquire(timeout=max(0, left)):
            try:
                self._leave()
            finally:
                self._sending.release()
            raise Detached("the connection was detached from this worker")
        if time.monotonic() >= order.deadline:
            raise self._out_of_time(operation)

    def _may_leave(self, left: float) -> bool:
        """Whether it is this connection's turn to obey an order to move, `left` seconds being left.

        All hear of the order at once.  If all left at once, the last would be served by nobody for
        as long as all the moves take together.
        """
        now = time.monotonic()
        if not self._leaves_at:
            self._leaves_at = now + min(self._assignment.turn, left / 2)
        return now >= self._leaves_at

    def _obey_waiting(self, order: Order, poller: Poller, operation: str) -> None:
        if operation != "send":
            self._obey(operation)
            if order.how == "close" and self._closable() and not poller.ready():
                raise self._end("ended: the server is stopping", operation)
        elif time.monotonic() >= order.deadline:
            raise self._out_of_time(operation)

    def _check_time(
        self, operation: str, done: int, wanted: int | None, span: Span, since: float
    ) -> None:
        now = time.monotonic()
        if span[1] is not None and now >= span[1]:
            raise self._unfinished(operation, done, wanted, span)
        idle_at = self._idle_at(since)
        if idle_at is not None and now >= idle_at:
            raise self._end(f"ended: idle for {self._assignment.idle_timeout:g} s", operation)

    def _out_of_time(self, operation: str) -> Closed:
        return self._end("ended: the server's time for it to finish is over", operation)

    def _unfinished(
        self, operation: str, done: int, wanted: int | None, span: Span
    ) -> WouldBlock | TimedOut:
        """Return the error for an operation that its mode does not let go on."""
        limit, end = span
        context = self._context(operation, done, wanted)
        if end is None or limit is None:
            return WouldBlock(**context)
        context["elapsed"] = time.monotonic() - end + limit
        context["limit"] = limit
        return TimedOut(**context)
