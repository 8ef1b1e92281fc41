"""TLS between a connection and its socket: `Engine` has no I/O, `Tls` is the transport.

It never holds back plaintext (a poll of the descriptor would not tell of it), and never encrypts a
byte twice: what was encrypted and is not gone is `pending`, and goes before all else.
"""

from __future__ import annotations

import socket
import ssl
import threading
from typing import ClassVar, Final, Literal

from socketkeep._base._errors import Closed, PeerClosed, SystemFailure, Truncated
from socketkeep._stream._transport import Transport

#: How much is encrypted at a time: what a pause of the peer leaves in memory.
SLICE: Final = 65536
_CHUNK: Final = 65536


class TlsFailure(SystemFailure, ssl.SSLError):
    """TLS with the peer failed: no version or cipher in common, a bad record, an alert it sent."""

    default_reason = "failed: TLS"
    peers_fault = "TLS with the peer failed"
    default_errno: ClassVar[int] = ssl.SSLErrorNumber.SSL_ERROR_SSL
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


class Tls(Transport):
    """A transport of ciphertext over the socket.  established: the handshake is done."""

    __slots__ = ("_broken", "_lock", "_pending", "engine", "established", "owed")

    binds = True  # its keys
    moves = False
    direct = False

    def __init__(self, sock: socket.socket, engine: Engine) -> None:
        super().__init__(sock)
        self.engine = engine
        self.established = False
        self._pending = bytearray()
        self.owed = 0
        self._broken: SystemFailure | None = None
        # One thread may receive while another sends: the engine is for one at a time.
        self._lock = threading.Lock()

    @property
    def source(self) -> Tls:
        return self

    @property
    def pending(self) -> bytearray:  # type: ignore[override]
        return self._pending

    @property
    def tls(self) -> ssl.SSLObject:
        return self.engine.object

    @property
    def ended(self) -> bool:  # type: ignore[override]
        """Return whether the peer's close_notify has come."""
        return self.engine.ended

    @property
    def broken(self) -> bool:  # type: ignore[override]
        """Return whether TLS has failed, for good."""
        return self._broken is not None

    def after_fork(self, *, kept: bool) -> None:
        self._lock = threading.Lock()  # another thread's would never open

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
                    data = self.sock.recv(_CHUNK)
                except BlockingIOError:
                    return "read"
                if not data:
                    raise PeerClosed("failed: the peer closed the connection in the TLS handshake")
                self.engine.feed(data)

    def early(self) -> bytes:
        """Return the plaintext that came along with the handshake's last message."""
        with self._lock:
            return self._read()

    def recv(self, size: int, /) -> bytes:
        """Return plaintext, about `size` bytes at most; b"" after the peer's close_notify.

        Raises BlockingIOError while there is not a whole record, Truncated at an EOF without
        close_notify, TlsFailure.
        """
        with self._lock:
            while True:
                self._check(ready=True)
                if self.engine.ended:
                    return b""
                data = self.sock.recv(size)
                if not data:
                    raise Truncated
                self.engine.feed(data)
                plain = self._read()
                if plain or self.engine.ended:
                    return plain

    def send(self, data: bytes | memoryview, /) -> int:
        """Encrypt some of `data` and send of it what there is room for; return how much it was.

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
        with self._lock:
            if self.established:
                self.engine.close()

    def flush(self) -> bool:
        with self._lock:
            return self._flush()

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
        self._pending += self.engine.outgoing()
        while self._pending:
            try:
                count = self.sock.send(self._pending)
            except (BlockingIOError, InterruptedError):
                return False
            del self._pending[:count]
        self.owed = 0
        return True


def _failure(error: ssl.SSLError) -> TlsFailure:
    if isinstance(error, ssl.SSLCertVerificationError):
        return CertificateRefused(
            f"failed: the peer's certificate was refused: {error.verify_message}", code=error.errno
        )
    words = (error.reason or error.strerror or str(error)).replace("_", " ").lower()
    return TlsFailure(f"failed: TLS: {words}", code=error.errno)
