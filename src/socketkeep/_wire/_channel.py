"""A channel: messages and descriptors between two processes, whole and in order.

An ``AF_UNIX SOCK_SEQPACKET`` pair: a packet arrives whole or not at all, and several processes may
send on one end without mixing their packets (unix(7)).
"""

from __future__ import annotations

import os
import select
import socket
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final, TypeAlias

from socketkeep._base import _log, _passing
from socketkeep._wire._messages import (
    TAGS,
    AnyMessage,
    Message,
    Unreadable,
    decode,
    split,
)

#: The types of messages that have been told to be unreadable, and how many are told of at most.
_told: Final[set[str]] = set()
_MOST_TOLD: Final = 100
_LONGEST_TAG: Final = 40
#: How many that cannot be read are passed over before others have their turn.
_PASSED_OVER_AT_ONCE: Final = 16

#: The largest message that is read.  A state has 64 KiB at most; what is unread is as long as the
#: longest message that a handler waits for.  The keeper takes a little less, so that what it sends
#: on, with a few more fields, is read, too.
LARGEST: Final = 64 * 1024 * 1024
#: More packets than a channel has room for.
_MOST_DISCARDED: Final = 10_000
_LARGEST_TO_SEND_ON: Final = LARGEST - 65536


#: A packet that waits for room: payload, descriptors, and whether the channel owns those.
Queued: TypeAlias = tuple[bytes, list[int], bool]


#: What deals with a payload and its descriptors before they are a message; False: it does not.
Express: TypeAlias = Callable[[bytes, list[int]], bool]


class ChannelClosed(Exception):
    """The process at the other end has gone."""


class Garbled(Exception):
    """The bytes that arrived are no message, of this version or of a later one."""


@dataclass(slots=True)
class Packet:
    """A message as it was received.

    `descriptors` are those of the message's that nobody has taken yet.  `truncated` tells that the
    kernel could not install all of those sent (MSG_CTRUNC: this process is at its limit): what is
    missing is lost for good here.
    `message` is None when it was itself in the descriptor that did not arrive.  Messages that ask
    for an answer are answered in the order they came, so the answer tells the sender which it was.
    """

    message: AnyMessage | None
    descriptors: list[int]
    truncated: bool

    def take(self, fd: int) -> int:
        """Return one of the message's descriptors, which is the caller's from here on."""
        self.descriptors.remove(fd)
        return fd

    def close(self) -> None:
        """Close the descriptors that nobody has taken."""
        while self.descriptors:
            _passing.close_without_waiting(self.descriptors.pop())


#: What `receive` returns for a packet that has been dealt with.
PASSED: Final = Packet(None, [], False)


