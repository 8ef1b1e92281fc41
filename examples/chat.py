"""A chat with rooms, over all workers, whose members stay in their rooms through everything.

Start it, and talk::

    socketkeep serve examples/chat.py:service -b 127.0.0.1:7000
    nc 127.0.0.1 7000
    socketkeep publish lobby --name chat " * the house closes at ten"

Lines are said to the room.  ``/nick NAME``, ``/join ROOM``, ``/who`` and ``/quit`` are commands.

A room is a group, to which the server publishes: its members may be in any worker, be parked, or be
on their way to the next one, and with ``--cluster nats://HOST`` they may be on any machine.  Each
message says first from whom it is, by the name of a connection, which nobody else has anywhere, so
that `on_push` spares who has said it.  What a member must not lose, the nick and the room, is the
committed state.
"""

from __future__ import annotations

import secrets
from typing import Final

import msgspec

from socketkeep import (
    AsyncConnection,
    Detached,
    LimitExceeded,
    Service,
    publish,
    push,
    resumable,
)

MAX_LINE: Final = 1024
MAX_NAME: Final = 32
#: Between from whom a message is and its text.
FROM: Final = " "
#: The text by which somebody asks who is there.
WHO: Final = "?"


class Seat(msgspec.Struct):
    """What a member goes on with in the next worker."""

    nick: str
    room: str = "lobby"


async def tell(conn: AsyncConnection, text: str) -> None:
    """Send a line to a member by its own handler."""
    await conn.send(text.encode() + b"\n")


async def say(conn: AsyncConnection, seat: Seat, text: str) -> None:
    """Say a line to all the others in the member's room."""
    await publish(seat.room, f"{conn.name}{FROM}{text}".encode())


async def on_push(conn: AsyncConnection, message: bytes) -> None:
    """Give a member what is said in its room, and answer who asks who is there."""
    speaker, _, text = message.decode(errors="replace").partition(FROM)
    if text == WHO:
        seat: Seat = conn.state
        if speaker == conn.name:
            await tell(conn, f"* {seat.nick} is in {seat.room}")
        else:
            push(speaker, f"{FROM}* {seat.nick} is in {seat.room}".encode())
    elif speaker != conn.name:
        await tell(conn, text)


async def rename(conn: AsyncConnection, seat: Seat, nick: str) -> None:
    """``/nick NAME``."""
    if not nick.isprintable() or not 0 < len(nick) <= MAX_NAME:
        await tell(conn, f"* {nick or 'nothing'} is not a name that you can have")
        return
    before, seat.nick = seat.nick, nick
    conn.labels = {"nick": nick}
    await tell(conn, f"* you are {nick}")
    await say(conn, seat, f"* {before} is now {nick}")


async def join(conn: AsyncConnection, seat: Seat, room: str) -> None:
    """``/join ROOM``."""
    if not room.isprintable() or not 0 < len(room) <= MAX_NAME:
        await tell(conn, "* which room?")
        return
    await say(conn, seat, f"* {seat.nick} has gone to {room}")
    conn.leave(seat.room)
    seat.room = room
    conn.join(room)
    await tell(conn, f"* you are in {room}")
    await say(conn, seat, f"* {seat.nick} is here")


async def ask_who(conn: AsyncConnection, seat: Seat, _: str) -> None:
    """``/who``: each member answers by itself."""
    await say(conn, seat, WHO)


COMMANDS: Final = {"/nick": rename, "/join": join, "/who": ask_who}


async def converse(conn: AsyncConnection, seat: Seat) -> None:
    """Deal with each line of one member until the end or ``/quit``."""
    async for line in conn.lines(MAX_LINE):
        text = line.decode(errors="replace").strip()
        word, _, rest = text.partition(" ")
        if word == "/quit":
            return
        if command := COMMANDS.get(word):
            await command(conn, seat, rest.strip())
        elif text.startswith("/"):
            await tell(conn, f"* no command {word}")
        elif text:
            await say(conn, seat, f"{seat.nick}: {text}")
        conn.commit(seat)


@resumable(state=Seat)
async def handle(conn: AsyncConnection) -> None:
    """Seat a member, or go on with one that is seated, and let it talk."""
    seat: Seat = conn.state or Seat(nick=f"guest-{conn.id[-6:]}")
    try:
        if conn.state is None:
            conn.name = secrets.token_hex(8)
            conn.join(seat.room)
            await tell(conn, f"* you are {seat.nick} in {seat.room}")
            conn.commit(seat)
            await say(conn, seat, f"* {seat.nick} is here")
        await converse(conn, seat)
    except Detached:
        raise  # moved, or parked, not gone: nobody is told
    except LimitExceeded:
        await tell(conn, f"* a line has at most {MAX_LINE} bytes")
    except ConnectionError:
        pass  # gone without a word
    await say(conn, seat, f"* {seat.nick} has left")


service = Service(handle, on_push=on_push)
