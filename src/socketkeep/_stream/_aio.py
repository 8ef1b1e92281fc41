"""`AsyncConnection`: the verbs of one stream for async code, on asyncio and uvloop.

The connection owns its non-blocking socket; no transport and no stream of asyncio's is between.
The reader stays registered with the loop.  When the descriptor becomes readable and a task waits,
the task is resumed at once, and receives; when none waits the reader is taken out, so that the
bytes stay in the kernel: back-pressure, and next to no read-ahead to carry along when the
connection is moved.

Nothing is awaited between taking bytes from the kernel and putting them into the buffer, so that a
task that is cancelled at any await loses none.

A send tries send(2) at once, and only what the kernel does not take is queued, behind the sends
before it.  Each sender waits until its own bytes are gone, so the queue is as long as the tasks
that send at once; a sender that is cancelled leaves at most the rest of a message begun.
"""
# ruff: noqa: A002 - `max` is the word for a bound; the builtin is not used here

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Never, Self, TypeAlias, TypeVar, cast

from socketkeep import _native
from socketkeep._base._errors import (
    Busy,
    Closed,
    LimitExceeded,
    Malformed,
    Released,
    SocketkeepError,
)
from socketkeep._stream._async_steps import call_at, drive, settle
from socketkeep._stream._async_waiter import Turn, make_waiter
from socketkeep._stream._closing import LINGER, draining, reset
from socketkeep._stream._committed import pack_state
from socketkeep._stream._core import CHUNK
from socketkeep._stream._framing import (
    ByteOrder,
    Prefix,
    check_bound,
    check_separator,
    frame,
    line_taker,
    netstring,
    prefix_size,
    take_frame,
    take_netstring,
    take_until,
)
from socketkeep._stream._lease import Hooks, Lease, Leaving, Order, handling
from socketkeep._stream._lifecycle import Detached, LifecycleEvent, State
from socketkeep._stream._modes import Blocking, Deadline, check_seconds
from socketkeep._stream._record import ACTIVE_AT, WAITING
from socketkeep._stream._shell import AT_ONCE, NAME_TAKEN, Data, Piece, Shell, Span, in_c
from socketkeep._stream._waiting import Steps, Want, earlier, within

if TYPE_CHECKING:
    import ssl

    import anyio.abc

    from socketkeep._stream._transfer import Transfer

T = TypeVar("T")
Receiving: TypeAlias = Coroutine[Any, Any, bytes]

_BLOCKING: Final = Blocking()
_FOR_EVER: Final[Span] = (None, None)
_CLOSED: Final = Closed()  # what is raised is a new one each time, see `_queue`
_OUT_OF_TIME: Final = Closed("ended: the server's time for it to finish is over")
#: After so many receives in a row that did not wait, because the peer sends faster than it is
#: dealt with, the others on the loop get a turn.  A turn at each would slow quick peers down.
_HELPINGS: Final = 8
#: After one that brought so many bytes they get it at once: that may be thousands of messages.
_LARGE_HELPING: Final = 16384

# What a wait has ended with.
_READY: Final = 0
_LOOK_AGAIN: Final = 1  # the connection has ended, or the server has said something
_TIMED_OUT: Final = 2
_LATE: Final = "late"


class _Telling:
    """In place of a future: tells at once whether a push has gone out."""

    __slots__ = ("_told", "timer")

    def __init__(self, told: Callable[[bool], None]) -> None:
        self._told: Callable[[bool], None] | None = told
        self.timer: asyncio.TimerHandle | None = None

    def done(self) -> bool:
        return self._told is None

    def set_result(self, stopped_by: object) -> None:
        if self.timer is not None:
            self.timer.cancel()
        told, self._told = self._told, None
        if told is not None:
            told(stopped_by is None)


class _Queued:
    """A send in the queue; `steps` sends what is left of it.

    finished: with what has stopped it, None: all is gone.
    """

    __slots__ = ("finished", "piece", "steps")

    def __init__(
        self, piece: Piece, steps: Steps[None], finished: asyncio.Future[object] | _Telling
    ) -> None:
        self.piece = piece
        self.steps = steps
        self.finished = finished


