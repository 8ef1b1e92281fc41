"""What a commit of a stream's leaves, and what a transport of ours tells and counts."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from socketkeep import AsyncConnection, PeerReset, StateNotEncodable
from socketkeep._serve._streams import KeptReader, KeptWriter, StreamTransport
from tests.harness.seam import Row, be_handler_of, leased

Body = Callable[[KeptReader, KeptWriter, socket.socket], Awaitable[None]]


def with_streams(body: Body, **lease: Any) -> None:
    """Run the body as a resumable callback on one end of a pair; it has the other end, too."""

    async def run() -> None:
        ours, peer = socket.socketpair()
        peer.setblocking(False)
        conn = AsyncConnection(ours, **leased(resumable=True, **lease))
        be_handler_of(conn)
        reader = KeptReader(conn)
        protocol = asyncio.StreamReaderProtocol(reader, loop=asyncio.get_running_loop())
        transport = StreamTransport(conn, protocol)
        reader.connection_transport = transport
        protocol.connection_made(transport)
        writer = KeptWriter(transport, protocol, reader)
        try:
            with peer:
                await body(reader, writer, peer)
        finally:
            writer.close()
            await asyncio.wait_for(transport.finish(), 5)

    asyncio.run(asyncio.wait_for(run(), 20))


def test_what_the_reader_has_not_given_out_is_unread() -> None:
    async def body(reader: KeptReader, writer: KeptWriter, peer: socket.socket) -> None:
        core = reader.conn.core
        peer.sendall(b"one\ntwo\nthr")
        assert await reader.readline() == b"one\n"
        assert core.export() == (None, b"one\ntwo\nthr")
        writer.commit(1)
        assert (core.export()[1], Row(core.record).status) == (b"two\nthr", "read")
        assert await reader.readline() == b"two\n"
        peer.sendall(b"ee\nfour")
        assert await reader.readline() == b"three\n"
        assert core.export()[1] == b"two\nthree\nfour"
        reader.commit({"at": 3})
        assert (core.export()[1], writer.state) == (b"four", {"at": 3})
        peer.sendall(b"\n")
        assert await reader.readline() == b"four\n"
        writer.commit(None)
        assert (core.export(), Row(core.record).status) == ((None, b""), "clean")

    with_streams(body)


def test_a_commit_that_fails_changes_nothing() -> None:
    async def body(reader: KeptReader, writer: KeptWriter, peer: socket.socket) -> None:
        peer.sendall(b"one\ntwo\n")
        await reader.readline()
        with pytest.raises(StateNotEncodable):
            writer.commit(object())
        assert reader.conn.core.export() == (None, b"one\ntwo\n")

    with_streams(body)


def test_more_than_one_receive_has_come_from_the_last_worker() -> None:
    """What the connection has stays behind what the reader has."""
    unread = b"".join(b"%07d\n" % number for number in range(20_000))

    async def body(reader: KeptReader, writer: KeptWriter, peer: socket.socket) -> None:
        for number in range(3):
            assert await reader.readline() == b"%07d\n" % number
        assert 0 < reader.conn.core.buffer.size < len(unread)
        writer.commit(3)
        assert reader.conn.core.export()[1] == unread[24:]
        for number in range(3, 20_000):
            assert await reader.readline() == b"%07d\n" % number
            writer.commit(number)
        assert reader.conn.core.export() == (reader.conn.core.committed, b"")

    with_streams(body, unread=unread, replay_limit=1 << 20)


def test_what_is_committed_and_not_gone_yet_is_no_clean_state() -> None:
    async def body(reader: KeptReader, writer: KeptWriter, peer: socket.socket) -> None:
        record = reader.conn.core.record
        peer.sendall(b"one\n")
        await reader.readline()
        writer.write(b"x" * (4 << 20))
        writer.commit(1)
        assert Row(record).status == "sent"
        received = 0
        while received < 4 << 20:
            received += len(await asyncio.get_running_loop().sock_recv(peer, 1 << 20))
        await writer.drain()
        assert reader.connection_transport is not None
        await reader.connection_transport.flushed()
        assert Row(record).status == "clean"

    with_streams(body)


def test_a_reset_is_what_reads_and_drains_raise() -> None:
    async def body(reader: KeptReader, writer: KeptWriter, peer: socket.socket) -> None:
        writer.write(b"never read")
        peer.close()  # of a Unix socket, with something unread in it
        with pytest.raises(PeerReset):
            await reader.read(10)
        await asyncio.sleep(0)
        assert writer.is_closing()
        with pytest.raises(PeerReset):
            await writer.drain()

    with_streams(body)


def test_two_readers_at_once_are_refused() -> None:
    async def body(reader: KeptReader, writer: KeptWriter, peer: socket.socket) -> None:
        first = asyncio.ensure_future(reader.readline())
        await asyncio.sleep(0)
        with pytest.raises(RuntimeError, match="already waiting"):
            await reader.read(1)
        peer.sendall(b"a line\n")
        assert await first == b"a line\n"

    with_streams(body)


def test_tls_by_the_loop_is_refused() -> None:
    """Nobody reads for the protocol of a stream's TLS, so that it would wait for ever."""

    async def body(reader: KeptReader, writer: KeptWriter, peer: socket.socket) -> None:
        transport = writer.transport
        with pytest.raises(TypeError, match="not supported by start_tls"):
            await asyncio.get_running_loop().start_tls(
                transport, transport.get_protocol(), ssl.create_default_context()
            )

    with_streams(body)
