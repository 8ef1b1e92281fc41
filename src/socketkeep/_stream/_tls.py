"""TLS over a connection's socket: `Engine` has no I/O, `TlsSocket` stands where the socket stood.

A connection calls `recv`, `send` and `shutdown` on its socket and nothing else that TLS concerns,
so it is the socket that changes: what is not TLS runs as it did.  The TLS socket never holds back
plaintext (a poll of the descriptor would not tell of it), and never encrypts a byte twice: what was
encrypted and is not gone is `pending`, and goes before all else.
"""

from __future__ import annotations

import socket
import ssl
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, Literal

from socketkeep._base._errors import (
    Busy,
    Closed,
    HandlerError,
    PeerClosed,
    SystemFailure,
    Truncated,
)
from socketkeep._stream._record import BYTES_IN
from socketkeep._stream._steps import Steps, Want

if TYPE_CHECKING:
    from socketkeep._stream._aio import AsyncConnection
    from socketkeep._stream._connection import Connection

#: How much is encrypted at a time: what a pause of the peer leaves in memory.
SLICE: Final = 65536
_CHUNK: Final = 65536


class TlsFailure(SystemFailure, ssl.SSLError):
    """TLS with the peer failed: no version or cipher in common, a bad record, an alert it sent."""

    default_reason = "failed: TLS"
    peers_fault = "TLS with the peer failed"
    default_errno = ssl.SSLErrorNumber.SSL_ERROR_SSL
    remedy = (
        "See in the text what failed. A wrong version or record: the other side speaks no TLS, or "
        "none at that moment. An alert: the other side's log says why."
    )


class CertificateRefused(TlsFailure, ssl.SSLCertVerificationError):
    """The peer's certificate is not one that the context trusts, or not of that host."""

    default_reason = "failed: the peer's certificate was refused"
    remedy = (
        "See in the text why. Give the context the authority that signed it "
        "(`load_verify_locations`), and connect to a name that stands in it."
    )


class Engine:
    """Ciphertext in, plaintext out, and the other way round.  Raises `TlsFailure`; no I/O."""

    def __init__(
        self, context: ssl.SSLContext, *, server_side: bool, server_hostname: str | None
    ) -> None:
        if context.check_hostname and not server_side and not server_hostname:
            # wrap_bio does not mind, and then no name is checked.
            raise ValueError("start_tls: the context checks the name: server_hostname is needed")
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self.object = context.wrap_bio(
            self._incoming, self._outgoing, server_side, server_hostname=server_hostname
        )
        self.ended = False  # the peer's close_notify has come
        self._closed = False  # ours has been made

    def feed(self, data: bytes) -> None:
        """Take ciphertext in."""
        self._incoming.write(data)

    def outgoing(self) -> bytes:
        """Return the ciphertext that is to be sent, once."""
        return self._outgoing.read()

    def handshake(self) -> bool:
        """Go on with the handshake; return whether it is done."""
        try:
            self.object.do_handshake()
        except ssl.SSLWantReadError:
            return False
        except ssl.SSLError as error:
            raise _failure(error) from error
        return True

    def read(self) -> bytes:
        """Return all plaintext that what was fed contains, b"" for none yet."""
        parts = []
        try:
            while data := self.object.read(_CHUNK):
                parts.append(data)
            self.ended = True
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLZeroReturnError:
            self.ended = True
        except ssl.SSLError as error:
            raise _failure(error) from error
        return b"".join(parts)

    def write(self, view: memoryview) -> None:
        """Encrypt all of `view`."""
        try:
            while view:
                view = view[self.object.write(view) :]
        except ssl.SSLError as error:
            raise _failure(error) from error

    def close(self) -> None:
        """Make the close_notify, after which nothing can be written; reading goes on."""
        if self._closed:
            return
        self._closed = True
        try:
            self.object.unwrap()
        except ssl.SSLError:
            return  # wants the peer's, which comes when it comes; or it is broken anyhow