class AsyncConnection(Shell):
    """A connected stream socket, TCP or Unix, for async code.

    It is to be made, and used, in the thread of a running loop.

    Operations take `timeout`, seconds for the whole operation: None for as long as it takes, 0 not
    to wait.  When one raises `TimedOut` or `WouldBlock`, or is cancelled, no byte is lost: received
    bytes stay in the buffer.  After an error, a `send` of the same data continues with its first
    unsent byte; a cancelled send of which a part has gone out is completed in the background, so
    that the stream is not torn, and one of which nothing has is forgotten.

    One task may receive while others send: sends go out whole, in the order they were called.

    Args:
        sock: A connected socket.  The connection owns it from here on, and makes it non-blocking.
        inherit: Whether forked children keep it, see `inherit`.

    Raises:
        Closed: By every operation, after `close` and when a limit of the server's ended the
            connection.
        Released: By every operation, after `release`.
        PeerReset: By every operation, once the peer has reset the connection.
        WouldBlock: By every operation that cannot finish at once, with `timeout` 0.
        TimedOut: By every operation that does not finish in its time.
        Busy: By a receive, when another task receives.
        Detached: By a receive, when the server moves the connection.
    """

    __slots__ = (
        "_check_timer",
        "_deadline_timer",
        "_expired",
        "_loop",
        "_order",
        "_out",
        "_waiter",
    )

    def __init__(
        self,
        sock: socket.socket,
        *,
        inherit: bool = False,
        lease: Lease | None = None,
        hooks: Hooks | None = None,
    ) -> None:
        super().__init__(sock, inherit, lease, hooks)
        reactor = self.hooks.reactor
        self._loop = asyncio.get_running_loop() if reactor is None else reactor.loop
        self._out: list[_Queued] | None = None  # the writer is registered while there are any
        self._waiter = make_waiter(self._loop)
        self._order: Order | None = None
        self._expired = False  # the order's deadline has passed
        self._deadline_timer: asyncio.TimerHandle | None = None
        self._check_timer: asyncio.TimerHandle | None = None
        self._waiter.ordered = self._inflow is not None
        self.begin_tending()

    def begin_tending(self) -> None:
        """Have the loop look after limits and parking.  For the server."""
        first = earlier(self.lease.idle_timeout, self.lease.park_after)
        self._waiter.tended = first is not None
        if self._deadlines is not None:
            self._deadline_changed()
        elif first is not None:
            self._check_timer = self._loop.call_later(first, self._check_timers)

    def end_tending(self) -> bool:
        """Take `begin_tending` back; return whether there was anything to it.  For the server."""
        tended = self._check_timer is not None
        self._cancel_timers()
        return tended

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    @in_c("async recv")
    def recv(self, max: int = CHUNK, *, timeout: float | None = None) -> Receiving:
        """Return what has come, waiting for the first byte; b"" at the peer's EOF.

        Args:
            max: The bytes that are returned at most.
            timeout: Seconds, None for as long as it takes.
        """
        if max < 1:
            check_bound(max)
        take = self.core.buffer.take
        return self._receive("recv", take, max, None, timeout, bytes, straight=True)

    @in_c("async send")
    async def send(self, data: Data, *, timeout: float | None = None) -> None:
        """Send all of `data`, waiting as long as the peer does not read.

        It returns when the system has taken the last byte.  That the peer has got it is not
        promised.

        Args:
            data: The bytes.
            timeout: Seconds, None for as long as it takes.

        Raises:
            PeerClosed: The peer takes no more.
        """
        core = self.core
        if not core.life.sends:
            await self._refuse("send")
        span = _FOR_EVER if timeout is None else self._span(timeout)
        push = self.lease.resumable and handling.get() is not self
        if push:
            core.ledger.push_begins()
        elif self._gathered is not None and not self._waiter.claimed and self._keeps_back(data):
            return
        queued = False
        try:
            piece = self._begin_send(data, push, waits=bool(self._out))
            if piece is None:
                return
            queued = span != AT_ONCE
        finally:
            if push and not queued:
                core.ledger.push_ends()
        if not (queued and await self._queue(piece, self._sending(piece), span[1])):
            self._keep_rest(data, piece)
            done = max(0, piece.done - core.transport.owed)
            raise self._unfinished("send", done, piece.done + len(piece.view), span)

    async def reply(
        self, data: Data, state: object = None, *, timeout: float | None = None
    ) -> None:
        """Send `data` and commit, in one: all received so far is dealt with by this answer.

        `Connection.reply` says what is promised.  A reply that is cancelled when some of it has
        gone is completed in the background, and the next commit or reply is to deal with the
        message.

        Args:
            data: The answer.  It may be empty: then it is a commit.
            state: The state to go on from, as for `commit`.
            timeout: Seconds, None for as long as it takes.

        Raises:
            SocketkeepError: What `send` and `commit` raise.
        """
        packed = None if state is None else pack_state(state, "reply")
        span = _FOR_EVER if timeout is None else self._span(timeout)
        if not self.core.life.sends:
            await self._refuse("send")
        piece = self._begin_send(data, False, waits=bool(self._out), follows=packed)
        if piece is None:
            self._committed(packed)
            return
        steps = self._replying(piece, packed)
        try:
            if span != AT_ONCE and await self._queue(piece, steps, span[1]):
                return
        except asyncio.CancelledError:
            self._give_up_reply(piece)
            raise
        self._keep_rest(data, piece)
        raise self._unfinished("send", piece.done, piece.done + len(piece.view), span)

    def _replying(self, piece: Piece, packed: bytes | None) -> Steps[None]:
        """Send the rest of a reply, and commit before anything else goes out."""
        yield from self._sending(piece)
        if self._replies is not None:
            self._replies.unfinished = False
        if not piece.abandoned:
            self._committed(packed)

    async def reply_but(self, ahead: Callable[[], bytes], data: bytes, packed: bytes) -> None:
        """Reply as `reply` does, but for the last bytes that were taken, which `ahead` returns.

        packed: the state, encoded.  For our own protocols, when nothing is going out.
        """
        if not self.core.life.sends:
            await self._refuse("send")
        with self._unread_again(ahead()):
            piece = self._begin_send(data, False, follows=packed)
            if piece is None:
                self._committed(packed)
        if piece is not None:
            await self._queue(piece, self._replying_but(ahead, piece, packed), None)

    def _replying_but(self, ahead: Callable[[], bytes], piece: Piece, packed: bytes) -> Steps[None]:
        yield from self._sending(piece)
        with self._unread_again(ahead()):
            self._committed(packed)

    def _give_up_reply(self, piece: Piece) -> None:
        """Note that the handler goes on without its reply: what it receives now is none of that."""
        piece.abandoned = True
        replies = self._replies
        if replies is not None and replies.unfinished and not (piece.waits or piece.done):
            replies.withdraw()

    async def complete_reply(self) -> None:
        """Do what a worker that died has left undone of its last reply.

        For the server, before the handler is called.  Raises Unfit when what it left cannot be, and
        what `send` raises.
        """
        left = self._left_of_reply()
        if left is not None:
            piece = self._begin_send(left.data, False)
            if piece is not None:
                await self._queue(piece, self._sending(piece), None)
            self._reply_completed(left)

    async def _send_rest(self, data: Data, done: int) -> None:
        """Go on with a send that the compiled core has begun: the kernel has taken so much."""
        piece = Piece(memoryview(data)[done:], done, False)
        await self._queue(piece, self._sending(piece), None)

    async def _send_failed(self, error: OSError) -> Never:
        """Raise what a send has met that the compiled core has tried."""
        raise self._failed(error, "send") from error

    async def start_tls(
        self,
        context: ssl.SSLContext | None = None,
        *,
        server_side: bool = False,
        server_hostname: str | None = None,
        timeout: float | None = None,
    ) -> None:
        """Go on by TLS: every verb from here on is of what TLS protects.

        As `Connection.start_tls`, whose arguments and errors it has.  After TimedOut, WouldBlock or
        a cancellation calling it again goes on with the handshake.  A send that is cancelled when
        some of it is encrypted is completed in the background.
        """
        with self._claimed("start_tls"):
            span = self._span(timeout)
            steps = self._tls_steps(context, server_side, server_hostname, span != AT_ONCE)
            await self._go_through(steps, "start_tls", None, span)

    async def send_eof(self) -> None:
        """Tell the peer that nothing more will be sent; receiving goes on.  `close` is still due.

        What is queued goes out first.  The peer sees EOF whoever else holds the socket.
        """
        await self.shutdown(socket.SHUT_WR)

    async def shutdown(self, how: int) -> None:
        """End a direction, for every holder of the socket.

        Args:
            how: socket.SHUT_RD, SHUT_WR or SHUT_RDWR.
        """
        if self.core.life.over:
            raise self._refusal("shutdown")
        if how != socket.SHUT_RD:
            await self._send_gathered()
            self.core.become(LifecycleEvent.END_WRITING)
            await self._flush(None)
            self.core.transport.finish()
            await self._flush(None)
        if self.core.life.over:
            raise self._refusal("shutdown")
        try:
            self.core.sock.shutdown(how)
        except OSError as error:
            raise self._failed(error, "shutdown") from error

    async def park(self) -> None:
        """Leave this worker until the peer sends or ends: the handler has nothing to do till then.

        The connection is detached as by a receive that waits for long: `Detached` is raised, and
        the handler is called again, from the top, when something can be received, with `attached`
        "parked" and the committed state; what it has received since the commit comes again.  Sends
        that are queued go out first.

        It returns, and does nothing, where the connection cannot be parked: without a server, in a
        handler that is not resumable, with ``--keep none``, over TLS.  So it does when received
        bytes are unread or the peer's EOF has come: then there is nothing to wait for.

        Raises:
            Detached: The connection is parked.
            NotCommitted: The handler has sent since its last commit, or received more than the
                replay limit.
            Busy: Another task receives.
        """
        if self.core.life.over:
            await self._refuse("park")
        if self._waiter.claimed:
            raise Busy(**self._context("park"))
        self._waiter.claimed = True
        try:
            await self._send_gathered()
            self._apply_order("park")
            while self._check_parking("park"):
                if not self._out:
                    self._depart(parked=True)
                    raise Detached("the connection was detached from this worker, to be parked")
                await self._flush(None)
                if self.core.life.over:
                    raise self._refusal("park")
                self._apply_order("park")
        finally:
            self._waiter.claimed = False

    async def close(self, *, linger: float = LINGER) -> None:
        """End the connection in an orderly way, for every holder of the socket.

        The peer gets all that was sent, then EOF; never a reset, though it may still be sending:
        what it sends is read and discarded until its EOF.  Unread bytes are dropped.  It may be
        called again, and after any other end of the connection.  Cancelled, it closes the
        descriptor at once.

        Args:
            linger: Seconds in all for what the peer still sends; 1 s of silence ends it before.
        """
        if self._is_finished():
            return
        self._finish(LifecycleEvent.CLOSE)
        end = time.monotonic() + linger
        core = self.core
        ended = False
        try:
            await self._flush(end)
            self._stop_senders(_CLOSED)
            ended = await drive(self._ending(end), self.hooks.reactor)
            if not ended:
                ended = await drive(draining(core.sock, end), self.hooks.reactor)
        finally:
            self._let_go_of_loop()  # again, since `_finish`
            self._close_socket(ended)

    @in_c("async end")
    def end_at_once(self) -> bool:
        """Close, where the peer has ended and nothing is to be waited for.  For the server.

        Returns False, and has done nothing, where there is.
        """
        core = self.core
        ready = core.life.peer_ended and not core.life.over and core.transport.direct
        if not ready or self._out or self._gathered:
            return False
        self._finish(LifecycleEvent.CLOSE)
        core.hang_up()
        return True

    async def release(self) -> None:
        """Let go of this process's handle; the connection lives on while another holds one.

        Unread bytes are dropped: take `unread` along if another holder is to go on.

        Raises:
            Busy: Another task is receiving, or a send is not finished.
        """
        if self._is_finished():
            return
        if self.core.life.sends:
            await self._send_gathered()
        if self._waiter.claimed or self._out:
            raise Busy(**self._context("release"))
        self._give_up()

    def _give_up(self, reason: str = "") -> None:
        self._finish(LifecycleEvent.RELEASE, Released(reason))
        self._let_go_of_loop()
        self.core.sock.close()

    async def abort(self) -> None:
        """End the connection at once, for every holder of the socket: the peer gets RST.

        Bytes on their way are lost.  A Unix socket has no RST: there the peer sees EOF, or a reset
        if it was still sending.  May be called again, and after any other end of the connection.
        """
        if self._is_finished():
            return
        self._finish(LifecycleEvent.CLOSE)
        self._let_go_of_loop()
        reset(self.core.sock)

    async def give(self, channel: socket.socket, *, timeout: float | None = None) -> None:
        """Pass the connection to the process that calls `take` at the other end of `channel`.

        As `Connection.give`, whose arguments and errors it has; Busy when another task uses it.
        Cancelled, the connection either was taken, and is `Released` here, or cannot be any more.
        """
        with self._claimed("give"):
            self._unwatch()
            self.core.transport.absorb()
            from socketkeep._stream._transfer import Offer, settled, transfer_of

            offer = Offer(transfer_of(self, _BLOCKING), self.core.sock, channel)
            with settled(offer, self):
                await drive(within(timeout, offer.steps(), "give"))

    @classmethod
    async def take(cls, channel: socket.socket, *, timeout: float | None = None) -> Self:
        """Return the next connection that another process gives over `channel`.

        As `Connection.take`, whose arguments and errors it has, but for the mode: there is none.
        """
        from socketkeep._stream._transfer import taking

        return await drive(within(timeout, taking(channel, cls._build), "take"))

    def byte_stream(self) -> anyio.abc.ByteStream:
        """Return the connection as an `anyio.abc.ByteStream`, for libraries that take one.

        It has `receive`, `send`, `send_eof`, `aclose` and the typed attributes of anyio's socket
        streams, and raises anyio's errors: EndOfStream, ClosedResourceError, BrokenResourceError,
        BusyResourceError.  Both may be used, by turns.  It works on asyncio and uvloop, not on
        trio.

        Raises:
            ModuleNotFoundError: anyio is not installed; it is no dependency of Socketkeep.
        """
        from socketkeep._stream._byte_stream import ConnectionByteStream

        return ConnectionByteStream(self)

    @classmethod
    def _build(cls, sock: socket.socket, transfer: Transfer) -> Self:
        from socketkeep._stream._transfer import lease_of

        conn = cls(sock, lease=lease_of(transfer))
        conn._unsent = transfer.unsent
        if transfer.write_ended:
            conn.core.become(LifecycleEvent.END_WRITING)
        return conn

    # The verbs for messages.  `Connection` has the same: scripts/sync_verbs.py makes its text of
    # this one, from here to the end that is marked.
    # verbs: begin

    async def recv_into(
        self, buffer: bytearray | memoryview, *, timeout: float | None = None
    ) -> int:
        """Receive into `buffer` as `recv` does; return the number of bytes, 0 at the peer's EOF.

        Args:
            buffer: The place for the bytes; as many as it holds may come.
            timeout: Seconds to wait for the first of them.
        """
        view = memoryview(buffer).cast("B")
        check_bound(view.nbytes)
        take = self.core.buffer.take
        data = await self._receive("recv_into", take, view.nbytes, None, timeout, bytes)
        view[: len(data)] = data
        return len(data)

    def recv_exactly(self, count: int, *, timeout: float | None = None) -> Receiving:
        """Return exactly `count` bytes.

        Args:
            count: The number of bytes.
            timeout: Seconds for all of them.

        Raises:
            PeerClosed: The peer's EOF comes before; what did come is still unread.
        """
        if count < 0:
            raise ValueError(f"recv_exactly: a number of bytes >= 0, not {count}")
        take = self.core.buffer.take_exactly
        cut_short = partial(self._cut_short, "recv_exactly", count)
        return self._receive("recv_exactly", take, count, count, timeout, cut_short)

    def recv_until(
        self, separator: bytes, max: int = CHUNK, *, timeout: float | None = None
    ) -> Receiving:
        """Return the bytes before `separator`, which is received too, and dropped.

        After an error what did come is still unread.

        Args:
            separator: The bytes that end the message.
            max: The bytes that may stand before it.
            timeout: Seconds for all of them.

        Raises:
            LimitExceeded: There are more than `max`.
            PeerClosed: The peer's EOF comes before the separator.
        """
        check_separator(separator, max)
        take = partial(take_until, self.core.buffer, separator)
        cut_short = partial(self._cut_short, "recv_until", None)
        return self._receive("recv_until", take, max, None, timeout, cut_short)

    def lines(
        self,
        max: int = CHUNK,
        *,
        keepends: bool = False,
        commit: bool = False,
        timeout: float | None = None,
    ) -> AsyncIterator[bytes]:
        r"""Iterate, with ``async for``, over the lines that come, until the peer's EOF.

        A line ends with b"\n" or b"\r\n".  What stands unterminated before EOF is a line too.
        After an error or a cancellation
        the same iterator goes on.

        Args:
            max: The bytes that a line may have before its newline.
            keepends: Whether the newline is part of the line.
            commit: When the next line is asked for, `commit` the ones before, without state.
            timeout: Seconds for each line.

        Raises:
            LimitExceeded: A line is longer than `max`.
        """
        check_bound(max)
        take = line_taker(self.core.buffer, keepends)
        at_end = partial(self.core.buffer.take, max)
        return _iterate(self, "lines", take, max, at_end, commit, timeout)

    def recv_frame(
        self,
        prefix: Prefix,
        max: int = CHUNK,
        *,
        byteorder: ByteOrder = "big",
        timeout: float | None = None,
    ) -> Receiving:
        """Return a message that stands behind its length.

        After an error what did come is still unread.

        Args:
            prefix: The kind of the length, an unsigned integer: "u8", "u16", "u32" or "u64".  It
                does not count itself.
            max: The bytes that the message may have.
            byteorder: The order of the length's bytes, "big" (network order) or "little".
            timeout: Seconds for the whole message.

        Raises:
            LimitExceeded: A longer message is announced.
            PeerClosed: The peer's EOF comes before the message's end.
        """
        check_bound(max)
        size = prefix_size(prefix, byteorder)
        take = partial(take_frame, self.core.buffer, size, byteorder)
        cut_short = partial(self._cut_short, "recv_frame", None)
        return self._receive("recv_frame", take, max, None, timeout, cut_short)

    def frames(
        self,
        prefix: Prefix,
        max: int = CHUNK,
        *,
        byteorder: ByteOrder = "big",
        commit: bool = False,
        timeout: float | None = None,
    ) -> AsyncIterator[bytes]:
        """Iterate, with ``async for``, over messages as `recv_frame` receives them, until EOF.

        Args:
            prefix: The kind of the length, as for `recv_frame`.
            max: The bytes that a message may have.
            byteorder: The order of the length's bytes, as for `recv_frame`.
            commit: When the next message is asked for, `commit` the ones before, without state.
            timeout: Seconds for each message.

        Raises:
            LimitExceeded: A longer message is announced.
            PeerClosed: EOF comes in the middle of one.
        """
        check_bound(max)
        size = prefix_size(prefix, byteorder)
        take = partial(take_frame, self.core.buffer, size, byteorder)
        at_end = self._at_end_of("frames")
        return _iterate(self, "frames", take, max, at_end, commit, timeout)

    async def send_frame(
        self,
        data: Data,
        prefix: Prefix,
        max: int | None = None,
        *,
        byteorder: ByteOrder = "big",
        timeout: float | None = None,
    ) -> None:
        """Send `data` behind its length, as `send` does.

        Args:
            data: The message.
            prefix: The kind of the length, as for `recv_frame`.
            max: The bytes that `data` may have, None for as many as the prefix can say.
            byteorder: The order of the length's bytes, as for `recv_frame`.
            timeout: Seconds for the whole message.

        Raises:
            LimitExceeded: `data` has more; nothing is sent then.
        """
        await self.send(frame(data, prefix, byteorder, max), timeout=timeout)

    def recv_netstring(self, max: int = CHUNK, *, timeout: float | None = None) -> Receiving:
        """Return the content of a netstring, as in ``5:hello,``.

        After an error what did come is still unread.

        Args:
            max: The bytes that it may have.
            timeout: Seconds for all of it.

        Raises:
            LimitExceeded: A longer one is announced.
            Malformed: What comes is no netstring (a length with leading zeros is none).
            PeerClosed: The peer's EOF comes before its end.
        """
        check_bound(max)
        take = partial(take_netstring, self.core.buffer)
        cut_short = partial(self._cut_short, "recv_netstring", None)
        return self._receive("recv_netstring", take, max, None, timeout, cut_short)

    def netstrings(
        self, max: int = CHUNK, *, commit: bool = False, timeout: float | None = None
    ) -> AsyncIterator[bytes]:
        """Iterate, with ``async for``, over netstrings as `recv_netstring` receives them, to EOF.

        Args:
            max: The bytes that one may have.
            commit: When the next one is asked for, `commit` the ones before, without state.
            timeout: Seconds for each of them.

        Raises:
            LimitExceeded: A longer one is announced.
            Malformed: What comes is no netstring.
            PeerClosed: EOF comes in the middle of one.
        """
        check_bound(max)
        take = partial(take_netstring, self.core.buffer)
        at_end = self._at_end_of("netstrings")
        return _iterate(self, "netstrings", take, max, at_end, commit, timeout)

    async def send_netstring(
        self, data: Data, max: int | None = None, *, timeout: float | None = None
    ) -> None:
        """Send `data` as a netstring, as `send` does.

        Args:
            data: The content.
            max: The bytes that `data` may have, None for any number.
            timeout: Seconds for all of it.

        Raises:
            LimitExceeded: `data` has more; nothing is sent then.
        """
        await self.send(netstring(data, max), timeout=timeout)

    # verbs: end

    @contextmanager
    def _claimed(self, operation: str) -> Iterator[None]:
        """Keep other tasks off; raise when the connection is over, or Busy when one is on it."""
        if self.core.life.over:
            raise self._refusal(operation)
        if self._gathered:
            self._send_before_commit()
        if self._waiter.claimed or self._out:
            raise Busy(**self._context(operation))
        self._waiter.claimed = True
        try:
            yield
        finally:
            self._waiter.claimed = False

    # Receiving.

    async def _receive_slowly(
        self,
        operation: str,
        take: Callable[[int], bytes | None],
        bound: int,
        wanted: int | None,
        timeout: float | None,
        at_eof: Callable[[], bytes],
        straight: bool = False,
    ) -> bytes:
        """Receive until `take(bound)` finds in the buffer what it wants, or EOF comes before.

        straight: whatever comes is what is wanted, and need not pass through the buffer.  As
        `_receive` the compiled core serves the normal course of it, and begins it anew where that
        ends.
        """
        core = self.core
        if core.life.over and self._is_over():
            await self._refuse(operation)
        if self._waiter.claimed:
            raise Busy(**self._context(operation))
        if self._order is not None:
            self._apply_order(operation)
        self._waiter.claimed = True
        try:
            if self.hooks.mail is not None or self._order is not None:
                await self._hear_mail(operation)
            if core.buffer.size or wanted == 0:
                data = take(bound)
                if data is not None:
                    return data
            if self._gathered:
                await self._send_gathered(_FOR_EVER if timeout is None else self._span(timeout))
            if timeout is None and self._inflow is None:
                # The usual case: there is no more to look at than whether bytes have come.
                if not self._waiter.watching and self._may_try():
                    data = core.receive(bound) if straight else self._fetch(take, bound, wanted)
                    if data is not None:
                        self._helped(len(data) + core.buffer.size)
                        if not data and straight and core.life.over:
                            await self._hear_end(operation)
                        return data
                    if core.failure is None and not core.life.peer_ended:
                        self._watch()
                waiter, record = self._waiter, core.record
                while (
                    waiter.watching
                    and self._order is None
                    and not core.transport.peeks
                    and not core.life.peer_ended
                    and core.failure is None
                ):
                    # As `_wait`, without a coroutine for each wait.
                    if waiter.tended:
                        waiter.since = time.monotonic()
                    waiter.unwaited = 0
                    waiter.pending = waiter._asyncio_future_blocking = True
                    record[WAITING] = 1
                    try:
                        await Turn((waiter,))
                    finally:
                        waiter.pending = False  # still true if the task was thrown something
                        record[WAITING] = 0
                    if waiter.came != _READY:
                        break
                    data = core.receive(bound) if straight else self._fetch(take, bound, wanted)
                    if data is not None:
                        if not data and straight and core.life.over:
                            await self._hear_end(operation)
                        return data
            span = self._span(timeout)
            steps = self._receiving(operation, take, bound, wanted, span != AT_ONCE)
            data = await self._go_through(steps, operation, wanted, span)
            return at_eof() if data is None else data
        except (LimitExceeded, Malformed) as error:
            raise self._located(error, operation) from None
        finally:
            self._waiter.claimed = False

    _receive = in_c("async message")(_receive_slowly)

    def receive_by(
        self,
        operation: str,
        take: Callable[[int], bytes | None],
        bound: int,
        at_eof: Callable[[], bytes],
        timeout: float | None = None,
    ) -> Receiving:
        """Receive until `take(bound)` finds in the buffer what it wants.  For our own protocols.

        at_eof: called, and its result returned, when the peer's EOF comes before.  What either
        raises is raised, and no byte is lost by it.
        """
        return self._receive(operation, take, bound, None, timeout, at_eof)

    def _may_try(self) -> bool:
        """Return whether a receive only has to see whether bytes have come, and tries that."""
        core = self.core
        return (
            self._order is None
            and not core.life.peer_ended
            and core.failure is None
            and not core.transport.peeks
            and self._tries()
        )

    def _tries(self) -> bool:
        if self._waiter.watching or self._waiter.unwaited >= _HELPINGS:
            return False
        # An attempt shows READ for a moment.  A worker that is killed just then would leave a
        # connection that was clean as one that died in the middle of a message.
        return self.core.ledger.read or self.hooks.shelf is None

    def _helped(self, size: int) -> None:
        self._waiter.unwaited += _HELPINGS if size >= _LARGE_HELPING else 1

    def _order_to_end(self, operation: str) -> Order | None:
        order = self._order
        if order is None:
            return None
        self._apply_order(operation)
        if self._is_to_be_told(order):
            return None  # it is told first
        ends = order.how in ("close", "end") if operation == "start_tls" else self._ends(order)
        return order if ends else None

    async def _refuse(self, operation: str) -> Never:
        """Raise the exception for an operation on a connection that is over."""
        await self._raise(self._refusal(operation))

    async def _hear_end(self, operation: str) -> None:
        """Raise what the server says to a receive at EOF, which is none of the peer's."""
        error = self._refusal_at_end(operation)
        if error is not None:
            try:
                await self._raise(error)
            finally:
                del error

    async def _raise(self, error: BaseException) -> Never:
        """Raise it; a handler that the server has given up is suspended here for good."""
        while self.hooks.abandoned:
            await self._loop.create_future()
        try:
            raise error
        finally:
            del error  # else its traceback, and by that all its handler had, would refer to itself

    # Waiting.

    def _span(self, timeout: float | None) -> Span:
        if timeout is None:
            return _FOR_EVER
        limit = check_seconds(timeout)
        return limit, (time.monotonic() + limit if limit else None)

    async def _go_through(
        self, steps: Steps[T], operation: str, wanted: int | None, span: Span
    ) -> T:
        """Go through the steps, until the time is over; orders and limits end each wait."""
        try:
            want = next(steps)
            while True:
                if want.direction == "write":
                    came = await self._wait_writable(span[1])
                elif want.direction == "pause":
                    self._unwatch()
                    came = await self._wait(earlier(want.until, span[1]))
                    if came == _TIMED_OUT and (span[1] is None or time.monotonic() < span[1]):
                        came = _LOOK_AGAIN
                else:
                    heard = self.hooks.mail is not None or self._order is not None
                    if heard and await self._hear_mail(operation):
                        came = _LOOK_AGAIN  # what was to be heard first may have kept it here
                    else:
                        if not self._waiter.watching:
                            self._watch()
                        came = await self._wait(span[1])
                if came == _TIMED_OUT:
                    raise self._unfinished(operation, self.core.buffer.size, wanted, span)
                want = steps.send(came == _READY)
        except StopIteration as done:
            value: T = done.value
            return value
        except asyncio.CancelledError:
            raise
        except BaseException as error:
            await self._raise(error)

    async def _wait(self, end: float | None) -> int:
        """Wait until `end` for what has been asked to be watched; return what ended the wait."""
        waiter, record = self._waiter, self.core.record
        timer = None if end is None else call_at(self._loop, end, waiter.end, _TIMED_OUT)
        if waiter.tended:
            waiter.since = time.monotonic()
        waiter.unwaited = 0
        waiter.pending = waiter._asyncio_future_blocking = True
        record[WAITING] = 1
        try:
            await Turn((waiter,))
        finally:
            waiter.pending = False  # still true if the task was thrown something
            record[WAITING] = 0
            if timer is not None:
                timer.cancel()
        return waiter.came

    async def _wait_writable(self, end: float | None) -> int:
        fd = self.core.sock.fileno()
        self._loop.add_writer(fd, self._waiter.end, _READY)
        try:
            return await self._wait(end)
        finally:
            if self.core.sock.fileno() >= 0:
                self._loop.remove_writer(fd)

    # Sending.

    async def _flush(self, end: float | None) -> None:
        """Wait until all that is queued has gone out, or given up; until `end` at most."""
        try:
            if not self._out and self.core.transport.flush():
                return
        except OSError:
            return  # the next send tells
        try:
            await self._queue(Piece(memoryview(b""), 0, False), self._flushing(), end)
        except SocketkeepError:
            return  # what cannot be sent has been told to those who sent it

    async def _send_gathered(self, span: Span = _FOR_EVER) -> None:
        """Send what is gathered, waiting for room."""
        if not self._gathered:
            return
        piece = self._begin_send(b"", False, waits=bool(self._out))
        if piece is None:
            return
        if span == AT_ONCE or not await self._queue(piece, self._sending(piece), span[1]):
            self._keep_rest(b"", piece)
            raise self._unfinished("send", 0, len(piece.view), span)

    def _send_before_commit(self) -> None:
        piece = self._begin_send(b"", False, waits=bool(self._out))
        if piece is not None:
            # What the kernel does not take now goes out as a push does: until it has, it counts.
            piece.push = True
            self.core.ledger.push_begins()
            self._put_in_queue(_Queued(piece, self._sending(piece), self._loop.create_future()))

    def push(self, data: bytes) -> Piece | None:
        """Send what comes from elsewhere, behind what is queued.  For the server.

        Returns None when the system has all of it, else what is for `push_rest`.  Raises OSError,
        and Busy when a send of the handler's is not finished.
        """
        if self._unsent is not None:
            raise Busy(**self._context("send"))
        core, resumable = self.core, self.lease.resumable
        if resumable:
            core.ledger.push_begins()
        piece: Piece | None = None
        try:
            if self._out or self._replies is not None:
                piece = self._begin_send(data, True, waits=bool(self._out))
            else:  # as most are
                count = core.send(data, True)
                if count < len(data) or core.transport.pending:
                    piece = Piece(memoryview(data)[count:], count, True)
        except SocketkeepError:
            raise
        except OSError as error:
            raise self._failed(error, "send", 0) from error
        finally:
            if piece is None and resumable:
                core.ledger.push_ends()
        if piece is not None:
            piece.push = resumable
        return piece

    def push_rest(self, piece: Piece, until: float, told: Callable[[bool], None]) -> None:
        """Send the rest of what `push` has returned when there is room.  For the server.

        told: called with True once the system has all of it, with False when none of it can be
        sent, or, at `until`, has been: then none will be.
        """
        telling = _Telling(told)
        self._put_in_queue(queued := _Queued(piece, self._sending(piece), telling))

        def late() -> None:
            if not telling.done() and not piece.done:
                telling.set_result(_LATE)
                self._drop(queued)

        telling.timer = call_at(self._loop, until, late)

    def nudge(self) -> None:
        """Have the receive that waits, or the next one, look at the mail.  For the server."""
        self._waiter.ordered = True
        if self._waiter.pending:
            self._wake()

    async def _hear_mail(self, operation: str) -> bool:
        """Hear what is pushed, and say the service's last word; return whether there was any."""
        mail, order = self.hooks.mail, self._order
        heard = False
        if mail is not None and mail.waiting:
            await mail.hear(self)
            self._waiter.ordered = self._order is not None or self._inflow is not None
            heard = True
        if order is not None and self._is_to_be_told(order):
            await self._say_goodbye(order)
            heard = True
        if heard and self.core.life.over:
            raise self._refusal(operation)
        return heard

    async def _say_goodbye(self, order: Order) -> None:
        """Have the service say its last word; it may receive meanwhile, and close."""
        farewell = self.hooks.farewell
        assert farewell is not None
        self._told = order.why
        self._saying = True
        self._waiter.claimed = False
        try:
            await farewell.say_async(self, Leaving(order.why, Deadline(order.deadline)))
        finally:
            self._waiter.claimed = True
            self._saying = False

    def lose_name(self, name: str, *, close: bool) -> None:
        """Another connection has this name now.  For the server."""
        if not self._unname(name) or not close or self.core.life.over:
            return
        error = self._end(NAME_TAKEN, "")
        self._wake()
        self._stop_senders(error)

    def _put_in_queue(self, queued: _Queued) -> None:
        if not self._out:
            self._out = []
            self._loop.add_writer(self.core.sock.fileno(), self._on_writable)
        self._out.append(queued)

    async def _queue(self, piece: Piece, steps: Steps[None], end: float | None) -> bool:
        """Wait until `piece` has gone out, by `steps`, behind what is queued before it.

        Returns False when it has not at `end`.  A piece that is given up is taken out of the queue,
        but for one that is cancelled when part of it has gone: its rest still goes out, in its
        turn, so that what comes after it does not stand in the middle of a message.
        """
        finished: asyncio.Future[object] = self._loop.create_future()
        queued = _Queued(piece, steps, finished)
        self._put_in_queue(queued)
        self._waiter.since = time.monotonic()
        timer = None
        if end is not None:
            timer = call_at(self._loop, end, settle, finished, _LATE)
        try:
            stopped_by = await finished
        except asyncio.CancelledError:
            if not piece.done:
                self._drop(queued)
            else:
                piece.view = memoryview(bytes(piece.view))  # the caller may now change its own
            raise
        finally:
            if timer is not None:
                timer.cancel()
        if stopped_by is None:
            return True
        self._drop(queued)
        if isinstance(stopped_by, SocketkeepError):
            done = max(0, piece.done)
            raise type(stopped_by)(stopped_by.reason, **self._context("send", done))
        if isinstance(stopped_by, OSError):
            raise self._failed(stopped_by, "send", max(0, piece.done)) from stopped_by
        return False

    def _on_writable(self) -> None:
        while self._out:
            queued = self._out[0]
            try:
                if next(queued.steps, None) is not None:
                    return
            except OSError as error:
                self._stop_senders(error)
                return
            # First: what follows may be that the connection leaves this worker.
            settle(queued.finished, None)
            self._drop(queued)

    def _drop(self, queued: _Queued) -> None:
        """Take it out of the queue, if it is still there."""
        if not self._out or queued not in self._out:
            return
        self._out.remove(queued)
        if queued.piece.push:
            self.core.ledger.push_ends()
        if not self._out:
            self._loop.remove_writer(self.core.sock.fileno())
            self._let_go()

    def _stop_senders(self, error: SocketkeepError | OSError) -> None:
        """Empty the queue, and tell those who wait for it why."""
        for queued in tuple(self._out or ()):
            settle(queued.finished, error)
            self._drop(queued)

    def _reset_after_fork(self) -> None:
        # The loop's epoll is the parent's: what were taken out here would be missing there.
        self.hooks.reactor = None
        self._loop = cast("asyncio.AbstractEventLoop", _ChildsLoop(self))
        self._waiter = make_waiter(self._loop)
        self._deadline_timer = self._check_timer = None
        self._out = None

    def _watch(self) -> None:
        fd = self.core.transport.input_fd
        if self.hooks.reactor is None:
            self._loop.add_reader(fd, self._on_readable)
        else:
            self.hooks.reactor.add_reader(fd, self)
        self._waiter.watching = True

    def _unwatch(self) -> None:
        if self._waiter.watching:
            (self.hooks.reactor or self._loop).remove_reader(self.core.transport.input_fd)
            self._waiter.watching = False

    def _leave_descriptor(self) -> None:
        self._unwatch()

    def _on_readable(self) -> None:
        waiter = self._waiter
        if waiter.pending:
            waiter.end(_READY)
        else:
            self._unwatch()

    def _given_order(self) -> Order | None:
        return self._order

    @property
    def order(self) -> Order | None:
        """The server's order, if it has given one.  For our own protocols."""
        return self._order

    def park_later(self, after: float | None) -> None:
        """Have a receive wait so many seconds until it is parked; None: for ever.

        For our own protocols, some of whose connections have nothing that could be gone on from.
        """
        self.lease = self.lease._replace(park_after=after)
        self._waiter.tended = self._waiter.tended or after is not None
        if after is not None:
            self._deadline_changed()

    def ask(self, order: Order) -> None:
        """Give the server's order: the receive that waits, or the next one, obeys it.

        For the server; to be called in the loop's thread.  A later order replaces an earlier one.
        """
        if self.core.life.over:
            return
        self._order = order
        self._waiter.ordered = True
        if self.hooks.ordered is not None:
            self.hooks.ordered(order)
        if self._deadline_timer is not None:
            self._deadline_timer.cancel()
        self._deadline_timer = call_at(self._loop, order.deadline, self._expire)
        self._let_go()

    @property
    def stops(self) -> bool:
        """Return whether the server is stopping: the next wait for input ends the connection.

        For our own protocols.
        """
        return self._order is not None and self._order.how in ("close", "end")

    def committed_beside_receive(self) -> None:
        """Obey the server's order now, if the commit just made has brought a safe point.

        For our own protocols, in which one task commits while another one waits in a receive.
        """
        self._let_go()

    def leave_if_idle(self) -> bool:
        """Detach it for another worker, if its receive waits at a safe point.  For the server."""
        if not (self._waiter.pending and self._parkable()):
            return False
        self._depart()
        self._wake()
        return True

    @property
    def is_waiting(self) -> bool:
        """Return whether a receive or a send of it waits.  For the server."""
        return self._waiter.pending or bool(self._out)

    @property
    def is_asked(self) -> bool:
        """Return whether the server has given an order.  For the server."""
        return self._order is not None

    def leave_if_asked(self) -> None:
        """Obey the order as far as it can be obeyed now.  For the server, from the loop."""
        self._let_go()

    def _let_go(self) -> None:
        """Detach a connection whose receive waits, if it may be; wake one that may be closed."""
        order = self._order
        if order is None or not self._waiter.pending:
            return
        if order.how == "move" and not self._out and self._movable():
            # At once, not when the task gets its turn: until then nothing may be sent or received.
            self._depart()
            self._wake()
        elif self._ends(order) or self._is_to_be_told(order):
            self._wake()

    def _apply_order(self, operation: str) -> None:
        """Do as the server's order says, at a receive that is not waiting yet."""
        order = self._order
        if order is not None and order.how == "move" and not self._out and self._movable():
            self._depart()
            raise Detached("the connection was detached from this worker")
        if self._expired:
            raise self._out_of_time(order, operation)

    def _depart(self, *, parked: bool = False) -> None:
        self._unwatch()
        self._leave(parked=parked)
        self._cancel_timers()

    def _expire(self) -> None:
        self._expired = True
        self._wake()
        self._stop_senders(_OUT_OF_TIME)

    def _wake(self) -> None:
        self._waiter.end_soon(_LOOK_AGAIN)

    def _deadline_changed(self) -> None:
        if self._check_timer is not None:
            self._check_timer.cancel()
        if not self.core.life.over:
            self._check_timers()

    def _check_timers(self) -> None:
        """End what has been idle for too long, or is past its deadline, park what may be, and see
        when to look again.

        One timer, moved on when it fires: a timer for each wait would cost more than the wait.
        """
        if (late := self._look_at_deadlines("")) is not None:
            self._wake()
            self._stop_senders(late)
            return
        now = time.monotonic()
        waiting = self._waiter.pending or bool(self._out)
        since = max(self.core.record[ACTIVE_AT] / 1e9, self._waiter.since) if waiting else now
        idle, park_after = self.lease.idle_timeout, self.lease.park_after
        if idle is not None and now >= since + idle:
            error = self._end(f"ended: idle for {idle:g} s", "")
            self._wake()
            self._stop_senders(error)
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
        if self._deadlines is not None and not self.core.life.over:
            at = earlier(at, self._deadlines.next)
        if at is not None:
            self._check_timer = call_at(self._loop, at, self._check_timers)

    def _parkable(self) -> bool:
        """Return whether a receive may end in parking.

        It is a safe point then, and nothing else is to happen.
        """
        # Where it is not watched it is paused: what is there is not to be received yet.
        watched = self._waiter.watching
        return self._order is None and watched and not self._out and self._movable()

    def _cancel_timers(self) -> None:
        if self._deadline_timer is not None:
            self._deadline_timer.cancel()
            self._deadline_timer = None
        if self._check_timer is not None:
            self._check_timer.cancel()
            self._check_timer = None
        if not self._waiter.pending:
            self._waiter.forget()

    def _let_go_of_loop(self) -> None:
        self._unwatch()
        self._cancel_timers()
        if self._out:
            self._stop_senders(_CLOSED)

    def _is_finished(self) -> bool:
        # After `Detached` the descriptor is on its way to the next worker: a handler's `finally`
        # that closes the connection must not end it.  Closing already: the first call does it.
        return self.core.life.state in (State.DETACHED, State.CLOSED) or self.core.sock.fileno() < 0

    def _finish(self, event: LifecycleEvent, why: Released | None = None) -> None:
        self.core.become(event, why)
        self._unwatch()
        self.core.transport.let_go()
        self._cancel_timers()
        self._wake()


