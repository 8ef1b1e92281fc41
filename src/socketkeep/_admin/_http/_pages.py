"""The answers of the pages, by request."""

from __future__ import annotations

import asyncio
import hmac
import secrets
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from importlib import resources
from typing import Final
from urllib.parse import parse_qs, unquote_to_bytes, urlsplit

import h11
import msgspec

from socketkeep._admin._http._events import MOST_WATCHERS, Events
from socketkeep._admin._http._reader import TableReader
from socketkeep._admin._http._source import KeeperUnreachable, ReportSource
from socketkeep._admin._http._table import Query
from socketkeep._admin._metrics import exposition
from socketkeep._admin._settings import is_loopback
from socketkeep._base._printable import printable, printable_data
from socketkeep._names._naming import MESSAGE_LIMIT, check_text
from socketkeep._names._pushing import LONGEST_PATIENCE, PATIENCE

_COOKIE: Final = "socketkeep-admin"
#: Answers this young do for probes, so that many of them cost the keeper no more.
_FRESH: Final = 0.5
_TEXT: Final = "text/plain; charset=utf-8"
_PATHS: Final = "there are /, /connections, /events, /metrics, /healthz and /readyz"
_NEEDS_TOKEN: Final = (
    "a token is needed, that of --admin-token or --admin-token-file: open /?token=TOKEN once, or"
    " send Authorization: Bearer TOKEN"
)
_ALWAYS: Final = (
    ("cache-control", "no-store"),
    ("x-content-type-options", "nosniff"),
    ("referrer-policy", "no-referrer"),
    ("cross-origin-resource-policy", "same-origin"),
)

#: Pushes that are under way at once, so that the keeper has room for those who look.
_MOST_PUSHES: Final = 16
_WAIT_FOR_TURN: Final = 2.0  # seconds
_STATUS_OF: Final = {
    "delivered": 200,
    "not connected": 404,
    "timed out": 504,
    "full": 503,
    "uncertain": 502,
    "unreachable": 502,
}

Headers = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Page:
    """An answer; a body that is no bytes goes on until the client leaves."""

    status: int
    body: bytes | AsyncGenerator[bytes, None]
    content_type: str = _TEXT
    more: Headers = ()

    @property
    def headers(self) -> Headers:
        return (("content-type", self.content_type), *_ALWAYS, *self.more)