class TlsSocket(socket.socket):
    """A connected socket whose `recv` and `send` are of plaintext; it takes over the descriptor.

    on_end: called when the peer's close_notify has come.
    """

    def __init__(self, sock: socket.socket, engine: Engine, on_end: Callable[[], None]) -> None:
        super().__init__(fileno=sock.detach())
        self.setblocking(False)
        self.engine = engine
        self.established = False
        self.pending = bytearray()  # ciphertext that is to go out
        self.owed = 0  # bytes of plaintext in it, at most
        self._on_end = on_end
        self._deaf = False
        self._broken: SystemFailure | None = None
        # One thread may receive while another sends: the engine is for one at a time.
        self._lock = threading.Lock()

    @property
    def broken(self) -> bool:
        """Whether TLS has failed, for good."""
        return self._broken is not None

    def reset_after_fork(self) -> None:
        """Be fit for use in a forked child, where another thread's lock would never open."""
        self._lock = threading.Lock()

    def handshake(self) -> Literal["read", "write"] | None:
        """Go on with the handshake; return what it waits for, None when it is done.

        Raises TlsFailure, PeerClosed, and what the system fails with.
        """
        with self._lock:
            while True:
                self._check()
                try:
                    done = self.engine.handshake()
                except SystemFailure as error:
                    self._break(error)
                    raise
                if not self._flush():
                    return "write"
                if done:
                    self.established = True
                    return None
                try:
                    data = super().recv(_CHUNK)
                except BlockingIOError:
                    return "read"
                if not data:
                    raise PeerClosed("failed: the peer closed the connection in the TLS handshake")
                self.engine.feed(data)

    def shaking_hands(self) -> Steps[None]:
        """Go on with the handshake until it is done."""
        while (direction := self.handshake()) is not None:
            yield Want(self.fileno(), direction)

    def early(self) -> bytes:
        """Return the plaintext that came along with the handshake's last message."""
        with self._lock:
            return self._read()

    def recv(self, size: int, flags: int = 0) -> bytes:
        """Return plaintext, about `size` bytes at most; b"" after the peer's close_notify.

        Raises BlockingIOError while there is not a whole record, Truncated at an EOF without
        close_notify, TlsFailure.
        """
        if self._deaf:
            return super().recv(size)
        with self._lock:
            while True:
                self._check(ready=True)
                if self.engine.ended:
                    return b""
                data = super().recv(size)
                if not data:
                    raise Truncated
                self.engine.feed(data)
                plain = self._read()
                if plain or self.engine.ended:
                    return plain

    def send(self, data: Any, flags: int = 0) -> int:
        """Encrypt some of `data` and send of it what there is room for; return how much is dealt
        with.

        It has gone only when nothing is `pending`.  Raises BlockingIOError, and encrypts nothing,
        while something is from before.
        """
        with self._lock:
            self._check(ready=True)
            if not self._flush():
                raise BlockingIOError
            view = memoryview(data)[:SLICE]
            if not view:
                return 0
            try:
                self.engine.write(view)
            except SystemFailure as error:
                self._break(error)
                raise
            self.owed = len(view)
            self._flush()
            return len(view)

    def finish(self) -> None:
        """Put the close_notify behind what is pending."""
        with self._lock:
            if self.established:
                self.engine.close()

    def flush(self) -> bool:
        """Send what is pending; return whether it has gone."""
        with self._lock:
            return self._flush()

    def finishing(self, end: float) -> Steps[None]:
        """Send what is pending and the close_notify, if there is room for them until `end`."""
        self.finish()
        try:
            while not self.flush():
                if time.monotonic() >= end or not (yield Want(self.fileno(), "write", end)):
                    return
        except OSError:
            return  # there is nobody to take it

    def hear_no_more(self) -> None:
        """Have `recv` return what comes as it comes: it is only read to be discarded."""
        self._deaf = True

    def _check(self, *, ready: bool = False) -> None:
        if self._broken is not None:
            raise type(self._broken)(self._broken.reason, code=self._broken.errno)
        if ready and not self.established:
            raise Closed("refused: the TLS handshake is not finished: call start_tls again")

    def _read(self) -> bytes:
        try:
            plain = self.engine.read()
        except SystemFailure as error:
            self._break(error)
            raise
        self._flush_if_possible()  # the answer to a change of keys, say
        if self.engine.ended:
            self._on_end()
        return plain

    def _break(self, error: SystemFailure) -> None:
        """Let the peer know, by the alert that the engine made, and be of no more use."""
        self._broken = error
        self._flush_if_possible()

    def _flush_if_possible(self) -> None:
        try:
            self._flush()
        except OSError:
            return  # whoever sends next is told

    def _flush(self) -> bool:
        self.pending += self.engine.outgoing()
        while self.pending:
            try:
                count = super().send(self.pending)
            except (BlockingIOError, InterruptedError):
                return False
            del self.pending[:count]
        self.owed = 0
        return True


def begin_tls(
    conn: Connection | AsyncConnection,
    context: ssl.SSLContext,
    server_side: bool,
    server_hostname: str | None,
) -> TlsSocket:
    """Put TLS in the place of the connection's socket, unless a start_tls before has done so."""
    tls = conn._tls
    if tls is None:
        if conn._peeking is not None:
            raise HandlerError(
                "refused: the handler has its input redelivered after a crash, and the keys of TLS "
                "do not outlive one: take redeliver=True off the handler",
                **conn._context("start_tls"),
            )
        if conn._unsent is not None:
            raise Busy("refused: a send is not finished", **conn._context("start_tls"))
        engine = Engine(context, server_side=server_side, server_hostname=server_hostname)
        # What has been received already is of the handshake: taken for plain, it would be trusted
        # as if it had come by TLS.
        engine.feed(conn._buffer.take(conn._buffer.size) or b"")
        conn._sock = conn._tls = tls = TlsSocket(conn._sock, engine, conn._tls_ended)
        conn._source = tls
        conn._ledger.bound = True
        conn._ledger.show()
    elif tls.established:
        raise Closed("refused: the connection has TLS already", **conn._context("start_tls"))
    return tls


def take_early(conn: Connection | AsyncConnection, tls: TlsSocket) -> None:
    """Take in what came along with the end of the handshake."""
    try:
        data = tls.early()
    except SystemFailure as error:
        raise conn._failed(error, "start_tls") from error
    if data:
        conn._buffer.feed(data)
        conn._record[BYTES_IN] += len(data)


def _failure(error: ssl.SSLError) -> TlsFailure:
    if isinstance(error, ssl.SSLCertVerificationError):
        return CertificateRefused(
            f"failed: the peer's certificate was refused: {error.verify_message}", code=error.errno
        )
    words = (error.reason or error.strerror or str(error)).replace("_", " ").lower()
    return TlsFailure(f"failed: TLS: {words}", code=error.errno)
