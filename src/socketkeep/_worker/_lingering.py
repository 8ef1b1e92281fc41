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
from socketkeep._stream._closing import LINGER, draining, end_for_all
from socketkeep._stream._waiting import Steps

#: So many a worker has here at once.  One more keeps its handler's seat until its peer has ended.
MOST: Final = 64


class LingeringCloses:
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
        # With the moment from which on no more is waited for.
        self._waiting: dict[socket.socket, tuple[Steps[bool], float]] = {}
        self._look_at = float("inf")  # not before this moment is the time of any over

    def __len__(self) -> int:
        return len(self._waiting) + len(self.added)

    @property
    def has_room(self) -> bool:
        """Return whether one more may come."""
        return len(self._waiting) + len(self.added) < self._most

    def add(self, sock: socket.socket) -> None:
        """Wait for the end of a connection whose writing has ended, from `begin` on."""
        self.added.append(sock)

    def begin(self) -> None:
        """Watch what has been added."""
        while self.added:
            sock = self.added.popleft()
            guard(sock)  # in a process that a later handler forks it would not end
            self._waiting[sock] = draining(sock, time.monotonic() + LINGER), float("inf")
            self._watch(sock.fileno(), partial(self._go_on, sock, True))
            self._go_on(sock)

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
        for sock, (_, until) in tuple(self._waiting.items()):
            if now >= until:
                self._go_on(sock, False)
        self._look_at = min((until for _, until in self._waiting.values()), default=float("inf"))

    def close(self) -> None:
        """Close all that is left, at once."""
        self.begin()
        for sock in tuple(self._waiting):
            self._forget(sock)
            end_for_all(sock)

    def _go_on(self, sock: socket.socket, ready: bool | None = None) -> None:
        steps, _ = self._waiting[sock]
        try:
            want = next(steps) if ready is None else steps.send(ready)
        except StopIteration as done:
            self._forget(sock)
            if done.value:
                sock.close()
            else:
                end_for_all(sock)
        else:
            assert want.until is not None
            self._waiting[sock] = steps, want.until
            self._look_at = min(self._look_at, want.until)

    def _forget(self, sock: socket.socket) -> None:
        del self._waiting[sock]
        self._unwatch(sock.fileno())
