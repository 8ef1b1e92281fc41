"""The scope of a request: what an application is told of it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final

from socketkeep._serve.asgi._background import Background
from socketkeep._serve.asgi._forwarded import TrustedProxies, scheme
from socketkeep._serve.asgi._types import SPEC_VERSION, Scope

if TYPE_CHECKING:
    from socketkeep._serve.asgi._head import RequestHead
    from socketkeep._serve.asgi._site import Site
    from socketkeep._stream._aio import AsyncConnection

_ASGI: Final = {"version": "3.0", "spec_version": SPEC_VERSION}
#: What most requests for a WebSocket have among their headers: all refer to one object of each.
_SHARED: Final = {
    each: each
    for each in (
        *(b"host", b"origin", b"user-agent", b"accept", b"accept-encoding", b"accept-language"),
        *(b"cache-control", b"pragma", b"cookie", b"authorization", b"dnt", b"priority"),
        *(b"connection", b"upgrade", b"sec-websocket-key", b"sec-websocket-version"),
        *(b"sec-websocket-extensions", b"sec-websocket-protocol", b"x-forwarded-for"),
        *(b"x-forwarded-proto", b"x-forwarded-host", b"x-real-ip", b"forwarded", b"via"),
        *(b"sec-fetch-dest", b"sec-fetch-mode", b"sec-fetch-site", b"x-request-id"),
        *(b"Upgrade", b"keep-alive, Upgrade", b"websocket", b"13", b"no-cache", b"*/*"),
        *(b"gzip, deflate", b"gzip, deflate, br", b"gzip, deflate, br, zstd"),
        *(b"permessage-deflate", b"permessage-deflate; client_max_window_bits"),
    )
}


class Origin:
    """The same facts for all requests of a connection: the addresses, whether TLS, the task."""

    __slots__ = ("_proxies", "_trusted", "background", "client", "is_tls", "server", "task")

    def __init__(self, conn: AsyncConnection, proxies: TrustedProxies) -> None:
        self.task = asyncio.current_task()
        self.background = Background(conn)
        self.client = _pair(conn.peer)
        self._proxies = proxies
        self._trusted: bool | None = None  # None: nobody has asked yet, as most never do
        local = conn.local
        self.server: tuple[str, int | None] | None = (
            (local.removeprefix("unix:"), None) if local.startswith("unix:") else _pair(local)
        )
        self.is_tls = conn.tls is not None or _behind_tls(conn)

    @property
    def trusted(self) -> TrustedProxies | None:
        """The proxies, where the peer is one of them."""
        if self._trusted is None:
            self._trusted = (self.client or ("",))[0] in self._proxies
        return self._proxies if self._trusted else None


def _behind_tls(conn: AsyncConnection) -> bool:
    """Return whether a proxy says that it has ended the client's TLS."""
    return conn.proxy is not None and conn.proxy.tls is not None


def _pair(address: str) -> tuple[str, int] | None:
    host, colon, port = address.rpartition(":")
    if not colon or not port.isdigit() or address.startswith("unix:"):
        return None
    return host.strip("[]"), int(port)


def http_scope(site: Site, origin: Origin, request: RequestHead) -> Scope:
    """Return the scope of an HTTP request."""
    scope: dict[str, Any] = {
        "type": "http",
        "asgi": _ASGI.copy(),
        "http_version": request.http_version,
        "server": origin.server,
        "client": origin.client,
        "scheme": "https" if origin.is_tls else "http",
        "method": request.method,
        "root_path": site.root_path,
        "path": request.path,
        "raw_path": request.raw_path,
        "query_string": request.query,
        "headers": request.headers.copy(),
        "state": site.state.copy(),
        "extensions": {"http.response.pathsend": {}, "http.response.early_hint": {}},
    }
    if request.forwarded and (proxies := origin.trusted) is not None:
        _apply_forwarded(scope, request, proxies)
    if request.takes_trailers:
        scope["extensions"]["http.response.trailers"] = {}
    if site.root_path:
        scope["path"] = site.root_path + request.path
        scope["raw_path"] = site.raw_root_path + request.raw_path
    return scope


def _apply_forwarded(scope: Scope, request: RequestHead, proxies: TrustedProxies) -> None:
    """Have the scope say what the proxy says."""
    clients = b",".join(value for name, value in request.headers if name == b"x-forwarded-for")
    if clients and (client := proxies.client(clients)):
        scope["client"] = (client, 0)
    for name, value in request.headers:
        if name == b"x-forwarded-proto" and (told := scheme(value)):
            scope["scheme"] = told


def websocket_scope(site: Site, origin: Origin, request: RequestHead) -> Scope:
    """Return the scope of a request for a WebSocket."""
    scope = http_scope(site, origin, request)
    del scope["method"]
    # It may be there for days, beside thousands whose headers are named alike.
    scope["headers"] = [
        (_SHARED.get(name, name), _SHARED.get(value, value)) for name, value in request.headers
    ]
    scope["type"] = "websocket"
    scope["scheme"] = "wss" if scope["scheme"] == "https" else "ws"
    scope["extensions"] = {}
    scope["subprotocols"] = [
        token.strip().decode("latin-1")
        for name, value in request.headers
        if name == b"sec-websocket-protocol"
        for token in value.split(b",")
        if token.strip()
    ]
    return scope
