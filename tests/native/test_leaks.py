"""What runs, C or Python, gives back what it takes: references, memory and descriptors."""

from __future__ import annotations

import asyncio
import gc
import os
import socket
import sys
import tracemalloc
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Final

import msgspec
import pytest

from socketkeep import AsyncConnection, Connection, TimedOut, Timeout, resumable
from socketkeep._inspect._descriptors import look_in_python
from tests.harness.seam import Row, buffer, core_on, leased, shared_words
from tests.native.cores import both, compiled
from tests.wire.sending import ABSENT, message
from tests.worker.fakes import CastingDoor, a_place, is_entry, make_reactor, make_sync

_OPERATIONS: Final = 40_000

pytestmark = pytest.mark.timeout(180)


def buffers(times: int) -> None:
    """Every way through a buffer, with large and small pieces."""
    kind = both(buffer, "ReceiveBuffer")[-1]
    for number in range(times // 20):
        made = kind(retain=number % 2 == 0, replay_limit=50)
        for data in (b"a\nb\r\n", b"x" * (number % 3000)):
            made.feed(data)
            made.find(b"b\r")
            made.take_line(False, 10)
            made.take_until(b"\r\n", 10, 1)
            made.peek(3)
            made.take(2)
            made.take_exactly(1)
            with pytest.raises(IndexError):
                made.byte_at(10**9)
        if not made.overflowed and number % 2 == 0:
            made.replay()
        made.commit()


def connections(times: int) -> None:
    """Cores of their own, each with a little of everything, an error among it."""
    for number in range(times // 100):
        mine, peer = socket.socketpair()
        given = leased(resumable=number % 2 == 0, record=shared_words())
        made = core_on(mine, given)
        for _ in range(8):
            peer.send(b"ab\n" * 30)
            made.receive(10)
            made.fill(262144)
            made.send(b"x" * 100, False)
            made.commit(b"%d" % number)
        if number % 2:
            peer.close()
        made.receive(1000)
        made.receive(1000)
        mine.close()
        made.receive(1000)
        made.failure = None
        peer.close()


def sync_verbs(times: int) -> None:
    """Connections with all kinds of verbs; on some the time is over, on some the peer ends."""
    for number in range(times // 100):
        mine, peer = socket.socketpair()
        with Connection(mine, mode=Timeout(0.001 if number % 10 == 0 else 30)) as conn:
            lines = conn.lines()
            for turn in range(8):
                peer.send(b"abc\n" * 4)
                conn.recv(2)
                conn.recv_exactly(6)
                next(lines)
                conn.recv_until(b"\n")
                conn.send(b"x" * (turn * 10_000 + 1))
                peer.recv(100_000)
            if number % 10 == 0:
                with pytest.raises(TimedOut):
                    next(lines)
            peer.close()
            conn.recv()
            conn.recv()


def looks(times: int) -> None:
    look = both(look_in_python, "look")[-1]
    with socket.socket() as sock:
        inode = os.fstat(sock.fileno()).st_ino
        for _ in range(times // 200):
            look((os.getpid(), 2**22 + 1), {inode}, 0, {}, {})
            look((os.getpid(),), None, 1, {}, {})


def awaits(times: int) -> None:
    """Connections of an async worker, each with waits, a cancellation, an EOF and an error."""
    asyncio.run(_awaits(times // 50))


async def _awaits(times: int) -> None:
    reactor = make_reactor()
    for number in range(times):
        mine, peer = socket.socketpair()
        given = leased(resumable=number % 2 == 0, record=shared_words(), reactor=reactor)
        conn = AsyncConnection(mine, **given)
        for _ in range(4):
            given_up = asyncio.ensure_future(conn.recv())
            await asyncio.sleep(0)
            given_up.cancel()
            await asyncio.wait([given_up])
            line = asyncio.ensure_future(anext(conn.lines()))
            await asyncio.sleep(0)
            peer.send(b"ab\ncdef")
            await line
            await conn.recv_exactly(4)
            await conn.send(b"x" * 100)
            conn.commit(number)
        conn.recv().close()
        peer.close()
        for verb in (conn.recv, conn.recv, partial(conn.recv_exactly, 1), partial(conn.send, b"x")):
            with suppress(ConnectionError):
                await verb()
        await conn.close()
    reactor.close()


@resumable
def handle(conn: object) -> None: ...


def casts(times: int) -> None:
    """What C makes of accepted connections, some of which end in an orderly way."""
    with a_place(handle, "thread", rows=2) as place:
        door = CastingDoor(place, make_sync)
        door.arm()
        for number in range(times // 50):
            with socket.create_connection(door.listener.getsockname()[:2]) as peer:
                entry = door.accept()
                if compiled is None:
                    assert isinstance(entry, tuple)
                    entry[0].close()
                    continue
                assert is_entry(entry)
                assert isinstance(entry.conn, Connection)
                peer.sendall(b"x")
                entry.conn.recv()
                entry.conn.send(b"x" * number)
                Row(entry.record).ended = "closed"
                if number % 2:
                    entry.conn.close(linger=0)
                entry.sock.close()
                door.settlement.settle(entry)


def attaches(times: int) -> None:
    """Have C make connections that are given, some of which cannot be made."""
    with a_place(handle, "thread", rows=2, keep="crash") as place:
        door = CastingDoor(place, make_sync)
        door.arm()
        told = message("Attach", "b-3-a", 5, "crash", 0, "peer", b"\7", b"", 1, 2, 3, ABSENT)
        broken = msgspec.structs.replace(told, id="b-3")
        for number in range(times // 50):
            peer, given = place.connection()
            entry = door.roster.attached(broken if number % 3 == 2 else told, given.detach())
            if entry is not None:
                assert compiled is None or isinstance(entry.conn, Connection)
                entry.sock.close()
                Row(entry.record).ended = "closed"
                door.settlement.settle(entry)
            place.peers.remove(peer)
            peer.close()


@pytest.mark.parametrize("work", [buffers, connections, sync_verbs, looks, awaits, casts, attaches])
def test_nothing_grows(work: Callable[[int], None]) -> None:
    """What is held after very many operations is what was held after a few."""
    work(_OPERATIONS // 20)
    gc.collect()  # what other tests have left
    shared = [compiled, True, False, None, *vars(compiled).values()] if compiled else []
    held, known = [], [sys.getrefcount(each) for each in shared]
    descriptors = os.listdir("/proc/self/fd")
    for _ in range(3):  # the interpreter's own caches fill for a while
        tracemalloc.start()
        try:
            work(_OPERATIONS // 2)
            gc.collect()
            held.append((tracemalloc.get_traced_memory()[0], sys.getallocatedblocks()))
        finally:
            tracemalloc.stop()
    assert held[2][0] - held[1][0] < 10_000
    assert held[2][1] - held[1][1] < 100
    now = [sys.getrefcount(each) for each in shared]
    grown = {repr(each): b - a for each, a, b in zip(shared, known, now, strict=True)}
    assert {name: more for name, more in grown.items() if abs(more) >= 2000} == {}
    assert os.listdir("/proc/self/fd") == descriptors
