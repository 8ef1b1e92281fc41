"""The last word of an end of a Unix pair, where EOF alone does not tell how it ended.

TCP has FIN and RST, TLS has close_notify and its absence; a Unix pair has EOF for all of them.
Between the edge and a worker the end that was no orderly one is marked: the socket is given a name
before it is closed, in Linux's abstract namespace (unix(7)), and the other end finds it by
getpeername(2), also when the socket has gone.  It needs no room in a buffer, and is no byte of the
connection.  A socket that has a name already, as one accepted from a Unix listener, keeps it.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
from typing import Final, Literal

from socketkeep._base._errors import Truncated
from socketkeep._stream._transport import Transport

LastWord = Literal["reset", "truncated"]

_MARK: Final = b"\0socketkeep/"


def mark(sock: socket.socket, word: LastWord) -> None:
    """Have the other end of the pair learn why this one ends; to be called before it does."""
    # Its inode makes the name one that nobody else has.
    inode = os.fstat(sock.fileno()).st_ino
    with contextlib.suppress(OSError):
        sock.bind(_MARK + f"{word}/{inode}".encode())


def last_word(sock: socket.socket) -> LastWord | None:
    """Return what the other end of the pair was marked with, None: it was not."""
    try:
        name = sock.getpeername()
    except OSError:
        return None
    if isinstance(name, bytes) and name.startswith(_MARK):
        return "truncated" if name.startswith(b"truncated/", len(_MARK)) else "reset"
    return None


class PlainEnd(Transport):
    """The worker's end of a pair whose other end is in the edge, where the connection's TLS is."""

    __slots__ = ()

    tells_end = True

    def at_eof(self) -> None:
        """Raise Truncated or ConnectionResetError where that was the end."""
        raise_last_word(self.sock)


def raise_last_word(sock: socket.socket) -> None:
    """At the EOF of a pair: raise Truncated or ConnectionResetError if that is what it was."""
    match last_word(sock):
        case "reset":
            raise ConnectionResetError(errno.ECONNRESET, os.strerror(errno.ECONNRESET))
        case "truncated":
            raise Truncated
