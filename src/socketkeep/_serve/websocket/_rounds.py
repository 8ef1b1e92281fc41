"""One timer for all that is to be called after the same time, as all WebSockets are for a ping."""

from __future__ import annotations

import asyncio
from typing import Protocol


class Called(Protocol):
    """A call for when its time has come."""

    def _on_round(self) -> None: ...


class Rounds:
    """Calls each, once, so many seconds after it was added.  0: never."""

    def __init__(self, interval: float) -> None:
        self._interval = interval
        self._due: dict[Called, float] = {}  # the earliest first, since all wait for as long
        self._timer: asyncio.TimerHandle | None = None

    def add(self, one: Called) -> None:
        """Have one called; the time of one that waits already begins anew."""
        if not self._interval:
            return
        self._due.pop(one, None)
        loop = asyncio.get_running_loop()
        self._due[one] = at = loop.time() + self._interval
        if self._timer is None:
            self._timer = loop.call_at(at, self._call, loop)

    def discard(self, one: Called) -> None:
        """Have one not called."""
        self._due.pop(one, None)

    def _call(self, loop: asyncio.AbstractEventLoop) -> None:
        self._timer = None
        now = loop.time()
        while self._due:
            one, at = next(iter(self._due.items()))
            if at > now:
                self._timer = loop.call_at(at, self._call, loop)
                return
            del self._due[one]
            one._on_round()
