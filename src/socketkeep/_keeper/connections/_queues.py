"""The accept queues of the listeners, for the keeper that accepts in its workers' place.

It does so where the order of service is its own to decide: while connections wait for a seat, and
at a stop, when a queue that nobody accepts from would be reset with its last handle.
"""

from __future__ import annotations

import select
import socket
import time
from collections import deque
from collections.abc import Collection, Sequence
from typing import Final

from socketkeep._base import _log
from socketkeep._base._address import format_address
from socketkeep._net._accept_errors import pass_over_given_up
from socketkeep._net._listener import Listener

#: How many that have given up are passed over in one look for one that has not.
_ABORTED_AT_ONCE: Final = 64

#: Seconds for which it holds good who of them has said something.
_GLANCE: Final = 0.005


#: A connection, its listener's number, and its peer: "" where who serves it is to find out.
_Accepted = tuple[socket.socket, int, str]


class Queues:
    """The listeners' queues, of which each has its turn.

    At the server's end `take_in` empties them, before the listeners are closed.  What was in them
    then waits here; `len` is how many.
    """

    def __init__(self, listeners: Sequence[Listener]) -> None:
        self._listeners = listeners
        self._first = 0  # whose turn it is
        self._polled: list[int] = []  # the descriptors that this has:
        self._poller = select.poll()
        self._ended = False
        self._heard: deque[_Accepted] = deque()  # of what was taken in, those that said something
        self._listened_at = 0.0
        self._silent: deque[_Accepted] = deque()  # and those that had not when it was looked last

    def __len__(self) -> int:
        return len(self._heard) + len(self._silent)

    def accept(self, besides: Collection[int] = ()) -> _Accepted | None:
        """Return the next connection; None: nobody waits.  Raises Exhausted.

        besides: the numbers of listeners from which none is to come now.
        """
        if self._ended:
            return self._next_taken_in()
        return self._accept_of([each for n, each in enumerate(self._listeners) if n not in besides])

    def has_somebody(self) -> bool:
        """Return whether `accept` will most likely find somebody.

        To try in vain costs an exception.
        """
        return len(self) > 0 if self._ended else bool(self._readable())

    def occupied(self) -> list[Listener]:
        """Return the listeners in whose queues somebody waits."""
        readable = self._readable()
        return [each for each in self._listeners if each.fileno() in readable]

    def _readable(self) -> list[int]:
        """Return the descriptors of the listeners in whose queues somebody waits."""
        fds = [fd for each in self._listeners if (fd := each.fileno()) >= 0]
        if fds != self._polled:
            self._polled, self._poller = fds, select.poll()
            for fd in fds:
                self._poller.register(fd, select.POLLIN)
        return [fd for fd, events in self._poller.poll(0) if events & select.POLLIN]

    def take_in(self, listeners: Collection[Listener], most: int) -> None:
        """Take whatever is in the queues of these; from here on they accept nothing new.

        most: how many a queue can have.  Who comes meanwhile is not waited for beyond that.
        Raises Exhausted when there is no room for all of it: those that came first are here.
        """
        self._ended = True
        for _ in range(most * len(listeners)):
            accepted = self._accept_of(listeners)
            if accepted is None:
                return
            self._silent.append(accepted)

    def _next_taken_in(self) -> _Accepted | None:
        """Return whom to serve next of those taken in: who has said something goes first.

        A seat that is given to a client which says nothing may be lost to the others for all the
        time that is left.
        """
        if not self._heard and self._silent and time.monotonic() - self._listened_at > _GLANCE:
            poller = select.poll()
            for sock, _, _ in self._silent:
                poller.register(sock, select.POLLIN)
            spoke = {fd for fd, _ in poller.poll(0)}
            self._heard.extend(each for each in self._silent if each[0].fileno() in spoke)
            self._silent = deque(each for each in self._silent if each[0].fileno() not in spoke)
            self._listened_at = time.monotonic()
        line = self._heard or self._silent
        return line.popleft() if line else None

    def _accept_of(self, listeners: Collection[Listener]) -> _Accepted | None:
        count = len(self._listeners)
        for number in (*range(self._first, count), *range(self._first)):
            if self._listeners[number] not in listeners:
                continue
            accepted = self._accept_from(self._listeners[number].sock)
            if accepted is not None:
                self._first = (number + 1) % count
                return accepted[0], number, accepted[1]
        return None

    def _accept_from(self, listener: socket.socket) -> tuple[socket.socket, str] | None:
        for _ in range(_ABORTED_AT_ONCE):
            if listener.fileno() < 0:
                return None
            try:
                sock, address = listener.accept()
            except BlockingIOError:
                return None
            except OSError as error:
                try:
                    pass_over_given_up(error)
                except OSError:
                    _log.error("cannot accept", error=error.strerror)
                    return None
                continue
            sock.setblocking(False)
            # The name of a Unix client is its own choice, and is read where that may go wrong.
            unix = listener.family == socket.AF_UNIX
            return sock, "" if unix else format_address(address)
        return None
