"""One connection in the edge: TLS with the client on one side, a pair's plain end on the other.

Here it begins, and here is what becomes of its ends; the bytes between are `_flow.Flow`'s.
"""

from __future__ import annotations

import fcntl
import select
import socket
import ssl
import struct
import sys
import termios
from collections.abc import Callable
from typing import Final

from socketkeep._edge._certificates import EdgeObject
from socketkeep._edge._flow import CHUNK, FastFlow
from socketkeep._stream._last_words import LastWord, last_word, mark

_ENDS: Final = select.EPOLLRDHUP | select.EPOLLHUP | select.EPOLLERR
_RESET_ON_CLOSE: Final = struct.pack("ii", 1, 0)

#: What passes through is never in it for longer than a call.
_buffer: Final = memoryview(bytearray(CHUNK))


class HandshakeFailed(Exception):
    """There will be no TLS with the client; the text is a line, `kind` one of a few words."""

    def __init__(self, kind: str, text: str) -> None:
        super().__init__(text)
        self.kind = kind


class Handshake:
    """The begin of a connection, until both sides have their keys.

    begin: makes the TLS, which takes memory, when the client has said something.
    """

    def __init__(
        self, sock: socket.socket, begin: Callable[[ssl.MemoryBIO, ssl.MemoryBIO], EdgeObject]
    ) -> None:
        self.sock = sock
        self._begin = begin
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._tls: EdgeObject | None = None
        self._unsent = b""
        self._ends = False

    def feed(self, data: bytes) -> None:
        """Add what another process has received of it."""
        self._incoming.write(data)

    def go_on(self, events: int = 0) -> EdgeObject | None:
        """Take the next steps; return the TLS once it is there.  Raises HandshakeFailed.

        events: what the client's side is ready for.
        """
        if events & _ENDS:
            self._ends = True  # what a read brings may be followed by an end that is not told again
        done = all_read = False
        try:
            while True:
                # OpenSSL takes all that there is, and has an error to make where it is nothing.
                if self._incoming.pending:
                    done = self._step()
                if done or self._unsent or self._outgoing.pending:
                    self._send()
                if done:
                    return self._tls
                if self._unsent or all_read:
                    return None
                count = self.sock.recv_into(_buffer)
                if not count:
                    raise HandshakeFailed("cut", "it ended before the handshake had")
                self._incoming.write(_buffer[:count])
                all_read = count < CHUNK and not self._ends
        except BlockingIOError:
            return None
        except OSError as error:
            raise HandshakeFailed("cut", error.strerror or str(error)) from None

    def relay(self, tls: EdgeObject, plain: socket.socket) -> Relay:
        """Return what goes on with it."""
        return Relay(self.sock, tls, self._incoming, self._outgoing, plain, self._unsent)

    def _step(self) -> bool:
        if self._tls is None:
            self._tls = self._begin(self._incoming, self._outgoing)
        try:
            self._tls.do_handshake()
        except ssl.SSLWantReadError:
            return False
        except ssl.SSLError as error:
            self._send_alert()
            raise _failure(error) from None
        return True

    def _send(self) -> None:
        data = self._unsent + self._outgoing.read()
        self._unsent = b""
        if data:
            try:
                sent = self.sock.send(data)
            except BlockingIOError:
                sent = 0
            self._unsent = data[sent:]

    def _send_alert(self) -> None:
        try:
            self._send()
        except OSError:
            return  # nobody is there any more


class Relay(FastFlow):
    """A connection from the end of its handshake on.

    Each of the two directions ends by itself.  The client's close_notify is EOF at the worker, its
    FIN without one is told apart, and so is a reset (`_last_words`).  The worker's EOF by shutdown
    is a close_notify and FIN, its abort a reset; an end without either, by the death of who had it,
    is FIN without close_notify: that tells the client that there may have been more.
    """

    __slots__ = ("_orderly",)

    def __init__(
        self,
        sock: socket.socket,
        tls: EdgeObject,
        incoming: ssl.MemoryBIO,
        outgoing: ssl.MemoryBIO,
        plain: socket.socket,
        unsent: bytes,
    ) -> None:
        super().__init__(sock, tls, incoming, outgoing, plain, unsent)
        self._orderly = False  # the worker has ended its writing, and had the rest open then

    @property
    def progress(self) -> tuple[int, int]:
        """A value that differs whenever something has gone to the client."""
        return self.taken, self.unsent

    @property
    def waiting(self) -> int:
        """Return how many bytes the plain end's other side has sent that are not taken."""
        try:
            count = fcntl.ioctl(self.plain, termios.FIONREAD, bytes(4))
        except OSError:
            return 0
        return int.from_bytes(count, sys.byteorder)

    def on_plain(self, events: int) -> None:
        """Note what the worker's side is ready for, or how it has ended."""
        self.note_plain(events)
        if events & select.EPOLLHUP:
            self.deserted = True
            if last_word(self.plain) == "reset":
                self.cut("reset")
        elif events & select.EPOLLRDHUP:
            self._orderly = True

    def cut(self, word: LastWord) -> None:
        """End both directions at once, so that each side learns that it is no orderly end."""
        mark(self.plain, word)
        self.in_ended = self.out_ended = True
        self._reset_client()

    # From the client to the worker.

    def _read_failed(self, error: OSError) -> bool:
        """OpenSSL has no plaintext; return whether it may have some when more has come."""
        if isinstance(error, ssl.SSLWantReadError):
            self._flush()  # the answer to a change of keys, or to a wish for one
            return True
        if isinstance(error, ssl.SSLZeroReturnError):
            self._end_in(None)
            return False
        self._refuse()
        return False

    def _refuse(self) -> None:
        """End with a record that is none: the client gets the alert that was made, and no more."""
        self._end_in("reset")
        self._flush()
        self._finish_out()

    def _end_in(self, word: LastWord | None) -> None:
        if not self.in_ended:
            self.in_ended = True
            if word is not None:
                mark(self.plain, word)
            try:
                self.plain.shutdown(socket.SHUT_WR)
            except OSError:
                return  # the worker's end has gone

    # From the worker to the client.

    def _worker_ended(self) -> None:
        if last_word(self.plain) == "reset":
            self.cut("reset")
        elif self._orderly or self.in_ended or not _is_deserted(self.plain):
            self._notify()
            self._notified = True
            if self._flush():
                self._finish_out()
        else:
            # Who had it has died, or let go of it without a word: nobody reads there either.
            self.in_ended = True
            self._finish_out()

    def _finish_out(self) -> None:
        self.out_ended = True
        try:
            self.sock.shutdown(socket.SHUT_WR)
        except OSError:
            return  # the client has gone

    def _reset_client(self) -> None:
        try:
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
        except OSError:
            return  # it has ended already


def _is_deserted(plain: socket.socket) -> bool:
    """Return whether nobody has the other end: its EOF may be met before epoll has told of it."""
    poller = select.poll()
    poller.register(plain, select.POLLHUP)
    return bool(poller.poll(0))


def _failure(error: ssl.SSLError) -> HandshakeFailed:
    reason = getattr(error, "reason", None) or str(error)
    words = reason.replace("_", " ").lower()
    if reason in ("HTTP_REQUEST", "HTTPS_PROXY_REQUEST", "WRONG_VERSION_NUMBER"):
        return HandshakeFailed("no_tls", f"it speaks no TLS: {words}")
    if isinstance(error, ssl.SSLCertVerificationError) or "CERTIFICATE" in reason:
        return HandshakeFailed("certificate", f"the client's certificate: {words}")
    return HandshakeFailed("handshake", words)
