"""`AsyncConnection`: the verbs of one stream for async code, on asyncio and uvloop."""
# ruff: noqa: A002 - `max` is the word for a bound; the builtin is not used here

from __future__ import annotations

import socket
import time
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Final, Self

from socketkeep._base._errors import Busy, Closed, Released, SocketkeepError
from socketkeep._stream._assignment import Assignment, handling
from socketkeep._stream._async_messages import AsyncMessages, Receiving
from socketkeep._stream._async_sender import Data, Piece
from socketkeep._stream._async_steps import drive
from socketkeep._stream._closing import LINGER, draining, end_for_all, end_writing, reset
from socketkeep._stream._exchange import ARRIVED, CHUNK, LOOK_AGAIN
from socketkeep._stream._framing import check_bound
from socketkeep._stream._lifecycle import Detached, Event, State
from socketkeep._stream._modes import Blocking
from socketkeep._stream._record import WAITING
from socketkeep._stream._steps import within

if TYPE_CHECKING:
    import ssl

    import anyio.abc

    from socketkeep._stream._transfer import Parcel

_BLOCKING: Final = Blocking()
_CLOSED: Final = Closed()  # what is raised is a new one each time, see `_queue`


class AsyncConnection(AsyncMessages):
    """A connected stream socket, TCP or Unix, for async code.

    sock: a connected socket; the connection owns it from here on, and makes it non-blocking.
    inherit: whether forked children keep it, see `inherit`.  assignment: given by a server.  To be
    made, and used, in the thread of a running loop.

    Operations take `timeout`, seconds for the whole operation: None for as long as it takes, 0 not
    to wait.  When one raises `TimedOut` or `WouldBlock`, or is cancelled, no byte is lost: received
    bytes stay in the buffer.  After an error, a `send` of the same data continues with its first
    unsent byte; a cancelled send of which a part has gone out is completed in the background, so
    that the stream is not torn, and one of which nothing has is forgotten.

    Raised by every operation: `Closed` after `close` and when a limit of the server's ended the
    connection, `Released` after `release`, `PeerReset`, `TimedOut`, `WouldBlock`; by a receive
    `Busy` when another task receives, and `Detached` when the server moves the connection.  One
    task may receive while others send: sends go out whole, in the order they were called.
    """

    __slots__ = ()

    def __init__(
        self,
        sock: socket.socket,
        *,
        inherit: bool = False,
        assignment: Assignment | None = None,
    ) -> None:
        super().__init__(sock, assignment=assignment)
        self._inherit = inherit

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    async def recv(self, max: int = CHUNK, *, timeout: float | None = None) -> bytes:
        """Return what has come, 1 to `max` bytes, waiting for the first; b"" at the peer's EOF."""
        if (
            timeout is None
            and max >= CHUNK
            and (self._quick or self._tries())
            and not self._life.over
            and not self._receiving
            and not self._buffer.size
        ):  # as `_receive` does it, without a detour by the buffer, and with few calls
            self._receiving = True
            try:
                if not self._quick:
                    data = self._try_once()
                    if data is not None:
                        return data
                came = LOOK_AGAIN
                if self._quick:
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
                    came = waiter.came
                if came == ARRIVED:
                    if not self._ledger.read:
                        self._ledger.reading()
                    try:
                        data = self._source.recv(CHUNK)
                    except OSError as error:
                        self._received_nothing(error)
                    else:
                        if data:
                            self._came_in += len(data)
                            if not self._unshown:
                                self._show_soon()
                            if self._assignment.resumable:
                                if self._receives >= 0:
                                    self._count_receive()
                                self._buffer.pass_by(data)
                        else:
                            self._received_nothing(None)
                        return data
            finally:
                self._receiving = False
        if max < 1:
            check_bound(max)
        return await self._receive("recv", self._buffer.take, max, None, timeout, bytes)

    async def recv_into(
        self, buffer: bytearray | memoryview, *, timeout: float | None = None
    ) -> int:
        """Receive into `buffer` as `recv` does; return the number of bytes, 0 at the peer's EOF."""
        view = memoryview(buffer).cast("B")
        check_bound(view.nbytes)
        take = self._buffer.take
        data = await self._receive("recv_into", take, view.nbytes, None, timeout, bytes)
        view[: len(data)] = data
        return len(data)

    def recv_exactly(self, count: int, *, timeout: float | None = None) -> Receiving:
        """Return exactly `count` bytes.

        Raises PeerClosed when the peer's EOF comes before; what did come is still unread.
        """
        if count < 0:
            raise ValueError(f"recv_exactly: a number of bytes >= 0, not {count}")
        take = self._buffer.take_exactly
        cut_short = partial(self._cut_short, "recv_exactly", count)
        return self._receive("recv_exactly", take, count, count, timeout, cut_short)

    async def send(self, data: Data, *, timeout: float | None = None) -> None:
        """Send all of `data`, waiting as long as the peer does not read.

        Returns when the system has taken the last byte; that the peer has got it is not promised.
        Raises PeerClosed when the peer takes no more.
        """
        if (
            type(data) is bytes
            and self._life.sends
            and not self._out
            and self._unsent is None
            and self._tls is None
            and (not self._assignment.resumable or handling.get() is self)
        ):  # as `_send_at_once`, without the call
            if not self._ledger.sent:
                self._ledger.sending()
            try:
                done = self._sock.send(data)
            except (BlockingIOError, InterruptedError):
                done = 0
            except OSError as error:
                raise self._failed(error, "send") from error
            else:
                self._went_out += done
                if not self._unshown:
                    self._show_soon()
                if done == len(data):
                    return
        else:
            done = -1
        await self._send_rest(data, done, timeout)

    async def start_tls(
        self,
        context: ssl.SSLContext,
        *,
        server_side: bool = False,
        server_hostname: str | None = None,
        timeout: float | None = None,
    ) -> None:
        """Go on by TLS: every verb from here on is of what TLS protects.

        As `Connection.start_tls`, whose errors it raises too.  timeout: seconds, 0 not to wait;
        after TimedOut, WouldBlock or a cancellation calling it again goes on with the handshake.
        A send that is cancelled when some of it is encrypted is completed in the background.
        """
        with self._claimed("start_tls"):
            from socketkeep._stream._async_tls import shake_hands
            from socketkeep._stream._tls import begin_tls, take_early

            tls = begin_tls(self, context, server_side, server_hostname)
            await shake_hands(self, tls, timeout)
            take_early(self, tls)

    async def send_eof(self) -> None:
        """Tell the peer that nothing more will be sent; receiving goes on.  `close` is still due.

        What is queued goes out first.  The peer sees EOF whoever else holds the socket.
        """
        await self.shutdown(socket.SHUT_WR)

    async def shutdown(self, how: int) -> None:
        """End a direction: socket.SHUT_RD, SHUT_WR or SHUT_RDWR, for every holder of the socket."""
        if self._life.over:
            raise self._refusal("shutdown")
        if how != socket.SHUT_RD:
            self._become(Event.END_WRITING)
            await self._flush(None)
            if self._tls is not None:
                self._tls.finish()
                await self._flush(None)
        if self._life.over:
            raise self._refusal("shutdown")
        try:
            self._sock.shutdown(how)
        except OSError as error:
            raise self._failed(error, "shutdown") from error

    async def park(self) -> None:
        """Leave this worker until the peer sends or ends: the handler has nothing to do till then.

        The connection is detached as by a receive that waits for long: `Detached` is raised, and
        the handler is called again, from the top, when something can be received, with `attached`
        "parked" and the committed state; what it has received since the commit comes again.  Sends
        that are queued go out first.

        Returns, and does nothing, where the connection cannot be parked: without a server, in a
        handler that is not resumable, with ``--keep none``, over TLS.  So it does when received
        bytes are unread or the peer's EOF has come: then there is nothing to wait for.

        Raises NotCommitted when the handler has sent since its last commit, or received more than
        the replay limit; Busy when another task receives.
        """
        if self._life.over:
            await self._refuse("park")
        if self._receiving:
            raise Busy(**self._context("park"))
        self._receiving = True
        try:
            self._obey("park")
            while self._check_parking("park"):
                if not self._out:
                    self._depart(parked=True)
                    raise Detached("the connection was detached from this worker, to be parked")
                await self._flush(None)
                if self._life.over:
                    raise self._refusal("park")
                self._obey("park")
        finally:
            self._receiving = False

    async def close(self, *, linger: float = LINGER) -> None:
        """End the connection in an orderly way, for every holder of the socket.

        The peer gets all that was sent, then EOF; never a reset, though it may still be sending:
        what it sends is read and discarded until its EOF, for at most 1 s of silence and `linger`
        seconds in all.  Unread bytes are dropped.  May be called again, and after any other end of
        the connection.  Cancelled, it closes the descriptor at once.
        """
        if self._finished():
            return
        self._finish(Event.CLOSE)
        end = time.monotonic() + linger
        ended = False
        try:
            if self._out or self._tls is not None:
                await self._finish_sending(end)
            ended = not end_writing(self._sock) or self._life.peer_ended
            if not ended:
                ended = await drive(draining(self._sock, end), self._reactor)
        finally:
            if self._watching or self._out:  # again, since `_finish`
                self._let_go_of_loop()
            if ended and self._tls is None:  # TLS has an end of its own, which is not EOF
                self._sock.close()  # both directions have ended, for every holder
            else:
                end_for_all(self._sock)

    async def release(self) -> None:
        """Let go of this process's handle; the connection lives on while another holds one.

        Raises Busy when another task is receiving, or a send is not finished.  Unread bytes are
        dropped: take `unread` along if another holder is to go on.
        """
        if self._finished():
            return
        if self._receiving or self._out:
            raise Busy(**self._context("release"))
        self._give_up()

    def _give_up(self, reason: str = "") -> None:
        self._finish(Event.RELEASE, Released(reason))
        self._let_go_of_loop()
        self._sock.close()

    async def abort(self) -> None:
        """End the connection at once, for every holder of the socket: the peer gets RST.

        Bytes on their way are lost.  A Unix socket has no RST: there the peer sees EOF, or a reset
        if it was still sending.  May be called again, and after any other end of the connection.
        """
        if self._finished():
            return
        self._finish(Event.CLOSE)
        self._let_go_of_loop()
        reset(self._sock)

    async def give(self, channel: socket.socket, *, timeout: float | None = None) -> None:
        """Pass the connection to the process that calls `take` at the other end of `channel`.

        As `Connection.give`, whose errors it raises too; Busy when another task uses it.
        Cancelled, the connection either was taken, and is `Released` here, or cannot be any more.
        """
        with self._claimed("give"):
            if self._peeking is not None:
                self._unwatch()
                self._peeking.absorb()
            from socketkeep._stream._transfer import Offer, parcel_of, settled

            offer = Offer(parcel_of(self, _BLOCKING, self._unsent), self._sock, channel)
            with settled(offer, self):
                await drive(within(timeout, offer.steps(), "give"))

    @classmethod
    async def take(cls, channel: socket.socket, *, timeout: float | None = None) -> Self:
        """Return the next connection that another process gives over `channel`.

        As `Connection.take`, whose errors it raises too, but for the mode, which it has none of.
        """
        from socketkeep._stream._transfer import taking

        return await drive(within(timeout, taking(channel, cls._build), "take"))

    def byte_stream(self) -> anyio.abc.ByteStream:
        """Return the connection as an `anyio.abc.ByteStream`, for libraries that take one.

        It has `receive`, `send`, `send_eof`, `aclose` and the typed attributes of anyio's socket
        streams, and raises anyio's errors: EndOfStream, ClosedResourceError, BrokenResourceError,
        BusyResourceError.  Both may be used, by turns.  On asyncio and uvloop; not on trio.

        Raises ModuleNotFoundError without anyio, which is no dependency of Socketkeep.
        """
        from socketkeep._stream._byte_stream import ConnectionByteStream

        return ConnectionByteStream(self)

    @classmethod
    def _build(cls, sock: socket.socket, parcel: Parcel) -> Self:
        from socketkeep._stream._transfer import assignment_of

        conn = cls(sock, assignment=assignment_of(parcel))
        conn._unsent = parcel.unsent
        if parcel.write_ended:
            conn._become(Event.END_WRITING)
        return conn

    def _finished(self) -> bool:
        # After `Detached` the descriptor is on its way to the next worker: a handler's `finally`
        # that closes the connection must not end it.  Closing already: the first call does it.
        return self._life.state in (State.DETACHED, State.CLOSED) or self._sock.fileno() < 0

    def _finish(self, event: Event, why: Released | None = None) -> None:
        self._become(event, why)
        self._unwatch()
        if self._peeking is not None:
            self._peeking.let_go()
            self._input_fd = self._fd
        self._cancel_timers()
        self._wake()

    def _flushed(self) -> bool:
        """Send what TLS has pending; return whether all has gone, or cannot go at all."""
        try:
            return self._tls is None or self._tls.flush()
        except OSError:
            return True  # the next send tells

    async def _flush(self, end: float | None) -> None:
        """Wait until all that is queued has gone out, or given up; until `end` at most."""
        if not self._out and self._flushed():
            return
        marker = Piece(memoryview(b""), 0, False, self._loop.create_future())
        try:
            await self._queue(marker, end)
        except SocketkeepError:
            return  # what cannot be sent has been told to those who sent it

    async def _finish_sending(self, end: float) -> None:
        """Have all go out that is queued, and what ends the sending by TLS; until `end` at most."""
        await self._flush(end)
        self._stop_senders(_CLOSED)
        if self._tls is not None:
            self._tls.finish()
            await self._flush(end)
            self._stop_senders(_CLOSED)
            self._tls.hear_no_more()

    def _let_go_of_loop(self) -> None:
        self._unwatch()
        self._cancel_timers()
        if self._out:
            self._stop_senders(_CLOSED)
