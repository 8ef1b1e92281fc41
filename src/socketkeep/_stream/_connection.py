"""`Connection`: the verbs of one stream for sync code, in each of the three modes.

A receive waits with poll(2) before it calls recv(2), so that it passes by the server's wake
descriptor, and a client that never pauses cannot keep the connection from hearing the server's
order.  The compiled core tries recv(2) first, a few times in a row: there an attempt in vain costs
no exception.
"""
# ruff: noqa: A002 - `max` is the word for a bound; the builtin is not used here

from __future__ import annotations

import math
import select
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import TYPE_CHECKING, Final, Never, Self, TypeVar

from socketkeep import _native
from socketkeep._base._errors import Busy, LimitExceeded, Malformed, Released, TimedOut, WouldBlock
from socketkeep._base._originals import socket_of
from socketkeep._stream._closing import LINGER, draining, end_writing, reset
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
from socketkeep._stream._lease import DrainSignal, Hooks, Lease, Leaving, Mail, Order, handling
from socketkeep._stream._lifecycle import Detached, LifecycleEvent, State
from socketkeep._stream._modes import (
    Blocking,
    Deadline,
    Mode,
    NonBlocking,
    Timeout,
    check_seconds,
    seconds_left,
)
from socketkeep._stream._record import WAITING
from socketkeep._stream._shell import AT_ONCE, NAME_TAKEN, Data, Piece, Shell, Span, in_c
from socketkeep._stream._waiting import (
    READY,
    WOKEN,
    Orders,
    Poller,
    Steps,
    Want,
    drive,
    earlier,
    make_poller,
    within,
)

if TYPE_CHECKING:
    import ssl

    from socketkeep._stream._transfer import Transfer

T = TypeVar("T")

#: Keeps two users of one direction apart; it is hardly ever waited for.
_make_claim: Final = _native.compiled_or(threading.Lock, "Claim")

_BLOCKING: Final = Blocking()
_FOR_EVER: Final[Span] = (None, None)
# How a receive may wait with less care than `_wait` takes; the compiled core knows them.
_CAREFULLY: Final = 0
_UNOFFERED: Final = 1  # for a moment: the keeper is to have the connection first
_FOR_A_MOMENT: Final = 2
_TO_THE_END: Final = 3
#: Milliseconds: how long a receive waits for input before it looks whether it is to be parked,
#: where others may be waiting for its seat, and where there are seats enough.
_SHORT_MOMENT: Final = 1
_LONG_MOMENT: Final = 20
#: Seconds: who waits for so long has time for a long moment.
_MUCH: Final = 0.1
#: Seconds: how long threads of one connection wait for a word to pass between them.
_MOMENT: Final = 0.05
#: Seconds between two looks whether an order that is not obeyed yet has become one to close.
_LOOK_AGAIN: Final = 1.0


