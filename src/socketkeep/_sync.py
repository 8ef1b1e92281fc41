"""The engine under `Connection`: how sync code waits, receives and sends.

A receive waits with poll(2) before it calls recv(2), and does not try recv first: a handler usually
asks before the next request is there, and an attempt in vain costs an exception.  So each helping
from the kernel also passes by the server's wake descriptor, and a client that never pauses cannot
keep the connection from hearing the server's order.
"""

from __future__ import annotations

import select
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Final, TypeAlias

from socketkeep._assignment import Assignment, Detached, Order, Retirement, handling
from socketkeep._errors import (
    Busy,
    Closed,
    LimitExceeded,
    Malformed,
    PeerReset,
    TimedOut,
    WouldBlock,
)
from socketkeep._exchange import ARRIVED, CHUNK, LARGE_CHUNK, LOOK_AGAIN, Exchange
from socketkeep._modes import Deadline, Mode, check_seconds, seconds_left
from socketkeep._record import SENT, STATUS, WAITING
from socketkeep._waiting import Poller, earlier

if TYPE_CHECKING:
    from socketkeep._tls import TlsSocket

Data: TypeAlias = bytes | bytearray | memoryview

#: An operation's limit in seconds, and its end on the monotonic clock.  (None, None): wait for as
#: long as it takes; (0.0, None): do not wait at all.
Span: TypeAlias = tuple[float | None, float | None]

#: Seconds: how long threads of one connection wait for a word to pass between them.
_MOMENT: Final = 0.05
#: Seconds between two looks whether an order to finish has become one to close.
_LOOK_AGAIN: Final = 1.0


