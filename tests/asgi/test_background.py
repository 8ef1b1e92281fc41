"""Applications that go on when their response is over."""

from __future__ import annotations

import asyncio
import gc
import socket

import pytest

from tests.asgi.support import WAIT, body, connected, site_of, start
from tests.harness.asgi import Receive, Scope, Send

END = b"Connection: close\r\nHost: x\r\n\r\n"


class Works:
    """Answers with the path; what /work has it do goes on until `enough`."""

    def __init__(self) -> None:
        self.enough = asyncio.Event()
        self.done = 0
        self.fails = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send(start())
        await send(body(scope["path"].encode()))
        if scope["path"] == "/work":
            await self.enough.wait()
            if self.fails:
                raise LookupError("in the background")
            self.done += 1


def test_the_next_request_does_not_wait_for_it() -> None:
    async def run() -> None:
        app = Works()
        async with connected(site_of(app)) as client:
            for _ in range(3):
                await client.send(b"GET /work HTTP/1.1\r\nHost: x\r\n\r\n")
                await client.read_until(b"/work")
            await client.send(b"GET /next HTTP/1.1\r\nHost: x\r\n\r\n")
            await client.read_until(b"/next")
            assert app.done == 0
            app.enough.set()
            await client.send(b"GET /last HTTP/1.1\r\n" + END)
            assert (await client.read_to_end()).endswith(b"/last")
            client.sock.shutdown(socket.SHUT_WR)
            async with asyncio.timeout(WAIT):
                await asyncio.wait([client.task])
            assert app.done == 3

    asyncio.run(run())


def test_the_connection_ends_without_waiting_for_it_and_its_handler_does() -> None:
    async def run() -> None:
        app = Works()
        async with connected(site_of(app)) as client:
            await client.send(b"GET /work HTTP/1.1\r\n" + END)
            assert (await client.read_to_end()).endswith(b"/work")
            client.sock.shutdown(socket.SHUT_WR)
            assert not client.task.done()
            app.enough.set()
            async with asyncio.timeout(WAIT):
                await asyncio.wait([client.task])
            assert app.done == 1

    asyncio.run(run())


def test_one_that_fails_is_told_of_and_ends_nothing(caplog: pytest.LogCaptureFixture) -> None:
    async def run() -> None:
        app = Works()
        app.fails = True
        async with connected(site_of(app)) as client:
            await client.send(b"GET /work HTTP/1.1\r\nHost: x\r\n\r\n")
            await client.read_until(b"/work")
            app.enough.set()
            await client.send(b"GET /next HTTP/1.1\r\n" + END)
            assert (await client.read_to_end()).endswith(b"/next")

    asyncio.run(run())
    assert "application failed" in caplog.text


def test_it_is_cancelled_with_its_handler() -> None:
    async def run() -> None:
        app = Works()
        async with connected(site_of(app)) as client:
            await client.send(b"GET /work HTTP/1.1\r\nHost: x\r\n\r\n")
            await client.read_until(b"/work")
            await client.send(b"GET /work HTTP/1.1\r\nHost: x\r\n\r\n")
            await client.read_until(b"/work")
            before = asyncio.all_tasks()
            client.task.cancel()
            async with asyncio.timeout(WAIT):
                await asyncio.wait(before - {asyncio.current_task()})

    asyncio.run(run())


def test_a_connection_that_is_given_up_says_nothing(caplog: pytest.LogCaptureFixture) -> None:
    async def run() -> None:
        app = Works()
        async with connected(site_of(app)) as client:
            await client.send(b"GET /work HTTP/1.1\r\n" + END)
            assert (await client.read_to_end()).endswith(b"/work")
            client.task.cancel()  # as the server's end does, while it waits for the client's end
            await asyncio.wait([client.task])

    asyncio.run(run())
    gc.collect()
    assert not [each for each in caplog.records if each.name == "asyncio"]
