"""The state of one open WebSocket (RFC 6455), the server's side, without I/O.

It is written for what `websockets`' own protocol cannot do: to be exported between two messages,
and to be gone on with in another process.  Frames are parsed without a generator, since most of
them are short, whole and alone.
"""

from __future__ import annotations

import codecs
from enum import Enum
from typing import Any, Final, NamedTuple, TypeAlias

from websockets.exceptions import ProtocolError
from websockets.frames import Close, CloseCode

from socketkeep._serve.websocket._deflate import Corrupt, Deflate, InflatesTooFar

try:
    from websockets.speedups import apply_mask
except ImportError:
    from websockets.utils import apply_mask

_CONTINUATION: Final = 0x0
_TEXT: Final = 0x1
_BINARY: Final = 0x2
_CLOSE: Final = 0x8
_PING: Final = 0x9
_PONG: Final = 0xA
_FINAL: Final = 0x80
_COMPRESSED: Final = 0x40
_MASKED: Final = 0x80
_MOST_OF_CONTROL: Final = 125  # bytes of a control frame
_NO_STATUS: Final = 1005
_ABNORMAL: Final = 1006

_WHOLE_TEXT: Final = _FINAL | _TEXT
_WHOLE_BINARY: Final = _FINAL | _BINARY
_MOST_OF_SHORT: Final = 125  # bytes of a frame whose length stands in its second byte
#: The heads of short frames.
_HEADS: Final = {
    first: [bytes((first, size)) for size in range(126)]
    for opcode in (_TEXT, _BINARY)
    for first in (_FINAL | opcode, _FINAL | _COMPRESSED | opcode)
}
_NO_UTF8: Final = "a text is not UTF-8"

_decoder_of_utf8: Final = codecs.getincrementaldecoder("utf-8")


class FrameKind(Enum):
    """The kinds of what comes, beside messages."""

    PING = "ping"
    PONG = "pong"
    CLOSED = "closed"  # the peer's Close: the WebSocket is over when `reply` has gone out
    FAILED = "failed"  # the peer has broken the rules: likewise


class Control(NamedTuple):
    """A thing that has come and is no message.

    reply: what is to be sent now, b"" for nothing.  payload: of pings and pongs.  code, reason: of
    the end.
    """

    kind: FrameKind
    reply: bytes = b""
    payload: bytes = b""
    code: int = _NO_STATUS
    reason: str = ""


#: A text message, a binary one, or something else.
Event: TypeAlias = str | bytes | Control


