"""The head of a request: where it ends, what it says, and what is refused.  No I/O here.

A head is taken whole, so that what stands behind it is still unread: the body, the next request, a
WebSocket's first frames.  httptools reads it; what it lets pass and others take otherwise, which is
how requests are smuggled past a proxy, is refused here.
"""

from __future__ import annotations

import re
from typing import Final, Protocol
from urllib.parse import unquote

import httptools

END: Final = b"\r\n\r\n"
#: Empty lines before a request line that are passed over, RFC 9112, section 2.2.
_MOST_EMPTY_LINES: Final = 8

_BEGINNING: Final = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,32}(?: |\Z)")
_REQUEST_LINE: Final = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+) [!-~]+ HTTP/([0-9]\.[0-9])\Z")
_OLD_REQUEST_LINE: Final = re.compile(rb"GET [!-~]+\Z")
_HOST: Final = re.compile(rb"[A-Za-z0-9._~!$&'()*+,;=%:\[\]-]*\Z")


class BadRequest(Exception):
    """A request that is not served: the status to answer, and why, for the log and the client."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status
        self.reason = reason


class Incomplete(Exception):
    """A head has begun to come, and has not ended yet."""


class Buffer(Protocol):
    """The unread bytes of a connection."""

    @property
    def size(self) -> int: ...
    def find(self, separator: bytes, /) -> int: ...
    def peek(self, count: int, /) -> bytes: ...
    def take(self, most: int, /) -> bytes | None: ...
    def take_exactly(self, count: int, /) -> bytes | None: ...


def take_head(buffer: Buffer, bound: int) -> bytes | None:
    """Take a head, its empty line included; None when nothing is there.

    Raises Incomplete when there is a part of one, and BadRequest as soon as it can be none.
    """
    if not buffer.size:
        return None
    size = buffer.find(END)
    if size < 0:
        _check_beginning(buffer, bound)
        raise Incomplete
    if size > bound:
        raise _too_large(bound)
    return buffer.take_exactly(size + 4)


def take_rest_of_head(buffer: Buffer, bound: int) -> bytes | None:
    """As `take_head`; None when there is a part of one, too."""
    try:
        return take_head(buffer, bound)
    except Incomplete:
        return None


def _check_beginning(buffer: Buffer, bound: int) -> None:
    if buffer.size > bound:
        raise _too_large(bound)
    start = buffer.peek(33 + 2 * _MOST_EMPTY_LINES)
    line = start.lstrip(b"\r\n")
    if line and not _BEGINNING.match(line[:33]):
        raise BadRequest(400, "this is not HTTP: no method stands at the beginning")
    # A client that ends its lines otherwise would wait for the answer, and we for the end.
    whole = buffer.peek(buffer.size)
    if whole.count(b"\n") != whole.count(b"\r\n"):
        raise BadRequest(400, "a line ends with a bare LF")


def _too_large(bound: int) -> BadRequest:
    return BadRequest(431, f"the head of the request is larger than {bound} bytes")


class RequestHead:
    """The head of a request.

    raw: the head itself.  target: as it came, for the log.  length: of the body, None when it is
    chunked.  headers: names in lower case.
    """

    __slots__ = (
        "chunked",
        "expects",
        "forwarded",
        "headers",
        "http_version",
        "keep_alive",
        "length",
        "method",
        "path",
        "query",
        "raw",
        "raw_path",
        "takes_trailers",
        "target",
        "upgrade",
    )

    def __init__(self, raw: bytes) -> None:
        self.raw = raw
        self.headers: list[tuple[bytes, bytes]] = []
        self.target = b""
        self.method = self.http_version = self.path = ""
        self.raw_path = self.query = b""
        self.keep_alive = self.chunked = self.expects = self.takes_trailers = False
        self.forwarded = False  # a proxy tells of its client
        self.length: int | None = 0
        self.upgrade = b""  # the protocol that is asked for, in lower case

    # For httptools.

    def on_url(self, part: bytes) -> None:
        self.target += part

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers.append((name.lower(), value.rstrip(b" \t")))


def read_head(head: bytes, most_headers: int) -> RequestHead | None:
    """Return what a head says; None when there are only empty lines.  Raises BadRequest."""
    while head.startswith(b"\r\n"):
        head = head[2:]
    if not head:
        return None
    lines = head.count(b"\r\n")
    if head.count(b"\n") != lines or head.count(b"\r") != lines:
        raise BadRequest(400, "a line ends with a bare LF or CR")
    if lines - 2 > most_headers:
        raise BadRequest(431, f"the request has more than {most_headers} headers")
    if b"\r\n " in head or b"\r\n\t" in head:
        raise BadRequest(400, "a header goes on in a second line (obs-fold)")
    request = RequestHead(head)
    request.http_version = _read_request_line(head.partition(b"\r\n")[0])
    parser = httptools.HttpRequestParser(request)
    try:
        parser.feed_data(head)
    except httptools.HttpParserUpgrade:
        pass
    except httptools.HttpParserInvalidMethodError:
        raise BadRequest(501, "the method is not known") from None
    except httptools.HttpParserError as error:
        raise BadRequest(400, str(error) or "the request cannot be read") from None
    request.method = parser.get_method().decode("ascii")
    request.keep_alive = request.http_version == "1.1"
    _read_headers(request)
    _read_target(request)
    return request


def _read_request_line(line: bytes) -> str:
    """Return the version that a request line names.  Raises BadRequest."""
    found = _REQUEST_LINE.match(line)
    if found is None:
        if _OLD_REQUEST_LINE.match(line):
            raise BadRequest(505, "HTTP/0.9 is not served, 1.0 and 1.1 are")
        raise BadRequest(400, "the request line is not: method, target, HTTP/1.1, one space each")
    version = found[2].decode("ascii")
    if version not in ("1.1", "1.0"):
        raise BadRequest(505, f"HTTP/{version} is not served, 1.0 and 1.1 are")
    if found[1] == b"CONNECT":
        raise BadRequest(501, "CONNECT is for proxies, and this is none")
    return version


def _read_headers(request: RequestHead) -> None:
    """Read the headers that steer the connection.  Raises BadRequest."""
    length: bytes | None = None
    hosts = 0
    codings: bytes | None = None
    connection: bytes | None = None
    upgrade = b""
    for name, value in request.headers:
        # Most names are none of these; the length tells at once.
        size = len(name)
        if size == 4 and name == b"host":
            hosts += 1
            if not _HOST.match(value):
                raise BadRequest(400, "the Host header is no host")
        elif size == 10 and name == b"connection":
            connection = value if connection is None else connection + b"," + value
        elif size == 14 and name == b"content-length":
            if length is not None:
                raise BadRequest(400, "the request has two Content-Length headers")
            length = value
        elif size == 17 and name == b"transfer-encoding":
            if codings is not None:
                raise BadRequest(400, "the request has two Transfer-Encoding headers")
            codings = value
        elif size in (15, 17) and name.startswith(b"x-forwarded-"):
            request.forwarded = True
        elif size == 7 and name == b"upgrade":
            upgrade = value.lower()
        elif size == 6 and name == b"expect":
            if value.lower() != b"100-continue":
                raise BadRequest(417, "the request expects something other than 100-continue")
            request.expects = request.http_version == "1.1"
        elif size == 2 and name == b"te":
            request.takes_trailers = b"trailers" in value.lower()
    if hosts != 1 and (hosts or request.http_version == "1.1"):
        raise BadRequest(400, "the request has no Host header, or more than one")
    if connection is not None:
        tokens = [token.strip() for token in connection.lower().split(b",")]
        if b"close" in tokens:
            request.keep_alive = False
        elif b"keep-alive" in tokens:
            request.keep_alive = True
        if upgrade and b"upgrade" in tokens and request.http_version == "1.1":
            request.upgrade = upgrade
    if codings is not None:
        if length is not None:
            raise BadRequest(400, "the request has both Content-Length and Transfer-Encoding")
        if request.http_version == "1.0":
            raise BadRequest(400, "an HTTP/1.0 request has no Transfer-Encoding")
        if codings.lower() != b"chunked":
            raise BadRequest(501, "the transfer coding is none that is known: chunked is")
        request.chunked = True
        request.length = None
    elif length is not None:
        if not length.isdigit() or len(length) > 18:
            raise BadRequest(400, "the Content-Length is no number")
        request.length = int(length)


def _read_target(request: RequestHead) -> None:
    """Split the request's target into path and query.  Raises BadRequest."""
    target = request.target
    if not target.startswith(b"/"):
        if target == b"*" and request.method == "OPTIONS":
            request.raw_path, request.path = b"*", "*"
            return
        try:
            url = httptools.parse_url(target)
        except httptools.HttpParserInvalidURLError:
            raise BadRequest(400, "the target is no URL") from None
        if not url.schema or not url.host:
            raise BadRequest(400, "the target is neither a path nor a whole URL")
        raw_path, query = url.path or b"/", url.query or b""
    else:
        raw_path, _, query = target.partition(b"?")
    path = raw_path.decode("ascii")
    request.raw_path = raw_path
    request.query = query
    request.path = unquote(path) if "%" in path else path


class HeadCache:
    """The last head of a connection, and what it said: many clients ask the same again."""

    __slots__ = ("_head", "_most_headers", "_request")

    def __init__(self, most_headers: int) -> None:
        self._head = b""
        self._request: RequestHead | None = None
        self._most_headers = most_headers

    def read(self, head: bytes) -> RequestHead | None:
        """As `read_head`."""
        if head == self._head:
            return self._request
        self._request = request = read_head(head, self._most_headers)
        self._head = head
        return request


def is_websocket(request: RequestHead) -> bool:
    """Return whether a request asks for a WebSocket."""
    return request.upgrade == b"websocket" and request.method == "GET"
