"""The engine under `Connection`: how sync code receives and sends.

A receive waits with poll(2) before it calls recv(2), and does not try recv first: a handler usually
asks before the next request is there, and an attempt in vain costs an exception.  So each helping
from the kernel also passes by the server's wake descriptor, and a client that never pauses cannot
keep the connection from hearing the server's order.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from time import monotonic_ns
from typing import TYPE_CHECKING, Final

from socketkeep._base._errors import Busy, LimitExceeded, Malformed, TimedOut, WouldBlock
from socketkeep._stream._assignment import handling
from socketkeep._stream._exchange import ARRIVED, CHUNK, LARGE_CHUNK, LOOK_AGAIN
from socketkeep._stream._lifecycle import State
from socketkeep._stream._record import ACTIVE_AT, BYTES_IN, BYTES_OUT, WAITING
from socketkeep._stream._sync_waiting import (
    FOR_A_MOMENT,
    IMPATIENT,
    MOMENT,
    Data,
    Span,
    SyncWaiting,
)

if TYPE_CHECKING:
    from socketkeep._stream._tls import TlsSocket


_AT_ONCE: Final[Span] = (0.0, None)


class SyncExchange(SyncWaiting):
    """The base of `Connection`: its verbs are built from `_receive` and `_transmit`."""

    __slots__ = ()

    @contextmanager
    def _claimed(self, operation: str) -> Iterator[None]:
        """Keep other threads off; raise when the connection is over, or Busy when one is on it."""
        with ExitStack() as claims:
            for lock in (self._reading, self._sending):
                if not lock.acquire(blocking=False):
                    raise Busy(**self._context(operation))
                claims.callback(lock.release)
            if self._life.over:
                raise self._refusal(operation)
            yield

    # Receiving.

    def _receive(
        self,
        operation: str,
        take: Callable[[], bytes | None],
        wanted: int | None,
        timeout: float | None,
    ) -> bytes | None:
        """Receive until `take` finds in the buffer what it wants; None when EOF comes before."""
        if self._life.over:
            self._check_over(operation)
        # The wait is for a sender that holds the lock for a moment, see `_hear_out`.
        if not (self._reading.acquire(False) or self._reading.acquire(timeout=MOMENT)):
            raise Busy(**self._context(operation))
        try:
            retirement = self._assignment.retirement
            ordered = retirement is not None and retirement.order is not None
            if ordered:
                self._obey(operation)
            if self._buffer.size or wanted == 0:
                data = take()
                if data is not None:
                    return data
            span = self._span(timeout)
            if self._quick and not ordered and span != _AT_ONCE and self._is_open():
                size = CHUNK if wanted is None or wanted <= CHUNK else LARGE_CHUNK
                while self._await_input(span) and self._take_in(size) == ARRIVED:
                    data = take()
                    if data is not None:
                        return data
            data = None
            while data is None and self._fill(operation, wanted, span):
                data = take()
            return data
        except (LimitExceeded, Malformed) as error:
            raise self._locate(error, operation) from None
        finally:
            self._reading.release()

    def _receive_any(self, most: int) -> bytes:
        """Receive what has come, as `_receive` does, but without a detour by the buffer.

        In one piece: a call costs a tenth of what the kernel takes for a small receive.
        """
        if (
            self._quick
            and self._patience is not IMPATIENT
            and most >= CHUNK
            and not self._life.over
            and not self._life.peer_ended
            and self._failure is None
            and self._reading.acquire(False)
        ):
            try:
                assigned = self._assignment
                retirement = assigned.retirement
                parks = self._quick is FOR_A_MOMENT
                moment = self._moment(self._limit) or 0 if parks else self._patience
                if (
                    not self._buffer.size
                    and moment != 0
                    and (retirement is None or retirement.order is None)
                ):
                    poller = self._readable or self._watch_input()
                    record = self._record
                    record[WAITING] = 1
                    try:
                        events = poller.poll(moment)
                    finally:
                        record[WAITING] = 0
                    if len(events) == 1 and events[0][0] == poller.fd:
                        if not self._ledger.read:
                            self._ledger.reading()
                        try:
                            data = self._source.recv(CHUNK)
                        except OSError as error:
                            self._received_nothing(error)
                        else:
                            if data:
                                record[BYTES_IN] += len(data)
                                record[ACTIVE_AT] = monotonic_ns()
                                if self._receives >= 0:
                                    self._count_receive()
                                if assigned.resumable:
                                    self._buffer.pass_by(data)
                                return data
                            self._received_nothing(None)
                            if not self._life.over:
                                return b""
                    elif parks and moment is not None:
                        self._waited = 0.0 if events else moment / 1000
                    elif not events:
                        raise self._unfinished("recv", 0, None, (self._limit, time.monotonic()))
            finally:
                self._reading.release()
        return self._receive("recv", partial(self._buffer.take, most), None, None) or b""

    def _is_open(self) -> bool:
        """Whether there is nothing to look for before a receive waits."""
        return not self._life.over and not self._life.peer_ended and self._failure is None

    def _check_over(self, operation: str) -> None:
        """Raise when the connection is over; what came before a reset may still be read."""
        if not (self._life.state is State.RESET and self._buffer.size):
            raise self._refusal(operation)

    def _fill(self, operation: str, wanted: int | None, span: Span) -> bool:
        """Receive once into the buffer; return False at the peer's EOF."""
        if self._failure is not None:
            self._raise_failure(operation)
        if self._life.over:
            raise self._refusal(operation)
        if self._life.peer_ended:
            refusals = self._assignment.refusals
            if refusals is not None and (error := refusals.at_end(self, operation)) is not None:
                raise error
            return False
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
                if self._life.over:  # closed by another thread, which made this EOF
                    raise self._refusal(operation)
                return False
            if not patient:
                raise self._unfinished(operation, self._buffer.size, wanted, span)
            # Another holder of the socket was quicker: wait on.

    # Sending.

    def _transmit(self, data: Data, timeout: float | None) -> None:
        """Send all of `data`, in one piece among the sends of other threads."""
        if not self._sending.acquire(False):
            self._claim_sending(memoryview(data).nbytes, self._span(timeout))
        push = self._assignment.resumable and handling.get() is not self
        try:
            if (
                type(data) is bytes
                and not push
                and self._life.sends
                and self._unsent is None
                and self._tls is None
            ):  # the usual send: all of it goes at once
                if not self._ledger.sent:
                    self._ledger.sending()
                try:
                    count = self._sock.send(data)
                except BlockingIOError:
                    count = 0
                except OSError as error:
                    raise self._failed(error, "send") from error
                record = self._record
                record[BYTES_OUT] += count
                record[ACTIVE_AT] = monotonic_ns()
                if count != len(data):
                    self._send_on(data, timeout, count)
                return
            if not self._life.sends:
                raise self._refusal("send")
            if push:
                self._ledger.push_begins()
            elif not self._ledger.sent:
                self._ledger.sending()
            if self._tls is None:
                self._send_on(data, timeout)
            else:
                self._send_tls(self._tls, data, timeout)
        finally:
            if push:
                self._ledger.push_ends()
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

    def _send_on(self, data: Data, timeout: float | None, done: int = 0) -> None:
        """Send `data` from `done` on, or from where an unfinished send of the same data stopped."""
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

    # TLS.

    def _handshake(self, tls: TlsSocket, span: Span) -> None:
        """Wait for the handshake to be done, as the mode says."""
        steps = tls.shaking_hands()
        while True:
            try:
                want = next(steps, None)
            except OSError as error:
                raise self._failed(error, "start_tls") from error
            if want is None:
                return
            if span == _AT_ONCE:
                raise self._unfinished("start_tls", 0, None, span)
            if want.direction == "read":
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
