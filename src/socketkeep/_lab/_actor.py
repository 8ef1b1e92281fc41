"""A process of an experiment: it does what it is told, one call at a time.

It is forked, and not started anew, so that the calls are those it was given, whatever they are, and
so that a child of its own is what a server's child is: a copy of its parent with all its handles.
"""

from __future__ import annotations

import array
import os
import resource
import signal
import socket
import time
from typing import Any, Final, NoReturn

import msgspec
from msgspec import Struct

from socketkeep._base import _prctl
from socketkeep._lab._calls import Calls

_MOST: Final = 65536


class CallOrder(Struct, frozen=True, array_like=True):
    """The order for a call; with "fork" comes the descriptor of the child's channel."""

    call: str
    arguments: tuple[Any, ...] = ()


class Open(Struct, frozen=True, array_like=True):
    """A socket that a process has open.

    ends: its own port and its peer's, 0 for that of a listener; None when it has none yet.
    """

    fd: int
    inode: int
    ends: tuple[int, int] | None


class CallReply(Struct, frozen=True, array_like=True):
    """The answer to it.

    error: the exception's name, "" for none; code: its errno, 0 for none.
    waits: how often the process gave up the processor, as the kernel counts it.
    sockets: those that are open, by name.
    """

    value: Any
    error: str
    code: int
    message: str
    seconds: float
    waits: int
    sockets: dict[str, Open]


def act(calls: Calls, channel: socket.socket) -> NoReturn:
    """Obey until the channel's other end is closed; never returns, whatever happens.

    A process that hangs in a call is killed by who drives it, and by the end of its parent.
    """
    status = 1
    try:
        # A Ctrl-C is for who drives it, who ends this.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        _prctl.die_with_parent(signal.SIGKILL)
        while True:
            data, descriptors = _receive(channel)
            if not data:
                break
            order = msgspec.msgpack.decode(data, type=CallOrder)
            if order.call == "fork":
                with socket.socket(fileno=descriptors[0]) as childs:
                    reply = _made(calls, order)
                    if reply.value == 0 and not reply.error:
                        channel.close()
                        channel = childs.dup()
                        _prctl.die_with_parent(signal.SIGKILL)
            else:
                reply = _made(calls, order)
            channel.sendall(msgspec.msgpack.encode(reply))
        status = 0
    finally:
        os._exit(status)


def _made(calls: Calls, order: CallOrder) -> CallReply:
    value, error, code, message = None, "", 0, ""
    waits, started = _waits(), time.monotonic()
    try:
        value = getattr(calls, order.call)(*order.arguments)
    except OSError as failure:
        error, code = type(failure).__name__, failure.errno or 0
        message = failure.strerror or str(failure)
    seconds, waits = time.monotonic() - started, _waits() - waits
    return CallReply(value, error, code, message, seconds, waits, _open_sockets(calls))


def _waits() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_nvcsw


def _open_sockets(calls: Calls) -> dict[str, Open]:
    return {
        name: Open(sock.fileno(), os.fstat(sock.fileno()).st_ino, _ends(sock))
        for name, sock in calls.open.items()
        if sock.fileno() >= 0
    }


def _ends(sock: socket.socket) -> tuple[int, int] | None:
    if sock.family != socket.AF_INET:
        return None
    port = sock.getsockname()[1]
    if sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        return port, 0
    try:
        return port, sock.getpeername()[1]
    except OSError:
        return None  # not connected, or no more


def _receive(channel: socket.socket) -> tuple[bytes, list[int]]:
    descriptors = array.array("i")
    room = socket.CMSG_LEN(descriptors.itemsize)
    data, ancillary, _, _ = channel.recvmsg(_MOST, room)
    for _level, _kind, content in ancillary:
        descriptors.frombytes(content)
    return data, list(descriptors)
