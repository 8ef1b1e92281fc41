"""Receiving that takes nothing from the kernel until it is committed.

Received bytes are only looked at (MSG_PEEK), so when this process dies the kernel still has them
for the next one.  A poll that is told of bytes which stay would be told for ever; it must be told
of more than those:

TCP: SO_RCVLOWAT is raised to one more than was looked at.  EOF and errors are told all the same,
and so is a window that is full, at which the buffer is enlarged.

Unix sockets: polls do not heed SO_RCVLOWAT there.  An epoll instance of the connection's own
watches for edges (EPOLLET), and its descriptor is what is polled.
"""

from __future__ import annotations

import fcntl
import os
import select
import socket
import struct
import sys
import termios
from pathlib import Path
from typing import Final

from socketkeep._base._errors import LimitExceeded
from socketkeep._base._netlink import attributes, query
from socketkeep._stream._buffer import ReceiveBuffer
from socketkeep._stream._last_words import raise_last_word
from socketkeep._stream._transport import Transport

_ENDED: Final = select.POLLRDHUP | select.POLLHUP
_EDGES: Final = select.EPOLLIN | select.EPOLLRDHUP | select.EPOLLET
#: Where nobody tells whether a Unix peer can still send, so much may be uncommitted.
_UNTOLD: Final = 65536

_RMEM_MAX: Final = Path("/proc/sys/net/core/rmem_max")

_REQUEST: Final = struct.Struct("=BBxxIIIII")  # unix_diag_req
_ANSWER_SIZE: Final = 16  # unix_diag_msg
_ALL_STATES: Final = 0xFFFFFFFF
_NO_COOKIE: Final = 0xFFFFFFFF
_SHOW_PEER: Final = 0x04
_SHOW_MEMORY: Final = 0x20
_PEER: Final = 2
_MEMORY: Final = 5
_INODE: Final = struct.Struct("=I")
_ACCOUNT: Final = struct.Struct("=4I")  # received, its limit, sent, its limit


class PeekBufferFull(OSError):
    """The kernel holds as much as it can, and the message is not whole yet."""


