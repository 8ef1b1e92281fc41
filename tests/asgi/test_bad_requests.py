"""Requests that are not served: the status of each, and that the application never sees it."""

from __future__ import annotations

import pytest

from tests.asgi.support import echo, exchange

HOST = b"Host: x\r\n"
GET = b"GET / HTTP/1.1\r\n"
POST = b"POST / HTTP/1.1\r\n" + HOST


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        pytest.param(b"\x16\x03\x01\x02\x00\x01", 400, id="TLS"),
        pytest.param(b"SSH-2.0-OpenSSH_9.6\r\n", 400, id="SSH"),
        pytest.param(b"GET / HTTP/1.1\nHost: x\n\n", 400, id="bare LF"),
        pytest.param(GET + b"Host: x\nA: b\r\n\r\n", 400, id="one bare LF"),
        pytest.param(GET + HOST + b"A: b\rc\r\n\r\n", 400, id="bare CR"),
        pytest.param(GET + HOST + b"A: b\0c\r\n\r\n", 400, id="NUL"),
        pytest.param(GET + HOST + b"A: b\r\n c\r\n\r\n", 400, id="obs-fold"),
        pytest.param(GET + HOST + b"A : b\r\n\r\n", 400, id="space before colon"),
        pytest.param(GET + HOST + b"A b\r\n\r\n", 400, id="no colon"),
        pytest.param(GET + HOST + b": b\r\n\r\n", 400, id="no name"),
        pytest.param(GET + b"\r\n", 400, id="no Host"),
        pytest.param(GET + HOST + b"Host: y\r\n\r\n", 400, id="two Hosts"),
        pytest.param(GET + b"Host: a b\r\n\r\n", 400, id="no host in Host"),
        pytest.param(b"GET /\x80 HTTP/1.1\r\n" + HOST + b"\r\n", 400, id="target beyond ASCII"),
        pytest.param(b"GET a HTTP/1.1\r\n" + HOST + b"\r\n", 400, id="target without slash"),
        pytest.param(b"GET  / HTTP/1.1\r\n" + HOST + b"\r\n", 400, id="two spaces"),
        pytest.param(b"GET /\r\n\r\n", 505, id="HTTP/0.9"),
        pytest.param(b"GET / HTTP/1.2\r\n" + HOST + b"\r\n", 505, id="HTTP/1.2"),
        pytest.param(b"GET / HTTP/2.0\r\n" + HOST + b"\r\n", 505, id="HTTP/2.0"),
        pytest.param(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505, id="HTTP/2 by prior knowledge"),
        pytest.param(b"G?T / HTTP/1.1\r\n" + HOST + b"\r\n", 400, id="no method"),
        pytest.param(b"FROB / HTTP/1.1\r\n" + HOST + b"\r\n", 501, id="unknown method"),
        pytest.param(b"CONNECT x:1 HTTP/1.1\r\n" + HOST + b"\r\n", 501, id="CONNECT"),
        pytest.param(POST + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\n", 400, id="lengths"),
        pytest.param(POST + b"Content-Length: 1\r\nContent-Length: 1\r\n\r\na", 400, id="same"),
        pytest.param(POST + b"Content-Length: 1, 1\r\n\r\na", 400, id="lengths in one"),
        pytest.param(POST + b"Content-Length: +1\r\n\r\na", 400, id="signed length"),
        pytest.param(POST + b"Content-Length: -1\r\n\r\n", 400, id="negative length"),
        pytest.param(POST + b"Content-Length: 1_0\r\n\r\n", 400, id="length with underscore"),
        pytest.param(POST + b"Content-Length: " + b"9" * 30 + b"\r\n\r\n", 400, id="huge length"),
        pytest.param(
            POST + b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            400,
            id="length and chunked",
        ),
        pytest.param(
            POST + b"Transfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n0\r\n\r\n",
            400,
            id="chunked and length",
        ),
        pytest.param(POST + b"Transfer-Encoding: gzip, chunked\r\n\r\n", 501, id="gzip, chunked"),
        pytest.param(POST + b"Transfer-Encoding: chunked, gzip\r\n\r\n", 400, id="chunked, gzip"),
        pytest.param(POST + b"Transfer-Encoding: xchunked\r\n\r\n", 400, id="xchunked"),
        pytest.param(
            POST + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n",
            400,
            id="two codings",
        ),
        pytest.param(
            b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400, id="1.0 chunked"
        ),
        pytest.param(POST + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n", 400, id="no size"),
        pytest.param(POST + b"Transfer-Encoding: chunked\r\n\r\n0x1\r\na\r\n", 400, id="0x"),
        pytest.param(POST + b"Transfer-Encoding: chunked\r\n\r\n-1\r\na\r\n", 400, id="negative"),
        pytest.param(POST + b"Transfer-Encoding: chunked\r\n\r\n1\r\nab\r\n", 400, id="too long"),
        pytest.param(
            POST + b"Transfer-Encoding: chunked\r\n\r\n1\na\n0\n\n\r\n", 400, id="chunk LF"
        ),
        pytest.param(
            POST + b"Transfer-Encoding: chunked\r\n\r\n0\r\nno trailer\r\n\r\n", 400, id="trailer"
        ),
        pytest.param(
            POST + b"Transfer-Encoding: chunked\r\n\r\n1;" + b"x" * 5000, 400, id="long extension"
        ),
        pytest.param(POST + b"Expect: the-unexpected\r\n\r\n", 417, id="Expect"),
        pytest.param(GET + HOST + b"A: b\r\n" * 101 + b"\r\n", 431, id="many headers"),
        pytest.param(GET + HOST + b"A: b\r\n" * 100_000, 431, id="100,000 headers"),
        pytest.param(GET + b"A: " + b"b" * 70_000, 431, id="large header"),
        pytest.param(b"GET /" + b"b" * 70_000, 431, id="large target"),
    ],
)
def test_it_is_refused(request_bytes: bytes, status: int) -> None:
    came = exchange(echo, request_bytes)
    assert came.startswith(b"HTTP/1.1 %d " % status), came
    assert b"\r\nconnection: close\r\n" in came
    assert came.count(b"HTTP/1.1 ") == 1


@pytest.mark.parametrize(
    "rest", [b"Content-Length: 10\r\n\r\nabc", b"Transfer-Encoding: chunked\r\n\r\n5\r\nabc"]
)
def test_a_client_that_ends_within_the_body_is_told_so(rest: bytes) -> None:
    assert exchange(echo, POST + rest, eof=True).startswith(b"HTTP/1.1 400 ")


@pytest.mark.parametrize("part", [b"", b"GE", b"GET / HTT", GET, GET + b"Host"])
def test_a_client_that_ends_within_the_head_gets_nothing(part: bytes) -> None:
    assert exchange(echo, part, eof=True) == b""


def test_a_head_that_does_not_come_is_given_up() -> None:
    came = exchange(echo, GET, request_head_timeout=0.05)
    assert came.startswith(b"HTTP/1.1 408 ")


def test_what_is_before_a_bad_request_is_answered() -> None:
    came = exchange(echo, GET + HOST + b"\r\n" + b"\0\0\0")
    assert came.startswith(b"HTTP/1.1 200 ")
    assert b"HTTP/1.1 400 " in came
