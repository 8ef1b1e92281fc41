"""Streams of other libraries, by the verbs that the checks call."""

from __future__ import annotations

import anyio
from anyio.abc import ByteStream


class ByteStreamVerbs:
    """A stream of anyio's by the verbs of this library, as far as it has them: `BYTE_STREAM`.

    Args:
        stream: The stream, which the verbs are passed on to.
    """

    def __init__(self, stream: ByteStream) -> None:
        self._stream = stream

    async def recv(self, max: int = 65536, /) -> bytes:  # noqa: A002 - the word of the library
        """Return what has come, 1 to `max` bytes; b"" at the peer's EOF."""
        try:
            return await self._stream.receive(max)
        except anyio.EndOfStream:
            return b""

    async def send(self, data: bytes, /) -> None:
        """Send all of `data`."""
        await self._stream.send(data)

    async def send_eof(self) -> None:
        """End the sending."""
        await self._stream.send_eof()

    async def close(self) -> None:
        """Close the stream."""
        await self._stream.aclose()