class SyncExchange(Exchange):
    """The base of `Connection`: its verbs are built from `_receive` and `_transmit`."""

    __slots__ = (
        "_limit",
        "_mode",
        "_readable",
        "_reading",
        "_sending",
        "_unsent",
        "_writable",
    )

    def __init__(
        self, sock: socket.socket, *, mode: Mode, assignment: Assignment | None = None
    ) -> None:
        super().__init__(sock, assignment=assignment)
        self._mode = mode
        self._limit = seconds_left(mode)
        self._reading = threading.Lock()
        self._sending = threading.Lock()
        self._readable: Poller | None = None
        self._writable: Poller | None = None
        self._unsent: tuple[Data, int] | None = None  # an unfinished send's data, and bytes gone

    def _span(self, timeout: float | None) -> Span:
        if timeout is None:
            if isinstance(self._mode, Deadline):
                return seconds_left(self._mode), self._mode.at
            limit = self._limit
        else:
            limit = check_seconds(timeout)
        return limit, (time.monotonic() + limit if limit else None)

    def _reset_after_fork(self) -> None:
        # Other threads' locks were copied as they were, and who would open them is not here.
        self._reading = threading.Lock()
        self._sending = threading.Lock()
        self._readable = self._writable = None

    @contextmanager
    def _claimed(self, operation: str) -> Iterator[None]:
        """Keep other threads off; raise when the connection is over, or Busy when one is on it."""
        with ExitStack() as claims:
            for lock in (self._reading, self._sending):
                if not lock.acquire(blocking=False):
                    raise Busy(**self._context(operation))
                claims.callback(lock.release)
            if self._over is not None:
                raise self._refusal(operation)
            yield

    def _order(self) -> Order | None:
        retirement = self._assignment.retirement
        return None if retirement is None else retirement.order

    def _poller(self, events: int) -> Poller:
        retirement = self._assignment.retirement
        return Poller(self._fd, events, None if retirement is None else retirement.wake_fd)

    # Receiving.

    def _receive(
        self,
        operation: str,
        take: Callable[[], bytes | None],
        wanted: int | None,
        timeout: float | None,
    ) -> bytes | None:
        """Receive until `take` finds in the buffer what it wants; None when EOF comes before."""
        if self._over is not None:
            self._check_over(operation)
        # The wait is for a sender that holds the lock for a moment, see `_hear_out`.
        if not (self._reading.acquire(blocking=False) or self._reading.acquire(timeout=_MOMENT)):
            raise Busy(**self._context(operation))
        try:
            if self._assignment.retirement is not None:
                self._obey(operation)
            data = take()
            if data is None:
                span = self._span(timeout)
                while data is None and self._fill(operation, wanted, span):
                    data = take()
            return data
        except (LimitExceeded, Malformed) as error:
            raise self._locate(error, operation) from None
        finally:
            self._reading.release()

    def _check_over(self, operation: str) -> None:
        """Raise when the connection is over; what came before a reset may still be read."""
        if not (isinstance(self._over, PeerReset) and self._buffer.size):
            raise self._refusal(operation)

    def _fill(self, operation: str, wanted: int | None, span: Span) -> bool:
        """Receive once into the buffer; return False at the peer's EOF."""
        if self._eof:
            return False
        if self._over is not None:
            raise self._refusal(operation)
        patient = span != (0.0, None)
        size = CHUNK if wanted is None or wanted <= CHUNK else LARGE_CHUNK
        while True:
            if patient:
                self._wait_readable(operation, wanted, span)
            came = self._take_in(size)
            if came == ARRIVED:
                return True
            if came == LOOK_AGAIN:
                self._raise_failure(operation)
                if self._over is not None:  # closed by another thread, which made this EOF
                    raise self._refusal(operation)
                return False
            if not patient:
                raise self._unfinished(operation, self._buffer.size, wanted, span)
            # Another holder of the socket was quicker: wait on.

    def _wait_readable(self, operation: str, wanted: int | None, span: Span) -> None:
        poller = self._readable
        if poller is None:
            poller = self._readable = self._poller(select.POLLIN)
        self._record[WAITING] = 1
        try:
            self._wait(poller, operation, self._buffer.size, wanted, span)
        finally:
            self._record[WAITING] = 0

    def _obey(self, operation: str) -> None:
        """Do as the server's order says, if there is one and this is the moment."""
        order = self._order()
        if order is None:
            return
        left = min(order.deadline - time.monotonic(), threading.TIMEOUT_MAX)
        # A push in flight goes out whole; one that comes later finds the connection detached.
        if order.how == "move" and self._movable() and self._sending.acquire(timeout=max(0, left)):
            try:
                self._leave()
            finally:
                self._sending.release()
            raise Detached("the connection was detached from this worker")
        if time.monotonic() >= order.deadline:
            raise self._out_of_time(operation)

    # Waiting.

    def _wait(
        self, poller: Poller, operation: str, done: int, wanted: int | None, span: Span
    ) -> None:
        """Wait until the descriptor is ready; raise when a limit or the server's order is first."""
        retirement = self._assignment.retirement
        receiving = operation != "send"
        since = 0.0 if self._assignment.idle_timeout is None else time.monotonic()
        while True:
            until = span[1]
            order = self._order()
            if order is not None:
                poller.ignore_wake()
                self._obey_waiting(order, poller, operation)
                until = earlier(until, order.deadline)
                if order.how == "finish":  # a drain may yet become a stop
                    until = earlier(until, time.monotonic() + _LOOK_AGAIN)
            elif retirement is not None and poller.ignores_wake:
                until = earlier(until, time.monotonic() + _MOMENT)
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
                if receiving and order is not None and retirement is not None:
                    retirement.woken()

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

    # Sending.

    def _transmit(self, data: Data, timeout: float | None) -> None:
        """Send all of `data`, in one piece among the sends of other threads."""
        if not self._sending.acquire(blocking=False):
            self._claim_sending(memoryview(data).nbytes, self._span(timeout))
        push = self._assignment.resumable and handling.get() is not self
        try:
            if self._over is not None:
                raise self._refusal("send")
            if self._write_ended:
                raise Closed("refused: this side has ended its sending", **self._context("send"))
            if push:
                self._pushes += 1
                self._show_status()
            elif not self._sent:
                self._sent = True
                self._record[STATUS] = SENT
            if self._tls is None:
                self._send_on(data, timeout)
            else:
                self._send_tls(self._tls, data, timeout)
        finally:
            if push and self._pushes:
                self._pushes -= 1
                self._show_status()
            self._sending.release()

    def _claim_sending(self, size: int, span: Span) -> None:
        """Wait for the lock that keeps the bytes of one send together."""
        limit, end = span
        if end is not None:
            left = min(end - time.monotonic(), threading.TIMEOUT_MAX)
            claimed = self._sending.acquire(timeout=max(0.0, left))
        else:
            claimed = self._sending.acquire(blocking=limit is None)
        if not claimed:
            raise self._unfinished("send", 0, size, span)

    def _send_on(self, data: Data, timeout: float | None) -> None:
        """Send `data`, from where an unfinished send of the same data stopped."""
        done = 0
        if self._unsent is not None:
            (before, gone), self._unsent = self._unsent, None
            if before is data or before == data:
                done = gone
        view = data if type(data) is bytes and not done else memoryview(data).cast("B")[done:]
        size = done + len(view)
        span: Span | None = None
        try:
            while True:
                try:
                    count = self._sock.send(view)
                except BlockingIOError:
                    span = span or self._span(timeout)
                    self._wait_writable(done, size, span)
                    continue
                except OSError as error:
                    raise self._failed(error, "send", done) from error
                done += count
                self._gave(count)
                if done == size:
                    return
                view = memoryview(view)[count:]
        except (WouldBlock, TimedOut):
            self._unsent = (data, done)
            raise

    def _wait_writable(self, done: int, size: int, span: Span) -> None:
        if span == (0.0, None):
            raise self._unfinished("send", done, size, span)
        if self._writable is None:
            self._writable = self._poller(select.POLLOUT)
        self._wait(self._writable, "send", done, size, span)
        if self._over is not None:  # closed meanwhile by another thread
            raise self._refusal("send")

    # TLS.

    def _handshake(self, tls: TlsSocket, span: Span) -> None:
        """Wait for the handshake to be done, as the mode says."""
        while True:
            try:
                want = tls.handshake()
                if want is None:
                    return
            except OSError as error:
                raise self._failed(error, "start_tls") from error
            if span == (0.0, None):
                raise self._unfinished("start_tls", 0, None, span)
            if want == "read":
                self._wait_readable("start_tls", None, span)
            else:
                self._wait_writable(0, 0, span)

    def _send_tls(self, tls: TlsSocket, data: Data, timeout: float | None) -> None:
        """As `_send_on`: what was encrypted counts as done, and goes before what comes next."""
        done = 0
        if self._unsent is not None:
            (before, gone), self._unsent = self._unsent, None
            if before is data or before == data:
                done = gone
        view = memoryview(data).cast("B")
        span: Span | None = None
        try:
            while True:
                try:
                    count = tls.send(view[done:])
                except BlockingIOError:
                    count = 0
                except OSError as error:
                    raise self._failed(error, "send", done) from error
                if count:
                    done += count
                    self._gave(count)
                if tls.pending:
                    span = span or self._span(timeout)
                    self._wait_writable(max(0, done - tls.owed), view.nbytes, span)
                elif done == view.nbytes:
                    return
        except (WouldBlock, TimedOut):
            self._unsent = (data, done)
            raise

    def _finish_tls(self, tls: TlsSocket) -> None:
        """Send the close_notify, waiting for room as the mode says."""
        tls.finish()
        span: Span | None = None
        while True:
            try:
                if tls.flush():
                    return
            except OSError as error:
                raise self._failed(error, "shutdown") from error
            span = span or self._span(None)
            self._wait_writable(0, 0, span)
