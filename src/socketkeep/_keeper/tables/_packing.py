"""The handoff of a parked connection, packed into few bytes: it may be parked for days.

The object takes four times as much as its encoding.  Of a WebSocket most of that is the head of its
request, half of which is the same for all clients of a kind: it is compressed, with the text that
such heads have in common known beforehand.  This is the memory of one process; what goes to
another, or to the next version, is the handoff itself.
"""

from __future__ import annotations

import zlib
from typing import Final

import msgspec

from socketkeep._wire._messages import ConnectionDetached
from socketkeep._wire._parcels import is_parcel, open_parcel

#: Below this there is little to gain.
WORTH_IT: Final = 256
_WINDOW: Final = 11  # bits: the common text and a head; more would only be more to prepare
_MEMORY: Final = 3
_FIRST_OF_COMPRESSED: Final = (
    0x38  # deflate, with that window; an encoding begins with an array's mark
)

#: What is met most comes last, where it is nearest.
_COMMON: Final = (
    b"Accept-Language: en-US,en;q=0.9\r\nAccept-Encoding: gzip, deflate, br, zstd\r\n"
    b"X-Forwarded-For: \r\nX-Forwarded-Proto: https\r\nAuthorization: Bearer \r\n"
    b"Origin: https://\r\nCookie: sessionid=; csrftoken=\r\n"
    b"Pragma: no-cache\r\nCache-Control: no-cache\r\n"
    b"User-Agent: Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) AppleWebKit/605.1.15 "
    b"Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) "
    b"Chrome/126.0.0.0 Safari/537.36\r\nUser-Agent: Python/3.13 websockets/15.0\r\n"
    b"Sec-WebSocket-Protocol: \r\n"
    b"Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n"
    b"Upgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: \r\nSec-WebSocket-Version: 13\r\n\r\n"
    b"\xa8Detached\xa9websocket\x86\xa4headGET / HTTP/1.1\r\nHost: 127.0.0.1:"
    b"\xa6answer\x92\xc0\x90\xa5exact\xc3\xa5state\xa7deflate\xc0\xa9pushes_to\xa7receive"
)

_encode: Final = msgspec.msgpack.Encoder().encode
_decode: Final = msgspec.msgpack.Decoder(ConnectionDetached).decode


def pack(handoff: ConnectionDetached) -> bytes:
    """Return the handoff, without its descriptors, as bytes for `unpack`."""
    packed = _encode(handoff)
    if len(packed) < WORTH_IT:
        return packed
    deflate = zlib.compressobj(wbits=_WINDOW, memLevel=_MEMORY, zdict=_COMMON)
    compressed = deflate.compress(packed) + deflate.flush()
    return compressed if len(compressed) < len(packed) else packed


def unpack(packed: bytes) -> ConnectionDetached:
    """Return the handoff that `pack` has made these bytes of, or that has come as a parcel."""
    if is_parcel(packed):
        return open_parcel(packed)
    if packed[0] == _FIRST_OF_COMPRESSED:
        inflate = zlib.decompressobj(_WINDOW, zdict=_COMMON)
        packed = inflate.decompress(packed)
    return _decode(packed)
