"""Handing detached connections to the keeper, for the worker whose loop must not block."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from typing import Final

from msgspec import structs

from socketkeep._base import _log
from socketkeep._stream import _record as record
from socketkeep._stream._aio import AsyncConnection
from socketkeep._stream._lease import Handover
from socketkeep._stream._record import Ended
from socketkeep._wire._channel import Channel, ChannelClosed
from socketkeep._wire._messages import Acknowledged
from socketkeep._worker._entry import Entry
from socketkeep._worker._reserve import Reserve
from socketkeep._worker._roster import Roster

_RETRY: Final = 0.1


class Departures:
    """The detached connections that are still held here: the keeper has not taken them yet.

    `settled` is called with each once this handle is closed.  One that cannot be handed over is
    offered again until `deadline` (of the monotonic clock), and then closed in an orderly way.
    One that was to be parked is given to `serve_on` instead, as all are when the keeper is gone,
    for which `gone` is called.
    """

    def __init__(
        self,
        channel: Channel,
        roster: Roster,
        settled: Callable[[Entry], None],
        serve_on: Callable[[Entry, Handover], None],
        gone: Callable[[], None],
    ) -> None:
        self.deadline = 0.0
        self._channel = channel
        self._roster = roster
        self._settled = settled
        self._serve_on = serve_on
        self._gone = gone
        self._reserve = Reserve()
        self._loop = asyncio.get_running_loop()
        self._held: dict[str, tuple[Entry, Handover]] = {}
        self._offered: deque[str] = deque()  # in the order in which the keeper answers
        self._closing: set[asyncio.Task[None]] = set()

    def __len__(self) -> int:
        return len(self._held) + len(self._closing)

    def offer(self, entry: Entry, handover: Handover) -> None:
        """Hand a connection to the keeper."""
        self._held[entry.lease.id] = entry, handover
        self._send(entry.lease.id)

    def acknowledged(self, message: Acknowledged) -> None:
        """Take the keeper's answer; it has no id when the offer itself did not arrive."""
        name = message.id or (self._offered[0] if self._offered else "")
        if name not in self._offered:
            return
        self._offered.remove(name)
        if message.taken:
            entry, handover = self._held.pop(name)
            self._let_go(entry, handover)
        else:
            self._retry(name)

    def give_up(self) -> None:
        """The keeper is gone, and nobody will take them."""
        self._offered.clear()
        held, self._held = self._held, {}
        for entry, handover in held.values():
            if entry.record[record.ENDED] == record.TAKEN:
                # Its answer has gone with it, but another worker may be serving the connection.
                self._let_go(entry, handover)
            else:
                self._serve_on(entry, handover)

    def _let_go(self, entry: Entry, handover: Handover) -> None:
        handover.sock.close()
        self._reserve.refill()
        self._settled(entry)

    def _send(self, name: str) -> None:
        if name not in self._held:
            return  # given up since
        entry, handover = self._held[name]
        try:
            parcel = self._roster.parcel(entry, handover)
            connection = handover.sock.fileno()
            self._channel.send_now(structs.replace(parcel, connection=connection))
        except ChannelClosed:
            self._loop.call_soon(self._gone)
        except OSError as error:
            # No descriptor for the memfd of a large state: this process is at its limit.
            if self._reserve.spend():
                self._send(name)
                return
            _log.debug("cannot hand over yet", id=name, error=error.strerror)
            self._retry(name)
        else:
            self._offered.append(name)

    def _retry(self, name: str) -> None:
        if time.monotonic() < self.deadline:
            self._loop.call_later(_RETRY, self._send, name)
        elif self._held[name][1].parked:
            self._serve_on(*self._held.pop(name))
        else:
            self._close(name)

    def _close(self, name: str) -> None:
        entry, handover = self._held.pop(name)
        entry.record[record.ENDED] = Ended.CLOSED
        _log.warning("connection closed: the keeper did not take it", id=name, peer=entry.peer)
        closing = self._loop.create_task(AsyncConnection(handover.sock).close())
        self._closing.add(closing)

        def closed(task: asyncio.Task[None]) -> None:
            self._closing.discard(task)
            self._settled(entry)

        closing.add_done_callback(closed)