# iteration: begin
class _AsyncIteration:
    """An iterator, not a generator: a generator would be at its end after the first timeout."""

    __slots__ = (
        "_at_end",
        "_bound",
        "_conn",
        "_due",
        "_operation",
        "_take",
        "_take_one",
        "_timeout",
    )

    def __init__(
        self,
        conn: AsyncConnection,
        operation: str,
        take: Callable[[int], bytes | None],
        bound: int,
        at_end: Callable[[], bytes | None],
        commit: bool,
        timeout: float | None,
    ) -> None:
        self._conn = conn
        self._operation = operation
        self._take_one = take
        self._take = self._take_to_commit if commit else take
        self._bound = bound
        self._at_end = at_end
        self._due = False  # a message has been given, and is to be committed before the next
        self._timeout = timeout

    def __aiter__(self) -> Self:
        return self

    def __anext__(self) -> Receiving:
        conn = self._conn
        if self._due:
            self._due = False
            conn.commit()
        return conn._receive(
            self._operation, self._take, self._bound, None, self._timeout, self._last
        )

    def _take_to_commit(self, bound: int) -> bytes | None:
        message = self._take_one(bound)
        self._due = message is not None
        return message

    def _last(self) -> bytes:
        message = self._at_end()
        if message is None:
            raise StopAsyncIteration
        return message


