"""A gateway of devices: they log in, send readings, and get commands by their names.

Start it, let a device log in, and send it a command from the command line::

    socketkeep serve examples/gateway.py:service -b 127.0.0.1:7100 --keep crash --login-timeout 10s
    socketkeep push device-17 --name gateway '{"set": "on"}'
    socketkeep publish site:north --name gateway '{"report": 1}'

Each frame is JSON behind its length, 16 bits.  A device begins with
``{"login": "device-17", "secret": "...", "site": "north"}`` and is answered ``{"welcome": 0}``: how
many readings of it there are.  Then it sends ``{"reading": 21.5}``, and is answered how many there
are by then.  A command comes in a frame of its own, whenever it is pushed: `on_push` makes it.

A second login of a device takes its name over, and closes the connection that it had: a device that
has lost its network comes back before the server has noticed.
"""

from __future__ import annotations

import hmac
import os
from typing import Any, Final

import msgspec

from socketkeep import AsyncConnection, PeerClosed, Service, resumable

MAX_FRAME: Final = 4096
SECRET: Final = os.environ.get("GATEWAY_SECRET", "open sesame")


class Session(msgspec.Struct):
    """What is known of a device, wherever its connection goes."""

    device: str
    readings: int = 0
    last: float | None = None


async def send(conn: AsyncConnection, **fields: Any) -> None:
    """Send one frame."""
    await conn.send_frame(msgspec.json.encode(fields), "u16", MAX_FRAME)


async def log_in(conn: AsyncConnection) -> Session | None:
    """Return the session of the device that says who it is; None: it is not let in."""
    said = msgspec.json.decode(await conn.recv_frame("u16", MAX_FRAME), type=dict[str, str])
    if not hmac.compare_digest(said.get("secret", "").encode(), SECRET.encode()):
        await send(conn, refused="wrong secret")
        return None
    try:
        conn.name = said.get("login", "")
        conn.join(f"site:{said.get('site', 'nowhere')}")
    except ValueError as error:
        await send(conn, refused=str(error))
        return None
    conn.deadline = None  # of the login
    return Session(conn.name)


async def on_push(conn: AsyncConnection, command: bytes) -> None:
    """Pass a command on, if it is one."""
    try:
        fields = msgspec.json.decode(command, type=dict[str, Any])
    except msgspec.DecodeError:
        return  # whoever has sent it is told that it was handed over; the device is spared it
    await send(conn, **fields)


@resumable(state=Session)
async def handle(conn: AsyncConnection) -> None:
    """Serve one device, from its login or from where another worker has left it."""
    try:
        session: Session | None = conn.state
        if session is None:
            session = await log_in(conn)
            if session is None:
                return
            await send(conn, welcome=session.readings)
            conn.commit(session)
        async for frame in conn.frames("u16", MAX_FRAME):
            session.last = msgspec.json.decode(frame, type=dict[str, float])["reading"]
            session.readings += 1
            await send(conn, readings=session.readings)
            conn.commit(session)
    except (msgspec.DecodeError, KeyError):
        await send(conn, refused="that is no message of this protocol")
    except PeerClosed:
        pass  # in the middle of a frame


service = Service(handle, on_push=on_push)
