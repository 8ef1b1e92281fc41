"""The engine under `AsyncConnection`: how a task waits and receives on asyncio and uvloop.

The connection owns its non-blocking socket; there is no transport and no stream buffer between.
The reader stays registered with the loop.  When the descriptor becomes readable and a task waits,
the task is resumed at once, and receives; when none waits the reader is taken out, so that the
bytes stay in the kernel: back-pressure, and next to no read-ahead to carry along when the
connection is moved.

Nothing is awaited between taking bytes from the kernel and putting them into the buffer, so that a
task that is cancelled at any await loses none.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from socketkeep._base._errors import Busy, LimitExceeded, Malformed
from socketkeep._stream._async_waiting import AsyncWaiting
from socketkeep._stream._exchange import (
    ARRIVED,
    CHUNK,
    EOF,
    LARGE_CHUNK,
    LOOK_AGAIN,
    NOTHING,
    TIMED_OUT,
)
from socketkeep._stream._lifecycle import State
from socketkeep._stream._modes import check_seconds
from socketkeep._stream._record import WAITING

#: After so many receives in a row that did not wait, because the peer sends faster than it is
#: dealt with, the others on the loop get a turn.  A turn at each would slow quick peers down.
_HELPINGS: Final = 8
#: After one that brought so many bytes they get it at once: that may be thousands of messages.
_LARGE_HELPING: Final = 16384


class AsyncExchange(AsyncWaiting):
    """The base of `AsyncConnection`: its verbs are built from `_receive`."""

    __slots__ = ()

    @contextmanager
    def _claimed(self, operation: str) -> Iterator[None]:
        """Keep other tasks off; raise when the connection is over, or Busy when one is on it."""
        if self._life.over:
            raise self._refusal(operation)
        if self._receiving or self._out:
            raise Busy(**self._context(operation))
        self._receiving = True
        try:
            yield
        finally:
            self._receiving = False

    # Receiving.

    def _tries(self) -> bool:
        """Whether a receive may look for bytes before it waits, and for nothing else."""
        return (
            not self._watching
            and self._order is None
            and not self._life.peer_ended
            and self._failure is None
            and self._peeking is None
            and (self._ledger.read or self._assignment.shelf is None)
            and self._unwaited < _HELPINGS - 1
        )

    def _try_once(self) -> bytes | None:
        """Receive what is there, b"" at EOF; None when nothing is: then the reader is registered.

        None for a failure too, which `_look` then raises.
        """
        if not self._ledger.read:
            self._ledger.reading()
        try:
            data = self._source.recv(CHUNK)
        except OSError as error:
            self._unwaited = 0
            if self._received_nothing(error) == NOTHING:
                self._watch()
            return None
        self._unwaited += 1
        if data:
            size = len(data)
            if size >= _LARGE_HELPING:
                self._unwaited = _HELPINGS - 1
            self._received(size)
            if self._assignment.resumable:
                self._buffer.pass_by(data)
        else:
            self._received_nothing(None)
        return data

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
        if self._life.over and not (self._life.state is State.RESET and self._buffer.size):
            await self._refuse(operation)  # but what came before a reset may still be read
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
                refusals = self._assignment.refusals
                if refusals is not None and (error := refusals.at_end(self, operation)) is not None:
                    await self._raise(error)
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

    def _look(self, operation: str, wanted: int | None, limit: float | None, size: int) -> int:
        """Do all that a receive does before it waits.

        Returns ARRIVED, EOF, LOOK_AGAIN, or NOTHING when there is nothing but to wait; raises
        what the connection ended with, or the server's order means.
        """
        self._raise_failure(operation)
        if self._life.over:
            raise self._refusal(operation)
        if self._life.peer_ended:
            return EOF
        stopping = False
        if self._order is not None:
            self._obey(operation)
            stopping = self._order.how == "close" and self._closable()
        patient = not stopping and limit != 0
        if self._watching and patient:
            return NOTHING
        if patient and self._assignment.shelf is not None and not self._ledger.read:
            # An attempt shows READ for a moment.  A worker that is killed just then would leave
            # a connection that was clean as one that died in the middle of a message.
            self._watch()
            return NOTHING
        came = self._take_in(size)
        if came == NOTHING:
            if stopping:
                raise self._end("ended: the server is stopping", operation)
            if limit == 0:
                raise self._unfinished(operation, wanted, limit, None)
            self._watch()
        return came
