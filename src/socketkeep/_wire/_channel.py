"""A channel: messages and descriptors between two processes, whole and in order.

An ``AF_UNIX SOCK_SEQPACKET`` pair: a packet arrives whole or not at all, and several processes may
send on one end without mixing their packets (unix(7)).  A message too large for a packet goes in a
sealed memfd (memfd_create(2)) that rides along as the last descriptor.

Descriptors are passed with `sendmsg` and `recvmsg`, not `socket.send_fds`: those drop the flags,
and without MSG_CMSG_CLOEXEC a descriptor received leaks into every program the process starts.
"""

from __future__ import annotations

import fcntl
import os
import select
import socket
from array import array
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from socketkeep._wire._messages import AnyMessage, Message, decode, encode

# Well under the smallest send buffer in use (net.core.wmem_default, 212,992 bytes): several such
# packets fit, so that a short pause of the reader does not stop the writer.
_INLINE_LIMIT: Final = 32 * 1024
_INLINE: Final = b"\0"
_IN_MEMFD: Final = b"\1"
_ANCILLARY: Final = socket.CMSG_SPACE(253 * array("i").itemsize)  # SCM_MAX_FD of the kernel
_SEALS: Final = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SEAL


class ChannelClosed(Exception):
    """The process at the other end has gone."""


@dataclass(frozen=True, slots=True)
class Packet:
    """A message as it was received.

    `descriptors` belong to the receiver.  `truncated` tells that the kernel could not install all
    of those sent (MSG_CTRUNC: this process is at its limit): what is missing is lost for good here.
    `message` is None when it was itself in the descriptor that did not arrive.  Messages that ask
    for an answer are answered in the order they came, so the answer tells the sender which it was.
    """

    message: AnyMessage | None
    descriptors: list[int]
    truncated: bool

    def close(self) -> None:
        """Close the descriptors, for a receiver that has no use for them."""
        for fd in self.descriptors:
            os.close(fd)


class Channel:
    """One end of a channel.

    The keeper never blocks on it: it calls `enqueue` and `flush`, and where the other end has no
    room `wants_write` is True, and `flush` is called again when the socket is writable.  `send_now`
    waits instead, for workers: the keeper always reads, so that this cannot lock.
    """

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._queue: deque[tuple[bytes, list[int], bool]] = deque()

    def fileno(self) -> int:
        return self._sock.fileno()

    @property
    def wants_write(self) -> bool:
        return bool(self._queue)

    def enqueue(
        self, message: Message, descriptors: Sequence[int] = (), *, close_after: bool = False
    ) -> None:
        """Put `message` behind those that are to be sent.

        The descriptors must stay open until they have gone; with `close_after` the channel owns
        them and closes them then.  Raises OSError when there is no descriptor for the memfd that a
        large message needs: then it is not queued, and the channel owns nothing.
        """
        self._queue.append((*_packed(message, descriptors), close_after))

    def flush(self) -> None:
        """Send what is queued, as far as the other end has room.

        Raises ChannelClosed; OSError when the system has no room (ENOBUFS, or ETOOMANYREFS: too
        many descriptors of this user on their way): what is queued then stays so.
        """
        while self._queue:
            payload, fds, close_after = self._queue[0]
            if not self._transmit(payload, fds, socket.MSG_DONTWAIT):
                return
            self._queue.popleft()
            _after_sending(payload, fds, close_after)

    def send_now(self, message: Message, descriptors: Sequence[int] = ()) -> None:
        """Send `message`, waiting for room.

        Raises ChannelClosed, and OSError when the system has no room, or no memfd, for it.
        """
        payload, fds = _packed(message, descriptors)
        try:
            # Not by blocking in sendmsg: libuv makes what it polls non-blocking (uv_poll_init).
            while not self._transmit(payload, fds, socket.MSG_DONTWAIT):
                self._wait_writable()
        finally:
            _after_sending(payload, fds, False)

    def receive(self) -> Packet | None:
        """Return the next packet, or None when none has arrived.  Raises ChannelClosed."""
        try:
            data, ancillary, flags = self._next()
        except BlockingIOError:
            return None
        fds = _descriptors(ancillary)
        if not data:
            raise ChannelClosed
        truncated = bool(flags & socket.MSG_CTRUNC)
        if data[:1] == _INLINE:
            return Packet(decode(memoryview(data)[1:]), fds, truncated)
        if truncated:
            return Packet(None, fds, truncated)
        with open(fds.pop(), "rb") as body:
            return Packet(decode(body.read()), fds, truncated)

    def finish(self) -> None:
        """Send no more: the other end sees the channel closed, and can still be heard."""
        self._sock.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        """Close this end, and the descriptors that it still owns."""
        while self._queue:
            _after_sending(*self._queue.popleft())
        self._sock.close()

    def _next(self) -> tuple[bytes, list[tuple[int, int, bytes]], int]:
        try:
            data, ancillary, flags, _ = self._sock.recvmsg(
                _INLINE_LIMIT + 1, _ANCILLARY, socket.MSG_DONTWAIT | socket.MSG_CMSG_CLOEXEC
            )
        except ConnectionResetError:
            # The other end has gone and had not read all.  The kernel says so once, and before it
            # gives out what had been sent here.
            return self._next()
        return data, ancillary, flags

    def _wait_writable(self) -> None:
        poller = select.poll()  # select(2) cannot watch descriptors beyond 1023
        poller.register(self._sock, select.POLLOUT)
        poller.poll()

    def _transmit(self, payload: bytes, fds: list[int], flags: int) -> bool:
        ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array("i", fds))] if fds else []
        try:
            self._sock.sendmsg([payload], ancillary, flags | socket.MSG_NOSIGNAL)
        except BlockingIOError:
            return False
        except (BrokenPipeError, ConnectionResetError) as error:
            raise ChannelClosed from error
        return True


def channel_pair() -> tuple[socket.socket, socket.socket]:
    """Return the two ends of a new channel, both close-on-exec."""
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)


def _packed(message: Message, descriptors: Sequence[int]) -> tuple[bytes, list[int]]:
    body = encode(message)
    if len(body) <= _INLINE_LIMIT:
        return _INLINE + body, list(descriptors)
    memfd = os.memfd_create("socketkeep-message", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    with open(memfd, "wb", closefd=False) as file:
        file.write(body)
    os.lseek(memfd, 0, os.SEEK_SET)
    fcntl.fcntl(memfd, fcntl.F_ADD_SEALS, _SEALS)
    return _IN_MEMFD, [*descriptors, memfd]


def _after_sending(payload: bytes, fds: list[int], close_after: bool) -> None:
    owned = fds if close_after else fds[-1:] if payload == _IN_MEMFD else []
    for fd in owned:
        os.close(fd)


def _descriptors(ancillary: list[tuple[int, int, bytes]]) -> list[int]:
    fds = array("i")
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            fds.frombytes(data[: len(data) - len(data) % fds.itemsize])
    return list(fds)
