"""Entrusting connections to the keeper, so that they outlive this worker (``--keep crash``)."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from socketkeep._base import _log
from socketkeep._stream import _record as record
from socketkeep._wire._channel import Channel, ChannelClosed
from socketkeep._wire._messages import Keep
from socketkeep._wire._scoreboard import keep_token

if TYPE_CHECKING:
    import asyncio

    from socketkeep._stream._lease import Backup
    from socketkeep._worker._entry import Entry

#: How long the keeper has to acknowledge before the connection is offered again, in seconds.
_ANSWER_TIME: Final = 1.0
#: When it is looked for the answer first: until it is known to be there, each wait of a sync
#: handler is one with more care.
_SOON: Final = 0.01


class HandleBackup:
    """One connection that the keeper is to have a handle of, too; a `Backup`."""

    __slots__ = ("_again_at", "_channel", "_entry", "at")

    def __init__(self, channel: Channel, entry: Entry, at: float) -> None:
        self.at = at
        self._again_at = at
        self._channel = channel
        self._entry = entry

    def offer(self) -> float | None:
        """Send it, unless the keeper has it; return when to look again, None: never."""
        entry = self._entry
        words = entry.record
        if words[record.KEEP] == keep_token(words) or entry.sock.fileno() < 0:
            return None  # it has it; or the connection has TLS, whose keys stay here
        if words[record.KEEP] == record.NOT_KEPT:
            return None  # its descriptor is another's: a handler closed it
        now = time.monotonic()
        if now < self._again_at:
            self.at = self._again_at
            return self.at
        words[record.KEEP] = record.OFFERED
        lease = entry.lease
        message = Keep(
            lease.id,
            lease.epoch,
            entry.row,
            entry.listener,
            entry.peer,
            proxy=lease.proxy,
            connection=entry.sock.fileno(),
        )
        try:
            self._channel.send_now(message)
        except ChannelClosed:
            return None
        except OSError as error:
            _log.debug("cannot be kept yet", id=entry.lease.id, error=error.strerror)
        self._again_at = now + _ANSWER_TIME
        self.at = now + _SOON
        return self.at


class HandleBackups:
    """Makes the offers of a worker with an event loop: one timer, however many connections."""

    def __init__(self, is_open: Callable[[Entry], bool]) -> None:
        import asyncio  # for who has a loop: children are forked faster from a small process

        self._loop = asyncio.get_running_loop()
        self._is_open = is_open
        self._young: deque[tuple[Entry, Backup]] = deque()  # by when they come of age
        self._offered: deque[tuple[Entry, Backup]] = deque()  # in the order of their offers
        self._timer: asyncio.TimerHandle | None = None
        self._looks_at = 0.0  # when the timer is over

    def add(self, entry: Entry, offer: Backup) -> None:
        """Offer the entry when it is old enough."""
        self._young.append((entry, offer))
        # The timer may be for an answer that is due later than this one.
        if self._timer is None or offer.at < self._looks_at:
            self._wait()

    def _due(self) -> None:
        now = time.monotonic()
        for queue in (self._young, self._offered):
            while queue and queue[0][1].at <= now:
                entry, offer = queue.popleft()
                if self._is_open(entry) and offer.offer() is not None:
                    self._offered.append((entry, offer))
        self._wait()

    def _wait(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        due = [queue[0][1].at for queue in (self._young, self._offered) if queue]
        if due:
            self._looks_at = min(due)
            delay = max(0.0, self._looks_at - time.monotonic())
            self._timer = self._loop.call_later(delay, self._due)
