"""Descriptors that another process sent, looked at before anything is done with them.

What runs user code may send anything: by mistake, as when a handler closes the descriptor under its
connection and a file takes the number, or on purpose.  A read from a pipe and a write to a full one
never return, shutdown(2) of a listener ends it for everybody, and a file that is shortened kills
who has it mapped.  Each of these functions raises Unfit and leaves the descriptor to its caller.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import socket
import stat
from collections.abc import Iterator
from typing import Any, Final

from socketkeep._base._address import credentials_of
from socketkeep._base._passing import Unfit

_EVENTFD: Final = "anon_inode:[eventfd]"
_FAMILIES: Final = (socket.AF_INET, socket.AF_INET6, socket.AF_UNIX)
_IP_TRANSPARENT: Final = 19  # <linux/in.h>
_IPV6_TRANSPARENT: Final = 75  # <linux/in6.h>

#: By it a connection is told to be one of a listener: the port, or the path of its socket.
Place = tuple[str, Any]
#: The place of a listener that takes connections to any address (IP_TRANSPARENT).
ANYWHERE: Final[Place] = ("inet", None)
#: The place of a connection whose TLS is in an edge: one end of a pair, which has no name.
PLAIN_END: Final[Place] = ("unix", "")


def connection_place(fd: int) -> Place:
    """Return where the connection `fd` was accepted; make it non-blocking.

    Raises Unfit for what is no stream socket, or is one that listens.
    """
    with _socket(fd) as sock:
        if sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
            raise Unfit("a connection was to come, not a listener")
        sock.setblocking(False)
        return _place(sock)


def pair_maker(fd: int) -> int:
    """Return the pid of the process that made the pair of sockets of which `fd` is an end.

    The kernel noted it then, and whoever has an end since cannot change it.
    """
    with _socket(fd) as sock:
        return credentials_of(sock)[0]


def listener_place(fd: int) -> Place:
    """Return the place of the listener `fd`; make it non-blocking.  Raises Unfit."""
    with _socket(fd) as sock:
        if not sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
            raise Unfit("a listener was to come, not a connection")
        sock.setblocking(False)
        return place_of(sock)


def place_of(listener: socket.socket) -> Place:
    """Return the place by which connections are told to be of `listener`."""
    option = {
        socket.AF_INET: (socket.SOL_IP, _IP_TRANSPARENT),
        socket.AF_INET6: (socket.IPPROTO_IPV6, _IPV6_TRANSPARENT),
    }.get(listener.family)
    if option is not None and listener.getsockopt(*option):
        return ANYWHERE
    return _place(listener)


def require_answer_pipe(fd: int) -> None:
    """Make the write end of a pipe non-blocking.  Raises Unfit unless it has room for an answer."""
    if not stat.S_ISFIFO(os.fstat(fd).st_mode):
        raise Unfit("a pipe for the answer was to come, not another descriptor")
    if fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY:
        raise Unfit("the reading end of a pipe came for the answer")
    os.set_blocking(fd, False)
    poller = select.poll()
    poller.register(fd, select.POLLOUT)
    if not poller.poll(0):
        raise Unfit("a pipe for the answer came that is full")


def require_line(fd: int) -> None:
    """Raise Unfit unless `fd` is one end of a channel."""
    if not stat.S_ISSOCK(os.fstat(fd).st_mode):
        raise Unfit("the end of a line was to come, not another descriptor")
    sock = socket.socket(fileno=fd)
    try:
        if (sock.family, sock.type) != (socket.AF_UNIX, socket.SOCK_SEQPACKET):
            raise Unfit("the end of a line was to come, not another socket")
    finally:
        sock.detach()


def require_event(fd: int) -> None:
    """Raise Unfit unless `fd` is an eventfd."""
    if os.readlink(f"/proc/self/fd/{fd}") != _EVENTFD:
        raise Unfit("an eventfd was to come, not another descriptor")


def ring(event: int) -> None:
    """Make the eventfd readable.

    Whoever has it, too, may have made it blocking, and its counter the highest: to add to that
    would wait for a reader.
    """
    os.set_blocking(event, False)
    with contextlib.suppress(BlockingIOError):  # it is readable
        os.eventfd_write(event, 1)


@contextlib.contextmanager
def _socket(fd: int) -> Iterator[socket.socket]:
    """Yield a socket object over `fd`, which stays open."""
    if not stat.S_ISSOCK(os.fstat(fd).st_mode):
        raise Unfit("a socket was to come, not another descriptor")
    sock = socket.socket(fileno=fd)
    try:
        if sock.type != socket.SOCK_STREAM or sock.family not in _FAMILIES:
            raise Unfit("a stream socket was to come, not one of another kind")
        yield sock
    finally:
        sock.detach()


def _place(sock: socket.socket) -> Place:
    name = sock.getsockname()
    return ("unix", name) if sock.family == socket.AF_UNIX else ("inet", name[1])
