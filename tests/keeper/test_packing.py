"""The handoff of a parked connection, packed into few bytes."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from msgspec import msgpack

from socketkeep._keeper.tables._packing import pack, unpack
from tests.wire.sending import message

_HEAD = (
    b"GET /ws/rooms/17 HTTP/1.1\r\nHost: chat.example.org\r\nConnection: Upgrade\r\n"
    b"Cache-Control: no-cache\r\nUpgrade: websocket\r\nOrigin: https://chat.example.org\r\n"
    b"User-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) "
    b"Chrome/140.0.0.0 Safari/537.36\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
    b"Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n\r\n"
)


@given(st.binary(max_size=2000), st.text(max_size=100), st.booleans())
def test_it_comes_back_as_it_was(state: bytes, peer: str, parked: bool) -> None:
    handoff = message("Detached", "1-2-3", 4, 0, peer, state, b"", 5, 6, 7, parked=parked)
    assert unpack(pack(handoff)) == handoff


def test_the_head_of_a_websocket_takes_less_than_half() -> None:
    state = msgpack.encode({"websocket": {"head": _HEAD, "answer": (None, []), "exact": True}})
    handoff = message("Detached", "1-2-3", 4, 0, "a peer", state, b"", 5, 6, 7, parked=True)
    assert len(pack(handoff)) * 2 < len(msgpack.encode(handoff))


def test_what_cannot_be_compressed_takes_no_more_than_its_encoding() -> None:
    state = bytes(range(256)) * 2
    handoff = message("Detached", "1-2-3", 4, 0, "a peer", state[::7] + state, b"", 5, 6, 7)
    assert len(pack(handoff)) <= len(msgpack.encode(handoff))
