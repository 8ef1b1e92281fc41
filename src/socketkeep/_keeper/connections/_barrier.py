"""A barrier (BARRIER=1 in sd_notify(3)): the word that all that was sent before has been taken.

It comes as the end of a pipe, the other end of which goes along.  A guard that has a sidecar closes
that once it has passed on what came before.  Who acted on what the guard alone has would be ahead
of what the sidecar knows when all processes of a container are killed.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Final

from socketkeep._keeper.loop._notify import Notifier
from socketkeep._keeper.loop._reactor import Reactor, ReactorTimer

_RETRY: Final = 0.001
_PATIENCE: Final = 1.0  # seconds; who passes nothing on for so long is not waited for


class Barrier:
    """Calls who waits until all that was sent has been passed on; one is under way at a time."""

    def __init__(self, reactor: Reactor, notifier: Notifier) -> None:
        self._reactor = reactor
        self._notifier = notifier
        self._fd = -1  # ends when the one that is under way has come
        self._asked: list[Callable[[], None]] = []  # are called then
        self._waiting: list[Callable[[], None]] = []  # for the next one
        self._timer: ReactorTimer | None = None

    def when_passed(self, call: Callable[[], None]) -> None:
        """Call it when all that was sent by now has been passed on, or after a second."""
        self._waiting.append(call)
        if self._timer is None:
            self._ask()

    def give_up(self) -> None:
        """Wait no longer: call all."""
        calls = [*self._asked, *self._waiting]
        self.drop()
        for call in calls:
            self._reactor.attempt(call)

    def drop(self) -> None:
        """Wait no longer, and call nobody."""
        self._asked, self._waiting = [], []
        self._settle()

    def _settle(self) -> None:
        if self._fd >= 0:
            self._reactor.unregister(self._fd)
            os.close(self._fd)
            self._fd = -1
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _ask(self) -> None:
        """Send one, for all that wait."""
        self._timer = self._reactor.call_later(_PATIENCE, self.give_up)
        self._send()

    def _send(self) -> None:
        if self._fd >= 0 or not self._waiting:
            return
        try:
            fd, end = os.pipe2(os.O_CLOEXEC)
        except OSError:
            self.give_up()
            return
        sent = self._notifier.send("BARRIER=1", descriptors=(end,), again=True)
        os.close(end)
        if not sent:
            os.close(fd)
            self._reactor.call_later(_RETRY, self._send)
            return
        self._fd = fd
        self._asked, self._waiting = self._waiting, []
        self._reactor.register(fd, self._passed)

    def _passed(self, _events: int) -> None:
        calls, self._asked = self._asked, []
        self._settle()
        for call in calls:
            self._reactor.attempt(call)
        if self._waiting and self._timer is None:
            self._ask()
