"""Reads the keeper's connections into the table, part by part, while somebody looks at it."""

from __future__ import annotations

import asyncio
import time
from typing import Final

from socketkeep._admin._http._source import KeeperUnreachable, ReportSource
from socketkeep._admin._http._table import Query, ShownTable, Window

#: Seconds from the beginning of one reading of all to the next, at the least.
_INTERVAL: Final = 1.0
#: Reading takes no more than a twentieth of the keeper's time; a third the first time, for which
#: somebody waits.
_SHARE: Final = 20
_SHARE_AT_FIRST: Final = 3
#: Seconds after which nobody looks any more, who has not asked: the rows are let go.
_PATIENCE: Final = 15.0
#: A number of parts of which one has nearly nothing, for who wants to know how many there are.
_FINEST: Final = 65536


class TableReader:
    """The table for all who look, read once for them."""

    def __init__(self, source: ReportSource) -> None:
        self._source = source
        self._table = ShownTable()
        self._asked_at = 0.0
        self._failure: KeeperUnreachable | None = None
        self._changed = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._turn = asyncio.Lock()

    async def window(self, query: Query) -> Window:
        """Return some rows, when there are any.  Raises KeeperUnreachable.

        They are sorted in a thread, one question at a time: probes are answered meanwhile.
        """
        self._asked_at = time.monotonic()
        if self._task is None:
            self._changed.clear()
            self._task = asyncio.create_task(self._read())
        await self._changed.wait()
        async with self._turn:
            if self._failure is not None:
                raise KeeperUnreachable(str(self._failure))
            return await asyncio.to_thread(self._table.window, query, time.monotonic())

    async def _read(self) -> None:
        try:
            while time.monotonic() - self._asked_at < _PATIENCE:
                began = time.monotonic()
                try:
                    await self._read_once()
                except KeeperUnreachable as error:
                    self._failure = error
                    self._changed.set()
                await asyncio.sleep(max(0.0, began + _INTERVAL - time.monotonic()))
        finally:
            self._changed.set()  # also where this is an error of ours: nobody is to wait for it
            self._task = None
            self._table = ShownTable()

    async def _read_once(self) -> None:
        table = self._table
        told = await self._source.part(0, _FINEST)
        table.plan(told.open)
        for part in table.wanted:
            share = _SHARE if table.complete else _SHARE_AT_FIRST
            await asyncio.sleep((share - 1) * told.cost)
            told = await self._source.part(part, table.parts)
            table.put(part, told.connections, time.monotonic())
            table.open = told.open
            self._failure = None
            self._changed.set()
