"""One application as a worker serves it: what all of its connections have in common."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from email.utils import formatdate
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from socketkeep._base import _log
from socketkeep._serve.asgi._forwarded import TrustedProxies
from socketkeep._serve.asgi._lifespan import lifespan_of
from socketkeep._serve.asgi._request_log import RequestLog
from socketkeep._serve.asgi._types import Application, Scope

if TYPE_CHECKING:
    from socketkeep._config._server_options import ServeConfig


#: Seconds that applications have, at a worker's end, to put away what they had for WebSockets that
#: have gone to another worker.
_LEAVING_TIME: Final = 5.0

#: (connection, site, scope, the request's raw head)
ServeWebSocket: TypeAlias = Callable[[Any, "Site", Scope, bytes], Awaitable[None]]


class Site:
    """An application, the server's options, and what is made of them once for all connections.

    state: what the lifespan has left for the requests.  root_path: as scopes have it.
    """

    def __init__(self, app: Application, options: ServeConfig) -> None:
        self.app = app
        self.options = options
        self.state: dict[str, Any] = {}
        self.root_path = options.root_path.rstrip("/")
        self.raw_root_path = self.root_path.encode("ascii")
        self.trusted = TrustedProxies(options.forwarded_allow_ips)
        self.serve_websocket: ServeWebSocket | None = None
        self.request_log: RequestLog | None = None
        self.leaving: set[asyncio.Task[None]] = set()  # applications that have had a WebSocket
        self.throttle = _log.Throttle()
        self._server = b"server: socketkeep\r\n" if options.server_header else b""
        self._dated = 0
        self._defaults = self._server

    @asynccontextmanager
    async def lifespan(self) -> AsyncIterator[None]:
        """The application's lifespan, in one worker."""
        form = self.options.request_log
        if form != "off":
            self.request_log = RequestLog(form, self.options.request_log_file)
        async with lifespan_of(self.app, self.options.lifespan) as state:
            self.state = state
            yield
            if self.leaving:
                await asyncio.wait(self.leaving, timeout=_LEAVING_TIME)

    def default_headers(self) -> bytes:
        """Return the headers of each response, as they are sent: Date and Server."""
        if self.options.date_header:
            now = int(time.time())
            if now != self._dated:
                self._dated = now
                date = formatdate(now, usegmt=True)
                self._defaults = f"date: {date}\r\n".encode("ascii") + self._server
        return self._defaults
