"""What is answered to which request."""

from __future__ import annotations

import hmac
import secrets
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from importlib import resources
from typing import Final
from urllib.parse import parse_qs, urlsplit

import h11

from socketkeep._admin._http._events import MOST_WATCHERS, Events
from socketkeep._admin._http._source import KeeperUnreachable, ReportSource
from socketkeep._admin._metrics import exposition
from socketkeep._admin._settings import is_loopback
from socketkeep._base._printable import printable

_COOKIE: Final = "socketkeep-admin"
#: Answers this young do for probes, so that many of them cost the keeper no more.
_FRESH: Final = 0.5
_TEXT: Final = "text/plain; charset=utf-8"
_ALWAYS: Final = (
    ("cache-control", "no-store"),
    ("x-content-type-options", "nosniff"),
    ("referrer-policy", "no-referrer"),
    ("cross-origin-resource-policy", "same-origin"),
)

Headers = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Response:
    """An answer; a body that is no bytes goes on until the client leaves."""

    status: int
    body: bytes | AsyncGenerator[bytes, None]
    content_type: str = _TEXT
    more: Headers = ()

    @property
    def headers(self) -> Headers:
        return (("content-type", self.content_type), *_ALWAYS, *self.more)


class Pages:
    """The page, its events, the metrics and the two probes."""

    def __init__(self, source: ReportSource, token: str) -> None:
        self._source = source
        self._token = token.encode()
        self._events = Events(source)

    async def reply(self, request: h11.Request) -> Response:
        """Return the answer to a request."""
        if request.method not in {b"GET", b"HEAD"}:
            return _refusal(405, "only GET and HEAD are known here", (("allow", "GET, HEAD"),))
        path, query = _parts(request.target.decode("ascii", "replace"))
        # Nothing that these tell is a secret, and probes have neither a token nor our name.
        if path == "/healthz":
            return await self._health()
        if path == "/readyz":
            return await self._readiness()
        headers = {name.decode("ascii"): value for name, value in request.headers}
        given = parse_qs(query).get("token", [""])[0]
        if not self._token:
            host = headers.get("host", b"").decode("ascii", "replace")
            if not is_loopback(_hostname(host)):
                # A name that somebody else's page has let point to this machine.
                return _refusal(421, f"this server is not {host!r}; a proxy needs --admin-token")
        elif given and path == "/" and self._right(given.encode()):
            # Out of the address bar, the history and the sight of who looks over the shoulder.
            cookie = f"{_COOKIE}={given}; Path=/; HttpOnly; SameSite=Strict"
            return Response(303, b"", _TEXT, (("location", "/"), ("set-cookie", cookie)))
        elif not self._right(_token_of(headers) or given.encode()):
            asked = (("www-authenticate", 'Bearer realm="socketkeep"'),)
            return _refusal(401, "a token is needed: Authorization: Bearer, or /?token=", asked)
        match path:
            case "/":
                return _page()
            case "/events" if not self._events.has_room:
                return _refusal(503, f"{MOST_WATCHERS} watch already: close one of the pages")
            case "/events":
                return Response(200, self._events.stream(), "text/event-stream")
            case "/metrics":
                return await self._metrics(headers.get("accept", b"").decode("ascii", "replace"))
            case _:
                return _refusal(404, "there are /, /events, /metrics, /healthz and /readyz")

    def _right(self, token: bytes) -> bool:
        return hmac.compare_digest(token, self._token)

    async def _health(self) -> Response:
        try:
            await self._source.look(_FRESH)
        except KeeperUnreachable as error:
            return _refusal(503, str(error))
        return Response(200, b"ok\n")

    async def _readiness(self) -> Response:
        try:
            status = (await self._source.look(_FRESH)).status
        except KeeperUnreachable as error:
            return _refusal(503, f"not ready: {error}")
        if not status.accepting:
            return _refusal(503, f"not ready: {status.state}")
        return Response(200, b"ready\n")

    async def _metrics(self, accept: str) -> Response:
        try:
            report = await self._source.look()
        except KeeperUnreachable as error:
            return _refusal(503, str(error))
        body, content_type = exposition(report, accept)
        return Response(200, body, content_type)


def _page() -> Response:
    nonce = secrets.token_urlsafe(16)
    text = resources.files(__package__).joinpath("page.html").read_text("utf-8")
    policy = (
        f"default-src 'none'; script-src 'nonce-{nonce}'; style-src 'nonce-{nonce}';"
        " connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none';"
        " frame-ancestors 'none'"
    )
    return Response(
        200,
        text.replace("{{nonce}}", nonce).encode(),
        "text/html; charset=utf-8",
        (("content-security-policy", policy),),
    )


def _refusal(status: int, text: str, more: Headers = ()) -> Response:
    return Response(status, f"{printable(text)}\n".encode(), _TEXT, more)


def _parts(target: str) -> tuple[str, str]:
    """Return the path and the query of a request's target, which may be a whole URL.

    By hand: a parser of URLs has opinions of hosts, and raises, before any token was asked for.
    """
    if not target.startswith("/"):
        _, _, rest = target.partition("://")
        _, slash, rest = rest.partition("/")
        target = slash + rest
    path, _, query = target.partition("#")[0].partition("?")
    return path, query


def _hostname(host: str) -> str:
    """Return the host of a Host header, without its port and brackets."""
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""


def _token_of(headers: dict[str, bytes]) -> bytes:
    scheme, _, token = headers.get("authorization", b"").partition(b" ")
    if scheme.lower() == b"bearer":
        return token.strip()
    for crumb in headers.get("cookie", b"").split(b";"):
        name, _, value = crumb.strip().partition(b"=")
        if name == _COOKIE.encode():
            return value
    return b""
