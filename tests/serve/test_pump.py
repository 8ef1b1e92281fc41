"""A protocol on a connection: what it is given, and when it is asked to leave."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Awaitable, Callable
from typing import Any, ClassVar, Protocol

import pytest

from socketkeep import AsyncConnection, Detached, HandlerError, NotCommitted
from socketkeep._serve._protocols import adapt_protocols
from tests.harness.seam import be_handler_of, leased, order_to


class Told(asyncio.Protocol):
    """Notes what it is told."""

    made: ClassVar[Any]

    def __init__(self) -> None:
        type(self).made = self
        self.told: list[object] = []
        self.news = asyncio.Event()

    def note(self, what: object) -> None:
        self.told.append(what)
        self.news.set()

    async def until(self, *told: object) -> None:
        while tuple(self.told) != told:
            self.news.clear()
            await self.news.wait()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.note(data)

    def eof_received(self) -> bool:
        self.note("eof")
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        self.note(("lost", type(exc)))


class Keeps(Told):
    """Detaches with what it was told, unless it is busy."""

    busy = False

    def detach(self) -> object:
        if self.busy:
            raise NotCommitted("busy")
        return self.told

    def attach(self, state: Any) -> None:
        self.told = state


Body = Callable[[AsyncConnection, socket.socket, "asyncio.Task[None]"], Awaitable[None]]


class Made(Protocol):
    made: ClassVar[Any]


def serve(factory: type[Made], body: Body, **lease: Any) -> None:
    """Run the body while one end of a pair is served; it has the connection and the other end."""

    async def run() -> None:
        ours, peer = socket.socketpair()
        peer.setblocking(False)
        handler = adapt_protocols(factory)
        conn = AsyncConnection(ours, **leased(resumable=handler.resumable, **lease))
        be_handler_of(conn)
        serving = asyncio.ensure_future(handler.call(conn))
        await asyncio.sleep(0)
        try:
            with peer:
                await body(conn, peer, serving)
                with contextlib.suppress(OSError):  # it may have ended already
                    peer.shutdown(socket.SHUT_WR)
                factory.made.transport.close()
                await asyncio.gather(serving, return_exceptions=True)
        finally:
            serving.cancel()
            conn.core.sock.close()

    asyncio.run(asyncio.wait_for(run(), 20))


def test_a_paused_protocol_is_given_nothing() -> None:
    """Also when it pauses from elsewhere, while the connection waits for input."""

    async def body(conn: AsyncConnection, peer: socket.socket, _: asyncio.Task[None]) -> None:
        told = Told.made
        for _pause in range(3):
            told.transport.pause_reading()
            told.transport.resume_reading()
        told.transport.pause_reading()
        assert not told.transport.is_reading()
        peer.sendall(b"one")
        for _turn in range(5):
            await asyncio.sleep(0)
        assert told.told == []
        told.transport.resume_reading()
        await told.until(b"one")
        peer.shutdown(socket.SHUT_WR)
        await told.until(b"one", "eof")
        told.transport.write(b"more")
        assert await asyncio.get_running_loop().sock_recv(peer, 10) == b"more"
        told.transport.close()
        await told.until(b"one", "eof", ("lost", type(None)))

    serve(Told, body)


def test_a_buffered_protocol_that_pauses_has_the_rest_later() -> None:
    class Small(asyncio.BufferedProtocol):
        made: ClassVar[Any]

        def __init__(self) -> None:
            type(self).made = self
            self.told: list[bytes] = []
            self.given = asyncio.Event()

        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            assert isinstance(transport, asyncio.Transport)
            self.transport = transport

        def get_buffer(self, sizehint: int) -> bytearray:
            self.buffer = bytearray(4)
            return self.buffer

        def buffer_updated(self, nbytes: int) -> None:
            self.told.append(bytes(self.buffer[:nbytes]))
            self.transport.pause_reading()
            self.given.set()

    async def body(conn: AsyncConnection, peer: socket.socket, _: asyncio.Task[None]) -> None:
        small = Small.made
        peer.sendall(b"abcdefghij")
        for count in range(1, 4):
            await small.given.wait()
            small.given.clear()
            assert small.told == [b"abcd", b"efgh", b"ij"][:count]
            small.transport.resume_reading()
        small.transport.close()

    serve(Small, body)


def test_it_leaves_with_what_it_detaches() -> None:
    async def body(conn: AsyncConnection, peer: socket.socket, serving: asyncio.Task[None]) -> None:
        keeps = Keeps.made
        peer.sendall(b"one")
        await keeps.until(b"one")
        keeps.transport.write(b"an answer")
        conn.ask(order_to("move"))
        with pytest.raises(Detached):
            await serving
        handed = conn.hand_over()
        assert (handed.state, handed.unread) == (b"\x91\xc4\x03one", b"")
        assert keeps.told == [b"one"]
        keeps.transport.write(b"too late")
        keeps.transport.close()
        assert await asyncio.get_running_loop().sock_recv(peer, 100) == b"an answer"

    serve(Keeps, body)


def test_who_is_busy_is_asked_again_when_it_has_answered() -> None:
    async def body(conn: AsyncConnection, peer: socket.socket, serving: asyncio.Task[None]) -> None:
        keeps = Keeps.made
        keeps.busy = True
        conn.ask(order_to("move"))
        peer.sendall(b"one")
        await keeps.until(b"one")
        assert not serving.done()
        keeps.busy = False
        keeps.transport.write(b"done")
        with pytest.raises(Detached):
            await serving

    serve(Keeps, body)


def test_a_detach_that_fails_ends_its_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("socketkeep._stream._closing.QUIET", 0.1)

    class Broken(Keeps):
        def detach(self) -> object:
            raise RuntimeError("no state")

    async def body(conn: AsyncConnection, peer: socket.socket, serving: asyncio.Task[None]) -> None:
        conn.ask(order_to("move"))
        with pytest.raises(RuntimeError, match="no state"):
            await serving
        assert Broken.made.told == [("lost", RuntimeError)]

    serve(Broken, body)


def test_the_next_one_is_attached_before_it_is_connected() -> None:
    async def body(conn: AsyncConnection, peer: socket.socket, _: asyncio.Task[None]) -> None:
        await Keeps.made.until(b"one", b"unread")

    serve(Keeps, body, attached="reload", state=b"\x91\xc4\x03one", unread=b"unread")


def test_the_servers_end_is_told_and_not_swallowed() -> None:
    async def body(conn: AsyncConnection, peer: socket.socket, serving: asyncio.Task[None]) -> None:
        told = Told.made
        told.transport.pause_reading()
        await asyncio.sleep(0)
        serving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await serving
        await told.until(("lost", type(None)))

    serve(Told, body)


def test_a_peer_that_does_not_read_pauses_the_writer() -> None:
    class Writer(Told):
        def pause_writing(self) -> None:
            self.note("pause")

        def resume_writing(self) -> None:
            self.note("resume")

    async def body(conn: AsyncConnection, peer: socket.socket, _: asyncio.Task[None]) -> None:
        writer, size = Writer.made, 4 << 20
        writer.transport.set_write_buffer_limits(high=1000)
        writer.transport.write(bytearray(size))
        assert writer.told == ["pause"]
        assert writer.transport.get_write_buffer_size() > 1000
        writer.transport.write_eof()
        received = 0
        while data := await asyncio.get_running_loop().sock_recv(peer, 1 << 20):
            received += len(data)
        assert (received, writer.told) == (size, ["pause", "resume"])
        with pytest.raises(RuntimeError, match="write_eof"):
            writer.transport.write(b"more")

    serve(Writer, body)


def test_what_is_no_protocol_of_a_stream() -> None:
    class Half(asyncio.Protocol):
        def detach(self) -> object: ...

    with pytest.raises(HandlerError, match="has detach and no attach"):
        adapt_protocols(Half)
    with pytest.raises(HandlerError, match="no protocol of a stream"):
        adapt_protocols(asyncio.DatagramProtocol)
    with pytest.raises(HandlerError, match="it is no factory"):
        adapt_protocols(7)
    with pytest.raises(HandlerError, match="no arguments"):
        adapt_protocols(lambda conn: conn)
    assert not adapt_protocols(Told).resumable
    assert adapt_protocols(Keeps).resumable
