"""Descriptors in messages from one process to another (SCM_RIGHTS, unix(7)).

They are passed with `sendmsg` and `recvmsg`, not `socket.send_fds`: that drops the flags, and
without MSG_CMSG_CLOEXEC a descriptor received leaks into every program the process starts.  A
message too large for a packet goes in a sealed memfd (memfd_create(2)) that rides along as the last
descriptor.
"""

from __future__ import annotations

import fcntl
import os
import socket
from array import array
from collections.abc import Sequence
from typing import Final, NamedTuple

#: A message up to this size needs no memfd.
#: Well under the smallest send buffer in use (net.core.wmem_default, 212,992 bytes): several such
#: packets fit, so that a short pause of the reader does not stop the writer.
INLINE_LIMIT: Final = 32 * 1024
_INLINE: Final = b"\0"
_IN_MEMFD: Final = b"\1"
_ANCILLARY: Final = socket.CMSG_SPACE(253 * array("i").itemsize)  # SCM_MAX_FD of the kernel
# As plain numbers: to combine an enumeration's members takes longer than the system call.
_SEND_FLAGS: Final = int(socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
_RECEIVE_FLAGS: Final = int(socket.MSG_DONTWAIT | socket.MSG_CMSG_CLOEXEC)
_TRUNCATED: Final = int(socket.MSG_CTRUNC)
_SOCKET_LEVEL: Final = int(socket.SOL_SOCKET)
_RIGHTS: Final = int(socket.SCM_RIGHTS)
_SEALS: Final = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SEAL

#: The longest payload that `pack` makes.
PAYLOAD_LIMIT: Final = INLINE_LIMIT + 1


class Received(NamedTuple):
    """What one recvmsg(2) gave; `data` is empty at the end of what the other side sends.

    `descriptors` belong to the receiver.  `truncated` tells that the kernel could not install all
    of those sent (MSG_CTRUNC: this process is at its limit): what is missing is lost for good here.
    """

    data: bytes
    descriptors: list[int]
    truncated: bool


def send(sock: socket.socket, payload: bytes, descriptors: Sequence[int] = ()) -> int:
    """Send what there is room for now, the descriptors with its first byte; return how much."""
    rights = ((_SOCKET_LEVEL, _RIGHTS, array("i", descriptors)),) if descriptors else ()
    return sock.sendmsg((payload,), rights, _SEND_FLAGS)


def receive(sock: socket.socket, size: int = PAYLOAD_LIMIT) -> Received:
    """Receive a packet, or up to `size` bytes of a stream.  Raises BlockingIOError."""
    data, ancillary, flags, _ = sock.recvmsg(size, _ANCILLARY, _RECEIVE_FLAGS)
    if not ancillary:
        return Received(data, [], bool(flags & _TRUNCATED))
    fds = array("i")
    for level, kind, rights in ancillary:
        if level == _SOCKET_LEVEL and kind == _RIGHTS:
            fds.frombytes(rights[: len(rights) - len(rights) % fds.itemsize])
    return Received(data, list(fds), bool(flags & _TRUNCATED))


def pack(body: bytes, descriptors: Sequence[int]) -> tuple[bytes, list[int]]:
    """Return the payload and the descriptors to send; see `in_memfd` for who owns the last one.

    Raises OSError when there is no descriptor for the memfd that a large message needs.
    """
    if len(body) <= INLINE_LIMIT:
        return _INLINE + body, list(descriptors)
    memfd = os.memfd_create("socketkeep-message", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    with open(memfd, "wb", closefd=False) as file:
        file.write(body)
    os.lseek(memfd, 0, os.SEEK_SET)
    fcntl.fcntl(memfd, fcntl.F_ADD_SEALS, _SEALS)
    return _IN_MEMFD, [*descriptors, memfd]


def in_memfd(payload: bytes) -> bool:
    """Whether the last descriptor is the message, which its sender closes when it has gone."""
    return payload == _IN_MEMFD


def unpack(received: Received) -> bytes | memoryview | None:
    """Return the message, and take its memfd out of the descriptors.

    None when the memfd is among the descriptors that did not arrive.
    """
    if not in_memfd(received.data):
        return memoryview(received.data)[1:]
    if received.truncated:
        return None
    if not received.descriptors:
        return b""  # not ours: none was sent
    with open(received.descriptors.pop(), "rb") as body:
        return body.read()
