"""How much the kernel holds of what is received and left there.

TCP: the receive buffer, which can be enlarged.  Unix sockets: what waits in the receive queue is
counted against the sender's buffer, so a receiver that leaves it there has to look into the
sender's account, in the kernel's table (sock_diag(7)), to know that nothing more can come.
"""

from __future__ import annotations

import os
import socket
import struct
from pathlib import Path
from typing import Final

_RMEM_MAX: Final = Path("/proc/sys/net/core/rmem_max")

_NETLINK_SOCK_DIAG: Final = 4
_SOCK_DIAG_BY_FAMILY: Final = 20
_NLM_F_REQUEST: Final = 1
_HEADER: Final = struct.Struct("=IHHII")  # nlmsghdr
_REQUEST: Final = struct.Struct("=BBxxIIIII")  # unix_diag_req
_ANSWER_SIZE: Final = 16  # unix_diag_msg
_ATTRIBUTE: Final = struct.Struct("=HH")  # nlattr
_ALL_STATES: Final = 0xFFFFFFFF
_NO_COOKIE: Final = 0xFFFFFFFF
_SHOW_PEER: Final = 0x04
_SHOW_MEMORY: Final = 0x20
_PEER: Final = 2
_MEMORY: Final = 5
_INODE: Final = struct.Struct("=I")
_ACCOUNT: Final = struct.Struct("=4I")  # received, its limit, sent, its limit


def enlarge(sock: socket.socket, need: int) -> bool:
    """Enlarge a TCP socket's receive buffer, for `need` bytes if it can be; whether it has grown.

    Leaves SO_RCVLOWAT changed.
    """
    room = _room(sock)
    # The kernel makes room for what it is to wait for, up to net.ipv4.tcp_rmem...
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, need)
    if _room(sock) <= room and 2 * most_room() > room:
        # ... unless the buffer's size was set by hand; this doubles it.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, room)
    now = _room(sock)
    if now <= room:
        return False
    import logging

    logging.getLogger("socketkeep").info(
        "receive buffer of fd %d raised from %d to %d bytes: a handler that has its input "
        "redelivered receives so much between two commits",
        sock.fileno(),
        room,
        now,
    )
    return True


def _room(sock: socket.socket) -> int:
    return sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF)


def most_room() -> int:
    """Return what SO_RCVBUF can be set to, 0 where nobody tells."""
    try:
        return int(_RMEM_MAX.read_text())
    except (OSError, ValueError):
        return 0


def peer_is_full(sock: socket.socket) -> bool | None:
    """Whether the peer cannot send until something is received; None where nobody tells.

    That is in a sandbox without netlink, and for a peer in another network namespace.
    """
    try:
        with socket.socket(
            socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_SOCK_DIAG
        ) as netlink:
            inode = _ask(netlink, os.fstat(sock.fileno()).st_ino, _SHOW_PEER).get(_PEER)
            if inode is None:
                return None
            account = _ask(netlink, _INODE.unpack(inode)[0], _SHOW_MEMORY).get(_MEMORY)
    except OSError:
        return None
    if account is None:
        return None
    _, _, sent, limit = _ACCOUNT.unpack_from(account)
    return bool(sent >= limit)


def _ask(netlink: socket.socket, inode: int, show: int) -> dict[int, bytes]:
    """Return the attributes of the Unix socket with that inode."""
    request = _REQUEST.pack(socket.AF_UNIX, 0, _ALL_STATES, inode, show, _NO_COOKIE, _NO_COOKIE)
    size = _HEADER.size + len(request)
    netlink.send(_HEADER.pack(size, _SOCK_DIAG_BY_FAMILY, _NLM_F_REQUEST, 0, 0) + request)
    answer = netlink.recv(4096)
    size, kind, _, _, _ = _HEADER.unpack_from(answer)
    found: dict[int, bytes] = {}
    at = _HEADER.size + _ANSWER_SIZE
    while kind == _SOCK_DIAG_BY_FAMILY and at + _ATTRIBUTE.size <= size:
        length, name = _ATTRIBUTE.unpack_from(answer, at)
        if length < _ATTRIBUTE.size:
            break
        found[name] = answer[at + _ATTRIBUTE.size : at + length]
        at += (length + 3) & ~3
    return found
