"""Responses: how each is framed, and what is not let out."""

from __future__ import annotations

import asyncio
import sys
from http import HTTPStatus
from pathlib import Path

import pytest

from tests.asgi.support import body, connected, exchange, sends, site_of, start
from tests.harness.asgi import Application, Message, Receive, Scope, Send

END = b"Connection: close\r\nHost: x\r\n\r\n"
GET = b"GET / HTTP/1.1\r\n" + END


def test_a_whole_body_has_its_length_told() -> None:
    came = exchange(sends(start(201, (b"a", b"b")), body(b"abc")), GET)
    assert came == (
        b"HTTP/1.1 201 Created\r\na: b\r\ncontent-length: 3\r\nconnection: close\r\n\r\nabc"
    )


def test_a_body_in_parts_is_chunked() -> None:
    came = exchange(sends(start(), body(b"ab", more=True), body(more=True), body(b"c")), GET)
    assert came.endswith(
        b"\r\ntransfer-encoding: chunked\r\nconnection: close\r\n\r\n2\r\nab\r\n1\r\nc\r\n0\r\n\r\n"
    )


def test_a_body_in_parts_ends_with_the_connection_in_http_1_0() -> None:
    app = sends(start(), body(b"ab", more=True), body(b"c"))
    came = exchange(app, b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
    assert came == b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\nabc"


@pytest.mark.parametrize(
    ("app", "head"),
    [
        (sends(start(), body(b"abc")), b"content-length: 3\r\n"),
        (sends(start(200, (b"content-length", b"3")), body(b"abc")), b"content-length: 3\r\n"),
        (sends(start(200, (b"content-length", b"3")), body()), b"content-length: 3\r\n"),
        (sends(start(), body(b"a", more=True), body(b"b")), b"transfer-encoding: chunked\r\n"),
    ],
)
def test_the_response_to_head_has_no_body(app: object, head: bytes) -> None:
    came = exchange(app, b"HEAD / HTTP/1.1\r\n" + END)  # type: ignore[arg-type]
    if b"chunked" in head:
        head = b""
    assert came == b"HTTP/1.1 200 OK\r\n" + head + b"connection: close\r\n\r\n"


@pytest.mark.parametrize("status", [204, 304])
def test_a_status_without_body(status: int) -> None:
    came = exchange(sends(start(status), body(b"dropped")), GET)
    assert came.endswith(b"\r\nconnection: close\r\n\r\n")
    assert b"content-length" not in came


def test_the_application_may_end_the_connection() -> None:
    app = sends(start(200, (b"connection", b"close")), body(b"a"))
    came = exchange(app, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n" * 2)
    assert came.count(b"HTTP/1.1") == 1
    assert came.count(b"connection: close\r\n") == 1


def test_how_a_body_is_sent_is_not_the_application_s_to_say() -> None:
    came = exchange(sends(start(200, (b"Transfer-Encoding", b"chunked")), body(b"a")), GET)
    assert b"chunked" not in came


def test_a_status_may_be_of_the_standard_library() -> None:
    came = exchange(sends(start(HTTPStatus.IM_A_TEAPOT), body()), GET)
    assert came.startswith(b"HTTP/1.1 418 I'm a Teapot\r\n")


@pytest.mark.parametrize("pair", [tuple, list])
def test_the_same_head_again_is_the_same(pair: type) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        del receive
        headers = [pair((b"a", b"b")), pair((b"content-length", b"%d" % len(scope["path"])))]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send(body(scope["path"].encode()))

    one = b"GET /1 HTTP/1.1\r\nHost: x\r\n\r\n"
    came = exchange(app, one + one + b"GET /22 HTTP/1.1\r\nHost: x\r\n\r\n" + one, eof=True)
    first = b"HTTP/1.1 200 OK\r\na: b\r\ncontent-length: 2\r\n\r\n/1"
    other = b"HTTP/1.1 200 OK\r\na: b\r\ncontent-length: 3\r\n\r\n/22"
    assert came == first + first + other + first


def test_date_and_server() -> None:
    app = sends(start(), body(b"a"))
    came = exchange(app, GET, date_header=True, server_header=True)
    assert b"\r\ndate: " in came
    assert b"\r\nserver: socketkeep\r\n" in came
    own = sends(start(200, (b"Server", b"mine"), (b"Date", b"now")), body(b"a"))
    came = exchange(own, GET, date_header=True, server_header=True)
    assert came.lower().count(b"server:") == came.lower().count(b"date:") == 1


def test_early_hints() -> None:
    hint = {"type": "http.response.early_hint", "links": [b"</a.css>; rel=preload"]}
    came = exchange(sends(hint, start(), body(b"a")), GET)
    assert came.startswith(
        b"HTTP/1.1 103 Early Hints\r\nlink: </a.css>; rel=preload\r\n\r\nHTTP/1.1 200"
    )


@pytest.mark.parametrize("takes", [True, False])
def test_trailers(takes: bool) -> None:
    trailers = {"type": "http.response.trailers", "headers": [(b"sum", b"1")]}
    app = sends(start(trailers=True), body(b"a"), trailers)
    came = exchange(app, b"GET / HTTP/1.1\r\n" + b"TE: trailers\r\n" * takes + END)
    assert came.endswith(b"1\r\na\r\n0\r\n" + b"sum: 1\r\n" * takes + b"\r\n")


@pytest.mark.parametrize("size", [0, 1, 1_000_000])
def test_a_file_is_sent(size: int, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(n % 251 for n in range(size)))
    came = exchange(sends(start(), {"type": "http.response.pathsend", "path": str(path)}), GET)
    head, _, data = came.partition(b"\r\n\r\n")
    assert b"content-length: %d\r\n" % size in head
    assert data == path.read_bytes()


BAD = [
    pytest.param([], "without a response", id="nothing"),
    pytest.param([start()], "before the end", id="start alone"),
    pytest.param([body(b"a")], "before http.response.start", id="body first"),
    pytest.param([start(), start()], "twice", id="start twice"),
    pytest.param([start(99)], "a number from 200", id="status"),
    pytest.param([{"type": "http.response.start"}], "a number from 200", id="no status"),
    pytest.param([{}], "a dict with a 'type'", id="no type"),
    pytest.param([None], "a dict with a 'type'", id="no message"),
    pytest.param([start(200, (b"a", b"b\r\nc: d"))], "line break", id="split"),
    pytest.param([start(200, (b"a b", b"c"))], "name", id="name"),
    pytest.param([start(200, (b"content-length", b"x"))], "Content-Length", id="length"),
    pytest.param([start(200, (b"content-length", b"1")), body(b"ab")], "too many", id="too long"),
    pytest.param([start(200, (b"content-length", b"3")), body(b"ab")], "missing", id="too short"),
    pytest.param([{"type": "http.nonsense"}], "none of", id="unknown"),
    pytest.param([start(), {"type": "http.response.body", "body": "a"}], "bytes", id="text"),
    pytest.param([start(), {"type": "http.response.pathsend", "path": "a"}], "path", id="path"),
]


COMMIT = {"type": "socketkeep.commit", "state": 1}
BAD += [
    pytest.param([COMMIT], "no part of a body", id="commit first"),
    pytest.param([start(), COMMIT], "no part of a body", id="commit at start"),
    pytest.param([start(), {**COMMIT, "reply": b"a"}], "no part of a body", id="reply"),
]


@pytest.mark.parametrize(("messages", "reason"), BAD)
def test_what_cannot_be_sent_is_a_failure_of_the_application(
    messages: list[Message], reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    came = exchange(sends(*messages), GET)
    assert came.startswith(b"HTTP/1.1 500 ")
    (line,) = [each for each in caplog.records if each.getMessage() == "application failed"]
    fields = line.__dict__["fields"]
    assert reason in fields.get("traceback", "") + fields.get("error", "")


@pytest.mark.parametrize(
    ("version", "end"), [(b"1.1", b"2\r\nab\r\n"), (b"1.0", b"\r\n\r\nab")], ids=["1.1", "1.0"]
)
def test_a_body_that_breaks_off_is_seen_to(version: bytes, end: bytes) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        del scope, receive
        await send(start())
        await send(body(b"ab", more=True))
        raise LookupError("half")

    async def run() -> bytes:
        async with connected(site_of(app)) as client:
            await client.send(b"GET / HTTP/%b\r\n" % version + END)
            return await client.read_to_end()

    assert asyncio.run(run()).endswith(end)


def test_an_application_that_does_not_begin_to_answer_is_given_up() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        del scope, receive, send
        await asyncio.Event().wait()

    assert exchange(app, GET, request_timeout=0.05).startswith(b"HTTP/1.1 503 ")


def test_a_response_that_has_begun_has_time() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        del scope, receive
        await send(start())
        await send(body(b"a", more=True))
        await asyncio.sleep(0.1)
        await send(body(b"b"))

    assert exchange(app, GET, request_timeout=0.05).endswith(b"1\r\nb\r\n0\r\n\r\n")


def test_an_application_may_return_any_awaitable() -> None:
    def app(scope: Scope, receive: Receive, send: Send) -> object:
        return asyncio.ensure_future(sends(start(), body(b"a"))(scope, receive, send))

    assert exchange(app, GET).endswith(b"\r\n\r\na")  # type: ignore[arg-type]


async def _waits_for_what_is_cancelled(scope: Scope, receive: Receive, send: Send) -> None:
    waited = asyncio.get_running_loop().create_future()
    waited.cancel()
    await waited


def _returns_nothing(scope: Scope, receive: Receive, send: Send) -> None: ...


async def _exits(scope: Scope, receive: Receive, send: Send) -> None:
    sys.exit(3)


@pytest.mark.parametrize("app", [_waits_for_what_is_cancelled, _returns_nothing, _exits])
def test_what_an_application_raises_in_whatever_way_is_a_500(app: Application) -> None:
    assert exchange(app, GET).startswith(b"HTTP/1.1 500 ")
