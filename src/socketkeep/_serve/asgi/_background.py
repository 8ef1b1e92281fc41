"""Applications that go on when their response is over, as Starlette's background tasks do.

The task that runs one cannot leave it, so the connection is served on by a task of its own: its
next request does not wait.  While any of them runs the connection does not count as between two
requests, and stays: with it the worker, whose end would be theirs.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from enum import Enum
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from socketkeep._stream._aio import AsyncConnection


class Next(Enum):
    """The fate of a connection when an application has ended."""

    GO_ON = "it takes the next request"
    END = "it ends"
    LEFT = "another task serves it"


class Background:
    """The tasks that run beside one connection.

    running: how many.  uncommitted: the connection is between two requests, and this was not said.
    """

    __slots__ = ("_conn", "_outcome", "_tasks", "running", "uncommitted")

    def __init__(self, conn: AsyncConnection) -> None:
        self._conn = conn
        self._outcome: asyncio.Future[None] | None = None  # of the connection
        self._tasks: set[asyncio.Task[None]] | None = None  # most connections never have any
        self.running = 0
        self.uncommitted = False

    def begin(self, serving: Coroutine[Any, Any, Next]) -> None:
        """Have the connection served on by `serving`: this task goes on with its application."""
        loop = asyncio.get_running_loop()
        if self._outcome is None:
            self._outcome = loop.create_future()
        self.running += 1
        task = loop.create_task(self._serve(serving, self._outcome))
        if self._tasks is None:
            self._tasks = set()
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(
        self, serving: Coroutine[Any, Any, Next], outcome: asyncio.Future[None]
    ) -> None:
        try:
            if await serving is Next.LEFT:
                return
            await self._conn.close()
        except asyncio.CancelledError:
            outcome.cancel()  # an exception that nobody asks for would be told at its end
        except BaseException as error:
            if not outcome.done():
                outcome.set_exception(error)
        else:
            if not outcome.done():
                outcome.set_result(None)

    def end(self) -> None:
        """Note that an application has ended: the connection may leave now, if none is left."""
        self.running -= 1
        if self.uncommitted and not self.running:
            self.uncommitted = False
            self._conn.commit()
            self._conn.committed_beside_receive()

    async def outcome(self) -> None:
        """Wait until the connection has ended, and all that runs beside it; raise what ended it."""
        assert self._outcome is not None
        try:
            while self._tasks:
                await asyncio.wait(tuple(self._tasks))
        except asyncio.CancelledError:
            self.cancel()
            raise
        await self._outcome

    def cancel(self) -> None:
        """Cancel whoever serves the connection, and what runs beside it."""
        for task in tuple(self._tasks or ()):
            task.cancel()