_iterate: Final = _native.compiled_or(_AsyncIteration, "_AsyncIteration")


# iteration: end


class Backlog:
    """The sends of an adapter, which does not wait: what the kernel does not take is here.

    went: called when some of it has gone.  ended: called with what has stopped it, None when all
    has gone; what was left is dropped.  Its length is what is left, in bytes, without a bound: who
    writes looks at it.
    """

    __slots__ = ("_conn", "_data", "_ended", "_queued", "_went")

    def __init__(
        self,
        conn: AsyncConnection,
        went: Callable[[], None],
        ended: Callable[[SocketkeepError | OSError | None], None],
    ) -> None:
        self._conn = conn
        self._went = went
        self._ended = ended
        self._data = bytearray()
        self._queued: _Queued | None = None

    def __len__(self) -> int:
        return len(self._data)

    @property
    def empty(self) -> bool:
        """Return whether all has gone, what TLS has made of it included."""
        return self._queued is None

    def write(self, data: Data) -> None:
        """Send `data`, behind what is here.  Raises as `AsyncConnection.send` does."""
        conn = self._conn
        core = conn.core
        if not core.life.sends:
            raise conn._refusal("send")
        push = conn.lease.resumable and handling.get() is not conn
        if push:
            core.ledger.push_begins()
        try:
            if not conn._out:
                try:
                    count = core.send(data if type(data) is bytes else memoryview(data), push)
                except OSError as error:
                    raise conn._failed(error, "send") from error
                if count == len(data) and not core.transport.pending:
                    return
                data = memoryview(data)[count:]
            self._data += data
            self._line_up(push)
        finally:
            if push:
                core.ledger.push_ends()

    def cover(self) -> None:
        """Have what is left count as long as it is: what it answers is about to be committed."""
        if self._queued is not None and not self._queued.piece.push:
            self._queued.piece.push = True
            self._conn.core.ledger.push_begins()

    def drop(self) -> None:
        """Forget what is left; nobody is called."""
        self._data.clear()
        queued, self._queued = self._queued, None
        if queued is not None:
            self._conn._drop(queued)

    def _line_up(self, push: bool) -> None:
        conn = self._conn
        ledger = conn.core.ledger
        if not (push or ledger.sent):
            ledger.sending()
        if self._queued is None:
            piece = Piece(memoryview(b""), 0, push)
            finished: asyncio.Future[object] = conn._loop.create_future()
            queued = _Queued(piece, self._steps(piece), finished)
            finished.add_done_callback(partial(self._finish, queued))
            if push:
                ledger.push_begins()
            conn._put_in_queue(queued)
            self._queued = queued
        elif not push and self._queued.piece.push:
            # The handler's own among what is pushed: none of it may be taken for a push's.
            self._queued.piece.push = False
            ledger.push_ends()

    def _steps(self, piece: Piece) -> Steps[None]:
        core, data = self._conn.core, self._data
        while data or core.transport.pending:
            with memoryview(data) as view:
                count = core.send(view, piece.push)
            del data[:count]
            if count:
                self._went()
            if data or core.transport.pending:
                yield Want(core.sock.fileno(), "write")
        self._queued = None

    def _finish(self, queued: _Queued, finished: asyncio.Future[object]) -> None:
        error = finished.result()
        if error is None:
            if self._queued is None:
                self._ended(None)
        elif self._queued is queued:
            self._data.clear()
            self._queued = None
            assert isinstance(error, SocketkeepError | OSError)
            self._ended(error)


class _ChildsLoop:
    """In place of the parent's loop in a forked child: the loop that first uses the connection."""

    __slots__ = ("_conn",)

    def __init__(self, conn: AsyncConnection) -> None:
        self._conn = conn

    def __getattr__(self, name: str) -> object:
        conn = self._conn
        conn._loop = conn._waiter._loop = loop = asyncio.get_running_loop()
        return getattr(loop, name)
