"""The lifespan of an application: what a worker tells it before it serves, and at its end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Literal

from socketkeep._base import _log
from socketkeep._base._mistakes import LoadError
from socketkeep._base._tracebacks import users_traceback
from socketkeep._serve.asgi._response import MessageError
from socketkeep._serve.asgi._types import Application, Message


class Lifespan:
    """The conversation with one application.  state: what it shares with its requests."""

    def __init__(self, app: Application, mode: Literal["auto", "on"]) -> None:
        self.state: dict[str, Any] = {}
        self._app = app
        self._mode = mode
        self._told = asyncio.Event()  # the application has received lifespan.startup
        self._started: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._end = asyncio.Event()
        self._ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._task = asyncio.get_running_loop().create_task(self._run(), name="lifespan")

    async def _run(self) -> None:
        scope = {
            "type": "lifespan",
            "asgi": {"version": "3.0", "spec_version": "2.0"},
            "state": self.state,
        }
        try:
            await self._app(scope, self._receive, self._send)
        except Exception as error:
            if not self._started.done():
                # "If an exception is raised …, the server must continue but not send any lifespan
                # events": the application has no lifespan.
                if self._mode == "on":
                    self._started.set_exception(
                        LoadError(f"the lifespan failed:\n{users_traceback(error)}")
                    )
                    return
                _log.debug("the application has no lifespan", error=repr(error))
            elif not self._end.is_set():
                _log.error("lifespan failed", traceback=users_traceback(error))
            elif not self._ended.done():
                self._ended.set_exception(error)
        for each in (self._started, self._ended):
            if not each.done():
                each.set_result(None)

    async def _receive(self) -> Message:
        if not self._told.is_set():
            self._told.set()
            return {"type": "lifespan.startup"}
        await self._end.wait()
        return {"type": "lifespan.shutdown"}

    async def _send(self, message: Message) -> None:
        kind = message["type"]
        if kind.startswith("lifespan.startup.") and not self._started.done():
            if kind == "lifespan.startup.complete":
                self._started.set_result(None)
                return
            if kind == "lifespan.startup.failed":
                text = message.get("message", "") or "lifespan.startup.failed"
                self._started.set_exception(LoadError(f"the application did not start: {text}"))
                return
        if kind.startswith("lifespan.shutdown.") and self._end.is_set():
            if kind == "lifespan.shutdown.failed":
                text = message.get("message", "") or kind
                _log.error("the application did not end in order", error_text=text)
            if not self._ended.done():
                self._ended.set_result(None)
            return
        raise MessageError(f"a message of type {kind!r} is not to be sent at this point")

    async def start(self) -> None:
        """Wait until the application has started.  Raises LoadError when it says it cannot."""
        await self._started

    async def finish(self) -> None:
        """Tell the application that the worker ends, and wait for it."""
        self._end.set()
        if not self._task.done():
            await self._ended


@asynccontextmanager
async def lifespan_of(app: Application, mode: str) -> AsyncIterator[dict[str, Any]]:
    """Have the application live for as long as the worker; yields the state of its requests."""
    if mode == "off":
        yield {}
        return
    lifespan = Lifespan(app, "on" if mode == "on" else "auto")
    await lifespan.start()
    try:
        yield lifespan.state
    finally:
        await lifespan.finish()
