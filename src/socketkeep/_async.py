"""The engine under `AsyncConnection`: how a task waits and receives on asyncio and uvloop.

The connection owns its non-blocking socket; there is no transport and no stream buffer between.
The reader stays registered with the loop.  When the descriptor becomes readable and a task waits,
one recv(2) fills the buffer and wakes the task; when none waits the reader is taken out, so that
the bytes stay in the kernel: back-pressure, and next to no read-ahead to carry along when the
connection is moved.

Nothing is awaited between taking bytes from the kernel and putting them into the buffer, so that a
task that is cancelled at any await loses none.
"""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final, cast

from socketkeep._assignment import Assignment, Detached, Order
from socketkeep._async_sender import AsyncSender
from socketkeep._async_waiter import DONE, Turn, Waiter
from socketkeep._errors import Busy, Closed, LimitExceeded, Malformed, PeerReset
from socketkeep._exchange import (
    ARRIVED,
    CHUNK,
    EOF,
    LARGE_CHUNK,
    LOOK_AGAIN,
    NOTHING,
    TIMED_OUT,
)
from socketkeep._modes import check_seconds
from socketkeep._record import ACTIVE_AT, WAITING
from socketkeep._waiting import earlier

#: After so many receives in a row that did not wait, because the peer sends faster than it is
#: dealt with, the others on the loop get a turn.  A turn at each would slow quick peers down.
_HELPINGS: Final = 8
#: After one that brought so many bytes they get it at once: that may be thousands of messages.
_LARGE_HELPING: Final = 16384
_OUT_OF_TIME: Final = "ended: the server's time for it to finish is over"


