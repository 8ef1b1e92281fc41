"""A chat with rooms, whose members stay in their rooms while the code is replaced.

Start it with one worker, because the rooms are in the memory of the worker; then talk::

    socketkeep serve examples/chat.py:handle -b 127.0.0.1:7000 --workers 1
    nc 127.0.0.1 7000

Lines are said to the room.  ``/nick NAME``, ``/join ROOM``, ``/who`` and ``/quit`` are commands.

What is said is pushed to the others from the speaker's task.  A push does not keep a member from
being moved, so a reload never waits for a room to fall silent.  What a member must not lose, the
name and the room, is the committed state; the rooms themselves are made of the members that are
there.  Something said while half of a room has moved to the new worker reaches that half alone.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Final

import msgspec

from socketkeep import AsyncConnection, Detached, LimitExceeded, TimedOut, resumable

MAX_LINE: Final = 1024
MAX_NAME: Final = 32
#: Seconds that a member may take to accept what the others say; then the member is cut off.
PATIENCE: Final = 5.0


class Seat(msgspec.Struct):
    """What a member goes on with in the next worker."""

    nick: str
    room: str = "lobby"


class Member:
    """Somebody who is connected to this worker."""

    def __init__(self, conn: AsyncConnection, seat: Seat) -> None:
        self.conn = conn
        self.seat = seat

    async def tell(self, text: str, timeout: float | None = None) -> None:
        """Send a line to this member; raises TimedOut after `timeout` seconds."""
        await self.conn.send(text.encode() + b"\n", timeout=timeout)

    async def hear(self, text: str) -> None:
        """Push a line to this member; one that does not take it in time is cut off."""
        try:
            await self.tell(text, PATIENCE)
        except TimedOut:
            await self.conn.abort()
        except OSError:
            pass  # gone or moved to the next worker; its own handler has noticed


members: set[Member] = set()


def others_in(room: str, member: Member) -> Iterator[Member]:
    """Yield the members in `room` other than `member`."""
    return (other for other in members if other is not member and other.seat.room == room)


async def say(member: Member, text: str) -> None:
    """Push a line to all the others in the member's room."""
    await asyncio.gather(*(other.hear(text) for other in others_in(member.seat.room, member)))


async def rename(member: Member, nick: str) -> None:
    """``/nick NAME``."""
    if not nick or len(nick) > MAX_NAME or any(other.seat.nick == nick for other in members):
        await member.tell(f"* {nick or 'nothing'} is not a name that you can have")
        return
    before, member.seat.nick = member.seat.nick, nick
    await member.tell(f"* you are {nick}")
    await say(member, f"* {before} is now {nick}")


async def join(member: Member, room: str) -> None:
    """``/join ROOM``."""
    if not room or len(room) > MAX_NAME:
        await member.tell("* which room?")
        return
    await say(member, f"* {member.seat.nick} has gone to {room}")
    member.seat.room = room
    await member.tell(f"* you are in {room}")
    await say(member, f"* {member.seat.nick} is here")


async def list_members(member: Member, _: str) -> None:
    """``/who``."""
    here = sorted(other.seat.nick for other in members if other.seat.room == member.seat.room)
    await member.tell(f"* in {member.seat.room}: {', '.join(here)}")


COMMANDS: Final = {"/nick": rename, "/join": join, "/who": list_members}


async def converse(member: Member) -> None:
    """Deal with each line of one member until the end or ``/quit``."""
    async for line in member.conn.lines(MAX_LINE):
        text = line.decode(errors="replace").strip()
        word, _, rest = text.partition(" ")
        if word == "/quit":
            return
        if command := COMMANDS.get(word):
            await command(member, rest.strip())
        elif text.startswith("/"):
            await member.tell(f"* no command {word}")
        elif text:
            await say(member, f"{member.seat.nick}: {text}")
        member.conn.commit(member.seat)


@resumable(state=Seat)
async def handle(conn: AsyncConnection) -> None:
    """Seat a member, or seat it again after a reload, and let it talk."""
    seat = conn.state or Seat(nick=f"guest-{conn.id[-6:]}")
    member = Member(conn, seat)
    members.add(member)
    try:
        if conn.state is None:
            await member.tell(f"* you are {seat.nick} in {seat.room}")
            conn.commit(seat)
            await say(member, f"* {seat.nick} is here")
        await converse(member)
    except Detached:
        raise  # moved to the next worker, not gone: nobody is told
    except LimitExceeded:
        await member.tell(f"* a line has at most {MAX_LINE} bytes")
    except ConnectionError:
        pass  # gone without a word
    finally:
        members.discard(member)
    await say(member, f"* {seat.nick} has left")