class Channel:
    """One end of a channel.

    The keeper never blocks on it: it calls `enqueue` and `flush`, and where the other end has no
    room `wants_write` is True, and `flush` is called again when the socket is writable.  `send_now`
    waits instead, for workers: the keeper always reads, so that this cannot lock.
    """

    def __init__(
        self, sock: socket.socket, queued: Iterable[Queued] = (), *, wary: bool = False
    ) -> None:
        """Make this end of `sock`; `queued` is what an earlier object on it had still to send.

        wary: the other end runs user code, and what makes no sense is told, not passed over.
        """
        sock.setblocking(False)  # whatever the default timeout was when the object was made
        self._wary = wary
        self._most = _LARGEST_TO_SEND_ON if wary else LARGEST
        self.keepers = 1  # how many there have been at the other end
        self._sock = sock
        self._receive = _passing.receiver(sock)
        self._send = _passing.sender(sock)
        self._queue: deque[Queued] = deque(queued)

    def fileno(self) -> int:
        return self._sock.fileno()

    @property
    def wants_write(self) -> bool:
        return bool(self._queue)

    @property
    def waiting(self) -> int:
        """Return how many packets are still to be sent."""
        return len(self._queue)

    @property
    def queued(self) -> list[Queued]:
        """Return what is still to be sent."""
        return list(self._queue)

    def enqueue(self, message: Message, *, close_after: bool = False) -> None:
        """Put `message` behind those that are to be sent.

        Its descriptors must stay open until they have gone; with `close_after` the channel owns
        them and closes them then.  Raises OSError when there is no descriptor for the memfd that a
        large message needs: then it is not queued, and the channel owns nothing.
        """
        self._queue.append((*_packed(message), close_after))

    def send_payload(self, payload: bytes, descriptor: int) -> bool:
        """Send a message as it goes over a channel, with one descriptor, or put it behind others.

        Returns whether it was sent.  The descriptor must stay open until it has gone.
        """
        if not self._queue:
            try:
                self._send(payload, (descriptor,))
            except OSError:
                pass  # what is the matter `flush` will find
            else:
                return True
        self._queue.append((payload, [descriptor], False))
        return False

    def flush(self) -> None:
        """Send what is queued, as far as the other end has room.

        Raises ChannelClosed; OSError when the system has no room (ENOBUFS, or ETOOMANYREFS: too
        many descriptors of this user on their way): what is queued then stays so.
        """
        while self._queue:
            payload, fds, close_after = self._queue[0]
            if not self._transmit(payload, fds):
                return
            self._queue.popleft()
            if fds:
                _after_sending(payload, fds, close_after)

    def send_now(self, message: Message) -> None:
        """Send `message`, waiting for room.

        Raises ChannelClosed, and OSError when the system has no room, or no memfd, for it.
        """
        payload, fds = _packed(message)
        try:
            self.send_payload_now(payload, fds)
        finally:
            if fds:
                _after_sending(payload, fds, False)

    def send_payload_now(self, payload: bytes, fds: list[int]) -> None:
        """The same of a message as it goes over a channel."""
        # Not by blocking in sendmsg: libuv makes what it polls non-blocking (uv_poll_init).
        while not self._transmit(payload, fds):
            self._wait_writable()

    def receive(self, express: Express | None = None) -> Packet | None:
        """Return the next packet, or None when none has arrived.  Raises ChannelClosed.

        express: is called with each payload, and the descriptors that came with it; True: those are
        taken, all has been done, and PASSED is returned.

        A type of message that this version does not know, from a newer one at the other end, is
        passed over: its descriptors are closed, and the log says it once.  So is one with another
        number of descriptors than it takes.  Raises Garbled, and has closed the descriptors, for
        what no version sends, where this end is wary.
        """
        for _ in range(_PASSED_OVER_AT_ONCE):
            try:
                received = self._receive()
            except BlockingIOError:
                return None
            except ConnectionResetError:
                continue  # the other end has gone and had not read all: said once, before the rest
            data, descriptors, truncated = received
            if express is not None and not truncated and express(data, descriptors):
                return PASSED
            rest = Packet(None, descriptors, truncated)
            if not data:
                rest.close()
                if self.closed or not self._wary:
                    raise ChannelClosed
                raise Garbled("an empty packet came")
            try:
                body = _passing.unpack(received, self._most)
                if body is None:
                    return rest
                message = decode(body, tuple(received.descriptors), lost=received.truncated)
            except _passing.TooLarge as error:
                _log.warning("message ignored: it is too large", error=error)
                return rest
            except _passing.Unfit as error:
                rest.close()
                if self._wary:
                    raise Garbled(str(error)) from None
                _tell_once(Unreadable("", str(error)))
                continue
            except Unreadable as error:
                rest.close()
                if self._wary and (not error.tag or error.tag in TAGS):
                    raise Garbled(f"{error.tag or 'no message'}: {error}") from None
                _tell_once(error)
                continue
            except BaseException:
                rest.close()
                raise
            rest.message = message
            return rest
        return None

    @property
    def closed(self) -> bool:
        """Return whether the other end has gone, or says that it sends no more."""
        poller = select.poll()
        poller.register(self._sock, select.POLLRDHUP)
        return bool(poller.poll(0))

    def renew(self, sock: socket.socket) -> None:
        """Go on over `sock`, which is closed, under the descriptor that there was.

        Whoever polls that descriptor need not be told; an epoll must be.  What was queued is
        dropped.
        """
        while self._queue:
            _after_sending(*self._queue.popleft())
        self.keepers += 1  # first: who finds it unchanged has sent to the one that there was
        with sock:
            os.dup2(sock.fileno(), self._sock.fileno(), inheritable=False)

    def finish(self) -> None:
        """Send no more: the other end sees the channel closed, and can still be heard."""
        self._sock.shutdown(socket.SHUT_WR)

    def discard(self) -> None:
        """Close what has arrived and was not read, for the only process that has this end.

        The kernel would do it at the close, and would wait as a process does, see
        `close_without_waiting`.
        """
        for _ in range(_MOST_DISCARDED):
            try:
                received = self._receive()
            except ConnectionResetError:
                continue
            except OSError:
                return
            Packet(None, received.descriptors, received.truncated).close()
            if not received.data and not received.descriptors:
                return

    def close(self) -> None:
        """Close this end, and the descriptors that it still owns."""
        while self._queue:
            _after_sending(*self._queue.popleft())
        self._sock.close()

    def _wait_writable(self) -> None:
        poller = select.poll()  # select(2) cannot watch descriptors beyond 1023
        poller.register(self._sock, select.POLLOUT)
        poller.poll()

    def _transmit(self, payload: bytes, fds: list[int]) -> bool:
        try:
            self._send(payload, fds)
        except BlockingIOError:
            return False
        except (BrokenPipeError, ConnectionResetError) as error:
            raise ChannelClosed from error
        return True


def channel_pair() -> tuple[socket.socket, socket.socket]:
    """Return the two ends of a new channel, both close-on-exec."""
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)


def _tell_once(error: Unreadable) -> None:
    if error.tag not in _told and len(_told) < _MOST_TOLD:
        _told.add(error.tag)
        tag = error.tag[:_LONGEST_TAG]
        _log.warning("message ignored: this version cannot read it", type=tag, error=error)


def _packed(message: Message) -> tuple[bytes, list[int]]:
    return _passing.pack(*split(message))


def _after_sending(payload: bytes, fds: list[int], close_after: bool) -> None:
    owned = fds if close_after else fds[-1:] if _passing.in_memfd(payload) else []
    for fd in owned:
        os.close(fd)
