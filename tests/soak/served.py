"""What the servers of a soak serve: lines with names and pushes, and an ASGI application."""

from __future__ import annotations

from typing import Any

from socketkeep import AsyncConnection, Connection, resumable


@resumable(redeliver=True)
async def count(conn: AsyncConnection) -> None:
    """Answer each line with how many there were by then."""
    counted: int = conn.state or 0
    async for line in conn.lines():
        verb, _, rest = line.partition(b" ")
        if verb == b"name":
            conn.name = rest.decode()
            await conn.reply(b"named\n", state=counted)
        else:
            counted += 1
            await conn.reply(b"%d %s\n" % (counted, line), state=counted)


@resumable(redeliver=True)
def count_blocking(conn: Connection) -> None:
    """Do the same, sync."""
    counted: int = conn.state or 0
    for line in conn.lines():
        verb, _, rest = line.partition(b" ")
        if verb == b"name":
            conn.name = rest.decode()
            conn.reply(b"named\n", state=counted)
        else:
            counted += 1
            conn.reply(b"%d %s\n" % (counted, line), state=counted)


async def site(scope: dict[str, Any], receive: Any, send: Any) -> None:
    """Answer requests with their body reversed, and count the messages of WebSockets."""
    if scope["type"] == "http":
        body = b""
        while True:
            message = await receive()
            body += message.get("body", b"")
            if not message.get("more_body"):
                break
        length = (b"content-length", b"%d" % len(body))
        await send({"type": "http.response.start", "status": 200, "headers": [length]})
        await send({"type": "http.response.body", "body": body[::-1]})
    elif scope["type"] == "lifespan":
        while (await receive())["type"] != "lifespan.shutdown":
            await send({"type": "lifespan.startup.complete"})
        await send({"type": "lifespan.shutdown.complete"})
    else:
        await _count_messages(scope, receive, send)


async def _count_messages(scope: dict[str, Any], receive: Any, send: Any) -> None:
    counted = scope["extensions"].get("socketkeep", {}).get("state") or 0
    while True:
        match await receive():
            case {"type": "websocket.connect"}:
                await send({"type": "websocket.accept"})
                await send({"type": "socketkeep.commit", "state": counted})
            case {"type": "websocket.receive", "text": text}:
                counted += 1
                reply = f"{counted} {text}"
                await send({"type": "socketkeep.commit", "state": counted, "reply": reply})
            case _:
                return
