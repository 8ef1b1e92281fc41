"""What Socketkeep's servers do: echo, or answer each line with the line.

The sync handlers have timeouts on, as servers should; the peers' bare loops have none unless said.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from benchmarks.peers.web import asgi
from socketkeep import Timeout, resumable

if TYPE_CHECKING:  # who serves in one way need not load what is for the other
    from socketkeep import AsyncConnection, Connection

_MOST: Final = 65536
_MODE: Final = Timeout(30)


def echo(conn: Connection) -> None:
    """Echo."""
    conn.mode = _MODE
    while data := conn.recv(_MOST):
        conn.send(data)


def lines(conn: Connection) -> None:
    """Answer lines."""
    conn.mode = _MODE
    for line in conn.lines(keepends=True):
        conn.send(line)


def lines_gather(conn: Connection) -> None:
    """Answer lines, those that came at once by one send."""
    conn.gather()
    lines(conn)


@resumable
def echo_commit(conn: Connection) -> None:
    """Echo on a connection that outlives its worker."""
    while data := conn.recv(_MOST):
        conn.send(data)
        conn.commit()


@resumable
def lines_commit(conn: Connection) -> None:
    """Answer and count lines, on a connection that outlives its worker."""
    count = conn.state or 0
    for line in conn.lines(keepends=True):
        conn.send(line)
        count += 1
        conn.commit(count)


async def echo_async(conn: AsyncConnection) -> None:
    """Echo."""
    while data := await conn.recv(_MOST):
        await conn.send(data)


async def lines_async(conn: AsyncConnection) -> None:
    """Answer lines."""
    async for line in conn.lines(keepends=True):
        await conn.send(line)


async def lines_gather_async(conn: AsyncConnection) -> None:
    """Answer lines, those that came at once by one send."""
    conn.gather()
    await lines_async(conn)


@resumable
async def echo_commit_async(conn: AsyncConnection) -> None:
    """Echo on a connection that outlives its worker."""
    while data := await conn.recv(_MOST):
        await conn.send(data)
        conn.commit()


@resumable
async def lines_commit_async(conn: AsyncConnection) -> None:
    """Answer and count lines, on a connection that outlives its worker."""
    count = conn.state or 0
    async for line in conn.lines(keepends=True):
        await conn.send(line)
        count += 1
        conn.commit(count)


async def websocket_commit(scope: Any, receive: Any, send: Any) -> None:
    """Echo each message of a WebSocket, and commit; answer hello by HTTP."""
    if scope["type"] != "websocket":
        await asgi(scope, receive, send)
        return
    while (message := await receive())["type"] != "websocket.disconnect":
        if message["type"] == "websocket.connect":
            await send({"type": "websocket.accept"})
        else:
            await send({"type": "websocket.send", "bytes": message["bytes"]})
            await send({"type": "socketkeep.commit", "state": len(message["bytes"])})
