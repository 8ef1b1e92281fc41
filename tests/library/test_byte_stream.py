"""A connection where anyio's own streams are expected."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys

import anyio
import pytest
from anyio.abc import ByteStream, SocketAttribute
from anyio.streams.buffered import BufferedByteStream
from anyio.streams.text import TextStream
from anyio.streams.tls import TLSAttribute, TLSStream

from socketkeep import AsyncConnection
from tests.library.conftest import Pair, Run
from tests.library.test_connection import BIG, reset
from tests.library.test_tls import CLIENT, HOST, SERVER


def streams(pair: Pair) -> tuple[ByteStream, ByteStream]:
    return AsyncConnection(pair[0]).byte_stream(), AsyncConnection(pair[1]).byte_stream()


def test_it_is_a_byte_stream_to_its_end(pair: Pair, run: Run) -> None:
    async def scenario() -> None:
        ours, theirs = streams(pair)
        assert isinstance(ours, ByteStream)
        await theirs.send(b"hello")
        assert await ours.receive(2) == b"he"
        assert await ours.receive() == b"llo"
        await theirs.send_eof()
        for _ in range(2):
            with pytest.raises(anyio.EndOfStream):
                await ours.receive()
        await ours.send(b"bye")
        await ours.aclose()
        with pytest.raises(anyio.ClosedResourceError):
            await ours.receive()
        with pytest.raises(anyio.ClosedResourceError):
            await ours.send(b"x")
        with pytest.raises(anyio.ClosedResourceError):
            await ours.send_eof()
        assert await theirs.receive() == b"bye"
        await theirs.aclose()

    run(scenario)


def test_what_the_peer_does_is_an_error_of_anyios(tcp: Pair, run: Run) -> None:
    async def scenario() -> None:
        stream = AsyncConnection(tcp[0]).byte_stream()
        waiting = asyncio.ensure_future(stream.receive())
        await asyncio.sleep(0.01)
        with pytest.raises(anyio.BusyResourceError):
            await stream.receive()
        reset(tcp[1])
        with pytest.raises(anyio.BrokenResourceError) as caught:
            await waiting
        assert isinstance(caught.value.__cause__, ConnectionResetError)
        with pytest.raises(anyio.BrokenResourceError):
            await stream.send(b"x")

    run(scenario)


def test_cancelled_by_a_scope_it_loses_nothing(pair: Pair, run: Run) -> None:
    async def scenario() -> None:
        ours, theirs = streams(pair)
        with anyio.move_on_after(0.02) as waiting:
            await ours.receive()
        with anyio.CancelScope() as cancelled:
            cancelled.cancel()
            await theirs.send(b"never")
        await theirs.send(b"data")
        with anyio.CancelScope() as at_once:
            at_once.cancel()
            await ours.receive()
        assert waiting.cancelled_caught
        assert cancelled.cancelled_caught
        assert at_once.cancelled_caught
        assert await ours.receive() == b"data"
        await anyio.aclose_forcefully(ours)
        with pytest.raises(anyio.EndOfStream):
            await theirs.receive()

    run(scenario)


def test_anyios_buffered_and_text_streams_take_it(pair: Pair, run: Run) -> None:
    async def scenario() -> None:
        ours, theirs = streams(pair)
        buffered = BufferedByteStream(ours)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(theirs.send, BIG + b"head\r\nbody")
            assert await buffered.receive_exactly(len(BIG)) == BIG
        assert await buffered.receive_until(b"\r\n", 100) == b"head"
        await TextStream(theirs).send("wörter")
        await theirs.send_eof()
        assert await buffered.receive_exactly(4) == b"body"
        text = TextStream(buffered)
        assert "".join([part async for part in text]) == "wörter"
        await asyncio.gather(theirs.aclose(), buffered.aclose())

    run(scenario)


def test_anyios_tls_goes_over_it(pair: Pair, run: Run) -> None:
    async def scenario() -> None:
        ours, theirs = streams(pair)
        ends = await asyncio.gather(
            TLSStream.wrap(ours, server_side=True, ssl_context=SERVER),
            TLSStream.wrap(theirs, hostname=HOST, ssl_context=CLIENT),
        )
        sending = asyncio.ensure_future(ends[0].send(BIG))
        assert await BufferedByteStream(ends[1]).receive_exactly(len(BIG)) == BIG
        await sending
        assert ends[1].extra(SocketAttribute.raw_socket) is pair[1]
        await asyncio.gather(*(end.aclose() for end in ends))

    run(scenario)


def test_a_connection_that_has_tls_by_itself(pair: Pair, run: Run) -> None:
    async def scenario() -> None:
        conns = [AsyncConnection(sock) for sock in pair]
        ours, theirs = (conn.byte_stream() for conn in conns)
        await asyncio.gather(
            conns[0].start_tls(SERVER, server_side=True),
            conns[1].start_tls(CLIENT, server_hostname=HOST),
        )
        engine = conns[0].tls
        assert engine is not None
        assert ours.extra(TLSAttribute.ssl_object) is engine
        assert ours.extra(TLSAttribute.tls_version) == engine.version()
        assert ours.extra(TLSAttribute.cipher) == engine.cipher()
        assert ours.extra(TLSAttribute.server_side) is True
        assert theirs.extra(TLSAttribute.server_side) is False
        assert theirs.extra(TLSAttribute.shared_ciphers) is None
        assert theirs.extra(TLSAttribute.peer_certificate_binary)
        assert theirs.extra(TLSAttribute.standard_compatible) is True
        await theirs.send(b"hello")
        assert await ours.receive() == b"hello"
        assert ours.extra(SocketAttribute.family) == pair[0].family
        await conns[1].release()
        with pytest.raises(anyio.BrokenResourceError):  # the end of TLS is missing
            await ours.receive()
        await conns[0].abort()

    run(scenario)


def test_both_faces_by_turns(pair: Pair, run: Run) -> None:
    async def scenario() -> None:
        conn = AsyncConnection(pair[0])
        stream = conn.byte_stream()
        pair[1].sendall(b"line\nrest" + bytes(65536))
        assert await anext(conn.lines()) == b"line"
        assert await stream.receive(4) == b"rest"
        assert await conn.recv_exactly(65536) == bytes(65536)
        pair[1].shutdown(socket.SHUT_WR)
        await stream.aclose()
        assert conn.fileno() == -1

    run(scenario)


def test_typed_attributes(pair: Pair, run: Run) -> None:
    async def scenario() -> None:
        stream = AsyncConnection(pair[0]).byte_stream()
        assert stream.extra(SocketAttribute.raw_socket) is pair[0]
        assert stream.extra(SocketAttribute.family) == pair[0].family
        if pair[0].family == socket.AF_UNIX:
            assert stream.extra(SocketAttribute.remote_port, None) is None
            return
        assert stream.extra(SocketAttribute.remote_address) == pair[1].getsockname()[:2]
        assert stream.extra(SocketAttribute.local_address) == pair[0].getsockname()[:2]
        assert stream.extra(SocketAttribute.remote_port) == pair[1].getsockname()[1]
        assert stream.extra(SocketAttribute.local_port) == pair[0].getsockname()[1]

    run(scenario)


@pytest.mark.process
def test_anyio_is_imported_only_when_used() -> None:
    check = "import sys, socketkeep; socketkeep.AsyncConnection; sys.exit('anyio' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", check], check=False).returncode == 0
