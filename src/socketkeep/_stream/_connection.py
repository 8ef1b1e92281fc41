"""`Connection`: the verbs of one stream for sync code, in each of the three modes."""
# ruff: noqa: A002 - `max` is the word for a bound; the builtin is not used here

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Final, Self

from socketkeep._base._errors import Busy, Released
from socketkeep._base._originals import socket_of
from socketkeep._stream._assignment import Assignment
from socketkeep._stream._closing import LINGER, draining, end_for_all, end_writing, reset
from socketkeep._stream._exchange import CHUNK
from socketkeep._stream._framing import check_bound
from socketkeep._stream._lifecycle import Event, State
from socketkeep._stream._messages import Messages
from socketkeep._stream._modes import Blocking, Mode, NonBlocking
from socketkeep._stream._steps import drive, within
from socketkeep._stream._sync_waiting import Data, waits_of

if TYPE_CHECKING:
    import ssl

    from socketkeep._stream._transfer import Parcel

_BLOCKING: Final = Blocking()


class Connection(Messages):
    """A connected stream socket, TCP or Unix, for sync code.

    sock: a connected socket; the connection owns it from here on, and sets its file description
    non-blocking for good, whoever else holds it.  mode: how operations wait; it belongs to this
    object alone, not to the description.  inherit: whether forked children keep it, see `inherit`.
    assignment: given by a server.

    Operations take `timeout`, seconds for the whole operation, in place of the mode; 0 is as
    NonBlocking, None as the mode says.  When one raises `WouldBlock` or `TimedOut` nothing is
    lost, and calling it again goes on: received bytes stay in the buffer, and a `send` of the same
    data continues with its first unsent byte.

    Raised by every operation: `Closed` after `close` and when a limit of the server's ended the
    connection, `Released` after `release`, `PeerReset`, `WouldBlock` and `TimedOut` by the mode; by
    a receive `Busy` when another thread receives, and `Detached` when the server moves the
    connection.  One thread may receive while others send: the bytes of each send stay together.
    """

    __slots__ = ()

    def __init__(
        self,
        sock: socket.socket,
        *,
        mode: Mode = _BLOCKING,
        inherit: bool = False,
        assignment: Assignment | None = None,
    ) -> None:
        super().__init__(sock, mode=mode, assignment=assignment)
        self._inherit = inherit

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def mode(self) -> Mode:
        """How operations wait: `Blocking`, `NonBlocking`, `Timeout` or `Deadline`."""
        return self._mode

    @mode.setter
    def mode(self, mode: Mode) -> None:
        self._limit, self._patience = waits_of(mode)
        self._mode = mode

    @contextmanager
    def using(self, mode: Mode) -> Iterator[Self]:
        """Set the mode for the length of a ``with`` block."""
        before = self._mode
        self.mode = mode
        try:
            yield self
        finally:
            self.mode = before

    def recv(self, max: int = CHUNK, *, timeout: float | None = None) -> bytes:
        """Return what has come, 1 to `max` bytes, waiting for the first; b"" at the peer's EOF."""
        if max < 1:
            check_bound(max)
        if timeout is None:
            return self._receive_any(max)
        return self._receive("recv", partial(self._buffer.take, max), None, timeout) or b""

    def recv_into(self, buffer: bytearray | memoryview, *, timeout: float | None = None) -> int:
        """Receive into `buffer` as `recv` does; return the number of bytes, 0 at the peer's EOF."""
        view = memoryview(buffer).cast("B")
        check_bound(view.nbytes)
        data = self._receive("recv_into", partial(self._buffer.take, view.nbytes), None, timeout)
        if data is None:
            return 0
        view[: len(data)] = data
        return len(data)

    def recv_exactly(self, count: int, *, timeout: float | None = None) -> bytes:
        """Return exactly `count` bytes.

        Raises PeerClosed when the peer's EOF comes before; what did come is still unread.
        """
        if count < 0:
            raise ValueError(f"recv_exactly: a number of bytes >= 0, not {count}")
        take = partial(self._buffer.take_exactly, count)
        data = self._receive("recv_exactly", take, count, timeout)
        if data is None:
            self._cut_short("recv_exactly", count)
        return data

    def send(self, data: Data, *, timeout: float | None = None) -> None:
        """Send all of `data`, waiting as long as the peer does not read.

        Returns when the system has taken the last byte; that the peer has got it is not promised.
        Raises PeerClosed when the peer takes no more.
        """
        self._transmit(data, timeout)

    def start_tls(
        self,
        context: ssl.SSLContext,
        *,
        server_side: bool = False,
        server_hostname: str | None = None,
        timeout: float | None = None,
    ) -> None:
        """Go on by TLS: every verb from here on is of what TLS protects.

        context: says whom to trust, and on the server's side has the certificate.  server_hostname:
        whose certificate the peer is to show; a context that checks it needs it.  What was received
        and is unread is taken for the beginning of the handshake, never for plaintext.  In
        NonBlocking mode calling it again goes on with the handshake.

        From here on: EOF without the peer's close_notify is `Truncated`, a PeerClosed, at a
        receive.  `send_eof` and `close` send close_notify, then FIN; after `send_eof` a peer of
        TLS 1.3 may send on, one of TLS 1.2 usually takes it for the end of both directions.
        `release` and `abort` send none.  What of a `send` that timed out is encrypted already goes
        out before the next one.  The connection stays with this process: a server does not move
        it, `give` refuses it, and of two processes that have it over a fork only one may use it.

        Raises TlsFailure, CertificateRefused, PeerClosed in the handshake (after these only
        `close` and `abort` are of use), WouldBlock and TimedOut; Busy when another thread uses the
        connection or a send is not finished; Closed when it has TLS already; ValueError by
        the context.
        """
        with self._claimed("start_tls"):
            from socketkeep._stream._tls import begin_tls, take_early

            tls = begin_tls(self, context, server_side, server_hostname)
            self._handshake(tls, self._span(timeout))
            take_early(self, tls)

    def send_eof(self) -> None:
        """Tell the peer that nothing more will be sent; receiving goes on.  `close` is still due.

        The peer sees EOF whoever else holds the socket.
        """
        self.shutdown(socket.SHUT_WR)

    def shutdown(self, how: int) -> None:
        """End a direction: socket.SHUT_RD, SHUT_WR or SHUT_RDWR, for every holder of the socket."""
        if self._life.over:
            raise self._refusal("shutdown")
        with self._sending:  # not into the middle of another thread's send
            if how != socket.SHUT_RD:
                self._become(Event.END_WRITING)
            if self._tls is not None and how != socket.SHUT_RD:
                self._finish_tls(self._tls)
            try:
                self._sock.shutdown(how)
            except OSError as error:
                raise self._failed(error, "shutdown") from error

    def park(self) -> None:
        """Leave this worker until the peer sends or ends: the handler has nothing to do till then.

        The connection is detached as by a receive that waits for long: `Detached` is raised, and
        the handler is called again, from the top, when something can be received, with `attached`
        "parked" and the committed state; what it has received since the commit comes again.  Pushes
        that are going out go out first, as the mode says.

        Returns, and does nothing, where the connection cannot be parked: without a server, in a
        handler that is not resumable, with ``--keep none``, over TLS.  So it does when received
        bytes are unread or the peer's EOF has come: then there is nothing to wait for.

        Raises NotCommitted when the handler has sent since its last commit, or received more than
        the replay limit; Busy when another thread receives.
        """
        if not self._reading.acquire(blocking=False):
            raise Busy(**self._context("park"))
        try:
            if self._life.over:
                raise self._refusal("park")
            self._obey("park")
            if not self._check_parking("park"):
                return
            self._claim_sending(0, self._span(None))
            self._leave_parked()
        finally:
            self._reading.release()

    def close(self, *, linger: float = LINGER) -> None:
        """End the connection in an orderly way, for every holder of the socket.

        The peer gets all that was sent, then EOF; never a reset, though it may still be sending:
        what it sends is read and discarded until its EOF, for at most 1 s of silence and `linger`
        seconds in all (in NonBlocking mode, no longer than at once).  Unread bytes are dropped.
        May be called again, and after any other end of the connection.

        Over TLS close_notify goes out first.  It cannot where the peer does not read, the buffers
        are full and there is no time to wait, as in NonBlocking mode: the peer then finds the
        stream truncated.  Who must not risk that closes in another mode, say ``Timeout(5)``.
        """
        self._close(0.0 if isinstance(self._mode, NonBlocking) else linger)

    def _close(self, linger: float, *, aside: bool = False) -> socket.socket | None:
        """Close, whatever the mode.

        aside: do not wait for the peer's end, but return the socket if that has not come: for the
        server, which then discards what comes until it does.
        """
        if self._finished():
            return None
        self._become(Event.CLOSE)
        flushed = self._sending.acquire(False) or self._sending.acquire(timeout=linger)
        if self._tls is not None:
            if flushed:
                drive(self._tls.finishing(time.monotonic() + linger))
            self._tls.hear_no_more()
        ended = not end_writing(self._sock) or self._life.peer_ended
        if not (flushed and self._reading.acquire(False)):
            self._evict(flushed)
        try:
            if self._peeking is not None:
                self._peeking.let_go()
            if not ended:
                ended = drive(draining(self._sock, 0.0 if aside else time.monotonic() + linger))
            if aside and not ended:
                return socket_of(self._sock.detach())
            if ended and self._tls is None:  # TLS has an end of its own, which is not EOF
                os.close(self._sock.detach())  # both directions have ended, for every holder
            else:
                end_for_all(self._sock)
        finally:
            self._sending.release()
            self._reading.release()
        return None

    def release(self) -> None:
        """Let go of this process's handle; the connection lives on while another holds one.

        Raises Busy when another thread is receiving or sending.  Unread bytes are dropped: take
        `unread` along if another holder is to go on.
        """
        if self._finished():
            return
        for lock in (self._reading, self._sending):
            if not lock.acquire(blocking=False):
                raise Busy(**self._context("release"))
            lock.release()
        self._give_up()

    def _give_up(self, reason: str = "") -> None:
        self._become(Event.RELEASE, Released(reason))
        if self._peeking is not None:
            self._peeking.let_go()
        self._sock.close()

    def abort(self) -> None:
        """End the connection at once, for every holder of the socket: the peer gets RST.

        Bytes on their way are lost.  A Unix socket has no RST: there the peer sees EOF, or a reset
        if it was still sending.  May be called again, and after any other end of the connection.
        """
        if self._finished():
            return
        self._become(Event.CLOSE)
        self._evict(self._sending.acquire(blocking=False))
        try:
            if self._peeking is not None:
                self._peeking.let_go()
            reset(self._sock)
        finally:
            self._sending.release()
            self._reading.release()

    def give(self, channel: socket.socket, *, timeout: float | None = None) -> None:
        """Pass the connection to the process that calls `take` at the other end of `channel`.

        channel: a connected Unix socket, SOCK_SEQPACKET (several may then give and take at once) or
        SOCK_STREAM (one giver and one taker), used for nothing else; its own mode is of no matter.
        The unread bytes, the committed state, the mode and what is left of an unfinished send go
        along; the mode and `inherit` of this object do not matter to the wait.  Returns when the
        other process has taken it, which is when this one lets go: from here on it says `Released`.
        timeout: seconds, None for as long as it takes.

        Raises TimedOut when it was not taken in time, OutOfResources when the other process, or
        this one, is at its limit of descriptors, PeerClosed when the other end has gone, Busy when
        another thread uses the connection, ValueError for a channel of another kind.  After any of
        them the connection is open here and was not taken; a stream channel is not fit for use
        any more if the time was over in the middle of a message.
        """
        with self._claimed("give"):
            if self._peeking is not None:
                self._peeking.absorb()
            from socketkeep._stream._transfer import Offer, parcel_of, settled

            offer = Offer(parcel_of(self, self._mode, self._unsent), self._sock, channel)
            with settled(offer, self):
                drive(within(timeout, offer.steps(), "give"))

    @classmethod
    def take(cls, channel: socket.socket, *, timeout: float | None = None) -> Self:
        """Return the next connection that another process gives over `channel`, see `give`.

        It is as it was there: what had been received and not read is read next, `state` is what was
        committed last, decoded as plain data, and it has the same mode.  Whether the giver was sync
        or async plays no part.  timeout: seconds, None for as long as it takes.

        Raises TimedOut, PeerClosed when the other end has gone, OutOfResources when this process is
        at its limit of descriptors (the giver has it still), SystemFailure (EPROTO) for a message
        that `give` did not make, ValueError for a channel of another kind.
        """
        from socketkeep._stream._transfer import taking

        return drive(within(timeout, taking(channel, cls._build), "take"))

    @classmethod
    def _build(cls, sock: socket.socket, parcel: Parcel) -> Self:
        from socketkeep._stream._transfer import assignment_of, mode_of

        conn = cls(sock, mode=mode_of(parcel), assignment=assignment_of(parcel))
        conn._unsent = parcel.unsent
        if parcel.write_ended:
            conn._become(Event.END_WRITING)
        return conn

    def _finished(self) -> bool:
        # After `Detached` the descriptor is on its way to the next worker: a handler's `finally`
        # that closes the connection must not end it.
        return self._life.state is State.DETACHED or self._sock.fileno() < 0

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
            self._sending.acquire()

    def _wake(self, how: int) -> None:
        try:
            self._sock.shutdown(how)
        except OSError:
            return  # not connected any more: the threads have been woken by that
