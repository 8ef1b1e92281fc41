"""Descriptors in messages from one process to another (SCM_RIGHTS, unix(7)).

They are passed with `sendmsg` and `recvmsg`, not `socket.send_fds`: that drops the flags, and
without MSG_CMSG_CLOEXEC a descriptor received leaks into every program the process starts.  A
message too large for a packet goes in a sealed memfd (memfd_create(2)) that rides along as the last
descriptor.
"""

from __future__ import annotations

import _socket
import fcntl
import os
import socket
import stat
import struct
import sys
from array import array
from collections.abc import Callable, Sequence
from functools import partial
from typing import Final, NamedTuple

from socketkeep import _native
from socketkeep._base._originals import Socket

_core: Final = _native.core

#: A message up to this size needs no memfd.
#: Well under the smallest send buffer in use (net.core.wmem_default, 212,992 bytes): several such
#: packets fit, so that a short pause of the reader does not stop the writer.
INLINE_LIMIT: Final = 32 * 1024
#: What the long fields of a message may have together so that the whole needs none.
SURELY_INLINE: Final = INLINE_LIMIT // 2
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

_BLOCK: Final = 512  # of st_blocks, stat(2)

#: The longest payload that `pack` makes.
PAYLOAD_LIMIT: Final = INLINE_LIMIT + 1


_LINGER: Final = struct.Struct("ii")  # struct linger, socket(7): on or off, seconds


def close_without_waiting(fd: int) -> None:
    """Close a descriptor of a socket that user code has had; of another kind it may be, too.

    With SO_LINGER, which belongs to the socket and not to a handle, the close of the last handle
    waits for the peer, for as long as was set, and O_NONBLOCK does not change that.  A linger of no
    seconds, a reset, waits for nobody and stays as it was set.
    """
    if stat.S_ISSOCK(os.fstat(fd).st_mode):
        sock = _socket.socket(fileno=fd)
        try:
            packed = sock.getsockopt(_SOCKET_LEVEL, socket.SO_LINGER, _LINGER.size)
            if all(_LINGER.unpack(packed)):
                sock.setsockopt(_SOCKET_LEVEL, socket.SO_LINGER, _LINGER.pack(0, 0))
        except OSError:
            pass  # a kind of socket that has none
        finally:
            sock.detach()
    os.close(fd)


class Received(NamedTuple):
    """The result of one recvmsg(2); `data` is empty at the end of what the other side sends.

    `descriptors` belong to the receiver.  `truncated` tells that the kernel could not install all
    of those sent (MSG_CTRUNC: this process is at its limit): what is missing is lost for good here.
    """

    data: bytes
    descriptors: list[int]
    truncated: bool


def send(sock: socket.socket, payload: bytes, descriptors: Sequence[int] = ()) -> int:
    """Send what there is room for now, the descriptors with its first byte; return how much."""
    return sender(sock)(payload, descriptors)


def receive(sock: socket.socket, size: int = PAYLOAD_LIMIT) -> Received:
    """Receive a packet, or up to `size` bytes of a stream.  Raises BlockingIOError."""
    return receiver(sock, size)()


def sender(sock: socket.socket) -> Callable[[bytes, Sequence[int]], int]:
    """Return what sends by this socket as `send` does, for who sends much."""
    # A socket of a class of its own may do more than send and receive.
    if _core is not None and type(sock) is Socket:
        return partial(_core.send_packet, sock)
    return partial(_send_in_python, sock)


def receiver(sock: socket.socket, size: int = PAYLOAD_LIMIT) -> Callable[[], Received]:
    """Return what receives by this socket as `receive` does."""
    if _core is not None and type(sock) is Socket:
        return partial(_core.receive_packet, Received, sock, size)
    return partial(_receive_in_python, sock, size)


def _send_in_python(sock: socket.socket, payload: bytes, descriptors: Sequence[int]) -> int:
    rights = ((_SOCKET_LEVEL, _RIGHTS, array("i", descriptors)),) if descriptors else ()
    return sock.sendmsg((payload,), rights, _SEND_FLAGS)


def _receive_in_python(sock: socket.socket, size: int) -> Received:
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
    """Return whether the last descriptor is the message; its sender closes it when it has gone."""
    return payload == _IN_MEMFD


class Unfit(ValueError):
    """A descriptor that was received is not what it is said to be; nothing was done with it."""


class TooLarge(Unfit):
    """It is a memfd as it should be, and holds more than the receiver takes."""


def unpack(received: Received, most: int = sys.maxsize) -> bytes | None:
    """Return the message, and take its memfd out of the descriptors.

    None when the memfd is among the descriptors that did not arrive.  Raises Unfit when it is no
    memfd such as `pack` makes, TooLarge when it has more than `most` bytes; it is closed then, and
    the other descriptors still are the receiver's.
    """
    if not in_memfd(received.data):
        return received.data[1:]
    if received.truncated:
        return None
    if not received.descriptors:
        raise Unfit("no descriptor came with a message that is in one")
    fd = received.descriptors.pop()
    try:
        size = sealed_size(fd, _SEALS)
        if size > most:
            raise TooLarge(f"a message of {size} bytes")
        return os.pread(fd, size, 0)
    finally:
        os.close(fd)


def sealed_size(fd: int, seals: int) -> int:
    """Return the size of a memfd that has these seals and is not sparse.  Raises Unfit.

    Asked before anything is read or mapped: of a pipe a read may never return, of a file of holes
    it takes memory that the sender never had, and a mapping of what its sender shortens is met by
    SIGBUS.
    """
    found = os.fstat(fd)
    if not stat.S_ISREG(found.st_mode):
        raise Unfit(f"a memfd was to come, not {_kind(found.st_mode)}")
    if has_seals(fd) & seals != seals:
        raise Unfit("a memfd came without its seals")
    if found.st_blocks * _BLOCK < found.st_size and seals & fcntl.F_SEAL_WRITE:
        raise Unfit("a memfd came that is sparse")
    return found.st_size


def has_seals(fd: int) -> int:
    """Return the seals of a memfd, 0 for what can have none."""
    try:
        return fcntl.fcntl(fd, fcntl.F_GET_SEALS)
    except OSError:
        return 0


def _kind(mode: int) -> str:
    kinds = (
        (stat.S_ISFIFO, "a pipe"),
        (stat.S_ISSOCK, "a socket"),
        (stat.S_ISDIR, "a directory"),
        (stat.S_ISCHR, "a device"),
    )
    return next((text for is_kind, text in kinds if is_kind(mode)), "another descriptor")
