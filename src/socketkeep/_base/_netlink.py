"""Questions to the kernel over netlink (netlink(7)), one at a time."""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterator
from typing import Final

_NETLINK_SOCK_DIAG: Final = 4
_SOCK_DIAG_BY_FAMILY: Final = 20
_NLMSG_ERROR: Final = 2
_NLMSG_DONE: Final = 3
_NLM_F_REQUEST: Final = 0x1
_NLM_F_DUMP: Final = 0x300

_HEADER: Final = struct.Struct("=IHHII")  # nlmsghdr
_LENGTH_AND_KIND: Final = struct.Struct("=IH")  # of it
_ERROR: Final = struct.Struct("=i")  # nlmsgerr, its first field: a negative errno
_ATTRIBUTE: Final = struct.Struct("=HH")  # nlattr

# Enough for any part of a dump: the kernel fills at most 32 KiB a read.
_READ_SIZE: Final = 65536
_TIMEOUT: Final = 2.0


def query(request: bytes, *, dump: bool) -> Iterator[bytes]:
    """Yield the payload of each answer to one request of sock_diag(7); raises OSError."""
    flags = _NLM_F_REQUEST | (_NLM_F_DUMP if dump else 0)
    header = _HEADER.pack(_HEADER.size + len(request), _SOCK_DIAG_BY_FAMILY, flags, 1, 0)
    header_size, unpack = _HEADER.size, _LENGTH_AND_KIND.unpack_from
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_SOCK_DIAG) as netlink:
        netlink.settimeout(_TIMEOUT)
        netlink.sendto(header + request, (0, 0))
        while True:
            data = netlink.recv(_READ_SIZE)
            offset, end = 0, len(data)
            while offset < end:
                length, kind = unpack(data, offset)
                payload = data[offset + header_size : offset + length]
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


def attributes(data: bytes, offset: int = 0) -> Iterator[tuple[int, bytes]]:
    """Yield kind and content of each attribute from `offset` on."""
    end = len(data) - _ATTRIBUTE.size
    while offset <= end:
        length, kind = _ATTRIBUTE.unpack_from(data, offset)
        if length < _ATTRIBUTE.size:
            return
        yield kind, data[offset + _ATTRIBUTE.size : offset + length]
        offset += (length + 3) & ~3
