"""`start_tls` by the edge: the connection while the edge shakes hands with the client.

The edge has a handle of the socket then, and one end of a pair, whose other end is here.  Over that
it answers first, by a letter, a length and so many bytes: "S" and what is told of the connection,
or "F" and why there is no TLS.  After "S" the pair carries plaintext, as that of any connection
whose TLS is in the edge.
"""

from __future__ import annotations

import errno
import socket
import struct
from typing import Final, Never

from socketkeep._base._admission import HEADER_LIMIT
from socketkeep._base._errors import Closed, SystemFailure
from socketkeep._stream._tls import TlsFailure
from socketkeep._stream._transport import Transport

_ANSWER: Final = struct.Struct("!cI")
_SECURED: Final = b"S"
_FAILED: Final = b"F"


def secured(header: bytes) -> bytes:
    """Return the edge's answer: hands are shaken, and this is told of the connection."""
    return _ANSWER.pack(_SECURED, len(header)) + header


def failed(why: str) -> bytes:
    """Return the edge's answer: there is no TLS, and none to come."""
    text = why.encode()[:HEADER_LIMIT]
    return _ANSWER.pack(_FAILED, len(text)) + text


class EdgeHandshake(Transport):
    """Nothing passes meanwhile.  plain: what the connection goes on over when it is done."""

    __slots__ = ("_answer", "_failure", "plain")

    moves = False
    direct = False
    binds = True  # a handshake has no other witness

    def __init__(self, sock: socket.socket, plain: socket.socket) -> None:
        super().__init__(sock)
        plain.setblocking(False)
        self.plain = plain
        self.input_fd = plain.fileno()
        self._answer = b""
        self._failure: SystemFailure | None = None

    @property
    def source(self) -> EdgeHandshake:
        return self

    @property
    def broken(self) -> bool:  # type: ignore[override]
        """Return whether the handshake has failed, for good."""
        return self._failure is not None

    def recv(self, _size: int, /) -> Never:
        self._refuse()

    def send(self, _data: bytes | memoryview, /) -> Never:
        self._refuse()

    def header(self) -> bytes | None:
        """Return what is told of the connection once hands are shaken; None: not yet.

        Raises TlsFailure, or SystemFailure when the edge has ended.
        """
        if self._failure is not None:
            self._refuse()
        if not self._receive(_ANSWER.size):
            return None
        kind, length = _ANSWER.unpack_from(self._answer)
        if not self._receive(_ANSWER.size + length):
            return None
        body = self._answer[_ANSWER.size :]
        if kind != _SECURED:
            self._fail(TlsFailure(f"failed: TLS: {body.decode(errors='replace')}"))
        return body

    def let_go(self) -> None:
        self.plain.close()
        self.input_fd = self.sock.fileno()

    def after_fork(self, *, kept: bool) -> None:
        self.plain.close()  # the handshake is the parent's

    def _receive(self, size: int) -> bool:
        """Take in the answer up to so many bytes, and no more; return whether they are there."""
        while len(self._answer) < size:
            try:
                data = self.plain.recv(size - len(self._answer))
            except BlockingIOError:
                return False
            if not data:
                self._fail(
                    SystemFailure(
                        "failed: the server's edge could not shake hands: none is running, or it "
                        "has ended, or it is out of descriptors",
                        code=errno.ECONNABORTED,
                    )
                )
            self._answer += data
        return True

    def _fail(self, failure: SystemFailure) -> Never:
        self._failure = failure
        raise failure

    def _refuse(self) -> Never:
        if self._failure is not None:
            raise type(self._failure)(self._failure.reason, code=self._failure.errno)
        raise Closed("refused: the TLS handshake is not finished: call start_tls again")
