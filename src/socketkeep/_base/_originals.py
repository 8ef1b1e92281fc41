"""The standard library as it was before any code of the user's ran.

A program may replace `socket.socket` (a proxy's, a test's, gevent's) and set a default timeout for
all sockets.  Both are its right, and neither may reach the sockets that are the server's own.
"""

from __future__ import annotations

import _socket
import select
import socket
import threading
from typing import Final

#: The standard class.
Socket: Final = socket.socket
_STREAM: Final = int(socket.SOCK_STREAM)

#: What a worker's own waits and locks are made of, by the names under which it is replaced.
_REPLACED: Final[dict[str, tuple[object, str, object]]] = {
    f"{module.__name__}.{name}": (module, name, getattr(module, name, None))
    for module, names in (
        (select, ("poll", "epoll")),
        (threading, ("Thread", "Lock")),
    )
    for name in names
}


def socket_of(fd: int) -> socket.socket:
    """Return a socket object, non-blocking, that owns the descriptor.

    Whatever `socket.setdefaulttimeout` says: an object with a timeout waits before a call that was
    told not to (MSG_DONTWAIT), and then raises another error.  Raises OSError, and the descriptor
    is the caller's still.
    """
    return _non_blocking(Socket(fileno=fd))


def stream_of(fd: int) -> socket.socket:
    """As `socket_of`, for a descriptor that is known to be of a stream socket.

    Without the system calls that find that out.  Whoever had it may have let it block again, and
    so it is made non-blocking here, too.
    """
    return _non_blocking(Socket(-1, _STREAM, -1, fd))


def _non_blocking(sock: socket.socket) -> socket.socket:
    try:
        sock.setblocking(False)
    except BaseException:
        sock.detach()
        raise
    return sock


def socket_pair() -> tuple[socket.socket, socket.socket]:
    """Return two connected Unix stream sockets, as `socket.socketpair` makes them."""
    one, other = _socket.socketpair()
    return socket_of(one.detach()), socket_of(other.detach())


def replaced() -> list[str]:
    """Return the names of what the user's code has replaced and a worker cannot do without."""
    return [
        name
        for name, (module, attribute, original) in _REPLACED.items()
        if getattr(module, attribute, None) is not original
    ]
