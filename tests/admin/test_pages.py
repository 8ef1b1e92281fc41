"""Who is answered what: tokens, names, limits."""

from __future__ import annotations

import asyncio
import subprocess

import pytest
from msgspec.structs import replace as replaced

from tests.admin.web import (
    LIVE,
    METRICS,
    STATUS,
    FakeSource,
    bound_pages,
    exchange,
    exposed,
    get,
    pages,
    post,
)

TOKEN = "0123456789abcdef"
PUSH_TOKEN = "fedcba9876543210"


def status_of(answer: str) -> int:
    return int(answer.split(maxsplit=2)[1])


def ask(
    request: str, source: FakeSource | None = None, token: str = "", for_pushes: str = ""
) -> str:
    async def answered() -> str:
        async with pages(source or FakeSource(), token, for_pushes) as port:
            return await exchange(port, request)

    return asyncio.run(answered())


def push(path: str, body: str, *headers: str, source: FakeSource | None = None) -> str:
    bearer = f"Authorization: Bearer {PUSH_TOKEN}"
    request = post(path, body, bearer, *headers)
    return ask(request, source, token=TOKEN, for_pushes=PUSH_TOKEN)


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


def test_push_over_http() -> None:
    """The body is the message, the path has the name, and the status says what became of it."""
    source = FakeSource()
    source.outcome = {"outcome": "delivered", "id": "a-1", "epoch": 2}
    answer = push("/push/room%2F17%20%C3%A9?timeout=2.5", "turn on\n", source=source)
    assert status_of(answer) == 200
    assert answer.endswith('{"outcome":"delivered","id":"a-1","epoch":2}\n')
    assert source.pushed == [("push", "room/17 é", b"turn on\n", 2.5)]
    for outcome, status in {
        "not connected": 404,
        "timed out": 504,
        "full": 503,
        "uncertain": 502,
    }.items():
        source.outcome = {"outcome": outcome, "id": "", "epoch": 0}
        assert status_of(push("/push/a", "x", source=source)) == status
    source.outcome = {"delivered": 3, "failed": 1}
    answer = push("/publish/room", "x", source=source)
    assert status_of(answer) == 200
    assert answer.endswith('{"delivered":3,"failed":1}\n')
    assert source.pushed[-1] == ("publish", "room", b"x", 5.0)


def test_who_may_push() -> None:
    """Whoever gives the token of pushes as a header: not that of who looks on, and no cookie."""
    source = FakeSource()
    for given in (
        (),
        (f"Authorization: Bearer {TOKEN}",),
        (f"Cookie: socketkeep-admin={PUSH_TOKEN}",),
    ):
        request = post(f"/push/a?token={PUSH_TOKEN}", "x", *given)
        answer = ask(request, source, token=TOKEN, for_pushes=PUSH_TOKEN)
        assert status_of(answer) == 401, given
    bearer = f"Authorization: Bearer {PUSH_TOKEN}"
    assert status_of(ask(post("/push/a", "x", bearer), source, token=TOKEN)) == 405
    assert status_of(ask(get("/metrics", bearer), source, TOKEN, PUSH_TOKEN)) == 401
    assert source.pushed == []


def test_pushes_that_cannot_be() -> None:
    """Each is refused with what was expected, and the keeper is not asked."""
    source = FakeSource()
    for path, body, status, said in (
        ("/push/", "x", 400, "a name has at least one character"),
        (f"/push/{'n' * 129}", "x", 400, "a name has at most 128 characters"),
        ("/push/a%0Ab", "x", 400, "a name has printable characters alone"),
        ("/push/%FF", "x", 400, "a name is UTF-8, and this is"),
        ("/push/a?timeout=-1", "x", 400, "timeout is 0 to 86400 seconds"),
        ("/push/a?timeout=nan", "x", 400, "timeout is 0 to 86400 seconds"),
        ("/push/a?timeout=soon", "x", 400, "timeout is 0 to 86400 seconds, not 'soon'"),
        ("/push/a", "x" * 65537, 413, "a message has at most 65536 bytes"),
        ("/pull/a", "x", 404, "there are POST /push/NAME and POST /publish/GROUP"),
    ):
        answer = push(path, body, source=source)
        assert (status_of(answer), said in answer) == (status, True), answer
    assert source.pushed == []
    unreachable = FakeSource(None)
    assert status_of(push("/push/a", "x", source=unreachable)) == 502


def test_push_that_asks_first() -> None:
    """As curl does for a long body: it is told to go on."""
    source = FakeSource()

    async def told_to_go_on() -> bytes:
        async with pages(source, for_pushes=PUSH_TOKEN) as port:
            bearer = f"Authorization: Bearer {PUSH_TOKEN}"
            request = post("/push/a", "x" * 3000, bearer, "Expect: 100-continue")
            head, _, body = request.partition("\r\n\r\n")
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(f"{head}\r\n\r\n".encode())
            said = await reader.readuntil(b"\r\n\r\n")
            writer.write(body.encode())
            said += await reader.read()
            writer.close()
            return said

    answer = asyncio.run(told_to_go_on())
    assert answer.startswith(b"HTTP/1.1 100 \r\n\r\nHTTP/1.1 200 OK\r\n")
    assert [len(message) for _, _, message, _ in source.pushed] == [3000]


def test_what_is_not_http() -> None:
    """Answered with an error, or left, and never waited for without bound."""
    assert status_of(ask("\x16\x03\x01 hello\r\n\r\n")) == 400
    assert status_of(ask(get("/", "X: " + "y" * 40000))) == 431
    assert status_of(ask(get("/", "Content-Length: 70000") + "z" * 70000)) == 413


def test_one_that_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is let go in time, and at once when there is no room for another."""
    bound_pages(monkeypatch, head_timeout=0.2, most_clients=1)

    async def said() -> None:
        async with pages(FakeSource()) as port:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"GET / HTTP")
            assert await reader.read() == b""
            writer.close()
            bound_pages(monkeypatch, head_timeout=60.0)
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"GET / HTTP")
            assert status_of(await exchange(port, get("/healthz"))) == 200
            assert await reader.read() == b""
            writer.close()

    asyncio.run(said())


@pytest.mark.process
def test_metrics_are_as_prometheus_has_them() -> None:
    """Checked by promtool, with a label to escape; each name that is declared is there."""
    text, kind = exposed()
    assert kind.startswith("text/plain; version=")
    checked = subprocess.run(
        ["promtool", "check", "metrics"], input=text, text=True, capture_output=True, check=False
    )
    assert (checked.returncode, checked.stdout, checked.stderr) == (0, "", "")
    for metric in METRICS:
        assert f"# TYPE {metric.name} {metric.kind}\n" in text
    assert 'socketkeep_worker_connections{slot="1"} 2.0' in text
    waits = 'socketkeep_connection_wait_seconds_%s{%sreason="reload"} %s'
    assert waits % ("bucket", 'le="0.05",', "2.0") in text
    assert waits % ("bucket", 'le="+Inf",', "3.0") in text
    assert waits % ("sum", "", "0.15") in text
    assert "socketkeep_reloads_total 0.0" in text