class _Broken(Exception):
    """The peer has broken the rules: the code and the reason to close with."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(reason)
        self.code = code
        self.reason = reason


class WebSocket:
    """One open WebSocket.

    most: how many bytes a message may have.  deflate: its compression, None without.

    `feed` takes what was received, `next` returns what it means, thing by thing; the methods that
    are named for what is sent return its bytes.
    """

    __slots__ = (
        "_buffer",
        "_compressed",
        "_decoder",
        "_opcode",
        "_parts",
        "_position",
        "_size",
        "closing",
        "deflate",
        "most",
        "over",
    )

    def __init__(self, most: int, deflate: Deflate | None = None) -> None:
        self.most = most
        self.deflate = deflate
        self.closing = False  # our Close is made
        self.over = False  # theirs has come, or we have failed: nothing more is read
        self._buffer: bytes | bytearray = b""
        self._position = 0
        self._opcode = 0  # of the message whose fragments come, 0: none
        self._compressed = False
        self._parts: list[Any] = []
        self._size = 0
        self._decoder: codecs.IncrementalDecoder | None = None

    # What comes.

    @property
    def between_messages(self) -> bool:
        """Return whether no message has begun to come, but for `rest`, a part of a frame."""
        return not self._opcode

    @property
    def rest(self) -> bytes:
        """Return what was fed and `next` has not dealt with.

        It is a part of a frame when that returned None.
        """
        return bytes(memoryview(self._buffer)[self._position :])

    @property
    def rest_size(self) -> int:
        """The number of bytes in `rest`."""
        return len(self._buffer) - self._position

    @property
    def message_waits(self) -> bool:
        """Return whether `next` would begin with the next message."""
        if self._opcode or self.over or self._position == len(self._buffer):
            return False
        return self._buffer[self._position] & 0x0F < _CLOSE

    def feed(self, data: bytes) -> None:
        """Add what was received."""
        if self._position == len(self._buffer):
            self._buffer = data
        else:
            if isinstance(self._buffer, bytes):
                self._buffer = bytearray(self._buffer)
            del self._buffer[: self._position]
            self._buffer += data
        self._position = 0

    def next(self) -> Event | None:
        """Return the next thing that has come whole; None: there is none, or it is all over."""
        buffer, at = self._buffer, self._position
        size = len(buffer)
        if at == size:
            return None
        if self.over:
            self._buffer, self._position = b"", 0
            return None
        # Most messages are one frame, short and whole.
        first = buffer[at]
        if first in (_WHOLE_BINARY, _WHOLE_TEXT) and size >= at + 6 and not self._opcode:
            length = buffer[at + 1] - _MASKED
            end = at + 6 + length
            if 0 <= length <= _MOST_OF_SHORT and length <= self.most and end <= size:
                if end == size:
                    self._buffer, self._position = b"", 0
                else:
                    self._position = end
                data = apply_mask(buffer[at + 6 : end], buffer[at + 2 : at + 6])
                if first == _WHOLE_BINARY:
                    return data
                try:
                    return data.decode()
                except UnicodeDecodeError:
                    return self._fail(CloseCode.INVALID_DATA, _NO_UTF8)
        try:
            return self._next()
        except _Broken as error:
            return self._fail(error.code, error.reason)

    def _next(self) -> Event | None:
        while True:
            buffer, at = self._buffer, self._position
            there = len(buffer) - at
            if there < 6:
                if there >= 2:
                    self._check_head(buffer[at], buffer[at + 1])
                return None
            first, length = buffer[at], buffer[at + 1] - _MASKED
            if length > 125 or length < 0 or first & 0x70 or first & 0x0F > _BINARY:
                self._check_head(first, length + _MASKED)
            at += 2
            if length > 125:
                wide = 2 if length == 126 else 8
                if there < 6 + wide:
                    return None
                length = int.from_bytes(buffer[at : at + wide], "big")
                at += wide
            opcode = first & 0x0F
            if opcode < _CLOSE and length > self.most - self._size:
                raise _Broken(CloseCode.MESSAGE_TOO_BIG, f"a message may have {self.most} bytes")
            end = at + 4 + length
            if len(buffer) < end:
                return None
            data = apply_mask(buffer[at + 4 : end], buffer[at : at + 4])
            if end == len(buffer):
                self._buffer, self._position = b"", 0
            else:
                self._position = end
            if opcode >= _CLOSE:
                return self._control(opcode, data)
            event = self._data(first, opcode, data)
            if event is not None:
                return event

    def _check_head(self, first: int, second: int) -> None:
        """Look at the first two bytes of a frame, as soon as they have come."""
        opcode = first & 0x0F
        if not second & _MASKED:
            raise _broken("a frame is not masked")
        if opcode not in (_CONTINUATION, _TEXT, _BINARY, _CLOSE, _PING, _PONG):
            raise _broken("a frame has a reserved opcode")
        reserved = first & 0x70
        if reserved == _COMPRESSED and self.deflate is not None and opcode in (_TEXT, _BINARY):
            reserved = 0
        if reserved:
            raise _broken("a frame has reserved bits")
        if opcode >= _CLOSE and not (first & _FINAL and second & 0x7F <= _MOST_OF_CONTROL):
            raise _broken("a control frame is fragmented or too long")

    def _data(self, first: int, opcode: int, data: bytes) -> Event | None:
        """Take a data frame; return the message that it ends."""
        if opcode == _CONTINUATION:
            if not self._opcode:
                raise _broken("a continuation continues nothing")
        elif self._opcode:
            raise _broken("a message begins within another")
        else:
            self._opcode = opcode
            self._compressed = bool(first & _COMPRESSED)
        final = bool(first & _FINAL)
        if self._compressed:
            assert self.deflate is not None
            try:
                data = self.deflate.decompress(data, final, self.most - self._size)
            except InflatesTooFar:
                raise _Broken(
                    CloseCode.MESSAGE_TOO_BIG, f"a message may have {self.most} bytes"
                ) from None
            except Corrupt:
                raise _Broken(CloseCode.INVALID_DATA, "a message cannot be inflated") from None
        self._size += len(data)
        whole: Event
        if self._opcode == _TEXT:
            if final and not self._parts:
                try:
                    whole = data.decode()
                except UnicodeDecodeError:
                    raise _no_utf8() from None
            else:
                if self._decoder is None:
                    self._decoder = _decoder_of_utf8()
                try:
                    self._parts.append(self._decoder.decode(data, final))
                except UnicodeDecodeError:
                    raise _no_utf8() from None
                whole = "".join(self._parts) if final else ""
        elif final and not self._parts:
            whole = data
        else:
            self._parts.append(data)
            whole = b"".join(self._parts) if final else b""
        if not final:
            return None
        self._opcode = self._size = 0
        self._parts = []
        self._decoder = None
        return whole

    def _control(self, opcode: int, data: bytes) -> Control:
        if opcode == _PING:
            reply = b"" if self.closing else bytes((_FINAL | _PONG, len(data))) + data
            return Control(FrameKind.PING, reply, data)
        if opcode == _PONG:
            return Control(FrameKind.PONG, payload=data)
        try:
            close = Close.parse(data)
        except UnicodeDecodeError:
            raise _no_utf8() from None
        except ProtocolError:
            raise _broken("a Close has no code that may be sent") from None
        reply = b"" if self.closing else bytes((_FINAL | _CLOSE, len(data))) + data
        self.closing = self.over = True
        return Control(FrameKind.CLOSED, reply, code=int(close.code), reason=close.reason)

    def _fail(self, code: int, reason: str) -> Control:
        reply = self.close(code, reason)
        self.over = True
        return Control(FrameKind.FAILED, reply, code=code, reason=reason)

    # What is sent.

    def text(self, text: str) -> bytes:
        """Return the bytes of a text message."""
        return self._message(_TEXT, text.encode())

    def binary(self, data: bytes) -> bytes:
        """Return the bytes of a binary message."""
        return self._message(_BINARY, data)

    def _message(self, opcode: int, data: bytes) -> bytes:
        first = _FINAL | opcode
        if self.deflate is not None:
            data = self.deflate.compress(data)
            first |= _COMPRESSED
        size = len(data)
        if size <= 125:
            return _HEADS[first][size] + data
        if size < 1 << 16:
            return bytes((first, 126)) + size.to_bytes(2, "big") + data
        return bytes((first, 127)) + size.to_bytes(8, "big") + data

    def ping(self, payload: bytes) -> bytes:
        """Return the bytes of a ping."""
        return bytes((_FINAL | _PING, len(payload))) + payload

    def close(self, code: int, reason: str = "") -> bytes:
        """Return the bytes of a Close; b"" where one has been made before.

        Raises ValueError for a code that must not be sent, and a reason of more than 123 bytes.
        """
        if self.closing:
            return b""
        try:
            data = b"" if code == _NO_STATUS else Close(code, reason).serialize()
        except ProtocolError:
            raise ValueError(f"{code} is no code to close a WebSocket with") from None
        if len(data) > _MOST_OF_CONTROL:
            raise ValueError("the reason of a Close has 123 bytes at most")
        self.closing = True
        return bytes((_FINAL | _CLOSE, len(data))) + data


def _broken(reason: str) -> _Broken:
    return _Broken(CloseCode.PROTOCOL_ERROR, reason)


def _no_utf8() -> _Broken:
    return _Broken(CloseCode.INVALID_DATA, _NO_UTF8)
