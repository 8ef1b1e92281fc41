"""One connection to an application, in this process: no server, no worker."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from socketkeep import AsyncConnection
from socketkeep._serve.asgi._loop import serve_connection
from socketkeep._serve.asgi._site import Site
from tests.harness.asgi import Application, Message, Receive, Scope, Send
from tests.harness.configuration import configured
from tests.harness.seam import leased

WAIT = 10.0  # seconds until a test gives up


def site_of(app: Application, **options: Any) -> Site:
    """Return the site of an application, without Date and Server unless the options say so."""
    plain = {"date_header": False, "server_header": False}
    return Site(app, configured("app:app", **{**plain, **options}))


class Client:
    """The peer of a served connection."""

    def __init__(
        self, sock: socket.socket, task: asyncio.Task[None], served: AsyncConnection
    ) -> None:
        self.sock = sock
        self.served = served
        self.task = task
        self.came = b""

    async def send(self, data: bytes) -> None:
        await asyncio.get_running_loop().sock_sendall(self.sock, data)

    async def read_until(self, end: bytes) -> bytes:
        """Return what comes up to and with `end`."""
        async with asyncio.timeout(WAIT):
            while end not in self.came:
                data = await asyncio.get_running_loop().sock_recv(self.sock, 65536)
                assert data, f"the connection ended after {self.came!r}"
                self.came += data
        found, mark, self.came = self.came.partition(end)
        return found + mark

    async def read_to_end(self) -> bytes:
        """Return all that comes until the connection ends."""
        async with asyncio.timeout(WAIT):
            while data := await asyncio.get_running_loop().sock_recv(self.sock, 65536):
                self.came += data
        return self.came


@asynccontextmanager
async def connected(site: Site, **lease: Any) -> AsyncIterator[Client]:
    """Serve one end of a pair, as a worker would; yield the other."""
    ours, theirs = socket.socketpair()
    theirs.setblocking(False)

    conn = AsyncConnection(ours, **leased(resumable=True, **lease))

    async def serve() -> None:
        try:
            await serve_connection(site, conn)
        finally:
            await conn.close(linger=0.1)

    with theirs:
        task = asyncio.create_task(serve())
        yield Client(theirs, task, conn)
        task.cancel()
        await asyncio.wait([task])
        if not task.cancelled() and (error := task.exception()) is not None:
            raise error


def exchange(app: Application, request: bytes, *, eof: bool = False, **options: Any) -> bytes:
    """Return all that comes back for what is sent, until the connection ends."""

    async def run() -> bytes:
        async with connected(site_of(app, **options)) as client:
            await client.send(request)
            if eof:
                client.sock.shutdown(socket.SHUT_WR)
            return await client.read_to_end()

    came: bytes = asyncio.run(run())
    return came


async def read_body(receive: Receive) -> bytes:
    """Return the whole body of a request; raises EOFError when the client goes before."""
    body = b""
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise EOFError("the client went")
        body += bytes(message["body"])
        if not message["more_body"]:
            return body


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer with what was asked, and the body."""
    body = await read_body(receive)
    asked = f"{scope['method']} {scope['path']} ".encode()
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": asked + body})


def sends(*messages: Message) -> Callable[[Scope, Receive, Send], Any]:
    """Return an application that sends these, whatever is asked."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        del scope, receive
        for message in messages:
            await send(message)

    return app


def start(status: int = 200, *headers: tuple[bytes, bytes], **more: Any) -> Message:
    return {"type": "http.response.start", "status": status, "headers": list(headers), **more}


def body(data: bytes = b"", *, more: bool = False) -> Message:
    return {"type": "http.response.body", "body": data, "more_body": more}
