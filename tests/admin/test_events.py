"""The stream of events: to those who watch, and only while somebody does."""

from __future__ import annotations

import asyncio
import json
import select
import socket
from typing import Any

import pytest
from msgspec.structs import replace

from tests.admin.web import LIVE, FakeSource, bound_pages, connection, get, pages, show_every


class Counting(FakeSource):
    """Counts how often it is looked at."""

    looks = 0

    async def look(self, max_age: float = 0.0) -> Any:
        self.looks += 1
        return await super().look(max_age)


async def events(port: int, number: int) -> list[tuple[str, Any]]:
    """Return the names and the data of the first events."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1 << 24)
    try:
        writer.write(get("/events").encode())
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        assert "content-type: text/event-stream" in head
        found: list[tuple[str, Any]] = []
        name = ""
        while len(found) < number:
            line = (await reader.readline()).decode()
            if line.startswith("event: "):
                name = line[7:].strip()
            elif line.startswith("data: "):
                found.append((name, json.loads(line[6:])))
        return found
    finally:
        writer.close()


def test_what_a_frame_has(monkeypatch: pytest.MonkeyPatch) -> None:
    """All that the page shows; a keeper that does not answer is an event of its own."""
    show_every(monkeypatch, 0.01)
    rows = [
        connection("1-1-1", 71, 0, busy=True),
        connection("1-1-2", None, None, state="parked"),
        connection("1-1-3", None, None),
    ]
    source = FakeSource(replace(LIVE, connections=rows, left_out=7))

    async def watched() -> tuple[list[tuple[str, Any]], list[tuple[str, Any]]]:
        async with pages(source) as port:
            first = await events(port, 2)
            source.report = None
            return first, await events(port, 1)

    frames, gone = asyncio.run(watched())
    for name, frame in frames:
        assert name == "frame"
        assert [row[:3] for row in frame["connections"]] == [
            ["1-1-1", 71, 1],
            ["1-1-2", 0, 2],
            ["1-1-3", 0, 3],
        ]
        assert frame["left_out"] == 7
        assert [each["pid"] for each in frame["workers"]] == [71, 72]
    assert gone == [("gone", {"text": "the keeper does not answer"})]


def test_nobody_asks_while_nobody_watches(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two who watch cost one look each time; when both have left, none."""
    show_every(monkeypatch, 0.05)
    source = Counting()

    async def watched() -> int:
        async with pages(source) as port:
            assert source.looks == 0
            both = await asyncio.gather(events(port, 5), events(port, 5))
            assert sum(map(len, both)) == 10
            assert source.looks < 10
            # Each of the two ends at the frame that finds its reader gone.
            before = -1
            while before != source.looks:
                before = source.looks
                await asyncio.sleep(0.1)
            return before

    assert asyncio.run(watched()) == source.looks


def test_one_that_does_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is dropped, and holds up nobody."""
    show_every(monkeypatch, 0.005)
    bound_pages(monkeypatch, write_timeout=0.3)
    many = [connection(f"1-1-{n:x}", 71, 0) for n in range(2000)]

    async def watched() -> None:
        async with pages(FakeSource(replace(LIVE, connections=many))) as port:
            with socket.create_connection(("127.0.0.1", port)) as silent:
                silent.sendall(get("/events").encode())
                reset = select.poll()
                reset.register(silent, 0)  # for POLLERR and POLLHUP, which always count
                async with asyncio.timeout(30):
                    while not reset.poll(0):
                        await events(port, 1)

    asyncio.run(watched())
