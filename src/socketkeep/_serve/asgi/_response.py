"""The response: what an application's messages become on the wire.  No I/O here.

The order of the messages and the length of the body are checked, so that what goes out is HTTP
whatever the application does.  The head is held until the first part of the body is there, as the
specification permits: the two go out in one send, and a body that is whole has its length told.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from http import HTTPStatus
from typing import Any, Final, NamedTuple

from socketkeep._serve.asgi._types import Message

CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"

_REASONS: Final = {each.value: each.phrase.encode("ascii") for each in HTTPStatus}
_STATUS_LINES: Final[dict[int, bytes]] = {}
_NAME: Final = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+\Z")
#: Names that are known to be good: to match each anew takes longer than to send it.
_good_names: Final[set[bytes]] = set()
_MOST_GOOD_NAMES: Final = 1024
#: The headers that this side decides on, or has to know.
_SPECIAL: Final = frozenset(
    {b"content-length", b"transfer-encoding", b"connection", b"date", b"server", b"content-type"}
)


_TYPE: Final = b"content-type"


class Head(NamedTuple):
    """The head of a response, as the application has it.

    lines: as they are sent, without those that say how the body is.  length: of the body, None
    where it is not told.  closes: the connection is to end.
    """

    lines: bytes
    length: int | None
    closes: bool
    has_date: bool
    has_server: bool
    content_type: bytes


#: Heads that were sent before: those of many responses are the same.
_heads: Final[dict[object, Head]] = {}
_MOST_HEADS: Final = 256
_LONGEST_KNOWN: Final = 1024


class MessageError(RuntimeError):
    """The application sends what cannot be sent, or not at this point."""


def no_message(message: object) -> MessageError:
    """Return the error of an application that sends something that is none of ASGI's messages."""
    return MessageError(f"a message is a dict with a 'type', not {message!r:.100}")


def status_line(status: Any) -> bytes:
    """Return the first line of a response."""
    line = _STATUS_LINES.get(status)
    if line is None:
        if not isinstance(status, int) or not 200 <= status <= 999:
            raise MessageError(f"a status is a number from 200 to 999, not {status!r}")
        line = b"HTTP/1.1 %d %b\r\n" % (status, _REASONS.get(status, b""))
        _STATUS_LINES[status] = line
    return line


