"""Many WebSockets that say something once, and are silent from then on."""

from __future__ import annotations

import contextlib
import socket
import zlib
from collections.abc import Iterator
from typing import Final

_DEADLINE: Final = 60.0
_HANDSHAKE: Final = (
    b"GET / HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"
    b"Origin: http://localhost\r\nAccept-Language: en\r\n"
    b"User-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0\r\n"
)
_OFFER: Final = b"Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n"
_MESSAGE: Final = b'{"user": 7, "text": "hello there, this is a message", "number": 12345}'

# RFC 6455, section 5.2, and RFC 7692, section 7.2.1.
_BINARY: Final = 0x82
_COMPRESSED: Final = 0x40
_PING: Final = 0x89
_PONG: Final = 0x8A
_MASKED: Final = 0x80
_TAIL: Final = b"\x00\x00\xff\xff"


class Crowd:
    """The clients' ends.  deflate: they have agreed on compression."""

    def __init__(self, port: int, deflate: bool) -> None:
        self._port = port
        self._deflate = deflate
        self._clients: list[socket.socket] = []

    def add(self, count: int) -> None:
        """Open so many more, one after another, and have each message of theirs echoed."""
        for _ in range(count):
            client = socket.create_connection(("127.0.0.1", self._port), timeout=_DEADLINE)
            self._clients.append(client)
            client.sendall(_HANDSHAKE + (_OFFER if self._deflate else b"") + b"\r\n")
            head = b""
            while not head.endswith(b"\r\n\r\n"):
                head += _some(client, 1)
            if b" 101 " not in head or (b"permessage-deflate" in head) != self._deflate:
                raise RuntimeError(f"the WebSocket was not opened as asked: {head!r}")
            self._exchange(client)

    def _exchange(self, client: socket.socket) -> None:
        first, data = _BINARY, _MESSAGE
        if self._deflate:
            compressor = zlib.compressobj(wbits=-9)  # any server's window is as large
            packed = compressor.compress(data) + compressor.flush(zlib.Z_SYNC_FLUSH)
            first, data = first | _COMPRESSED, packed.removesuffix(_TAIL)
        client.sendall(_frame(first, data))
        first, data = _heard(client)
        while first == _PING:
            client.sendall(_frame(_PONG, data))
            first, data = _heard(client)
        if first & _COMPRESSED:
            data = zlib.decompressobj(wbits=-15).decompress(data + _TAIL)
        if data != _MESSAGE:
            raise RuntimeError(f"the message came back as {data!r}")

    def answer_pings(self) -> None:
        """Wait until the server has asked each whether it is there, and answer."""
        for client in self._clients:
            first, data = _heard(client)
            if first != _PING:
                raise RuntimeError(f"a frame of type {first:#x} came where a ping should")
            client.sendall(_frame(_PONG, data))

    def close(self) -> None:
        """End all of them."""
        for client in self._clients:
            client.close()


@contextlib.contextmanager
def crowd(port: int, *, deflate: bool) -> Iterator[Crowd]:
    """Yield a crowd without members, and end them all afterwards."""
    many = Crowd(port, deflate)
    try:
        yield many
    finally:
        many.close()


def _frame(first: int, data: bytes) -> bytes:
    """Return a short frame; the mask is four zeros."""
    return bytes((first, _MASKED | len(data))) + bytes(4) + data


def _heard(client: socket.socket) -> tuple[int, bytes]:
    """Return the first byte and the payload of a short frame."""
    first, size = _some(client, 2)
    return first, _some(client, size)


def _some(client: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        more = client.recv(size - len(data))
        if not more:
            raise RuntimeError("the server has ended a WebSocket that was to be idle")
        data += more
    return data
