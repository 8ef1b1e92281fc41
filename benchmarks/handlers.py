"""What the benchmarked servers do: the same work with Socketkeep and with asyncio's streams.

echo: send back whatever comes.  lines: answer each line with the line.  batches: read lines, and
answer every `BATCH` of them with the last.
"""

from __future__ import annotations

from asyncio import StreamReader, StreamWriter
from typing import Final

from socketkeep import AsyncConnection, resumable

#: Lines that a client of `batches` sends at once, and gets one line for.
BATCH: Final = 64
_MOST: Final = 65536


async def echo(conn: AsyncConnection) -> None:
    """Echo with Socketkeep."""
    while data := await conn.recv(_MOST):
        await conn.send(data)


async def lines(conn: AsyncConnection) -> None:
    """Answer lines with Socketkeep."""
    async for line in conn.lines(keepends=True):
        await conn.send(line)


async def batches(conn: AsyncConnection) -> None:
    """Answer batches of lines with Socketkeep."""
    count = 0
    async for line in conn.lines(keepends=True):
        count += 1
        if count % BATCH == 0:
            await conn.send(line)


@resumable
async def echo_resumable(conn: AsyncConnection) -> None:
    """Echo with Socketkeep, so that the connection outlives a reload."""
    while data := await conn.recv(_MOST):
        await conn.send(data)
        conn.commit()


@resumable
async def lines_resumable(conn: AsyncConnection) -> None:
    """Answer lines with Socketkeep, so that the connection outlives a reload."""
    async for line in conn.lines(keepends=True, commit=True):
        await conn.send(line)


@resumable
async def batches_resumable(conn: AsyncConnection) -> None:
    """Answer batches of lines with Socketkeep, so that the connection outlives a reload."""
    count = 0
    async for line in conn.lines(keepends=True):
        count += 1
        if count % BATCH == 0:
            await conn.send(line)
            conn.commit()


async def echo_streams(reader: StreamReader, writer: StreamWriter) -> None:
    """Echo with asyncio's streams."""
    while data := await reader.read(_MOST):
        writer.write(data)
        await writer.drain()
    writer.close()


async def lines_streams(reader: StreamReader, writer: StreamWriter) -> None:
    """Answer lines with asyncio's streams."""
    while line := await reader.readline():
        writer.write(line)
        await writer.drain()
    writer.close()


async def batches_streams(reader: StreamReader, writer: StreamWriter) -> None:
    """Answer batches of lines with asyncio's streams."""
    count = 0
    while line := await reader.readline():
        count += 1
        if count % BATCH == 0:
            writer.write(line)
            await writer.drain()
    writer.close()
