"""A program of a user's, which type checkers read as strictly as they can."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager, contextmanager
from typing import assert_type

import msgspec

import socketkeep
from socketkeep import (
    AsyncConnection,
    Client,
    Connection,
    Deadline,
    Detached,
    Listener,
    PeerClosed,
    Service,
    SocketkeepError,
    TimedOut,
    Timeout,
    WouldBlock,
    connect,
    open_connection,
    resumable,
)
from socketkeep.inspect import HeldSockets, holders
from socketkeep.proxy import InetAddress, ProxyHeader, read_header
from socketkeep.testing import Check, sync_checks


class Session(msgspec.Struct):
    """What a connection is in the middle of."""

    user: str = ""
    lines: int = 0


@resumable(state=Session, on_crash="close", redeliver=True)
async def device(conn: AsyncConnection) -> None:
    session = conn.state or Session()
    conn.name = session.user
    async for line in conn.lines(max=1024):
        assert_type(line, bytes)
        session.lines += 1
        await conn.reply(b"%d\n" % session.lines, session)


@resumable
def counter(conn: Connection) -> None:
    count: int = conn.state or 0
    for line in conn.lines():
        count += 1
        conn.send(b"%d %s\n" % (count, line))
        conn.commit(count)


def plain(conn: Connection) -> None:
    try:
        with conn.using(Timeout(2.5)):
            head = conn.recv_exactly(4)
        body = conn.recv_until(b"\n", 4096)
    except TimedOut as error:
        print(error.operation, error.elapsed, error.bytes_done)
        return
    except (PeerClosed, WouldBlock):
        return
    except Detached:
        raise
    assert_type(head + body, bytes)
    conn.mode = Timeout(1.0)
    conn.send_eof()
    conn.close()


@asynccontextmanager
async def lifespan() -> AsyncGenerator[None]:
    yield


@contextmanager
def sync_lifespan() -> Generator[None]:
    yield


async def framed(conn: AsyncConnection, data: bytes) -> None:
    await conn.send(len(data).to_bytes(4) + data)


service = Service(device, lifespan=lifespan, on_push=framed)
sync_service = Service(counter, sync_lifespan)


async def push_on(conn: AsyncConnection) -> None:
    told = await socketkeep.push("device-1", await conn.recv())
    assert_type(told.outcome, str)


async def client(context: ssl.SSLContext) -> bytes:
    conn = await open_connection("127.0.0.1:7000", tls=context, server_hostname="localhost")
    await conn.send(b"hello\n")
    answer = await conn.recv(100, timeout=1.0)
    assert_type(answer, bytes)
    await conn.close()
    return answer


def sync_client() -> bytes:
    with Listener.bind("127.0.0.1:0") as listener:
        conn = connect(listener.text, mode=Timeout(1.0))
        assert_type(conn, Connection)
        accepted = listener.accept()
        assert_type(accepted, Connection)
        accepted.send(b"hello\n")
        return conn.recv()


def pushes() -> str:
    sent = Client("/run/shop.sock").push("device-1", b"restart\n")
    published = Client("/run/shop.sock").publish("devices", b"restart\n")
    assert_type(published.delivered, int)
    return sent.outcome


def look() -> list[int]:
    found = holders("127.0.0.1:7000")
    assert_type(found, HeldSockets)
    return [holder.pid for each in found.sockets for holder in each.holders]


def header(data: bytes) -> bytes:
    found = ProxyHeader(source=InetAddress("192.0.2.1", 1234), destination=InetAddress("::1", 7000))
    print(read_header(data))
    return found.encode()


def own_stream(checks: list[Check]) -> None:
    for check in checks:
        check()


if __name__ == "__main__":
    deadline = Deadline.after(1.0)
    try:
        asyncio.run(client(ssl.create_default_context()))
    except SocketkeepError as error:
        print(error.reason, error.remedy, deadline)
    print(sync_checks)
