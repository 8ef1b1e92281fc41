"""The sending half of the engine under `AsyncConnection`.

A send tries send(2) at once, and only what the kernel does not take is queued, behind the sends
before it.  Each sender waits until its own bytes are gone, so the queue is as long as the tasks
that send at once; a sender that is cancelled leaves at most the rest of a message begun.
"""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Callable
from time import monotonic_ns
from typing import Final, Never, TypeAlias

from socketkeep._base._errors import SocketkeepError, TimedOut, WouldBlock
from socketkeep._stream._assignment import Assignment, handling
from socketkeep._stream._async_steps import call_at, settle
from socketkeep._stream._exchange import Exchange
from socketkeep._stream._modes import check_seconds
from socketkeep._stream._record import ACTIVE_AT, BYTES_IN, BYTES_OUT

Data: TypeAlias = bytes | bytearray | memoryview

_LATE: Final = "late"
#: Seconds after which, at the latest, the scoreboard shows what the handler has received and sent.
_SHOWN_WITHIN: Final = 0.25


class Piece:
    """What is left of one send in the queue."""

    __slots__ = ("done", "finished", "push", "view")

    def __init__(
        self,
        view: memoryview,
        done: int,
        push: bool,
        finished: asyncio.Future[object],
    ) -> None:
        self.view = view
        self.done = done  # bytes gone
        self.push = push
        self.finished = finished  # with what stopped it; None: all is gone


