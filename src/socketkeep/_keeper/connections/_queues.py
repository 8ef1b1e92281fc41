"""The accept queues of the listeners, for the keeper that accepts in its workers' place.

It does so where the order of service is its own to decide: while connections wait for a seat, and
at a stop, when a queue that nobody accepts from would be reset with its last handle.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Sequence
from typing import Final

from socketkeep._base import _log
from socketkeep._base._address import format_address
from socketkeep._base._errors import OUT_OF_RESOURCES
from socketkeep._net._listener import Listener

#: How many that have given up are passed over in one look for one that has not.
_ABORTED_AT_ONCE: Final = 64


class Exhausted(Exception):
    """This process has no descriptor or memory for one more connection."""


class Queues:
    """The listeners' queues, of which each has its turn."""

    def __init__(self, listeners: Sequence[Listener]) -> None:
        self._listeners = listeners
        self._first = 0  # whose turn it is

    def accept(self) -> tuple[socket.socket, int, str] | None:
        """Return the next connection, its listener's number, and its peer; None: nobody waits.

        The peer is "" where the one who serves the connection is to find out.  Raises Exhausted.
        """
        count = len(self._listeners)
        for number in (*range(self._first, count), *range(self._first)):
            accepted = self._accept_from(self._listeners[number].sock)
            if accepted is not None:
                self._first = (number + 1) % count
                return accepted[0], number, accepted[1]
        return None

    def _accept_from(self, listener: socket.socket) -> tuple[socket.socket, str] | None:
        for _ in range(_ABORTED_AT_ONCE):
            if listener.fileno() < 0:
                return None
            try:
                sock, address = listener.accept()
            except BlockingIOError:
                return None
            except OSError as error:
                if error.errno in OUT_OF_RESOURCES:
                    raise Exhausted(error.strerror) from error
                if error.errno in (errno.EBADF, errno.EINVAL, errno.ENOTSOCK):
                    _log.error("cannot accept", error=error.strerror)
                    return None
                continue  # an error of the connection itself: the peer has given up
            sock.setblocking(False)
            # The name of a Unix client is its own choice, and is read where that may go wrong.
            unix = listener.family == socket.AF_UNIX
            return sock, "" if unix else format_address(address)
        return None
