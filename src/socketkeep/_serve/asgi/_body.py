"""The body of a request, as it stands among a connection's unread bytes.  No I/O here."""

from __future__ import annotations

import re
from typing import Final, Protocol

from socketkeep._serve.asgi._head import BadRequest, Buffer

#: A size with its extensions, and all trailers together: more is refused.
_LONGEST_LINE: Final = 4096
_MOST_TRAILERS: Final = 65536
_SIZE: Final = re.compile(rb"([0-9A-Fa-f]{1,16})(?:;[\t -~\x80-\xff]*)?\Z")
_TRAILER: Final = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+:[\t -~\x80-\xff]*\Z")


def _frames(trailer: bytes) -> bool:
    return trailer.partition(b":")[0].lower() in (b"content-length", b"transfer-encoding")


class Body(Protocol):
    """The rest of a body.  over: all has been taken.  left: how much is known to come."""

    over: bool
    left: int

    def take(self, buffer: Buffer, most: int) -> bytes | None:
        """Take what is there, up to `most` bytes; None: nothing is.  Raises BadRequest."""


class Sized:
    """A body of a known length."""

    __slots__ = ("left", "over")

    def __init__(self, length: int) -> None:
        self.left = length
        self.over = not length

    def take(self, buffer: Buffer, most: int) -> bytes | None:
        """Take what is there, up to `most` bytes; None: nothing is."""
        data = buffer.take(min(self.left, most))
        if data is not None:
            self.left -= len(data)
            self.over = not self.left
        return data


class Chunked:
    """A body in chunks: RFC 9112, section 7.1.  Its trailers are read, and dropped."""

    __slots__ = ("_at", "_trailers", "left", "over")

    def __init__(self) -> None:
        self.over = False
        self.left = 0  # of the chunk at hand
        self._at = "size"
        self._trailers = 0

    def take(self, buffer: Buffer, most: int) -> bytes | None:
        """Take what is there, up to `most` bytes, of as many chunks; None: nothing is.

        Raises BadRequest for what is no chunk, which stays unread.
        """
        parts: list[bytes] = []
        room = most
        while not self.over and room and buffer.size:
            if self._at == "data":
                part = buffer.take(min(self.left, room))
                assert part is not None
                parts.append(part)
                room -= len(part)
                self.left -= len(part)
                if not self.left:
                    self._at = "end"
            elif self._at == "end":
                if buffer.size < 2:
                    break
                if buffer.peek(2) != b"\r\n":
                    raise BadRequest(400, "a chunk is longer than its size says")
                buffer.take_exactly(2)
                self._at = "size"
            elif not self._take_line(buffer):
                break
        return b"".join(parts) if parts or self.over else None

    def _take_line(self, buffer: Buffer) -> bool:
        """Take a chunk's size, or a trailer; return whether it was there."""
        end = buffer.find(b"\r\n")
        if end > _LONGEST_LINE or (end < 0 and buffer.size > _LONGEST_LINE):
            raise BadRequest(400, "the line of a chunk's size, or a trailer, is too long")
        if end < 0:
            return False
        line = buffer.peek(end)
        if self._at == "size":
            found = _SIZE.match(line)
            if found is None:
                raise BadRequest(400, "a chunk does not begin with its size")
            buffer.take_exactly(end + 2)
            self.left = int(found.group(1), 16)
            self._at = "data" if self.left else "trailers"
            return True
        self._trailers += len(line)
        if self._trailers > _MOST_TRAILERS:
            raise BadRequest(431, "the trailers are too large")
        if line and (not _TRAILER.match(line) or _frames(line)):
            raise BadRequest(400, "a trailer is no header, or one that says how long a body is")
        buffer.take_exactly(end + 2)
        self.over = not line
        return True