class AsyncExchange(AsyncSender):
    """The base of `AsyncConnection`: its verbs are built from `_receive` and `_transmit`."""

    __slots__ = (
        "_deadline_timer",
        "_expired",
        "_order",
        "_quick",
        "_receiving",
        "_tend_timer",
        "_turn",
        "_unwaited",
        "_waiter",
        "_watching",
    )

    def __init__(self, sock: socket.socket, *, assignment: Assignment | None = None) -> None:
        super().__init__(sock, assignment=assignment)
        self._receiving = False
        self._waiter = Waiter(self._loop)
        self._turn = Turn((self._waiter,))
        self._watching = False  # the reader is registered
        self._quick = False  # it is, and no receive has to look at more than what comes
        self._order: Order | None = None
        self._unwaited = 0  # receives in a row that found their bytes there
        self._expired = False  # the order's deadline has passed
        self._deadline_timer: asyncio.TimerHandle | None = None
        self._tend_timer: asyncio.TimerHandle | None = None
        first = earlier(self._assignment.idle_timeout, self._assignment.park_after)
        if first is not None:
            self._tend_timer = self._loop.call_later(first, self._tend)

    def _reset_after_fork(self) -> None:
        # The loop's epoll is the parent's: what were taken out here would be missing there.
        self._loop = cast("asyncio.AbstractEventLoop", _ChildsLoop(self))
        self._receiving = self._watching = self._quick = False
        self._waiter = Waiter(self._loop)
        self._turn = Turn((self._waiter,))
        self._deadline_timer = self._tend_timer = None
        self._unshown = False
        self._came_in = self._went_out = 0
        self._out.clear()

    @contextmanager
    def _claimed(self, operation: str) -> Iterator[None]:
        """Keep other tasks off; raise when the connection is over, or Busy when one is on it."""
        if self._over is not None:
            raise self._refusal(operation)
        if self._receiving or self._out:
            raise Busy(**self._context(operation))
        self._receiving = True
        try:
            yield
        finally:
            self._receiving = False

    # Receiving.

    async def _receive_any(self, most: int, timeout: float | None) -> bytes:
        """Receive what has come, as `_receive` does, but without a detour by the buffer.

        Coroutines, of which the verbs return one as it is: each that is awaited inside another
        costs as much as half a system call.
        """
        if (
            self._quick
            and timeout is None
            and most >= CHUNK
            and self._over is None
            and not self._receiving
            and not self._buffer.size
        ):
            self._receiving = True
            try:
                if self._tend_timer is not None:
                    self._waiting_since = time.monotonic()
                record = self._record
                waiter = self._waiter
                waiter.pending = waiter._asyncio_future_blocking = True
                record[WAITING] = 1
                try:
                    await self._turn
                except BaseException:
                    waiter.pending = False
                    raise
                finally:
                    record[WAITING] = 0
                if waiter.came == ARRIVED:
                    if not self._taken:
                        self._taking()
                    try:
                        data = self._recv(CHUNK)
                    except OSError as error:
                        self._received_nothing(error)
                    else:
                        if data:
                            self._received(len(data))
                            if self._assignment.resumable:
                                self._buffer.pass_by(data)
                            return data
                        self._received_nothing(None)
            finally:
                self._receiving = False
        return await self._receive("recv", self._buffer.take, most, None, timeout, bytes)

    async def _receive(
        self,
        operation: str,
        take: Callable[[int], bytes | None],
        bound: int,
        wanted: int | None,
        timeout: float | None,
        at_eof: Callable[[], bytes],
    ) -> bytes:
        """Receive until `take(bound)` finds in the buffer what it wants, or EOF comes before."""
        if self._over is not None:
            self._check_over(operation)
        if self._receiving:
            raise Busy(**self._context(operation))
        if self._order is not None:
            self._obey(operation)
        self._receiving = True
        try:
            if self._buffer.size or wanted == 0:
                data = take(bound)
                if data is not None:
                    return data
            if timeout is None and self._quick:
                # The usual case.  While the reader is registered there is neither EOF nor a failure
                # to look for, and what changes meanwhile ends the wait.
                size = CHUNK if wanted is None or wanted <= CHUNK else LARGE_CHUNK
                record = self._record
                waiter = self._waiter
                while True:
                    if self._tend_timer is not None:
                        self._waiting_since = time.monotonic()
                    waiter.pending = waiter._asyncio_future_blocking = True
                    record[WAITING] = 1
                    try:
                        await self._turn
                    except BaseException:
                        waiter.pending = False
                        raise
                    finally:
                        record[WAITING] = 0
                    if waiter.came != ARRIVED or self._take_in(size) == LOOK_AGAIN:
                        break
                    data = take(bound)
                    if data is not None:
                        return data
            return await self._receive_slowly(operation, take, bound, wanted, timeout, at_eof)
        except (LimitExceeded, Malformed) as error:
            raise self._locate(error, operation) from None
        finally:
            self._receiving = False

    async def _receive_slowly(
        self,
        operation: str,
        take: Callable[[int], bytes | None],
        bound: int,
        wanted: int | None,
        timeout: float | None,
        at_eof: Callable[[], bytes],
    ) -> bytes:
        """Go on with a receive, where there is more to look at than whether bytes have come."""
        limit = None if timeout is None else check_seconds(timeout)
        end = time.monotonic() + limit if limit else None
        size = CHUNK if wanted is None or wanted <= CHUNK else LARGE_CHUNK
        while True:
            came = self._look(operation, wanted, limit, size)
            if came == ARRIVED and limit != 0:
                self._unwaited += 1
                if self._unwaited >= _HELPINGS or self._buffer.size >= _LARGE_HELPING:
                    self._unwaited = 0
                    await asyncio.sleep(0)
            elif came == NOTHING:
                self._unwaited = 0
                if self._peeking is not None:
                    self._peeking.before_wait()
                came = await self._wait(end)
                if came == ARRIVED:
                    came = self._take_in(size)
            if came == ARRIVED:
                data = take(bound)
                if data is not None:
                    return data
            elif came == EOF:
                return at_eof()
            elif came == TIMED_OUT:
                raise self._unfinished(operation, wanted, limit, end)

    async def _wait(self, end: float | None) -> int:
        """Wait until `end` for the descriptor to be readable; return what ended the wait."""
        waiter = self._waiter
        timer = None if end is None else self._call_at(end, waiter.end, TIMED_OUT)
        self._waiting_since = time.monotonic()
        waiter.pending = waiter._asyncio_future_blocking = True
        self._record[WAITING] = 1
        try:
            await self._turn
        except BaseException:
            waiter.pending = False
            raise
        finally:
            self._record[WAITING] = 0
            if timer is not None:
                timer.cancel()
        return waiter.came

    def _received_nothing(self, error: OSError | None) -> int:
        came = super()._received_nothing(error)
        if came == LOOK_AGAIN:
            self._unwatch()  # the loop would report it for ever
        return came

    def _check_over(self, operation: str) -> None:
        """Raise when the connection is over; what came before a reset may still be read."""
        if not (isinstance(self._over, PeerReset) and self._buffer.size):
            raise self._refusal(operation)

    def _look(self, operation: str, wanted: int | None, limit: float | None, size: int) -> int:
        """Do all that a receive does before it waits.

        Returns ARRIVED, EOF, LOOK_AGAIN, or NOTHING when there is nothing but to wait; raises
        what the connection ended with, or the server's order means.
        """
        self._raise_failure(operation)
        if self._over is not None:
            raise self._refusal(operation)
        if self._eof:
            return EOF
        stopping = False
        if self._order is not None:
            self._obey(operation)
            stopping = self._order.how == "close" and self._closable()
        if self._watching and not stopping and limit != 0:
            return NOTHING
        came = self._take_in(size)
        if came == NOTHING:
            if stopping:
                raise self._end("ended: the server is stopping", operation)
            if limit == 0:
                raise self._unfinished(operation, wanted, limit, None)
            self._watch()
        return came

    def _watch(self) -> None:
        self._loop.add_reader(self._input_fd, self._on_readable)
        self._watching = True
        self._quick = self._order is None and self._peeking is None

    def _unwatch(self) -> None:
        if self._watching:
            self._loop.remove_reader(self._input_fd)
            self._watching = self._quick = False

    def _on_readable(self) -> None:
        waiter = self._waiter
        if waiter.pending:
            waiter.pending = False  # as `waiter.end`, without the call
            waiter.came = ARRIVED
            waiter.context.run(waiter.resume, DONE)
        else:
            self._unwatch()

    def _tls_ended(self) -> None:
        super()._tls_ended()
        self._unwatch()  # so that the next receive looks for the end before it waits

    # The server's orders and limits.

    def ask(self, order: Order) -> None:
        """Give the server's order: the receive that waits, or the next one, obeys it.

        For the server; to be called in the loop's thread.  A later order replaces an earlier one.
        """
        if self._over is not None:
            return
        self._order = order
        self._quick = False
        if self._deadline_timer is not None:
            self._deadline_timer.cancel()
        self._deadline_timer = self._call_at(order.deadline, self._expire)
        self._let_go()

    def _let_go(self) -> None:
        """Detach a connection whose receive waits, if it may be; wake one that may be closed."""
        order = self._order
        if order is None or not self._waiter.pending:
            return
        if order.how == "move" and self._movable() and not self._out:
            # At once, not when the task gets its turn: until then nothing may be sent or received.
            self._depart()
            self._wake()
        elif order.how == "close" and self._closable():
            self._wake()

    def _queue_emptied(self) -> None:
        self._let_go()

    def _obey(self, operation: str) -> None:
        """Do as the server's order says, at a receive that is not waiting yet."""
        order = self._order
        if order is not None and order.how == "move" and self._movable() and not self._out:
            self._depart()
            raise Detached("the connection was detached from this worker")
        if self._expired:
            raise self._end(_OUT_OF_TIME, operation)

    def _depart(self, *, parked: bool = False) -> None:
        self._unwatch()
        self._leave(parked=parked)
        self._cancel_timers()

    def _expire(self) -> None:
        self._expired = True
        self._wake()
        self._stop_senders(Closed(_OUT_OF_TIME))

    def _wake(self) -> None:
        self._waiter.end_soon(LOOK_AGAIN)

    def _tend(self) -> None:
        """End what has been idle for too long, park what may be, and see when to look again.

        One timer, moved on when it fires: a timer for each wait would cost more than the wait.
        """
        now = time.monotonic()
        self._show()
        waiting = self._waiter.pending or bool(self._out)
        since = max(self._record[ACTIVE_AT] / 1e9, self._waiting_since) if waiting else now
        idle, park_after = self._assignment.idle_timeout, self._assignment.park_after
        if idle is not None and now >= since + idle:
            self._over = Closed(f"ended: idle for {idle:g} s")
            self._wake()
            self._stop_senders(self._over)
            return
        at = None if idle is None else since + idle
        if park_after is not None:
            if now >= since + park_after:
                since = now
                if self._waiter.pending and self._parkable():
                    self._depart(parked=True)
                    self._wake()
                    return
            at = earlier(at, since + park_after)
        if at is not None:
            self._tend_timer = self._call_at(at, self._tend)

    def _parkable(self) -> bool:
        """Whether a receive may end in parking: a safe point, and nothing else is to happen."""
        return self._order is None and self._movable() and not self._out

    def _cancel_timers(self) -> None:
        for timer in (self._deadline_timer, self._tend_timer):
            if timer is not None:
                timer.cancel()
        self._deadline_timer = self._tend_timer = None
        self._show()
        if not self._waiter.pending:
            self._waiter.forget()


class _ChildsLoop:
    """In place of the parent's loop in a forked child: the loop that first uses the connection."""

    __slots__ = ("_conn",)

    def __init__(self, conn: AsyncExchange) -> None:
        self._conn = conn

    def __getattr__(self, name: str) -> object:
        conn = self._conn
        conn._loop = conn._waiter._loop = loop = asyncio.get_running_loop()
        return getattr(loop, name)
