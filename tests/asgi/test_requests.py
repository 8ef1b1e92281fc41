"""Requests that are served: what the application is told, and how the connection goes on."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from contextvars import ContextVar
from typing import Any

import pytest

from socketkeep import Detached
from tests.asgi.support import (
    WAIT,
    Client,
    body,
    connected,
    echo,
    exchange,
    read_body,
    site_of,
    start,
)
from tests.harness.asgi import Receive, Scope, Send
from tests.harness.seam import How, order_to

END = b"Connection: close\r\nHost: x\r\n\r\n"


async def told(request: bytes, peer: str = "10.0.0.7:4242", **options: Any) -> Scope:
    """Return the scope of a request that comes from `peer`."""
    seen: list[Scope] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(scope)
        await echo(scope, receive, send)

    async with connected(site_of(app, **options), peer=peer) as client:
        await client.send(request)
        await client.read_to_end()
    (scope,) = seen
    return scope


def test_the_scope() -> None:
    scope = asyncio.run(told(b"GET /a%20b%2Fc?d=%20 HTTP/1.1\r\nX-A:  1 \r\nx-a: 2\r\n" + END))
    assert scope["type"] == "http"
    assert scope["asgi"]["version"] == "3.0"
    assert (scope["method"], scope["http_version"], scope["scheme"]) == ("GET", "1.1", "http")
    assert (scope["path"], scope["raw_path"]) == ("/a b/c", b"/a%20b%2Fc")
    assert scope["query_string"] == b"d=%20"
    assert scope["headers"][:2] == [(b"x-a", b"1"), (b"x-a", b"2")]
    assert scope["client"] == ("10.0.0.7", 4242)
    assert scope["root_path"] == ""
    assert scope["state"] == {}


def test_the_root_path_is_part_of_the_path() -> None:
    scope = asyncio.run(told(b"GET /a HTTP/1.1\r\n" + END, root_path="/api/"))
    assert (scope["root_path"], scope["path"], scope["raw_path"]) == ("/api", "/api/a", b"/api/a")


@pytest.mark.parametrize(
    ("target", "path", "query"),
    [
        (b"http://x/a?b", "/a", b"b"),
        (b"http://x", "/", b""),
        (b"//a", "//a", b""),
        (b"/%e2%82%ac", "/\u20ac", b""),
        (b"/%ff", "/\ufffd", b""),
        (b"/?", "/", b""),
        (b"/?a?b", "/", b"a?b"),
    ],
)
def test_the_target(target: bytes, path: str, query: bytes) -> None:
    scope = asyncio.run(told(b"GET " + target + b" HTTP/1.1\r\n" + END))
    assert (scope["path"], scope["query_string"]) == (path, query)


def test_requests_that_come_at_once_are_answered_in_order() -> None:
    requests = b"".join(b"GET /%d HTTP/1.1\r\nHost: x\r\n\r\n" % n for n in range(50))
    came = exchange(echo, requests + b"GET /last HTTP/1.1\r\n" + END)
    bodies = [each.rpartition(b"\r\n\r\n")[2] for each in came.split(b"HTTP/1.1 200 OK\r\n")[1:]]
    assert bodies == [b"GET /%d " % n for n in range(50)] + [b"GET /last "]


@pytest.mark.parametrize("size", [1, 7, 65536, 300_000])
@pytest.mark.parametrize("chunked", [True, False])
def test_a_body_comes_whole_however_it_is_split(size: int, chunked: bool) -> None:
    data = bytes(n % 251 for n in range(size))
    head = b"POST / HTTP/1.1\r\n"
    if chunked:
        head += b"Transfer-Encoding: chunked\r\n" + END
        chunk = max(1, size // 3)
        parts = [data[at : at + chunk] for at in range(0, size, chunk)]
        text = b"".join(b"%X;ext=1\r\n%b\r\n" % (len(part), part) for part in parts)
        text += b"0\r\nA: b\r\n\r\n"
    else:
        head += b"Content-Length: %d\r\n" % size + END
        text = data

    async def run() -> bytes:
        async with connected(site_of(echo)) as client:
            request = head + text
            step = max(1, len(request) // 40)
            for at in range(0, len(request), step):
                await client.send(request[at : at + step])
                await asyncio.sleep(0)
            return await client.read_to_end()

    assert asyncio.run(run()).endswith(b"\r\n\r\nPOST / " + data)


def test_what_follows_an_unread_body_is_the_next_request() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        del receive
        await send(start())
        await send(body(scope["path"].encode()))

    first = b"POST /1 HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nGET /"
    came = exchange(app, first + b"GET /2 HTTP/1.1\r\n" + END)
    assert came.count(b"HTTP/1.1 200 ") == 2
    assert came.endswith(b"/2")


def test_a_large_body_that_nobody_reads_ends_the_connection() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        del scope, receive
        await send(start())
        await send(body(b"no"))

    came = exchange(app, b"POST /1 HTTP/1.1\r\nHost: x\r\nContent-Length: 50000000\r\n\r\n")
    assert b"\r\nconnection: close\r\n" in came


def test_a_client_that_waits_to_be_told_is_told() -> None:
    async def run() -> None:
        async with connected(site_of(echo)) as client:
            expects = b"Expect: 100-continue\r\nContent-Length: 2\r\n"
            await client.send(b"POST / HTTP/1.1\r\n" + expects + END)
            assert await client.read_until(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
            await client.send(b"ab")
            assert (await client.read_to_end()).endswith(b"POST / ab")

    asyncio.run(run())


@pytest.mark.parametrize(
    ("request_line", "header", "goes_on"),
    [
        (b"GET / HTTP/1.1", b"", True),
        (b"GET / HTTP/1.1", b"Connection: Keep-Alive, Close\r\n", False),
        (b"GET / HTTP/1.0", b"", False),
        (b"GET / HTTP/1.0", b"Connection: keep-alive\r\n", True),
    ],
)
def test_whether_the_connection_goes_on(request_line: bytes, header: bytes, goes_on: bool) -> None:
    request = request_line + b"\r\nHost: x\r\n" + header + b"\r\n"
    came = exchange(echo, request * 2, eof=True)
    assert came.count(b"HTTP/1.1 200 ") == (2 if goes_on else 1)


def test_what_one_request_sets_in_its_context_the_next_does_not_see() -> None:
    variable: ContextVar[str] = ContextVar("variable", default="unset")

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        before = variable.get()
        variable.set(scope["path"])
        await asyncio.sleep(0)
        assert variable.get() == scope["path"]
        await read_body(receive)
        await send(start())
        await send(body(before.encode()))

    came = exchange(app, b"GET /1 HTTP/1.1\r\nHost: x\r\n\r\nGET /2 HTTP/1.1\r\n" + END)
    assert came.count(b"\r\n\r\nunset") == 2


def test_the_client_s_end_is_told_while_the_application_works() -> None:
    ended = asyncio.Event

    async def run() -> None:
        gone = ended()

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            del scope
            await read_body(receive)
            await send(start())
            await send(body(b"first", more=True))
            assert (await receive())["type"] == "http.disconnect"
            assert (await receive())["type"] == "http.disconnect"
            gone.set()

        async with connected(site_of(app)) as client:
            # The next request, which comes meanwhile, is no end.
            await client.send(b"GET /1 HTTP/1.1\r\nHost: x\r\n\r\nGET /2 HTTP/1.1\r\n")
            await client.read_until(b"first")
            assert not gone.is_set()
            client.sock.close()
            async with asyncio.timeout(WAIT):
                await gone.wait()

    asyncio.run(run())


def test_who_waits_for_the_end_goes_on_when_the_response_is_over() -> None:
    told: list[str] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        del scope
        await read_body(receive)

        async def listen() -> None:
            told.append((await receive())["type"])

        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(listen())
            await asyncio.sleep(0)
            await send(start())
            await send(body(b"whole"))

    came = exchange(app, b"GET /1 HTTP/1.1\r\nHost: x\r\n\r\nGET /2 HTTP/1.1\r\n" + END)
    assert told == ["http.disconnect"] * 2
    assert came.count(b"whole") == 2


@asynccontextmanager
async def ordered(how: How, request: bytes) -> AsyncIterator[Client]:
    """Have the server be told to close or to move while it answers a request."""
    begun, enough = asyncio.Event(), asyncio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        begun.set()
        await enough.wait()
        await echo(scope, receive, send)

    async with connected(site_of(app)) as client:
        await client.send(request)
        await begun.wait()
        client.served.ask(order_to(how, float("inf")))
        enough.set()
        yield client


def test_a_request_under_way_when_the_server_stops_is_the_last() -> None:
    async def run() -> None:
        async with ordered("close", b"GET /1 HTTP/1.1\r\nHost: x\r\n\r\n") as client:
            assert b"\r\nconnection: close\r\n" in await client.read_to_end()

    asyncio.run(run())


def test_a_deploy_is_not_told_to_the_client_and_what_is_unread_moves() -> None:
    async def run() -> None:
        request = b"GET /1 HTTP/1.1\r\nHost: x\r\n\r\nGET /2 HTTP/1.1\r\nHo"
        async with ordered("move", request) as client:
            answer = await client.read_until(b"GET /1 ")
            assert b"connection" not in answer
            await asyncio.wait([client.task])
            assert isinstance(client.task.exception(), Detached)
            handoff = client.served.hand_over()
            handoff.sock.close()
            assert handoff.unread == b"GET /2 HTTP/1.1\r\nHo"

    with pytest.raises(Detached):
        asyncio.run(run())
