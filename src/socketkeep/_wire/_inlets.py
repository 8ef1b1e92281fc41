"""Inlets: by them workers get the connections that edges have accepted.

An inlet is a pair of sockets that keep apart what is sent at a time.  The edges have one end.  The
other all workers have, as they have a listener, and accept from it: whichever of them has room
takes the next.  So no connection waits for the keeper, and what no worker has room for waits in the
kernel.  A pair and not a Unix listener: what that brings has the listener's name, and the end of a
connection is told by one of its own (`_stream/_last_words.py`).
"""

from __future__ import annotations

import os
import socket
from typing import Any, Final

from socketkeep._base._originals import Socket
from socketkeep._base._passing import receive, send

_SEQPACKET: Final = int(socket.SOCK_SEQPACKET)
_STREAM: Final = int(socket.SOCK_STREAM) | socket.SOCK_NONBLOCK
_ANY: Final = b"\0"


class Inlet(socket.socket):
    """The workers' end, in the words of a listener."""

    def _accept(self) -> tuple[int, str]:
        """As `socket.socket._accept`.  Raises BlockingIOError when nobody waits."""
        # Without a descriptor for it, a connection that has come would be lost.
        os.close(os.dup(self.fileno()))
        received = receive(self, len(_ANY))
        if not received.descriptors:
            raise ConnectionAbortedError("a connection of an edge did not arrive")
        for fd in received.descriptors[1:]:
            os.close(fd)
        return received.descriptors[0], ""

    def accept(self) -> tuple[socket.socket, Any]:
        fd, address = self._accept()
        return Socket(socket.AF_UNIX, _STREAM, 0, fd), address


def inlet_pair() -> tuple[Inlet, socket.socket]:
    """Return the workers' end and the edges'."""
    one, other = socket.socketpair(socket.AF_UNIX, _SEQPACKET)
    other.setblocking(False)
    return inlet_of(one.detach()), other


def inlet_of(fd: int) -> Inlet:
    """Return the workers' end, whose descriptor this is."""
    inlet = Inlet(socket.AF_UNIX, _SEQPACKET, 0, fd)
    inlet.setblocking(False)
    return inlet


def pass_on(outlet: socket.socket, header: bytes) -> socket.socket:
    """Give a worker one end of a pair, with what is told of the connection; return the other end.

    Raises BlockingIOError while so many wait that there is no room for one more.
    """
    near, far = socket.socketpair(socket.AF_UNIX, _STREAM)
    with far:
        try:
            near.send(header)
            send(outlet, _ANY, (far.fileno(),))
        except BaseException:
            near.close()
            raise
    return near
