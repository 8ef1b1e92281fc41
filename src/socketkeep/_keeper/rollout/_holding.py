"""Holding: a keeper has what earlier ones left, and no code loads that could serve it.

To end would close all of it.  So it stays, as a server does whose reload has failed, and the code
is loaded again after a while, or at a reload, whichever is first.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from socketkeep._keeper.loop._reactor import Reactor, ReactorTimer

_SHORTEST: Final = 1.0  # seconds until the code is loaded again, doubled each time
_LONGEST: Final = 30.0


class Holding:
    """A keeper's state in which it holds so: why, and when it tries again to `load`."""

    def __init__(self, reactor: Reactor, load: Callable[[], None]) -> None:
        self._reactor = reactor
        self._load = load
        self._timer: ReactorTimer | None = None
        self._delay = _SHORTEST
        self.why = ""

    def __bool__(self) -> bool:
        return bool(self.why)

    def go_on(self, why: str) -> float:
        """Hold, since the code could not be loaded; return the seconds until it is tried again."""
        self.end()
        delay, self._delay = self._delay, min(2 * self._delay, _LONGEST)
        self.why = why
        self._timer = self._reactor.call_later(delay, self._load)
        return delay

    def end(self) -> None:
        """Hold no more: the code has been loaded, or the server ends."""
        self.why = ""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