class Pages:
    """The page, its events and table, the metrics, the two probes, and pushes."""

    def __init__(self, source: ReportSource, token: str, for_pushes: str = "") -> None:
        self._source = source
        self._token = token.encode()
        self._for_pushes = for_pushes.encode()
        self._pushes = asyncio.Semaphore(_MOST_PUSHES)
        self._events = Events(source)
        self._table = TableReader(source)

    def room_for_body(self, request: h11.Request) -> int | Page:
        """Return how long the body of a request may be, or what its head is refused with."""
        if request.method in {b"GET", b"HEAD"}:
            return 0
        known = "GET, HEAD, POST" if self._for_pushes else "GET, HEAD"
        if request.method != b"POST" or not self._for_pushes:
            hint = "" if self._for_pushes else "; POST is for pushes, and needs --push-token"
            return _refusal(405, f"only {known} are known here{hint}", (("allow", known),))
        # Not by a cookie or the address: no page of another's can have a browser push.
        headers = {name.decode("ascii"): value for name, value in request.headers}
        given = headers.get("authorization", b"").partition(b" ")
        bearer = given[2].strip() if given[0].lower() == b"bearer" else b""
        if not hmac.compare_digest(bearer, self._for_pushes):
            asked = (("www-authenticate", 'Bearer realm="socketkeep"'),)
            return _refusal(
                401, "the token of --push-token is needed: Authorization: Bearer", asked
            )
        return MESSAGE_LIMIT

    async def reply(self, request: h11.Request, body: bytes = b"") -> Page:
        """Return the answer to a request, to whose head `room_for_body` has said yes."""
        path, query = _parts(request.target.decode("ascii", "replace"))
        if request.method == b"POST":
            return await self._push(path, query, body)
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
            return Page(303, b"", _TEXT, (("location", "/"), ("set-cookie", cookie)))
        elif not self._right(_token_of(headers) or given.encode()):
            asked = (("www-authenticate", 'Bearer realm="socketkeep"'),)
            return _refusal(401, _NEEDS_TOKEN, asked)
        match path:
            case "/":
                return _page()
            case "/events" if not self._events.has_room:
                return _refusal(503, f"{MOST_WATCHERS} watch already: close one of the pages")
            case "/events":
                return Page(200, self._events.stream(), "text/event-stream")
            case "/connections":
                return await self._connections(query)
            case "/metrics":
                return await self._metrics(headers.get("accept", b"").decode("ascii", "replace"))
            case _:
                return _refusal(404, _PATHS)

    async def _push(self, path: str, query: str, message: bytes) -> Page:
        _, command, encoded = [*path.split("/", 2), "", ""][:3]
        if command not in {"push", "publish"}:
            return _refusal(404, "there are POST /push/NAME and POST /publish/GROUP")
        what = "a name" if command == "push" else "a group"
        try:
            to = check_text(what, _decoded(what, encoded))
            timeout = _timeout_in(query)
        except ValueError as error:
            return _refusal(400, str(error))
        try:
            async with asyncio.timeout(_WAIT_FOR_TURN):
                await self._pushes.acquire()
        except TimeoutError:
            return _refusal(503, f"{_MOST_PUSHES} pushes are under way already: try again")
        try:
            report = await self._source.push(command, to, message, timeout)
        except KeeperUnreachable as error:
            return _refusal(502, str(error))
        finally:
            self._pushes.release()
        status = _STATUS_OF.get(str(report.get("outcome", "delivered")), 502)
        text = msgspec.json.encode(report) + b"\n"
        return Page(status, text, "application/json")

    def _right(self, token: bytes) -> bool:
        return hmac.compare_digest(token, self._token)

    async def _health(self) -> Page:
        try:
            await self._source.look(_FRESH)
        except KeeperUnreachable as error:
            return _refusal(503, str(error))
        return Page(200, b"ok\n")

    async def _readiness(self) -> Page:
        try:
            status = (await self._source.look(_FRESH)).status
        except KeeperUnreachable as error:
            return _refusal(503, f"not ready: {error}")
        if not status.accepting:
            return _refusal(503, f"not ready: {status.state}")
        cluster = status.cluster
        if cluster is None or cluster.state == "connected":
            return Page(200, b"ready\n")
        # It serves, and the machine's own names go on: it stays among the ready ones.
        why = f"{cluster.state} since {cluster.for_seconds:.0f} s: {cluster.error}"
        return Page(200, f"ready\ncluster {printable(why)}\n".encode())

    async def _connections(self, query: str) -> Page:
        try:
            asked = Query.parse(query)
        except ValueError as error:
            return _refusal(400, str(error))
        try:
            window = await self._table.window(asked)
        except KeeperUnreachable as error:
            return _refusal(503, str(error))
        text = msgspec.json.encode(printable_data(msgspec.to_builtins(window))) + b"\n"
        return Page(200, text, "application/json")

    async def _metrics(self, accept: str) -> Page:
        try:
            report = await self._source.look()
        except KeeperUnreachable as error:
            return _refusal(503, str(error))
        body, content_type = exposition(report, accept)
        return Page(200, body, content_type)


def _page() -> Page:
    nonce = secrets.token_urlsafe(16)
    text = resources.files(__package__).joinpath("page.html").read_text("utf-8")
    policy = (
        f"default-src 'none'; script-src 'nonce-{nonce}'; style-src 'nonce-{nonce}';"
        " connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none';"
        " frame-ancestors 'none'"
    )
    return Page(
        200,
        text.replace("{{nonce}}", nonce).encode(),
        "text/html; charset=utf-8",
        (("content-security-policy", policy),),
    )


def _refusal(status: int, text: str, more: Headers = ()) -> Page:
    return Page(status, f"{printable(text)}\n".encode(), _TEXT, more)


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


def _decoded(what: str, encoded: str) -> str:
    """Return what a part of the path says.  Raises ValueError."""
    try:
        return unquote_to_bytes(encoded).decode("utf-8")
    except UnicodeDecodeError:
        raise ValueError(f"{what} is UTF-8, and this is {encoded!r}") from None


def _timeout_in(query: str) -> float:
    """Return the timeout of a push.  Raises ValueError."""
    given = parse_qs(query).get("timeout")
    if given is None:
        return PATIENCE
    try:
        timeout = float(given[0])
    except ValueError:
        timeout = -1.0
    if not 0 <= timeout <= LONGEST_PATIENCE:
        raise ValueError(f"timeout is 0 to {LONGEST_PATIENCE:.0f} seconds, not {given[0]!r}")
    return timeout


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
