"""Whether the peer on a Unix socket has room to send, from the kernel's table (sock_diag(7)).

What waits in a Unix socket's receive queue is counted against the sender's buffer.  A receiver that
leaves it there has to look into the sender's account to know that nothing more can come.
"""

from __future__ import annotations

import os
import socket
import struct
from typing import Final

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
