"""The kernel's table of sockets, over netlink (sock_diag(7)).

It sees the sockets of this network namespace alone.  A sandbox may forbid netlink: then every
function here raises OSError.
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

_NETLINK_SOCK_DIAG: Final = 4
_SOCK_DIAG_BY_FAMILY: Final = 20
_NLMSG_ERROR: Final = 2
_NLMSG_DONE: Final = 3
_NLM_F_REQUEST: Final = 0x1
_NLM_F_DUMP: Final = 0x300

_HEADER: Final = struct.Struct("=IHHII")  # nlmsghdr
_ERROR: Final = struct.Struct("=i")  # nlmsgerr, its first field: a negative errno
_ATTRIBUTE: Final = struct.Struct("=HH")  # nlattr
_INET_REQUEST: Final = struct.Struct("=BBBxI48s")  # inet_diag_req_v2
_INET_ANSWER: Final = struct.Struct("=BBBB2s2s16s16sIIIIIIII")  # inet_diag_msg
_UNIX_REQUEST: Final = struct.Struct("=BBxxIIIII")  # unix_diag_req
_UNIX_ANSWER: Final = struct.Struct("=BBBxIII")  # unix_diag_msg
_UDIAG_SHOW_NAME: Final = 0x1
_UDIAG_SHOW_RQLEN: Final = 0x10
_UNIX_DIAG_NAME: Final = 0
_UNIX_DIAG_RQLEN: Final = 4
_NO_COOKIE: Final = 0xFFFFFFFF

LISTEN: Final = 10
_TIME_WAIT: Final = 6
_ALL_STATES: Final = 0xFFFFFFFF
# Enough for any part of a dump: the kernel fills at most 32 KiB a read.
_READ_SIZE: Final = 65536
_TIMEOUT: Final = 2.0


@dataclass(frozen=True, slots=True)
class InetSocket:
    """One TCP socket; `inode` 0 is one that no process holds any more."""

    family: int
    state: int
    host: str
    port: int
    uid: int
    inode: int


@dataclass(frozen=True, slots=True)
class UnixSocket:
    """One Unix socket; name "" for none, "@..." in the abstract namespace.

    queued, backlog: of a listener; None where the kernel does not say.
    """

    state: int
    name: str
    inode: int
    queued: int | None
    backlog: int | None


def tcp_sockets(port: int) -> list[InetSocket]:
    """Return the TCP sockets, IPv4 and IPv6, whose local port is `port`; raises OSError."""
    found: list[InetSocket] = []
    for family in (socket.AF_INET, socket.AF_INET6):
        # The kernel filters a dump by the source port of the request (be16, first in the id).
        identity = struct.pack("!H", port) + bytes(46)
        request = _INET_REQUEST.pack(family, socket.IPPROTO_TCP, 0, _ALL_STATES, identity)
        for payload in _query(request, dump=True):
            answer = _inet_socket(payload)
            if answer.port == port and answer.state != _TIME_WAIT:
                found.append(answer)
    return found


def unix_socket(inode: int) -> UnixSocket | None:
    """Return the Unix socket of that inode, None when there is none; raises OSError."""
    try:
        payloads = list(_query(_unix_request(inode), dump=False))
    except FileNotFoundError:
        return None
    return _unix_socket(payloads[0]) if payloads else None


def unix_sockets() -> Iterator[UnixSocket]:
    """Yield every Unix socket; raises OSError."""
    return map(_unix_socket, _query(_unix_request(0), dump=True))


def _unix_request(inode: int) -> bytes:
    show = _UDIAG_SHOW_NAME | _UDIAG_SHOW_RQLEN
    return _UNIX_REQUEST.pack(socket.AF_UNIX, 0, _ALL_STATES, inode, show, _NO_COOKIE, _NO_COOKIE)


def _inet_socket(payload: bytes) -> InetSocket:
    fields = _INET_ANSWER.unpack_from(payload)
    family, state, source_port, source, uid, inode = (
        *(fields[0], fields[1], fields[4], fields[6]),
        *(fields[14], fields[15]),
    )
    packed = source[:4] if family == socket.AF_INET else source
    return InetSocket(
        family,
        state,
        socket.inet_ntop(family, packed),
        int.from_bytes(source_port, "big"),
        uid,
        inode,
    )


def _unix_socket(payload: bytes) -> UnixSocket:
    _family, _kind, state, inode, _cookie_low, _cookie_high = _UNIX_ANSWER.unpack_from(payload)
    attributes = dict(_attributes(payload[_UNIX_ANSWER.size :]))
    name = attributes.get(_UNIX_DIAG_NAME, b"")
    if name.startswith(b"\0"):
        name = b"@" + name[1:]
    lengths = attributes.get(_UNIX_DIAG_RQLEN)
    queued, backlog = struct.unpack("=II", lengths) if lengths else (None, None)
    return UnixSocket(state, os.fsdecode(name.rstrip(b"\0")), inode, queued, backlog)


def _attributes(data: bytes) -> Iterator[tuple[int, bytes]]:
    offset = 0
    while offset + _ATTRIBUTE.size <= len(data):
        length, kind = _ATTRIBUTE.unpack_from(data, offset)
        if length < _ATTRIBUTE.size:
            return
        yield kind, data[offset + _ATTRIBUTE.size : offset + length]
        offset += (length + 3) & ~3


def _query(request: bytes, *, dump: bool) -> Iterator[bytes]:
    """Yield the payload of each answer to one request."""
    flags = _NLM_F_REQUEST | (_NLM_F_DUMP if dump else 0)
    header = _HEADER.pack(_HEADER.size + len(request), _SOCK_DIAG_BY_FAMILY, flags, 1, 0)
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_SOCK_DIAG) as netlink:
        netlink.settimeout(_TIMEOUT)
        netlink.sendto(header + request, (0, 0))
        while True:
            data = netlink.recv(_READ_SIZE)
            offset = 0
            while offset + _HEADER.size <= len(data):
                length, kind, _flags, _sequence, _pid = _HEADER.unpack_from(data, offset)
                payload = data[offset + _HEADER.size : offset + length]
                offset += (length + 3) & ~3
                if kind == _NLMSG_DONE:
                    return
                if kind == _NLMSG_ERROR:
                    code = -_ERROR.unpack_from(payload)[0]
                    if code == 0:
                        return
                    raise OSError(code, os.strerror(code))
                yield payload
                if not dump:
                    return
