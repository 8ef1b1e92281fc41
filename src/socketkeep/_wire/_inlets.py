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

from socketkeep import _native
from socketkeep._base._address import InetAddress
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
    if _native.core is None:
        return _pass_on_in_python(outlet, header)
    return Socket(socket.AF_UNIX, _STREAM, 0, _native.core.pass_on(outlet.fileno(), header))


def _pass_on_in_python(outlet: socket.socket, header: bytes) -> socket.socket:
    near, far = socket.socketpair(socket.AF_UNIX, _STREAM)
    with far:
        try:
            near.send(header)
            send(outlet, _ANY, (far.fileno(),))
        except BaseException:
            near.close()
            raise
    return near


def inet_of(raw: Any) -> InetAddress:
    """Return an address of a socket without what a PROXY header has no place for."""
    host = raw[0].partition("%")[0]
    if host.startswith("::ffff:") and "." in host:
        host = host[7:]
    return InetAddress(host, raw[1])


def _ends_of(sock: socket.socket) -> bytes:
    """Return both addresses of a connection as they stand in a header, see `packed_ends`.

    Raises OSError; ValueError where it has no two addresses of one kind.
    """
    from socketkeep._base._proxy_header import packed_ends  # for edges, which have it anyway

    return packed_ends(inet_of(sock.getpeername()), inet_of(sock.getsockname()))


ends_of = _native.compiled_or(_ends_of, "ends_of")
