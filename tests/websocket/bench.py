"""One WebSocket on a pair of sockets, whose server's side goes from worker to worker."""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any, TypeAlias, cast

from websockets.asyncio.client import ClientConnection, connect

from socketkeep import AsyncConnection, Detached
from socketkeep._serve.websocket._serving import WebSockets
from socketkeep._worker._mail import Mailbox
from tests.harness.asgi import Application, Message, Scope
from tests.harness.configuration import configured
from tests.harness.seam import be_handler_of, leased, order_to, row_of

OnPush: TypeAlias = Callable[..., Coroutine[Any, Any, None]]

PATIENCE = 10.0
END = b"\r\n\r\n"


def run(main: Coroutine[Any, Any, None]) -> None:
    """Run a test's coroutine, for so long at most."""
    asyncio.run(asyncio.wait_for(main, 2 * PATIENCE))


class Shelf:
    """Where a committed state survives the worker."""

    def __init__(self) -> None:
        self.state: bytes | None = None

    def put(self, state: bytes | None, reply: bytes = b"") -> None:
        self.state = state


class RequestLog:
    """Notes the status of each request."""

    def __init__(self) -> None:
        self.noted: list[int] = []

    def note(self, _scope: Scope, _request: object, status: int, _size: int) -> None:
        self.noted.append(status)


class Site:
    """What the HTTP side tells of an application."""

    def __init__(self, app: Application, options: Any, on_push: OnPush | None) -> None:
        self.app = app
        self.options = options
        self.request_log = RequestLog()
        websockets = WebSockets(options, on_push)
        self.serve = websockets.serve
        self.pushed = websockets.pushed
        self.leaving: set[asyncio.Task[None]] = set()

    def default_headers(self) -> bytes:
        return b"server: test\r\n"


def scope_of(head: bytes) -> Scope:
    """Return the scope of a request, as far as the tests' applications look at it."""
    line, *lines = head[: -len(END)].split(b"\r\n")
    headers = []
    for each in lines:
        name, _, value = each.partition(b":")
        headers.append((name.strip().lower(), value.strip()))
    asked = [value for name, value in headers if name == b"sec-websocket-protocol"]
    return {
        "type": "websocket",
        "path": line.split(b" ")[1].decode(),
        "headers": headers,
        "subprotocols": b",".join(asked).decode().split(",") if asked else [],
        "extensions": {},
    }


class Bench:
    """The socket's server side.  crash_safe: as with ``--keep crash``; on_push: its service's."""

    def __init__(
        self,
        app: Application,
        options: Any,
        crash_safe: bool,
        park_after: float | None,
        on_push: OnPush | None,
    ) -> None:
        self.site = Site(app, options, on_push)
        self.shelf = Shelf() if crash_safe else None
        self.park_after = park_after
        self.client_sock, self._sock = socket.socketpair()
        self.conn: AsyncConnection
        self.task: asyncio.Task[None]
        self.times_served = 0
        self.clients: list[ClientConnection] = []
        self._known: Any = None

    def begin(self, attached: str, state: bytes | None = None, unread: bytes = b"") -> None:
        """Serve it, as the next worker does."""
        given = leased(
            id="1-1-1",
            resumable=True,
            state=state,
            unread=unread,
            attached=attached,
            park_after=self.park_after,
            shelf=self.shelf,
        )
        self.conn = AsyncConnection(self._sock, **given)
        self.enter_post()
        self.task = asyncio.get_running_loop().create_task(self._handle(self.conn))
        self.times_served += 1

    def enter_post(self) -> None:
        """Know what it is called, as the next worker does, and hear what it will be called."""
        self.conn.hooks.registrar = self
        self.conn.registration = self._known
        if self._known is not None:
            self.changed(self.conn)

    def changed(self, conn: AsyncConnection) -> None:
        """Note what it is called."""
        self._known = conn.registration
        if conn.hooks.mail is None:
            conn.hooks.mail = Mailbox(self.site.pushed)

    def push(self, message: bytes) -> bool:
        """Push to it, where it is called something; return whether there is room for it."""
        mail = self.conn.hooks.mail
        assert isinstance(mail, Mailbox)
        if not mail.put(message):
            return False
        self.conn.nudge()
        return True

    async def _handle(self, conn: AsyncConnection) -> None:
        be_handler_of(conn)
        saved = (conn.state or {}).get("websocket")
        head = await conn.recv_until(END) + END if saved is None else saved["head"]
        try:
            await self.site.serve(conn, cast("Any", self.site), scope_of(head), head)
        except Detached:
            assert row_of(conn).ended == "detached"
            return
        await conn.close()

    async def left(self) -> Any:
        """Wait until it has left its worker; return what goes along."""
        await asyncio.wait_for(asyncio.shield(self.task), PATIENCE)
        assert row_of(self.conn).ended == "detached", "it ended, and did not leave"
        return self.conn.hand_over()

    async def move(self) -> None:
        """Have it leave at its next safe point, and serve it in the next worker."""
        self.conn.ask(order_to("move", 2 * PATIENCE))
        handoff = await self.left()
        self.begin("reload", handoff.state, handoff.unread)

    async def crash(self) -> None:
        """Have its worker die when it is clean, and serve it in the next one."""
        assert self.shelf is not None
        await until(lambda: row_of(self.conn).status == "clean")
        state = self.shelf.state
        self._sock = socket.socket(fileno=os.dup(self.conn.fileno()))
        self.conn._give_up()  # as its death would: the peer sees nothing
        await self.task
        self.begin("crash", state)


async def until(condition: Callable[[], bool]) -> None:
    """Wait until it holds."""
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, "it does not come to hold"
        await asyncio.sleep(0.001)


@asynccontextmanager
async def bench(
    app: Application,
    *,
    crash_safe: bool = False,
    park_after: float | None = None,
    options: dict[str, Any] | None = None,
    kind: type[Bench] = Bench,
    on_push: OnPush | None = None,
) -> AsyncIterator[Bench]:
    """Serve an application on a pair, and see that all of it ends."""
    told: dict[str, Any] = {"ws_resume": "on", "ws_ping_interval": 0.0}
    told |= options or {}
    served = kind(app, configured("app:app", **told), crash_safe, park_after, on_push)
    served.begin("accepted")
    try:
        yield served
    finally:
        for client in served.clients:
            client.transport.abort()
            await client.wait_closed()
        served.client_sock.close()
        served.task.cancel()
        await asyncio.wait((served.task, *served.site.leaving), timeout=PATIENCE)
        assert not served.site.leaving
        await served.conn.close()


async def dial(served: Bench, **settings: Any) -> ClientConnection:
    """Return the client's side, by `websockets`' own client."""
    settings = {"ping_interval": None, "compression": None} | settings
    client = await connect("ws://test/path", sock=served.client_sock, **settings)
    served.clients.append(client)
    return client


async def echo(scope: Scope, receive: Any, send: Any) -> None:
    """Answer each message by itself."""
    while True:
        message: Message = await receive()
        if message["type"] == "websocket.connect":
            await send({"type": "websocket.accept"})
        elif message["type"] == "websocket.disconnect":
            return
        else:
            await send({**message, "type": "websocket.send"})