class Peeked(Transport):
    """A transport whose bytes stay in the kernel, but for `loose`, which it came with.

    kernel: how many of the uncommitted bytes are in the kernel.  taken: how many commits have taken
    from there.
    """

    __slots__ = ("_asked", "_enlarged", "_epoll", "_refused", "_unix", "kernel", "loose", "taken")

    direct = False
    peeks = True

    def __init__(self, sock: socket.socket, loose: bytes) -> None:
        super().__init__(sock)
        self.kernel = self.taken = 0
        self.loose = loose
        self._asked = 0  # what SO_RCVLOWAT is set to; 0: not known
        self._enlarged = False  # the kernel's buffer, which has been noted
        self._unix = sock.family == socket.AF_UNIX
        self._epoll: select.epoll | None = None
        self._refused: OSError | None = None  # why there is no epoll instance
        self._watch()

    @property
    def source(self) -> Peeked:
        return self

    @property
    def binds(self) -> bool:  # type: ignore[override]
        """From a worker that took them: no kernel has them, and they would be missing."""
        return bool(self.loose)

    @property
    def kept(self) -> int:  # type: ignore[override]
        return self.kernel

    def _watch(self) -> None:
        self.input_fd = self.sock.fileno()
        if not self._unix:
            self._ask(1)  # whoever died with the connection may have left it raised
            return
        try:
            self._epoll = select.epoll()
            self._epoll.register(self.sock, _EDGES)
        except OSError as error:  # out of descriptors: the handler is told when it receives
            self._refused = error
            return
        self.input_fd = self._epoll.fileno()

    def _ask(self, count: int) -> None:
        """Have polls tell of input when there are so many bytes."""
        if not self._unix and self._asked != count:
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, count)
            self._asked = count

    def waiting(self) -> int:
        count = fcntl.ioctl(self.sock, termios.FIONREAD, bytes(4))
        return int.from_bytes(count, sys.byteorder)

    def recv(self, size: int, /) -> bytes:
        """Return up to `size` further bytes, which stay in the kernel; b"" at EOF.

        Raises BlockingIOError when there are none, NoRoom when there cannot be any, OSError.
        """
        if self._refused is not None:
            raise self._refused
        told: list[tuple[int, int]] = []
        if self._epoll is not None:
            told = self._epoll.poll(0)  # before looking: what comes after is an edge again
        most = self.kernel + size
        data = self.sock.recv(most, socket.MSG_PEEK)
        if len(data) <= self.kernel:
            return self._look_why(most) if self.kernel else self._ended()
        if self._epoll is not None and (len(data) == most or _tells_of_end(told)):
            self._epoll.modify(self.sock, _EDGES)  # there is more, or the end: have it told again
        return self._seen(data)

    def _ended(self) -> bytes:
        """Return what is received at EOF; the edge may have said that it is none."""
        if self._unix:
            raise_last_word(self.sock)
        return b""

    def _seen(self, data: bytes) -> bytes:
        new = data[self.kernel :]
        self.kernel = len(data)
        return new

    def _look_why(self, most: int) -> bytes:
        """Find out why there is nothing new: what ended the connection stands behind the bytes."""
        self._asked = 0  # another holder may have set it back
        self._ask(self.kernel + 1)
        poller = select.poll()
        poller.register(self.sock, select.POLLIN | select.POLLRDHUP)
        events = poller.poll(0)
        if not events:
            raise BlockingIOError
        data = self.sock.recv(most, socket.MSG_PEEK)
        if len(data) > self.kernel:
            return self._seen(data)
        if events[0][1] & select.POLLERR:
            code = self.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if code:
                raise OSError(code, os.strerror(code))
        if events[0][1] & _ENDED:
            return self._ended()
        if not self._unix:
            self._make_room(most)
        raise BlockingIOError

    def _make_room(self, most: int) -> None:
        """Have the kernel take more of a message than its buffer holds.  Raises NoRoom."""
        room = enlarge(self.sock, 2 * self.kernel)
        self._asked = 0
        self._ask(self.kernel + 1)
        if not room:
            raise PeekBufferFull(_no_room(self.kernel, "net.ipv4.tcp_rmem and net.core.rmem_max"))
        if not self._enlarged:  # a large message doubles it again and again
            self._enlarged = True
            _note_enlarged(self.sock, room)
        self.sock.recv(most, socket.MSG_PEEK)  # has the kernel tell the peer

    def send(self, data: bytes | memoryview, /) -> int:
        return self.sock.send(data)

    def before_wait(self) -> None:
        if not self.kernel:
            return
        if not self._unix:
            self._ask(self.kernel + 1)
            return
        full = peer_is_full(self.sock)
        if full or (full is None and self.kernel >= _UNTOLD):
            raise LimitExceeded(_no_room(self.kernel, "the sender's SO_SNDBUF"))

    def check(self, failure: OSError) -> None:
        if isinstance(failure, PeekBufferFull):
            raise LimitExceeded(str(failure))

    def commit(self, unread: int) -> int:
        """Take from the kernel what has been dealt with, all but the unread bytes.

        Returns how many bytes it was.
        """
        before = self.kernel
        loose = len(self.loose)
        dealt = loose + self.kernel - unread
        if loose:
            self.loose = self.loose[dealt:]
        if dealt > loose:
            self._take(dealt - loose)
        return before - self.kernel

    def _take(self, count: int) -> None:
        self.kernel -= count
        # MSG_TRUNC takes without a copy; a Unix socket does not know it.
        flags = 0 if self._unix else socket.MSG_TRUNC
        try:
            while count > 0:
                taken = len(self.sock.recv(count, flags))
                if not taken:
                    break
                count -= taken
                self.taken += taken
        except OSError:
            return  # it is at its end: the next receive tells
        if self._asked > 1:
            self._ask(1)

    def discard(self, count: int) -> None:
        self.kernel += count
        self._take(count)

    def absorb(self) -> None:
        if self.kernel:
            part = self.sock.recv(self.kernel, socket.MSG_WAITALL)
            self.loose += part
            self.taken += len(part)
            self.kernel = 0
            self._ask(1)

    def let_go(self) -> None:
        if self._epoll is not None:
            self._epoll.close()
            self.input_fd = self.sock.fileno()
        elif self._asked != 1 and self.sock.fileno() >= 0:
            self._ask(1)

    def after_fork(self, *, kept: bool) -> None:
        if self._epoll is not None:
            self._epoll.close()
        if kept:
            self._watch()


