"""Saying that the server has no room: all of --max-connections, or of a listener's accept queue.

Once, when it begins, and once when it is over.  It is looked at each second: who accepts is the
workers, and who turns away from a full queue is the kernel, which tells nobody, but counts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from socketkeep._base import _log
from socketkeep._inspect._queue import listen_drops, listen_queue
from socketkeep._keeper.loop._reactor import Reactor
from socketkeep._net._listener import Listener

_EVERY: Final = 1.0
#: For so many seconds there must have been room before that is said: where connections come and go
#: at the limit there is room, and is none, many times a second.
_CALM: Final = 5.0


class Fullness:
    """Looks, from `start` on, whether there is room.

    most: connections, 0: there is no limit; it may change.  has_room: whether there is room for one
    more.
    """

    def __init__(
        self,
        reactor: Reactor,
        listeners: Sequence[Listener],
        most: int,
        has_room: Callable[[], bool],
    ) -> None:
        self._reactor = reactor
        self._listeners = listeners
        self.most = most
        self._has_room = has_room
        self._full = _Spell()
        self._overflows = [_Overflow(each) for each in listeners]

    @property
    def full(self) -> bool:
        """Return whether there are as many connections as there may be."""
        return self.most > 0 and not self._has_room()

    def start(self) -> None:
        """Begin to look."""
        self._reactor.call_later(_EVERY, self._look)

    def _look(self) -> None:
        self._reactor.call_later(_EVERY, self._look)
        now = self._reactor.clock()
        match self._full.note(self.full, now):
            case "begins":
                _log.warning("server is full: others wait in the accept queue", most=self.most)
            case "ends":
                _log.info("server has room again", full_for=round(self._full.lasted, 1))
        for overflow in self._overflows:
            overflow.look(now)


class _Spell:
    """A time in which something holds, with pauses that are too short to be its end.

    lasted: how long the last one was that has ended.
    """

    def __init__(self) -> None:
        self.lasted = 0.0
        self._began: float | None = None
        self._last = 0.0

    def note(self, holds: bool, now: float) -> str:
        """Note that it holds now, or not; return whether that "begins" or "ends"; "": neither."""
        if holds:
            self._last = now
            if self._began is None:
                self._began = now
                return "begins"
        elif self._began is not None and now - self._last >= _CALM:
            self.lasted = self._last - self._began
            self._began = None
            return "ends"
        return ""


class _Overflow:
    """The connections that the kernel turns away from one listener."""

    def __init__(self, listener: Listener) -> None:
        self._listener = listener
        self._seen = self._drops()  # what was dropped before is another's story
        self._before = self._seen
        self._spell = _Spell()

    def _drops(self) -> int:
        return (self._listener.fileno() >= 0 and listen_drops(self._listener.sock)) or 0

    def look(self, now: float) -> None:
        drops = self._drops()
        new, self._seen = drops != self._seen, drops
        match self._spell.note(new, now):
            case "begins":
                queue = listen_queue(self._listener.sock)
                _log.warning(
                    "accept queue overflows: the kernel turns clients away, who try again",
                    address=self._listener.text,
                    backlog=queue.backlog if queue else None,
                    dropped=(drops - self._before) % 2**32,
                )
            case "ends":
                _log.info(
                    "accept queue has room again",
                    address=self._listener.text,
                    dropped=(drops - self._before) % 2**32,
                )
                self._before = drops
