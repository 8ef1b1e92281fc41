"""asyncio: ``aio asyncio|uvloop streams|protocol echo|lines [PEM]``; with a certificate by TLS."""

from __future__ import annotations

import asyncio
import ssl
import sys
from typing import cast

from benchmarks.peers import MOST, listen


class Echo(asyncio.Protocol):
    """Echo without a task for each connection."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Remember where to write."""
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is none by its class

    def data_received(self, data: bytes) -> None:
        """Write it back; slow readers are paused."""
        self._transport.write(data)

    def pause_writing(self) -> None:
        """Read no more until the peer has."""
        self._transport.pause_reading()

    def resume_writing(self) -> None:
        """Go on."""
        self._transport.resume_reading()


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Echo."""
    while data := await reader.read(MOST):
        writer.write(data)
        await writer.drain()
    writer.close()


async def lines(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answer lines."""
    while line := await reader.readline():
        writer.write(line)
        await writer.drain()
    writer.close()


async def serve(api: str, work: str, certificate: str) -> None:
    """Serve until killed."""
    # The C library gets large blocks from the system anew each time until one has been given back,
    # which a program that has run for a while has done; asyncio's transport asks for such ones.
    bytes(1 << 20)
    sock = listen()
    context = None
    if certificate:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
    if api == "protocol":
        loop = asyncio.get_running_loop()
        server = await loop.create_server(Echo, sock=sock, ssl=context)
    else:
        handler = {"echo": echo, "lines": lines}[work]
        server = await asyncio.start_server(handler, sock=sock, ssl=context)
    await server.serve_forever()


def _main(loop: str, api: str, work: str, certificate: str = "") -> None:
    factory = None
    if loop == "uvloop":
        import uvloop

        factory = uvloop.new_event_loop
    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(serve(api, work, certificate))


if __name__ == "__main__":
    _main(*sys.argv[1:])