def header_lines(headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    """Return headers as they are sent.  Raises MessageError for what is none."""
    lines = []
    for name, value in headers:
        if name not in _good_names:
            _check_name(name)
        lines.append(b"%b: %b\r\n" % (name, value))
    joined = b"".join(lines)
    _check_lines(joined, len(lines))
    return joined


def _check_name(name: Any) -> None:
    if not isinstance(name, bytes) or not _NAME.match(name):
        raise MessageError(f"a header's name is bytes of letters, digits and dashes, not {name!r}")
    if len(_good_names) < _MOST_GOOD_NAMES:
        _good_names.add(name)


def _check_lines(lines: bytes, count: int) -> None:
    if lines.count(b"\n") != count or lines.count(b"\r") != count or b"\0" in lines:
        raise MessageError("a header's value has a line break or a NUL in it")


def _head_of(status: int, headers: Iterable[tuple[bytes, bytes]]) -> Head:
    """Return the head that these make.  Raises MessageError."""
    key = None
    if type(headers) is list and len(headers) < 8:
        try:
            key = (status, *headers)
            found = _heads.get(key)
        except TypeError:  # lists in place of tuples
            key = found = None
        if found is not None:
            return found
    head = _make_head(status, headers)
    if key is not None and len(head.lines) <= _LONGEST_KNOWN and len(_heads) < _MOST_HEADS:
        _heads[key] = head
    return head


def _make_head(status: int, headers: Iterable[tuple[bytes, bytes]]) -> Head:
    lines = [status_line(status)]
    has_date = has_server = closes = False
    length: int | None = None
    content_type = b""
    for name, value in headers:
        if name not in _good_names:
            _check_name(name)
        lower = name.lower()
        if lower in _SPECIAL:
            if lower == b"content-length":
                if not value.isdigit() or (length is not None and length != int(value)):
                    raise MessageError(f"a Content-Length is one number, not {value!r}")
                if length is not None or status == 204:
                    continue
                length = int(value)
            elif lower == b"transfer-encoding":
                continue  # how the body is sent is decided here
            elif lower == b"connection":
                closes = closes or b"close" in value.lower()
                continue
            elif lower == b"date":
                has_date = True
            elif lower == b"server":
                has_server = True
            else:
                content_type = value
        lines.append(b"%b: %b\r\n" % (name, value))
    joined = b"".join(lines)
    _check_lines(joined, len(lines))
    return Head(joined, length, closes, has_date, has_server, content_type)


class AnswerInProgress:
    """One response.

    keep_alive: whether the connection may go on after it.  begun: its head is there, and goes
    out with the body's first part.  status, body_size: for the log.
    """

    __slots__ = (
        "_body_over",
        "_chunked",
        "_defaults",
        "_has_body",
        "_head",
        "_is_head",
        "_left",
        "_length",
        "_modern",
        "_resumed",
        "_takes_trailers",
        "_trailers",
        "_type",
        "begun",
        "body_size",
        "close_delimited",
        "keep_alive",
        "over",
        "status",
    )

    def __init__(
        self,
        method: str,
        http_version: str,
        *,
        keep_alive: bool,
        takes_trailers: bool,
        defaults: bytes,
    ) -> None:
        self.keep_alive = keep_alive
        self.begun = self.over = self.close_delimited = False
        self.status = self.body_size = 0
        self._is_head = method == "HEAD"
        self._modern = http_version == "1.1"
        self._takes_trailers = takes_trailers
        self._trailers = False  # some are to come
        self._defaults = defaults
        self._head: bytes | None = None  # held until the body begins
        self._length: int | None = None  # of the body, as the head tells it
        self._left: int | None = None  # of what is to be sent of it
        self._body_over = False
        self._chunked = False
        self._has_body = True
        self._type = b""  # its Content-Type
        self._resumed = False  # its head has gone out before

    def export(self) -> dict[str, Any]:
        """Return what `resume` needs, to go on with this response in another process."""
        return {
            "status": int(self.status),
            "type": self._type,
            "chunked": self._chunked,
            "left": self._left,
            "close": self.close_delimited,
            "keep_alive": self.keep_alive,
            "trailers": self._trailers,
            "size": self.body_size,
        }

    def resume(self, exported: dict[str, Any]) -> None:
        """Go on with a response whose head, and part of whose body, have gone out."""
        self.begun = self._resumed = True
        self.status = exported["status"]
        self._type = exported["type"]
        self._chunked = exported["chunked"]
        self._left = exported["left"]
        self.close_delimited = exported["close"]
        self.keep_alive = exported["keep_alive"]
        self._trailers = exported["trailers"]
        self.body_size = exported["size"]

    @property
    def held(self) -> bool:
        """Return whether nothing of it has gone out, but for early hints."""
        return self._head is not None or not self.begun

    def take(self, message: Message) -> bytes:
        """Return what is to be sent for a message that is neither `start` nor `body`.

        Raises MessageError.
        """
        kind = message["type"]
        if kind == "http.response.early_hint":
            return self._early_hint(message)
        if kind == "http.response.trailers":
            return self._end_with_trailers(message)
        raise MessageError(f"a message of type {kind!r} is none of an HTTP response's")

    def start(self, message: Message) -> None:
        """Take the response's status and headers.  Raises MessageError."""
        if self._resumed:
            self._resumed = False
            self._check_same(message)
            return
        if self.begun:
            raise MessageError("http.response.start was sent twice")
        status: Any = message.get("status")
        head = _head_of(status, message.get("headers", ()))
        if self._defaults:
            lines = head.lines + self._default_lines(head.has_date, head.has_server)
        else:
            lines = head.lines
        self._trailers = bool(message.get("trailers", False))
        self._has_body = status not in (204, 304) and not self._is_head
        self._length = head.length
        self._left = head.length if self._has_body else None
        self._head = lines
        self._type = head.content_type
        if head.closes:
            self.keep_alive = False
        self.status = status
        self.begun = True

    def _check_same(self, message: Message) -> None:
        """Take a second start, of code that goes on with the response, if it is the first again."""
        kinds = [value for name, value in message.get("headers", ()) if name.lower() == _TYPE]
        kind = kinds[-1] if kinds else b""
        status = message.get("status")
        if (status, kind) != (self.status, self._type):
            raise MessageError(
                f"the response began with {self.status} {self._type!r}, and cannot go on with"
                f" {status} {kind!r}"
            )

    def _default_lines(self, has_date: bool, has_server: bool) -> bytes:
        if not (has_date or has_server):
            return self._defaults
        left = (b"date:" if has_date else b"") + (b"server:" if has_server else b"")
        kept = (line for line in self._defaults.splitlines(keepends=True) if line[:5] not in left)
        return b"".join(kept)

    def body_is(self, size: int) -> None:
        """Note that the body has this length, if the application has not told one."""
        if self._head is not None and self._length is None:
            self._tell_length(size)

    def _tell_length(self, size: int) -> bytes:
        assert self._head is not None
        self._head += b"content-length: %d\r\n" % size
        self._length = size
        self._left = size if self._has_body else None
        return self._head

    def body(self, data: bytes, more: bool) -> bytes:
        """Return what is to be sent for a part of the body; more: it is not the last.

        Raises MessageError.
        """
        if not self.begun:
            raise MessageError("http.response.body was sent before http.response.start")
        if self._body_over:
            raise MessageError("http.response.body was sent after the end of the response")
        if type(data) is not bytes:
            data = _as_bytes(data)
        head = b""
        size = len(data)
        if self._head is not None:
            head = self._finish_head(size, more)
        if not self._has_body:
            self._head = None
            self.over = self._body_over = not more
            return head
        left = self._left
        if left is not None:
            left -= size
            if left < 0:
                raise MessageError(
                    f"the body is longer than its Content-Length: {-left} bytes too many"
                )
            self._left = left
            if not more:
                if left:
                    raise MessageError(
                        f"the body is shorter than its Content-Length: {left} bytes are missing"
                    )
                self.over = True
        elif self._chunked:
            data = b"%x\r\n%b\r\n" % (size, data) if size else b""
            if not more and not self._trailers:
                self.over = True
                data += b"0\r\n\r\n"
        elif not more:
            self.over = True
        self._head = None
        self._body_over = not more
        self.body_size += size
        return head + data if head else data

    def _finish_head(self, size: int, more: bool) -> bytes:
        """Return the head with the lines that say how long the body is, and what comes after."""
        head = self._head
        assert head is not None
        if self._length is None:
            if not self._has_body:
                if self._is_head and size and not more:
                    head = self._tell_length(size)
            elif not more and not self._trailers:
                head = self._tell_length(size)
            elif self._modern:
                self._chunked = True
                head += b"transfer-encoding: chunked\r\n"
            else:
                self.close_delimited = True
                self.keep_alive = False
        self._trailers = self._trailers and self._chunked
        if not self.keep_alive:
            head += b"connection: close\r\n"
        elif not self._modern:
            head += b"connection: keep-alive\r\n"
        return head + b"\r\n"

    def _end_with_trailers(self, message: Message) -> bytes:
        if not self._body_over or self.over or not self._trailers:
            raise MessageError("http.response.trailers was sent where none were announced")
        if message.get("more_trailers", False):
            raise MessageError("http.response.trailers is to have all trailers in one message")
        self.over = True
        lines = header_lines(message.get("headers", ())) if self._takes_trailers else b""
        return b"0\r\n%b\r\n" % lines

    def _early_hint(self, message: Message) -> bytes:
        if self.begun:
            raise MessageError("http.response.early_hint was sent after http.response.start")
        if not self._modern:
            return b""
        links = [(b"link", link) for link in message.get("links", ())]
        return b"HTTP/1.1 103 Early Hints\r\n%b\r\n" % header_lines(links)


def _as_bytes(data: Any) -> bytes:
    if isinstance(data, bytearray | memoryview):
        return bytes(data)
    raise MessageError(f"a body is bytes, not {type(data).__name__}")


def refusal(status: int, reason: str, defaults: bytes, *, is_head: bool = False) -> bytes:
    """Return the whole response to a request that is not served; the connection ends with it."""
    text = reason.encode() + b"\n"
    head = b"%b%bcontent-type: text/plain; charset=utf-8\r\ncontent-length: %d\r\n" % (
        status_line(status),
        defaults,
        len(text),
    )
    return head + b"connection: close\r\n\r\n" + (b"" if is_head else text)
