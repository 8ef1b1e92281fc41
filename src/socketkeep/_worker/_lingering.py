"""Connections whose handler has ended and whose peer has not: they wait here, beside other work.

The reply and FIN are out.  What the peer still sends is read and discarded until its EOF comes, for
otherwise RST would destroy a reply that it has not read (see `_closing`).  That takes a round trip
on the network at least: nobody is kept from serving the next connection for it.

What is here counts as closed, and its seat is free.  A worker that is retired waits for it to end.
"""

from __future__ import annotations

import socket
import time
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Final

from socketkeep._base._forking import guard
from socketkeep._stream._closing import LINGER, QUIET, discard, end_for_all

#: So many a worker has here at once.  One more keeps its handler's seat until its peer has ended.
MOST: Final = 64


class Lingering:
    """Those of one worker.

    watch, unwatch: the loop's.  All is called in the loop's thread, but for `has_room` and `add`.
    """

    def __init__(
        self,
        watch: Callable[[int, Callable[[], None]], None],
        unwatch: Callable[[int], None],
        most: int = MOST,
    ) -> None:
        self._watch = watch
        self._unwatch = unwatch
        self._most = most
        self.added: deque[socket.socket] = deque()  # and not watched yet
        # With the moment from which on no more is waited for, and that of silence.
        self._waiting: dict[socket.socket, tuple[float, float]] = {}
        self._look_at = float("inf")  # not before this moment is the time of any over

    def __len__(self) -> int:
        return len(self._waiting) + len(self.added)

    @property
    def has_room(self) -> bool:
        """Whether one more may come."""
        return len(self._waiting) + len(self.added) < self._most

    def add(self, sock: socket.socket) -> None:
        """Wait for the end of a connection whose writing has ended, from `begin` on."""
        self.added.append(sock)

    def begin(self) -> None:
        """Watch what has been added."""
        while self.added:
            sock = self.added.popleft()
            guard(sock)  # in a process that a later handler forks it would not end
            now = time.monotonic()
            self._waiting[sock] = now + LINGER, now + QUIET
            self._look_at = min(self._look_at, *self._waiting[sock])
            self._watch(sock.fileno(), partial(self._hear, sock))

    def patience(self, timeout: float | None) -> float | None:
        """Return for how long the loop may wait, if it otherwise may for `timeout`."""
        if not self._waiting:
            return timeout
        left = max(0.0, self._look_at - time.monotonic())
        return left if timeout is None else min(timeout, left)

    def expire(self) -> None:
        """Close those whose time is over."""
        if not self._waiting or (now := time.monotonic()) < self._look_at:
            return
        for sock, moments in tuple(self._waiting.items()):
            if now >= min(moments):
                self._forget(sock)
                end_for_all(sock)
        self._look_at = min(map(min, self._waiting.values()), default=float("inf"))

    def close(self) -> None:
        """Close all that is left, at once."""
        self.begin()
        for sock in tuple(self._waiting):
            self._forget(sock)
            end_for_all(sock)

    def _hear(self, sock: socket.socket) -> None:
        if discard(sock):
            self._waiting[sock] = self._waiting[sock][0], time.monotonic() + QUIET
        else:
            self._forget(sock)
            sock.close()

    def _forget(self, sock: socket.socket) -> None:
        del self._waiting[sock]
        self._unwatch(sock.fileno())