class Connection(Shell):
    """A connected stream socket, TCP or Unix, for sync code.

    Operations take `timeout`, seconds for the whole operation, in place of the mode; 0 is as
    NonBlocking, None as the mode says.  When one raises `WouldBlock` or `TimedOut` nothing is
    lost, and calling it again goes on: received bytes stay in the buffer, and a `send` of the same
    data continues with its first unsent byte.

    One thread may receive while others send: the bytes of each send stay together.

    Args:
        sock: A connected socket.  The connection owns it from here on, and sets its file
            description non-blocking for good, whoever else holds it.
        mode: The way in which operations wait.  It belongs to this object alone, not to the
            description.
        inherit: Whether forked children keep it, see `inherit`.

    Raises:
        Closed: By every operation, after `close` and when a limit of the server's ended the
            connection.
        Released: By every operation, after `release`.
        PeerReset: By every operation, once the peer has reset the connection.
        WouldBlock: By every operation that cannot finish at once, in NonBlocking.
        TimedOut: By every operation that does not finish in its time.
        Busy: By a receive, when another thread receives.
        Detached: By a receive, when the server moves the connection.
    """

    __slots__ = (
        "_ends_at",
        "_leaves_at",
        "_limit",
        "_mode",
        "_orders",
        "_patience",
        "_readable",
        "_reading",
        "_sending_lock",
        "_waited",
        "_writable",
    )

    def __init__(
        self,
        sock: socket.socket,
        *,
        mode: Mode = _BLOCKING,
        inherit: bool = False,
        lease: Lease | None = None,
        hooks: Hooks | None = None,
    ) -> None:
        self._mode: Mode = mode
        self._limit: float | None = None
        self._ends_at: float | None = None
        if mode is not _BLOCKING:
            self.mode = mode  # first: after a TypeError the socket is the caller's still
        super().__init__(sock, inherit, lease, hooks)
        self._reading = _make_claim()
        self._sending_lock = _make_claim()
        self._readable: Poller | None = None
        self._writable: Poller | None = None
        self._leaves_at = 0.0  # when it obeys an order to move; 0: there was none yet
        self._waited = 0.0  # seconds in vain, in a moment that is over: not once more for one input
        self._patience = self._find_patience()
        # Where a server has none to look at, Python asks it each time.
        orders = self.hooks.orders
        self._orders = False if orders is None and self.hooks.drain_signal is not None else orders

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def mode(self) -> Mode:
        """The way in which operations wait: `Blocking`, `NonBlocking`, `Timeout` or `Deadline`."""
        return self._mode

    @mode.setter
    def mode(self, mode: Mode) -> None:
        self._limit = mode.seconds if type(mode) is Timeout else seconds_left(mode)
        self._ends_at = mode.at if type(mode) is Deadline else None
        self._mode = mode

    @contextmanager
    def using(self, mode: Mode) -> Iterator[Self]:
        """Set the `mode` for the length of a ``with`` block."""
        before = self._mode
        self.mode = mode
        try:
            yield self
        finally:
            self.mode = before

    @in_c("sync recv")
    def recv(self, max: int = CHUNK, *, timeout: float | None = None) -> bytes:
        """Return what has come, waiting for the first byte; b"" at the peer's EOF.

        Args:
            max: The bytes that are returned at most.
            timeout: Seconds, in place of the mode.
        """
        if max < 1:
            check_bound(max)
        take = self.core.buffer.take
        return self._receive("recv", take, max, None, timeout, bytes, True)

    def _recv_within(self, max: int, span: Span | None) -> bytes:
        """Go on with a `recv` that the compiled core has begun, and left."""
        take = self.core.buffer.take
        return self._receive_slowly("recv", take, max, None, None, bytes, True, span)

    @in_c("sync send")
    def send(self, data: Data, *, timeout: float | None = None) -> None:
        """Send all of `data`, waiting as long as the peer does not read.

        It returns when the system has taken the last byte.  That the peer has got it is not
        promised.

        Args:
            data: The bytes.
            timeout: Seconds, in place of the mode.

        Raises:
            PeerClosed: The peer takes no more.
        """
        if not self._sending_lock.acquire(False):
            self._claim_sending(memoryview(data).nbytes, self._span(timeout))
        core = self.core
        push = core.life.sends and self.lease.resumable and handling.get() is not self
        if push:
            core.ledger.push_begins()
        try:
            if not core.life.sends:
                raise self._refusal("send")
            if not (push or self._gathered is None or self._reading.locked()) and self._keeps_back(
                data
            ):
                return
            piece = self._begin_send(data, push)
            self._send_on(data, piece, self._span(timeout))
        finally:
            if push:
                core.ledger.push_ends()
            self._sending_lock.release()

    def reply(self, data: Data, state: object = None, *, timeout: float | None = None) -> None:
        """Send `data` and commit, in one: all received so far is dealt with by this answer.

        Where the handler is ``@resumable(redeliver=True)``, the server runs with ``--keep crash``
        and the connection is TCP, or has its TLS in the server's edge, the peer gets the answer
        exactly once, though this process is killed at any instant: either nothing of it has gone
        out, and the message comes again, or what is missing of the answer is sent by the next
        worker, which goes on from `state`.

        Otherwise it is `send` and `commit`, and a death between the two has the message come again
        (at least once).  So it is, too, when data and state together have more than 64 KiB (the log
        says so once), and where another process sends on the same connection.

        After TimedOut or WouldBlock call it again with the same data and state.  After
        StateTooLarge or StateNotEncodable nothing has been sent.

        Args:
            data: The answer.  It may be empty: then it is a commit.
            state: The state to go on from, as for `commit`.
            timeout: Seconds, in place of the mode.

        Raises:
            SocketkeepError: What `send` and `commit` raise.
        """
        packed = None if state is None else pack_state(state, "reply")
        span = self._span(timeout)
        if not self._sending_lock.acquire(False):
            self._claim_sending(memoryview(data).nbytes, span)
        try:
            if not self.core.life.sends:
                raise self._refusal("send")
            self._send_on(data, self._begin_send(data, False, follows=packed), span)
            self._committed(packed)
        finally:
            self._sending_lock.release()

    def _commit_on_record(self, packed: bytes | None) -> None:
        with self._sending_lock:  # what another thread pushes goes on record, too
            super()._commit_on_record(packed)

    def complete_reply(self) -> None:
        """Do what a worker that died has left undone of its last reply.

        For the server, before the handler is called.  Raises Unfit when what it left cannot be, and
        what `send` raises.
        """
        left = self._left_of_reply()
        if left is not None:
            self._send_on(b"", self._begin_send(left.data, False), _FOR_EVER)
            self._reply_completed(left)

    def push(self, data: bytes, until: float, begun: Callable[[], None]) -> bool:
        """Send what comes from elsewhere; return False if none of it had gone at `until`.

        For the server, within a receive.  begun: called before it waits.
        Raises what `send` raises, and Busy when a send of the handler's is not finished.
        """
        span = (max(0.0, until - time.monotonic()), until)
        if not self._sending_lock.acquire(timeout=min(span[0], threading.TIMEOUT_MAX)):
            return False
        core, pushes = self.core, self.lease.resumable
        if pushes:
            core.ledger.push_begins()
        try:
            if not core.life.sends:
                raise self._refusal("send")
            if self._unsent is not None:
                raise Busy(**self._context("send"))
            piece = self._begin_send(data, True)
            if piece is not None:
                begun()
            if piece is not None and not piece.done and not core.transport.pending:
                try:
                    self._wait_writable(0, len(data), span)
                except TimedOut:
                    return False
            # What has begun to go out goes out whole.
            self._send_on(data, piece, _FOR_EVER)
            return True
        finally:
            if pushes:
                core.ledger.push_ends()
            self._sending_lock.release()

    def lose_name(self, name: str, *, close: bool) -> BaseException | None:
        """Another connection has this name now; return what is raised for it.  For the server."""
        if not self._unname(name) or not close or self.core.life.over:
            return None
        return self._end(NAME_TAKEN, "recv")

    def use_line(self, mail: Mail | None, drain_signal: DrainSignal, orders: Orders | None) -> None:
        """Be woken by that from here on.  For the server."""
        hooks = self.hooks
        hooks.mail, hooks.drain_signal, hooks.orders = mail, drain_signal, orders
        self._orders = orders
        self._renew_waits()

    def _send_rest(self, data: Data, done: int) -> None:
        """Go on with a send that the compiled core has begun: the kernel has taken so much."""
        self._send_on(data, Piece(memoryview(data)[done:], done, False), self._span(None))

    def _send_failed(self, error: OSError) -> Never:
        """Raise what a send has met that the compiled core has tried."""
        raise self._failed(error, "send") from error

    def start_tls(
        self,
        context: ssl.SSLContext | None = None,
        *,
        server_side: bool = False,
        server_hostname: str | None = None,
        timeout: float | None = None,
    ) -> None:
        """Go on by TLS: every verb from here on is of what TLS protects.

        What was received and is unread is taken for the beginning of the handshake, never for
        plaintext.  In NonBlocking mode calling it again goes on with the handshake.

        From here on EOF without the peer's close_notify is `Truncated`, a PeerClosed, at a receive.
        `send_eof` and `close` send close_notify, then FIN; after `send_eof` a peer of TLS 1.3 may
        send on, one of TLS 1.2 usually takes it for the end of both directions.  `release` and
        `abort` send none.  What of a `send` that timed out is encrypted already goes out before the
        next one.  The connection stays with this process: a server does not move it, `give` refuses
        it, and of two processes that have it over a fork only one may use it.

        Without a context the TLS is the listener's (``tls=…,start-tls=on``), for the client of a
        server.  The server's edge shakes hands then, and has the keys, so that the connection is
        moved, parked and kept as before, and `give` takes it.  A resumable handler commits first.

        Args:
            context: Says whom to trust, and on the server's side has the certificate.
            server_side: Whether this is the server's side of the handshake.
            server_hostname: The host whose certificate the peer is to show.  A context that checks
                it needs it.
            timeout: Seconds, in place of the mode.

        Raises:
            TlsFailure: The handshake failed.  After this only `close` and `abort` are of use.
            CertificateRefused: The peer's certificate will not do.  Likewise.
            PeerClosed: The peer ended the connection in the handshake.  Likewise.
            Busy: Another thread uses the connection, or a send is not finished.
            Closed: It has TLS already.
            ValueError: The context refuses the arguments.
            HandlerError: Without a context: the listener has no TLS.
            NotCommitted: Without a context: the handler has not committed.
            SystemFailure: Without a context: no edge is there, or it ends.
        """
        with self._claimed("start_tls"):
            span = self._span(timeout)
            steps = self._tls_steps(context, server_side, server_hostname, span != AT_ONCE)
            self._go_through(steps, "start_tls", None, span)

    def send_eof(self) -> None:
        """Tell the peer that nothing more will be sent; receiving goes on.  `close` is still due.

        The peer sees EOF whoever else holds the socket.
        """
        self.shutdown(socket.SHUT_WR)

    def shutdown(self, how: int) -> None:
        """End a direction, for every holder of the socket.

        Args:
            how: socket.SHUT_RD, SHUT_WR or SHUT_RDWR.
        """
        if self.core.life.over:
            raise self._refusal("shutdown")
        if how != socket.SHUT_RD:
            self._send_gathered(self._span(None))
        with self._sending_lock:  # not into the middle of another thread's send
            if how != socket.SHUT_RD:
                self.core.become(LifecycleEvent.END_WRITING)
            try:
                if how != socket.SHUT_RD and self.core.transport.tls is not None:
                    self.core.transport.finish()
                    self._flush()
                self.core.sock.shutdown(how)
            except (WouldBlock, TimedOut):
                raise
            except OSError as error:
                raise self._failed(error, "shutdown") from error

    def park(self) -> None:
        """Leave this worker until the peer sends or ends: the handler has nothing to do till then.

        The connection is detached as by a receive that waits for long: `Detached` is raised, and
        the handler is called again, from the top, when something can be received, with `attached`
        "parked" and the committed state; what it has received since the commit comes again.  Pushes
        that are going out go out first, as the mode says.

        It returns, and does nothing, where the connection cannot be parked: without a server, in a
        handler that is not resumable, with ``--keep none``, over TLS.  So it does when received
        bytes are unread or the peer's EOF has come: then there is nothing to wait for.

        Raises:
            Detached: The connection is parked.
            NotCommitted: The handler has sent since its last commit, or received more than the
                replay limit.
            Busy: Another thread receives.
        """
        if not self._reading.acquire(blocking=False):
            raise Busy(**self._context("park"))
        try:
            if self.core.life.over:
                raise self._refusal("park")
            self._send_gathered(self._span(None))
            self._apply_order("park")
            if not self._check_parking("park"):
                return
            self._claim_sending(0, self._span(None))
            self._leave_parked()
        finally:
            self._reading.release()

    def close(self, *, linger: float = LINGER) -> None:
        """End the connection in an orderly way, for every holder of the socket.

        The peer gets all that was sent, then EOF; never a reset, though it may still be sending:
        what it sends is read and discarded until its EOF.  Unread bytes are dropped.  It may be
        called again, and after any other end of the connection.

        Over TLS close_notify goes out first.  It cannot where the peer does not read, the buffers
        are full and there is no time to wait, as in NonBlocking mode: the peer then finds the
        stream truncated.  Who must not risk that closes in another mode, say ``Timeout(5)``.

        Args:
            linger: Seconds in all for what the peer still sends; 1 s of silence ends it before.  In
                NonBlocking mode it takes no time.
        """
        self.end(0.0 if isinstance(self._mode, NonBlocking) else linger)

    @in_c("sync end")
    def end(self, linger: float, *, aside: bool = False) -> socket.socket | None:
        """Close, whatever the mode.  For the server.

        aside: do not wait for the peer's end, but return the socket if that has not come: the
        server then discards what comes until it does.
        """
        if self._is_finished():
            return None
        core = self.core
        core.become(LifecycleEvent.CLOSE)
        by = time.monotonic() + linger
        flushed = self._sending_lock.acquire(False) or self._sending_lock.acquire(timeout=linger)
        alone = flushed and self._reading.acquire(False)
        closed = False
        if alone and core.transport.direct and not self._gathered:
            closed = ended = core.hang_up()
        elif flushed:
            ended = drive(self._ending(by))
        else:
            ended = not end_writing(core.sock) or core.life.peer_ended
        if not alone:
            self._evict(flushed)
        try:
            return None if closed else self._end_on(by - time.monotonic(), aside, ended)
        finally:
            self._sending_lock.release()
            self._reading.release()

    def _end_on(self, linger: float, aside: bool, ended: bool = False) -> socket.socket | None:
        """Go on with an end that the compiled core has begun: FIN is out.

        ended: so has the peer.
        """
        core = self.core
        core.transport.let_go()
        if not ended:
            by = 0.0 if aside else time.monotonic() + linger
            ended = drive(draining(core.sock, by))
        if aside and not ended:
            return socket_of(core.sock.detach())
        self._close_socket(ended)
        return None

    def release(self) -> None:
        """Let go of this process's handle; the connection lives on while another holds one.

        Unread bytes are dropped: take `unread` along if another holder is to go on.

        Raises:
            Busy: Another thread is receiving or sending.
        """
        if self._is_finished():
            return
        if self.core.life.sends:
            self._send_gathered(self._span(None))
        for lock in (self._reading, self._sending_lock):
            if not lock.acquire(blocking=False):
                raise Busy(**self._context("release"))
            lock.release()
        self._give_up()

    def _give_up(self, reason: str = "") -> None:
        self.core.become(LifecycleEvent.RELEASE, Released(reason))
        self.core.transport.let_go()
        self.core.sock.close()

    def abort(self) -> None:
        """End the connection at once, for every holder of the socket: the peer gets RST.

        Bytes on their way are lost.  A Unix socket has no RST: there the peer sees EOF, or a reset
        if it was still sending.  May be called again, and after any other end of the connection.
        """
        if self._is_finished():
            return
        self.core.become(LifecycleEvent.CLOSE)
        self._evict(self._sending_lock.acquire(blocking=False))
        try:
            self.core.transport.let_go()
            reset(self.core.sock)
        finally:
            self._sending_lock.release()
            self._reading.release()

    def give(self, channel: socket.socket, *, timeout: float | None = None) -> None:
        """Pass the connection to the process that calls `take` at the other end of `channel`.

        The unread bytes, the committed state, the mode and what is left of an unfinished send go
        along; the mode and `inherit` of this object do not matter to the wait.  It returns when the
        other process has taken it, which is when this one lets go: from here on it says `Released`.

        After an error the connection is open here and was not taken.  A stream channel is not fit
        for use any more if the time was over in the middle of a message.

        Args:
            channel: A connected Unix socket, SOCK_SEQPACKET (several may then give and take at
                once) or SOCK_STREAM (one giver and one taker), used for nothing else; its own mode
                is of no matter.
            timeout: Seconds, None for as long as it takes.

        Raises:
            TimedOut: It was not taken in time.
            OutOfResources: The other process, or this one, is at its limit of descriptors.
            PeerClosed: The other end has gone.
            Busy: Another thread uses the connection.
            ValueError: The channel is of another kind.
        """
        with self._claimed("give"):
            self.core.transport.absorb()
            from socketkeep._stream._transfer import Offer, settled, transfer_of

            offer = Offer(transfer_of(self, self._mode), self.core.sock, channel)
            with settled(offer, self):
                drive(within(timeout, offer.steps(), "give"))

    @classmethod
    def take(cls, channel: socket.socket, *, timeout: float | None = None) -> Self:
        """Return the next connection that another process gives over `channel`, see `give`.

        It is as it was there: what had been received and not read is read next, `state` is what was
        committed last, decoded as plain data, and it has the same mode.  Whether the giver was sync
        or async plays no part.

        Args:
            channel: The other end of the giver's.
            timeout: Seconds, None for as long as it takes.

        Raises:
            TimedOut: None was given in time.
            PeerClosed: The other end has gone.
            OutOfResources: This process is at its limit of descriptors; the giver has it still.
            SystemFailure: A message came that `give` did not make (EPROTO).
            ValueError: The channel is of another kind.
        """
        from socketkeep._stream._transfer import taking

        return drive(within(timeout, taking(channel, cls._build), "take"))

    @classmethod
    def _build(cls, sock: socket.socket, transfer: Transfer) -> Self:
        from socketkeep._stream._transfer import lease_of, mode_of

        conn = cls(sock, mode=mode_of(transfer), lease=lease_of(transfer))
        conn._unsent = transfer.unsent
        if transfer.write_ended:
            conn.core.become(LifecycleEvent.END_WRITING)
        return conn

    # The verbs for messages: scripts/sync_verbs.py makes this text of that in `_aio.py`.
    # verbs: begin

    def recv_into(self, buffer: bytearray | memoryview, *, timeout: float | None = None) -> int:
        """Receive into `buffer` as `recv` does; return the number of bytes, 0 at the peer's EOF.

        Args:
            buffer: The place for the bytes; as many as it holds may come.
            timeout: Seconds to wait for the first of them.
        """
        view = memoryview(buffer).cast("B")
        check_bound(view.nbytes)
        take = self.core.buffer.take
        data = self._receive("recv_into", take, view.nbytes, None, timeout, bytes)
        view[: len(data)] = data
        return len(data)

    def recv_exactly(self, count: int, *, timeout: float | None = None) -> bytes:
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
    ) -> bytes:
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
    ) -> Iterator[bytes]:
        r"""Iterate over the lines that come, until the peer's EOF.

        A line ends with b"\n" or b"\r\n".  What stands unterminated before EOF is a line too.
        After `WouldBlock` or `TimedOut`
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
    ) -> bytes:
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
    ) -> Iterator[bytes]:
        """Iterate over messages as `recv_frame` receives them, until EOF.

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

    def send_frame(
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
        self.send(frame(data, prefix, byteorder, max), timeout=timeout)

    def recv_netstring(self, max: int = CHUNK, *, timeout: float | None = None) -> bytes:
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
    ) -> Iterator[bytes]:
        """Iterate over netstrings as `recv_netstring` receives them, to EOF.

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

    def send_netstring(
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
        self.send(netstring(data, max), timeout=timeout)

    # verbs: end

    @contextmanager
    def _claimed(self, operation: str) -> Iterator[None]:
        """Keep other threads off; raise when the connection is over, or Busy when one is on it."""
        with ExitStack() as claims:
            for lock in (self._reading, self._sending_lock):
                if not lock.acquire(blocking=False):
                    raise Busy(**self._context(operation))
                claims.callback(lock.release)
            if self.core.life.over:
                raise self._refusal(operation)
            if self._gathered:
                self._send_on(b"", self._begin_send(b"", False), self._span(None))
            yield

    # Receiving.

    def _receive_slowly(
        self,
        operation: str,
        take: Callable[[int], bytes | None],
        bound: int,
        wanted: int | None,
        timeout: float | None,
        at_eof: Callable[[], bytes],
        straight: bool = False,
        span: Span | None = None,
    ) -> bytes:
        """Receive until `take(bound)` finds in the buffer what it wants, or EOF comes before.

        straight: whatever comes is what is wanted, and need not pass through the buffer.  span: of
        a receive that the compiled core has begun, and left.
        """
        core = self.core
        if core.life.over and self._is_over():
            raise self._refusal(operation)
        # The wait is for a sender that holds the lock for a moment, see `_hear_out`.
        if not (self._reading.acquire(False) or self._reading.acquire(timeout=_MOMENT)):
            raise Busy(**self._context(operation))
        try:
            ordered = self._given_order() is not None
            if ordered:
                self._apply_order(operation)
            if core.buffer.size or wanted == 0:
                data = take(bound)
                if data is not None:
                    return data
            if span is None:
                span = self._span(timeout)
            if self._gathered:
                self._send_gathered(span)
            while not ordered and self._comes(span):
                data = core.receive(bound) if straight else self._fetch(take, bound, wanted)
                if data is None:
                    continue
                if not data and straight and (error := self._refusal_at_end(operation)) is not None:
                    raise error
                return data
            steps = self._receiving(operation, take, bound, wanted, span != AT_ONCE)
            data = self._go_through(steps, operation, wanted, span)
            return at_eof() if data is None else data
        except (LimitExceeded, Malformed) as error:
            raise self._located(error, operation) from None
        finally:
            self._reading.release()

    _receive = in_c("sync message")(_receive_slowly)

    def receive_by(
        self,
        operation: str,
        take: Callable[[int], bytes | None],
        bound: int,
        at_eof: Callable[[], bytes],
        timeout: float | None = None,
    ) -> bytes:
        """As `AsyncConnection.receive_by`.  For our own protocols."""
        return self._receive(operation, take, bound, None, timeout, at_eof)

    def _order_to_end(self, operation: str) -> Order | None:
        return None  # the order is heard where a receive waits

    def _tries(self) -> bool:
        return False

    # Sending.

    def _claim_sending(self, size: int, span: Span) -> None:
        """Wait for the lock that keeps the bytes of one send together."""
        limit, end = span
        if end is not None:
            left = min(end - time.monotonic(), threading.TIMEOUT_MAX)
            claimed = self._sending_lock.acquire(timeout=max(0.0, left))
        else:
            claimed = self._sending_lock.acquire(blocking=limit is None)
        if not claimed:
            raise self._unfinished("send", 0, size, span)

    def _send_gathered(self, span: Span) -> None:
        """Send what is gathered, waiting for room."""
        if not self._gathered:
            return
        if not self._sending_lock.acquire(False):
            self._claim_sending(0, span)
        try:
            self._send_on(b"", self._begin_send(b"", False), span)
        finally:
            self._sending_lock.release()

    def _send_before_commit(self) -> None:
        self._send_gathered(self._span(None))

    def _send_on(self, data: Data, piece: Piece | None, span: Span) -> None:
        """Send the rest of `data`, waiting for room."""
        if piece is None:
            return
        size = piece.done + len(piece.view)
        steps = self._sending(piece)
        try:
            while True:
                try:
                    if next(steps, None) is None:
                        return
                except OSError as error:
                    raise self._failed(error, "send", max(0, piece.done)) from error
                self._wait_writable(max(0, piece.done - self.core.transport.owed), size, span)
        except (WouldBlock, TimedOut):
            self._keep_rest(data, piece)
            raise

    def _flush(self) -> None:
        """Send what TLS has pending, waiting for room as the mode says.  Raises OSError."""
        span = self._span(None)
        for _ in self._flushing():
            self._wait_writable(0, 0, span)

    # Waiting.

    def _go_through(self, steps: Steps[T], operation: str, wanted: int | None, span: Span) -> T:
        """Go through the steps, waiting as the mode says, and hear the server meanwhile."""
        try:
            want = next(steps)
            while True:
                ready = True
                if want.direction == "read":
                    self._wait_readable(operation, wanted, span)
                elif want.direction == "write":
                    self._wait_writable(0, 0, span)
                else:
                    ready = self._pause(want, operation, wanted, span)
                want = steps.send(ready)
        except StopIteration as done:
            value: T = done.value
            return value

    def _renew_waits(self) -> None:
        self._readable = self._writable = None
        self._patience = self._find_patience()

    def _reset_after_fork(self) -> None:
        # Other threads' locks were copied as they were, and who would open them is not here.
        self._reading = _make_claim()
        self._sending_lock = _make_claim()
        self._readable = self._writable = None

    def _span(self, timeout: float | None) -> Span:
        if timeout is not None:
            limit = check_seconds(timeout)
        elif self._limit is None:
            return _FOR_EVER
        elif self._ends_at is not None:
            return seconds_left(self._mode), self._ends_at
        else:
            limit = self._limit
        return limit, (time.monotonic() + limit if limit else None)

    def _given_order(self) -> Order | None:
        drain_signal = self.hooks.drain_signal
        if drain_signal is None:
            return None
        return drain_signal.order or drain_signal.asked(self.core.record)

    def _poller(self, fd: int, events: int) -> Poller:
        drain_signal = self.hooks.drain_signal
        return make_poller(fd, events, None if drain_signal is None else drain_signal.wake_fd)

    def _watch_input(self) -> Poller:
        self._readable = poller = self._poller(self.core.transport.input_fd, select.POLLIN)
        return poller

    def _comes(self, span: Span) -> bool:
        """Wait where nothing but input is waited for; return False if there is more to look at.

        What that is, the time that is over or a word of the server's, the slower wait finds out.
        """
        core = self.core
        if not self._patience or span == AT_ONCE:
            return False
        if core.life.over or core.life.peer_ended or core.failure is not None:
            return False
        poller = self._readable or self._watch_input()
        moment = None
        if self._patience < _TO_THE_END:
            moment = None if self._waited else self._moment(span[0])
            if moment is None:
                return False
        record = core.record
        record[WAITING] = 1
        try:
            if moment is None:
                return poller.until(span[1]) == READY
            if moment:
                return self._comes_within(moment, poller)
            found = poller.within(0)
            if not found:
                self._give_way()
            return found == READY
        finally:
            record[WAITING] = 0

    def _moment(self, limit: float | None) -> int | None:
        """Return how many milliseconds a receive may wait without care, None: not at all.

        limit: of the wait in all, in seconds.
        """
        lease, hooks = self.lease, self.hooks
        drain_signal = hooks.drain_signal
        longest = _LONG_MOMENT
        if hooks.backup is not None:
            left = hooks.backup.at - time.monotonic()
            if left <= 0.0:
                return None
            longest = min(longest, math.ceil(left * 1000))
        if drain_signal is not None and lease.park_after is not None and drain_signal.crowded:
            return 0
        if (limit is not None and limit < _MUCH) or (
            drain_signal is not None and drain_signal.full
        ):
            return _SHORT_MOMENT
        if lease.park_after is not None and lease.park_after < _MUCH:
            return _SHORT_MOMENT
        return longest

    def _comes_within(self, moment: int, poller: Poller) -> bool:
        """Wait a moment; return whether the descriptor is ready, and nothing else has come."""
        found = poller.within(moment)
        if not found:
            self._waited = moment / 1000
        return found == READY

    def _find_patience(self) -> int:
        """Return how a receive may wait with less care than `_wait` takes."""
        lease, hooks = self.lease, self.hooks
        if lease.idle_timeout is not None or self.core.transport.peeks:
            return _CAREFULLY
        if self._deadlines is not None or self._inflow is not None:
            return _CAREFULLY
        if hooks.backup is not None:
            return _UNOFFERED
        return _TO_THE_END if lease.park_after is None else _FOR_A_MOMENT

    def _deadline_changed(self) -> None:
        self._patience = self._find_patience()

    def _wait_readable(self, operation: str, wanted: int | None, span: Span) -> None:
        poller = self._readable or self._watch_input()
        self.core.record[WAITING] = 1
        try:
            self._wait(poller, operation, self.core.buffer.size, wanted, span)
        finally:
            self.core.record[WAITING] = 0

    def _pause(self, want: Want, operation: str, wanted: int | None, span: Span) -> bool:
        """Receive nothing for a time; return whether nobody is at the other end any more."""
        drain_signal = self.hooks.drain_signal
        poller = self._poller(want.fd, 0)
        while True:
            self._apply_order(operation)
            until = earlier(want.until, span[1])
            if (order := self._given_order()) is not None:
                poller.ignore_wake()
                until = earlier(until, order.deadline)
            found = poller.until(until)
            if found & READY:
                return True
            if found and drain_signal is not None:
                drain_signal.woken()
                continue
            now = time.monotonic()
            if span[1] is not None and now >= span[1]:
                raise self._unfinished(operation, self.core.buffer.size, wanted, span)
            if want.until is not None and now >= want.until:
                return False

    def _wait_writable(self, done: int, size: int, span: Span) -> None:
        if span == AT_ONCE:
            raise self._unfinished("send", done, size, span)
        if self._writable is None:
            self._writable = self._poller(self.core.sock.fileno(), select.POLLOUT)
        self._wait(self._writable, "send", done, size, span)
        if self.core.life.over:  # closed meanwhile by another thread
            raise self._refusal("send")

    def _wait(
        self, poller: Poller, operation: str, done: int, wanted: int | None, span: Span
    ) -> None:
        """Wait until the descriptor is ready; raise when a limit or the server's order is first."""
        lease, hooks = self.lease, self.hooks
        drain_signal = hooks.drain_signal
        receiving = operation != "send"
        tended = receiving and (lease.park_after is not None or hooks.backup is not None)
        # Not under an order: a peer that asks every moment would keep it from being obeyed.
        if tended and self._given_order() is None and self._comes_soon(poller, span[0]):
            return
        if self._deadlines is not None:
            if (late := self._look_at_deadlines(operation)) is not None:
                raise late
            if self._deadlines.next is None:  # they are met
                self._deadlines = None
                self._patience = self._find_patience()
        since = 0.0
        if lease.idle_timeout is not None or tended:
            since = time.monotonic() - self._waited
        self._waited = 0.0
        while True:
            until = span[1]
            order = self._given_order()
            if tended:
                until = earlier(until, self._check_timers(since, parking=order is None))
            if order is not None:
                poller.ignore_wake()
                self._apply_order_in_wait(order, poller, operation)
                until = earlier(until, order.deadline)
                now = time.monotonic()
                # A drain may yet become a stop, and what is pushed wakes nobody any more.
                until = earlier(until, now + _LOOK_AGAIN)
                if now < self._leaves_at:
                    until = earlier(until, self._leaves_at)
            elif drain_signal is not None and poller.ignores_wake:
                until = earlier(until, time.monotonic() + _MOMENT)
            if self._deadlines is not None:
                until = earlier(until, self._deadlines.next)
            found = poller.until(earlier(until, self._idle_at(since)))
            if found & WOKEN and drain_signal is not None:
                if receiving:
                    drain_signal.woken()
                    self._deliver()
                else:
                    self._hear_out(poller, drain_signal)
            elif found:
                return
            else:
                self._check_time(operation, done, wanted, span, since)
                if tended and order is None:
                    self._park_idle(since)
                if receiving and order is not None and drain_signal is not None:
                    drain_signal.woken()
                    self._deliver()

    def _deliver(self) -> None:
        """Send what is pushed; raise what ends the connection for it."""
        mail = self.hooks.mail
        if mail is not None and (error := mail.deliver(self)) is not None:
            raise error

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

    def _check_timers(self, since: float, *, parking: bool) -> float | None:
        """Entrust the connection to the keeper if it is time.

        Returns when to look again, or when a wait that began at `since` is to end in parking.
        """
        lease, hooks = self.lease, self.hooks
        backup = hooks.backup
        at: float | None = None
        if backup is not None and self.core.transport.moves:
            at = backup.at
            if time.monotonic() >= at:
                at = backup.offer()
                if at is None:
                    hooks.backup = None
                    self._patience = self._find_patience()
                else:
                    backup.at = at
        if parking and lease.park_after is not None and self._movable():
            park_at = self._park_at(since)
            if self._sending_lock.locked():  # a push is going out
                park_at = max(park_at, time.monotonic() + _MOMENT)
            at = earlier(at, park_at)
        return at

    def _park_at(self, since: float) -> float:
        lease, hooks = self.lease, self.hooks
        drain_signal = hooks.drain_signal
        if drain_signal is not None and (drain_signal.crowded or drain_signal.is_awaited()):
            return since  # nothing is readable: that is enough
        return since + (lease.park_after or 0.0)

    def _park_idle(self, since: float) -> None:
        """Leave to be parked if nothing has come for long enough, and this is a safe point."""
        if self.lease.park_after is None or not self._movable():
            return
        if time.monotonic() >= self._park_at(since) and self._sending_lock.acquire(blocking=False):
            self._leave_parked()

    def _give_way(self) -> None:
        """Leave to be parked, since others wait for the seat and nothing has come.

        Not where this is no safe point.
        """
        if self._movable() and self._sending_lock.acquire(blocking=False):
            self._leave_parked()

    def _leave_parked(self) -> Never:
        """Leave, and let go of the lock for sending, unless another thread has ended it."""
        try:
            if self.core.life.over:
                raise self._refusal("park")
            self._leave(parked=True)
        finally:
            self._sending_lock.release()
        raise Detached("the connection was detached from this worker, to be parked")

    def _hear_out(self, poller: Poller, drain_signal: DrainSignal) -> None:
        """Hear, as a sender, what the server has to say, unless a receiver is there to hear it.

        Only who holds the receivers' lock calls `woken`: two threads that poll one descriptor would
        take the word from each other, and the one that came too late would wait on.
        """
        if not self._reading.acquire(blocking=False):
            poller.ignore_wake()  # look from time to time whether the receiver has heard it
            return
        try:
            if self._given_order() is None and poller.within(0) & WOKEN:
                drain_signal.woken()
        finally:
            self._reading.release()

    def _apply_order(self, operation: str) -> None:
        """Do as the server's order says, if there is one and this is the moment."""
        order = self._given_order()
        if order is None:
            return
        self._deliver()
        if self._is_to_be_told(order) and self._has_turn(order):
            self._say_goodbye(order, operation)
        left = min(order.deadline - time.monotonic(), threading.TIMEOUT_MAX)
        # A push in flight goes out whole; one that comes later finds the connection detached.
        moves = order.how == "move" and self._may_leave(left) and self._movable()
        if moves and self._sending_lock.acquire(timeout=max(0, left)):
            try:
                self._leave()
            finally:
                self._sending_lock.release()
            raise Detached("the connection was detached from this worker")
        if time.monotonic() >= order.deadline:
            raise self._out_of_time(order, operation)

    def _say_goodbye(self, order: Order, operation: str) -> None:
        """Have the service say its last word; it may receive meanwhile, and close."""
        farewell = self.hooks.farewell
        assert farewell is not None
        self._told = order.why
        self._saying = True
        self._reading.release()
        try:
            farewell.say(self, Leaving(order.why, Deadline(order.deadline)))
        finally:
            self._reading.acquire()
            self._saying = False
        if self.core.life.over:
            raise self._refusal(operation)

    def _may_leave(self, left: float) -> bool:
        """Return whether it is this one's turn to obey an order to move, with `left` seconds left.

        All hear of the order at once.  If all left at once, the last would be served by nobody for
        as long as all the moves take together.
        """
        now = time.monotonic()
        if not self._leaves_at:
            self._leaves_at = now + min(self.lease.turn, left / 2)
        return now >= self._leaves_at

    def _has_turn(self, order: Order) -> bool:
        """Return whether an order to close is this connection's to obey by now."""
        if not order.apart:
            return True
        self._leaves_at = order.begins + self.lease.turn * order.apart
        return time.monotonic() >= self._leaves_at

    def _apply_order_in_wait(self, order: Order, poller: Poller, operation: str) -> None:
        if operation != "send":
            self._apply_order(operation)
            if self._has_turn(order) and self._ends(order) and not poller.within(0) & READY:
                raise self._stopping(order, operation)
        elif time.monotonic() >= order.deadline:
            raise self._out_of_time(order, operation)

    def _check_time(
        self, operation: str, done: int, wanted: int | None, span: Span, since: float
    ) -> None:
        now = time.monotonic()
        if span[1] is not None and now >= span[1]:
            raise self._unfinished(operation, done, wanted, span)
        if (late := self._look_at_deadlines(operation)) is not None:
            raise late
        idle_at = self._idle_at(since)
        if idle_at is not None and now >= idle_at:
            raise self._end(f"ended: idle for {self.lease.idle_timeout:g} s", operation)

    def _is_finished(self) -> bool:
        # After `Detached` the descriptor is on its way to the next worker: a handler's `finally`
        # that closes the connection must not end it.
        return self.core.life.state is State.DETACHED or self.core.sock.fileno() < 0

    def _evict(self, sending: bool) -> None:
        """Take both locks, so that no other thread is on the descriptor while it is closed.

        Who waits on it is woken: a number that is closed under a thread that polls it may by then
        be another file's.  sending: the lock for sending is held already.
        """
        if not self._reading.acquire(blocking=False):
            self._wake(socket.SHUT_RD)
            self._reading.acquire()
        if not sending:
            self._wake(socket.SHUT_RDWR)
            self._sending_lock.acquire()

    def _wake(self, how: int) -> None:
        try:
            self.core.sock.shutdown(how)
        except OSError:
            return  # not connected any more: the threads have been woken by that


# iteration: begin
class _Iteration:
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
        conn: Connection,
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

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> bytes:
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
            raise StopIteration
        return message


_iterate: Final = _native.compiled_or(_Iteration, "_Iteration")


# iteration: end
