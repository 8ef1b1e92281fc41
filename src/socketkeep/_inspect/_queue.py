"""The accept queue of a listener."""

from __future__ import annotations

import os
import socket
import struct
from dataclasses import dataclass
from typing import Final

from socketkeep._inspect._sock_diag import unix_socket

# tcpi_unacked and tcpi_sacked, which for a listener are its queue and the queue's bound
# (tcp_get_info() in net/ipv4/tcp.c); one getsockopt, where sock_diag would be three system calls.
_TCP_INFO_QUEUE: Final = struct.Struct("=24xII")


@dataclass(frozen=True, slots=True)
class ListenQueue:
    """Connections that wait to be accepted, and how many may."""

    queued: int
    backlog: int


def listen_queue(listener: socket.socket) -> ListenQueue | None:
    """Return the accept queue of a listening TCP or Unix socket.

    None when the kernel does not say: the socket does not listen, is of another kind, or netlink
    is forbidden here.
    """
    try:
        if not listener.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
            return None
        if listener.family in (socket.AF_INET, socket.AF_INET6):
            info = listener.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO_QUEUE.size)
            return ListenQueue(*_TCP_INFO_QUEUE.unpack(info))
        if listener.family == socket.AF_UNIX:
            found = unix_socket(os.fstat(listener.fileno()).st_ino)
            if found is not None and found.queued is not None and found.backlog is not None:
                return ListenQueue(found.queued, found.backlog)
    except OSError:
        return None
    return None