class PeekedBuffer(ReceiveBuffer):
    """Received bytes that are in the kernel, too: what a replay needs is there."""

    __slots__ = ("_peeked",)

    def __init__(self, peeked: Peeked) -> None:
        super().__init__()
        self._peeked = peeked

    def look_at(self, peeked: Peeked) -> None:
        """Go on over another socket, when nothing is uncommitted."""
        self._peeked = peeked

    @property
    def overflowed(self) -> bool:
        """Never: the kernel has what a replay needs."""
        return False

    @property
    def untouched(self) -> bool:
        """Nothing that was received here is uncommitted."""
        return not (self._peeked.kernel or self._peeked.loose)

    def commit(self) -> int:
        left_kernel = self._peeked.commit(self.size)
        super().commit()
        return left_kernel

    def replay(self) -> bytes:
        """Return what the kernel has not."""
        return self._peeked.loose


def _tells_of_end(events: list[tuple[int, int]]) -> bool:
    return any(event & ~select.EPOLLIN for _, event in events)


def _no_room(size: int, what: str) -> str:
    return (
        f"failed: {size} bytes are received and not committed, and the kernel holds no more: "
        f"commit more often, or raise {what}"
    )


def enlarge(sock: socket.socket, need: int) -> int:
    """Enlarge a TCP socket's receive buffer, for `need` bytes if it can be.

    Returns its size, 0 where it has not grown.  Leaves SO_RCVLOWAT changed.
    """
    room = _room(sock)
    # The kernel makes room for what it is to wait for, up to net.ipv4.tcp_rmem...
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, need)
    if _room(sock) <= room and 2 * most_room() > room:
        # ... unless the buffer's size was set by hand; this doubles it.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, room)
    now = _room(sock)
    return now if now > room else 0


def _note_enlarged(sock: socket.socket, room: int) -> None:
    import logging

    logging.getLogger("socketkeep").info(
        "receive buffer of fd %d raised to %d bytes, and further as messages need it: a handler"
        " that has its input redelivered receives so much between two commits",
        sock.fileno(),
        room,
    )


def _room(sock: socket.socket) -> int:
    return sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF)


def most_room() -> int:
    """Return what SO_RCVBUF can be set to, 0 where nobody tells."""
    try:
        return int(_RMEM_MAX.read_text())
    except (OSError, ValueError):
        return 0


def peer_is_full(sock: socket.socket) -> bool | None:
    """Return whether the Unix peer cannot send until something is received.

    None where nobody tells.

    What waits in a Unix socket's receive queue is counted against the sender's buffer, so that a
    receiver which leaves it there has to look into the sender's account, in the kernel's table
    (sock_diag(7)).  Nobody tells in a sandbox without netlink, and of a peer in another network
    namespace.
    """
    try:
        inode = _ask_kernel(os.fstat(sock.fileno()).st_ino, _SHOW_PEER).get(_PEER)
        if inode is None:
            return None
        account = _ask_kernel(_INODE.unpack(inode)[0], _SHOW_MEMORY).get(_MEMORY)
    except OSError:
        return None
    if account is None:
        return None
    _, _, sent, limit = _ACCOUNT.unpack_from(account)
    return bool(sent >= limit)


def _ask_kernel(inode: int, show: int) -> dict[int, bytes]:
    """Return the attributes of the Unix socket with that inode."""
    request = _REQUEST.pack(socket.AF_UNIX, 0, _ALL_STATES, inode, show, _NO_COOKIE, _NO_COOKIE)
    answer = next(query(request, dump=False), b"")
    return dict(attributes(answer, _ANSWER_SIZE))