class AsyncSender(Exchange):
    """The base of `AsyncExchange`: what concerns the loop, and sending."""

    __slots__ = (
        "_came_in",
        "_loop",
        "_out",
        "_reactor",
        "_unsent",
        "_unshown",
        "_unshown_since",
        "_waiting_since",
        "_went_out",
    )

    def __init__(self, sock: socket.socket, *, assignment: Assignment | None = None) -> None:
        super().__init__(sock, assignment=assignment)
        self._reactor = self._assignment.reactor
        self._loop = asyncio.get_running_loop() if self._reactor is None else self._reactor.loop
        self._out: list[Piece] | None = None  # the writer is registered while there are any
        self._unsent: tuple[Data, int] | None = None  # an unfinished send's data, and bytes gone
        self._waiting_since = 0.0  # for the idle timeout
        # Bytes that the scoreboard is yet to show: writing it takes longer than counting.
        self._came_in = self._went_out = 0
        self._unshown = False
        self._unshown_since = 0

    @property
    def bytes_sent(self) -> int:
        """As `Exchange.bytes_sent`, with what the scoreboard does not show yet."""
        return super().bytes_sent + self._went_out

    def _received(self, count: int) -> None:
        self._came_in += count
        if not self._unshown:
            self._show_soon()
        if self._receives >= 0:
            self._count_receive()

    def _show_soon(self) -> None:
        self._unshown = True
        self._unshown_since = monotonic_ns()
        if self._reactor is None:
            self._loop.call_later(_SHOWN_WITHIN, self._show)
        else:
            self._reactor.show_soon(self)

    def _show(self) -> None:
        """Have the scoreboard show what has come and gone."""
        if self._unshown:
            self._unshown = False
            if self._reactor is not None:
                self._reactor.shown(self)
            record = self._record
            record[BYTES_IN] += self._came_in
            record[BYTES_OUT] += self._went_out
            record[ACTIVE_AT] = max(record[ACTIVE_AT], self._unshown_since)
            self._came_in = self._went_out = self._unshown_since = 0

    def _send_at_once(self, data: Data) -> int | None:
        """Send what the kernel takes now; return how much, None when that is all.

        The usual send: the handler's own, of bytes, with nothing before it.  -1: not such a one.
        """
        if (
            type(data) is not bytes
            or not self._life.sends
            or self._out
            or self._unsent is not None
            or self._tls is not None
            or (self._assignment.resumable and handling.get() is not self)
        ):
            return -1
        if not self._ledger.sent:
            self._ledger.sending()
        try:
            done = self._sock.send(data)
        except (BlockingIOError, InterruptedError):
            return 0
        except OSError as error:
            raise self._failed(error, "send") from error
        self._went_out += done
        if not self._unshown:
            self._show_soon()
        return None if done == len(data) else done

    async def _send_rest(self, data: Data, done: int, timeout: float | None) -> None:
        """Send `data` from `done` on, after the sends before it; -1: nothing has been tried yet."""
        if not self._life.sends:
            await self._refuse("send")
        view = memoryview(data).cast("B")
        limit = None if timeout is None else check_seconds(timeout)
        end = time.monotonic() + limit if limit else None
        push = self._assignment.resumable and handling.get() is not self
        if push:
            self._ledger.push_begins()
        elif not self._ledger.sent:
            self._ledger.sending()
        if done < 0:
            done = self._resume_at(data)
            if not self._out:
                try:
                    done += self._send_some(view[done:] if done else view)
                except OSError as error:
                    self._push_over(push)
                    raise self._failed(error, "send", done) from error
        if done == view.nbytes and not self._owing():
            self._push_over(push)
            return
        if limit == 0:
            self._push_over(push)
            self._unsent = (data, done)
            raise self._unfinished("send", view.nbytes, limit, end, done)
        piece = Piece(view[done:], done, push, self._loop.create_future())
        if not await self._queue(piece, end):
            self._unsent = (data, piece.done)
            raise self._unfinished("send", view.nbytes, limit, end, piece.done)

    async def _refuse(self, operation: str) -> Never:
        """Raise the exception for an operation on a connection that is over."""
        await self._raise(self._refusal(operation))

    async def _raise(self, error: BaseException) -> Never:
        """Raise it; a handler that the server has given up is suspended here for good."""
        while self._assignment.abandoned:
            await self._loop.create_future()
        raise error

    def _owing(self) -> bool:
        """Whether TLS has encrypted something that the kernel has not taken yet."""
        return self._tls is not None and bool(self._tls.pending)

    def _resume_at(self, data: Data) -> int:
        """Return how much of `data` went out when its send did not finish."""
        if self._unsent is None:
            return 0
        (before, done), self._unsent = self._unsent, None
        return done if before is data or before == data else 0

    def _send_some(self, view: memoryview) -> int:
        try:
            count = self._sock.send(view)
        except (BlockingIOError, InterruptedError):
            return 0
        self._gave(count)
        return count

    def _push_over(self, push: bool) -> None:
        if push:
            self._ledger.push_ends()

    async def _queue(self, piece: Piece, end: float | None) -> bool:
        """Wait until `piece` has gone out behind what is queued before it.

        Returns False when it has not at `end`.  A piece that is given up is taken out of the queue,
        but for one that is cancelled when part of it has gone: its rest still goes out, in its
        turn, so that what comes after it does not stand in the middle of a message.
        """
        if not self._out:
            self._out = []
            self._loop.add_writer(self._fd, self._on_writable)
        self._out.append(piece)
        self._waiting_since = time.monotonic()
        timer = None
        if end is not None:
            timer = self._call_at(end, settle, piece.finished, _LATE)
        try:
            stopped_by = await piece.finished
        except asyncio.CancelledError:
            if not piece.done:
                self._drop(piece)
            else:
                piece.view = memoryview(bytes(piece.view))  # the caller may now change its own
            raise
        finally:
            if timer is not None:
                timer.cancel()
        if stopped_by is None:
            return True
        self._drop(piece)
        if isinstance(stopped_by, SocketkeepError):
            raise type(stopped_by)(stopped_by.reason, **self._context("send", piece.done))
        if isinstance(stopped_by, OSError):
            raise self._failed(stopped_by, "send", piece.done) from stopped_by
        return False

    def _on_writable(self) -> None:
        out = self._out
        while out:
            piece = out[0]
            try:
                count = self._send_some(piece.view) if piece.view or self._owing() else 0
            except OSError as error:
                self._stop_senders(error)
                return
            piece.done += count
            if count < piece.view.nbytes or self._owing():
                piece.view = piece.view[count:]
                return
            self._drop(piece)
            settle(piece.finished, None)

    def _drop(self, piece: Piece) -> None:
        """Take `piece` out of the queue, if it is still there."""
        if not self._out or piece not in self._out:
            return
        self._out.remove(piece)
        self._push_over(piece.push)
        if not self._out:
            self._loop.remove_writer(self._fd)
            self._queue_emptied()

    def _queue_emptied(self) -> None:
        """All that was queued has gone, or been given up."""

    def _stop_senders(self, error: SocketkeepError | OSError) -> None:
        """Empty the queue, and tell those who wait for it why."""
        for piece in tuple(self._out or ()):
            self._drop(piece)
            settle(piece.finished, error)

    def _call_at(
        self, moment: float, callback: Callable[..., object], *args: object
    ) -> asyncio.TimerHandle:
        return call_at(self._loop, moment, callback, *args)

    def _unfinished(
        self,
        operation: str,
        wanted: int | None,
        limit: float | None,
        end: float | None,
        done: int | None = None,
    ) -> WouldBlock | TimedOut:
        """Return the error for an operation whose limit does not let it go on."""
        done = self._buffer.size if done is None else done
        context = self._context(operation, done, wanted)
        if end is None or limit is None:
            return WouldBlock(**context)
        context["elapsed"] = time.monotonic() - end + limit
        context["limit"] = limit
        return TimedOut(**context)
