"""Who is answered what: tokens, names, limits."""

from __future__ import annotations

import asyncio
import subprocess

import pytest
from msgspec.structs import replace as replaced

from socketkeep._admin import _metrics
from socketkeep._admin._http import _server
from tests.admin.web import LIVE, STATUS, FakeSource, exchange, get, pages

TOKEN = "0123456789abcdef"


def status_of(answer: str) -> int:
    return int(answer.split(maxsplit=2)[1])


def ask(request: str, source: FakeSource | None = None, token: str = "") -> str:
    async def answered() -> str:
        async with pages(source or FakeSource(), token) as port:
            return await exchange(port, request)

    return asyncio.run(answered())


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost", 200),
        ("LOCALHOST:9000", 200),
        ("127.0.0.1:1", 200),
        ("[::1]:9000", 200),
        ("evil.example", 421),
        ("127.0.0.1.evil.example:9000", 421),
        ("[::1", 421),
    ],
)
def test_name_of_another(host: str, status: int) -> None:
    """A page elsewhere that lets its name point here (DNS rebinding) reads nothing."""
    assert status_of(ask(get("/metrics", host=host))) == status


@pytest.mark.parametrize("path", ["/", "/metrics", "/events", "/nothing"])
def test_without_the_token(path: str) -> None:
    """Nothing is told, not even what there is."""
    answer = ask(get(path), token=TOKEN)
    assert status_of(answer) == 401
    assert 'www-authenticate: Bearer realm="socketkeep"' in answer
    assert status_of(ask(get(f"{path}?token=0123456789abcdee"), token=TOKEN)) == 401


def test_with_the_token() -> None:
    """As a header, as a cookie, in the address; then the name does not matter."""
    bearer = f"Authorization: Bearer {TOKEN}"
    assert status_of(ask(get("/metrics", bearer, host="proxy.example"), token=TOKEN)) == 200
    assert status_of(ask(get(f"/metrics?token={TOKEN}"), token=TOKEN)) == 200
    answer = ask(get(f"/?token={TOKEN}"), token=TOKEN)
    assert status_of(answer) == 303
    cookie = next(line for line in answer.splitlines() if line.startswith("set-cookie: "))
    assert "HttpOnly; SameSite=Strict" in cookie
    crumb = cookie.removeprefix("set-cookie: ").partition(";")[0]
    assert status_of(ask(get("/", f"Cookie: theme=dark; {crumb}"), token=TOKEN)) == 200


def test_probes_need_neither_token_nor_name() -> None:
    """A load balancer has none of them."""
    for path in ("/healthz", "/readyz"):
        assert status_of(ask(get(path, host="10.1.2.3"), token=TOKEN)) == 200


def test_probes_of_a_server_that_does_not_serve() -> None:
    """Alive and not ready, and neither."""
    draining = replaced(LIVE, status=replaced(STATUS, state="draining", accepting=False))
    assert status_of(ask(get("/healthz"), FakeSource(draining))) == 200
    answer = ask(get("/readyz"), FakeSource(draining))
    assert status_of(answer) == 503
    assert answer.endswith("not ready: draining\n")
    for path in ("/healthz", "/readyz", "/metrics"):
        assert status_of(ask(get(path), FakeSource(None))) == 503


def test_page_lets_nothing_else_in() -> None:
    """Its policy names a script by a nonce, a new one each time, and no other place."""
    answers = [ask(get("/")) for _ in range(2)]
    policies = [
        next(line for line in answer.splitlines() if line.startswith("content-security-policy: "))
        for answer in answers
    ]
    assert policies[0] != policies[1]
    for policy, answer in zip(policies, answers, strict=True):
        nonce = policy.partition("script-src 'nonce-")[2].partition("'")[0]
        assert len(nonce) >= 20
        assert f'<script nonce="{nonce}">' in answer
        assert answer.count("<script") == answer.count("<style") == 1
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        for foreign in ("http:", "https:", "src=", "@import", "url("):
            assert foreign not in answer.partition("<!doctype")[2], foreign


def test_other_methods_and_pages() -> None:
    """Refused, with what there is."""
    answer = ask("POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\n\r\n")
    assert status_of(answer) == 405
    assert "allow: GET, HEAD" in answer
    assert status_of(ask(get("/nothing"))) == 404
    head = ask("HEAD /readyz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
    assert status_of(head) == 200
    assert "content-length: 6" in head
    assert head.endswith("\r\n\r\n")


def test_what_is_not_http() -> None:
    """Answered with an error, or left, and never waited for without bound."""
    assert status_of(ask("\x16\x03\x01 hello\r\n\r\n")) == 400
    assert status_of(ask(get("/", "X: " + "y" * 40000))) == 431
    assert status_of(ask(get("/", "Content-Length: 70000") + "z" * 70000)) == 413


def test_one_that_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is let go in time, and at once when there is no room for another."""
    monkeypatch.setattr(_server, "_HEAD_TIMEOUT", 1.0)
    monkeypatch.setattr(_server, "_MOST_CLIENTS", 1)

    async def said() -> None:
        async with pages(FakeSource()) as port:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"GET / HTTP")
            assert await reader.read() == b""
            writer.close()
            monkeypatch.setattr(_server, "_HEAD_TIMEOUT", 60.0)
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"GET / HTTP")
            assert status_of(await exchange(port, get("/healthz"))) == 200
            assert await reader.read() == b""
            writer.close()

    asyncio.run(said())


@pytest.mark.process
def test_metrics_are_as_prometheus_has_them() -> None:
    """Checked by promtool, with a label to escape; each name that is declared is there."""
    text, kind = _metrics.exposition(LIVE, "text/plain")
    assert kind.startswith("text/plain; version=")
    checked = subprocess.run(
        ["promtool", "check", "metrics"], input=text, capture_output=True, check=False
    )
    assert (checked.returncode, checked.stdout, checked.stderr) == (0, b"", b"")
    for metric in (*_metrics.METRICS, *_metrics.HISTOGRAMS):
        assert f"# TYPE {metric.name} {metric.kind}\n" in text.decode()
    assert b'socketkeep_worker_connections{slot="1"} 2.0' in text
    waits = b'socketkeep_connection_wait_seconds_%s{%sreason="reload"} %s'
    assert waits % (b"bucket", b'le="0.05",', b"2.0") in text
    assert waits % (b"bucket", b'le="+Inf",', b"3.0") in text
    assert waits % (b"sum", b"", b"0.15") in text
    assert b"socketkeep_reloads_total 0.0" in text
