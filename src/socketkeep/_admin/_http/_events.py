"""Server-sent events: the state of the server, several times a second, to everybody who watches."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator
from typing import Any, Final

import msgspec

from socketkeep._admin._feed import Feed, Frame
from socketkeep._admin._http._source import KeeperUnreachable, ReportSource
from socketkeep._admin._reports import ConnectionReport
from socketkeep._base._printable import printable_data

#: Seconds between two looks; more where they cost the keeper much, so that watching takes no more
#: than a twentieth of its time.
_INTERVAL: Final = 0.25
_SHARE: Final = 20
#: How long a browser waits until it connects again, in milliseconds.
_RETRY: Final = 500

MOST_WATCHERS: Final = 24

_PARKED: Final = 2
_MOVING: Final = 3


class Events:
    """Looks while somebody watches, once for all of them.

    Who reads slowly misses frames, and gets the latest.
    """

    def __init__(self, source: ReportSource) -> None:
        self._source = source
        self._feed = Feed()
        self._watchers = 0
        self._number = 0
        self._latest = b""
        self._changed = asyncio.Condition()
        self._task: asyncio.Task[None] | None = None

    @property
    def has_room(self) -> bool:
        """Return whether one more may watch.

        They stay for as long as they like, and others must come.
        """
        return self._watchers < MOST_WATCHERS

    async def stream(self) -> AsyncGenerator[bytes, None]:
        """Yield the events from now on."""
        self._watchers += 1
        if self._task is None:
            self._task = asyncio.create_task(self._look())
        seen = self._number
        try:
            yield b"retry: %d\n\n" % _RETRY
            while True:
                async with self._changed:
                    while self._number == seen:
                        await self._changed.wait()
                    seen, latest = self._number, self._latest
                yield latest
        finally:
            self._watchers -= 1
            if not self._watchers and self._task is not None:
                self._task.cancel()
                self._task = None

    async def _look(self) -> None:
        while True:
            cost = 0.0
            try:
                report = await self._source.look()
            except KeeperUnreachable as error:
                event = _event({"text": str(error)}, "gone")
            else:
                cost = report.cost
                event = _event(compact(self._feed.look(report, time.time())))
            async with self._changed:
                self._latest = event
                self._number += 1
                self._changed.notify_all()
            await asyncio.sleep(max(_INTERVAL, _SHARE * cost))


def _event(data: dict[str, Any], name: str = "frame") -> bytes:
    return b"event: %s\ndata: %s\n\n" % (name.encode(), msgspec.json.encode(printable_data(data)))


def compact(frame: Frame) -> dict[str, Any]:
    """Return a frame as the page reads it: a connection is a list, since there are many.

    The page writes each text as it comes.
    """
    report = frame.report
    return {
        "status": msgspec.to_builtins(report.status),
        "workers": msgspec.to_builtins(report.workers),
        "connections": [_row(connection) for connection in report.connections],
        "left_out": report.left_out,
        "rates": msgspec.to_builtins(frame.rates),
        "happenings": msgspec.to_builtins(frame.happenings),
    }


def _row(connection: ConnectionReport) -> list[object]:
    if connection.worker is not None:
        how = int(connection.busy)
    else:
        how = _PARKED if connection.state == "parked" else _MOVING
    return [
        connection.id,
        connection.worker or 0,
        how,
        connection.peer,
        connection.listener,
        round(connection.age, 1),
        connection.bytes_in,
        connection.bytes_out,
        " ".join(
            (connection.name, *(f"{key}={value}" for key, value in connection.labels.items()))
        ),
    ]
