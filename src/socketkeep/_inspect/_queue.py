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
_SO_MEMINFO: Final = 55
_MEMINFO: Final = struct.Struct("=9I")  # SK_MEMINFO_... of linux/sock_diag.h
_DROPS: Final = 8


@dataclass(frozen=True, slots=True)
class ListenQueue:
    """Connections that wait to be accepted, and how many may."""

    queued: int
    backlog: int


def listen_drops(listener: socket.socket) -> int | None:
    """Return how many packets of clients a TCP listener has dropped, for want of room in its queue.

    Not how many clients: each tries again, after a second, three, seven.  The kernel's count of
    this one socket, of 32 bits, of which ListenDrops of /proc/net/netstat is the sum over all.  A
    full Unix listener drops nobody: its clients wait.

    None when the kernel does not say.
    """
    if listener.family not in (socket.AF_INET, socket.AF_INET6):
        return None
    try:
        told = listener.getsockopt(socket.SOL_SOCKET, _SO_MEMINFO, _MEMINFO.size)
        return int(_MEMINFO.unpack(told)[_DROPS])
    except (OSError, struct.error):
        return None


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
