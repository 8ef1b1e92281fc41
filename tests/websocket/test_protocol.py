"""One WebSocket's state, against `websockets`' own client side."""

from __future__ import annotations

import random
import zlib
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from websockets.extensions.permessage_deflate import PerMessageDeflate
from websockets.frames import BINARY, CLOSE, PONG, TEXT, Frame
from websockets.protocol import CLIENT, Protocol

from socketkeep._serve.websocket._deflate import Deflate
from socketkeep._serve.websocket._protocol import Control, Event, FrameKind, WebSocket

MASK = b"\x11\x22\x33\x44"


def masked(first: int, data: bytes, *, length: bytes | None = None) -> bytes:
    """Return a client's frame; length: in place of the true one."""
    if length is None:
        size = len(data)
        short = size if size < 126 else 126 if size < 1 << 16 else 127
        length = bytes((0x80 | short,)) + (
            b"" if short < 126 else size.to_bytes(2 if short == 126 else 8, "big")
        )
    return (
        bytes((first,)) + length + MASK + bytes(byte ^ MASK[n % 4] for n, byte in enumerate(data))
    )


def all_of(socket: WebSocket, data: bytes) -> list[Event]:
    socket.feed(data)
    return list(iter(socket.next, None))


def failure(socket: WebSocket, data: bytes) -> Control:
    """Return how the bytes make the WebSocket fail, and see that its Close says it."""
    *_, last = all_of(socket, data)
    assert isinstance(last, Control)
    assert last.kind is FrameKind.FAILED
    assert last.reply[0] == 0x88
    assert int.from_bytes(last.reply[2:4], "big") == last.code
    assert socket.over
    return last


class Pair:
    """A WebSocket and a client of `websockets`'; `move` goes on with what the state exports."""

    def __init__(self, bits: tuple[int, int] | None, takeover: tuple[bool, bool]) -> None:
        self.client = Protocol(CLIENT, max_size=None)
        deflate = None
        if bits is not None:
            deflate = Deflate(*bits, *takeover)
            self.client.extensions = [
                PerMessageDeflate(not takeover[1], not takeover[0], bits[1], bits[0])
            ]
        self.server = WebSocket(1 << 20, deflate)

    def move(self) -> None:
        assert self.server.between_messages
        rest, deflate = self.server.rest, self.server.deflate
        if deflate is not None:
            deflate = Deflate(*deflate.export())
        self.server = WebSocket(1 << 20, deflate)
        self.server.feed(rest)

    def to_server(self, cuts: random.Random) -> list[Event]:
        """Return what comes of all that the client has to send, cut anywhere."""
        data = b"".join(self.client.data_to_send())
        came: list[Event] = []
        while data:
            count = cuts.randint(1, len(data))
            came += all_of(self.server, data[:count])
            if cuts.random() < 0.3 and self.server.between_messages:
                self.move()
            data = data[count:]
        return came

    def to_client(self, data: bytes) -> Iterator[Frame]:
        self.client.receive_data(data)
        for event in self.client.events_received():
            assert isinstance(event, Frame)
            yield event


WORDS = ["hello ", '{"user": 7, "text": "', "ok", "é", "0123456789" * 30, "\U0001f9e6"]
TEXTS = st.lists(st.sampled_from(WORDS), max_size=40).map("".join)
BITS = st.none() | st.tuples(st.integers(9, 15), st.integers(9, 15))


@settings(deadline=None, max_examples=60)
@given(
    bits=BITS,
    takeover=st.tuples(st.booleans(), st.booleans()),
    script=st.lists(
        st.one_of(
            TEXTS.map(lambda text: ("client", text)),
            TEXTS.map(lambda text: ("server", text)),
            st.lists(TEXTS, min_size=2, max_size=4).map(lambda parts: ("fragments", parts)),
            st.just(("ping", b"?")),
            st.just(("move", b"")),
            st.just(("rest", b"")),
        ),
        max_size=24,
    ),
    seed=st.integers(0, 1 << 32),
)
def test_random_talks_are_understood_through_moves(
    bits: tuple[int, int] | None,
    takeover: tuple[bool, bool],
    script: list[tuple[str, object]],
    seed: int,
) -> None:
    cuts, pair = random.Random(seed), Pair(bits, takeover)
    for what, said in script:
        if what == "client":
            assert isinstance(said, str)
            pair.client.send_text(said.encode())
            assert pair.to_server(cuts) == [said]
        elif what == "fragments":
            assert isinstance(said, list)
            pair.client.send_text(said[0].encode(), fin=False)
            for part in said[1:-1]:
                pair.client.send_continuation(part.encode(), fin=False)
            pair.client.send_continuation(said[-1].encode(), fin=True)
            assert pair.to_server(cuts) == ["".join(said)]
        elif what == "server":
            assert isinstance(said, str)
            data = said.encode()
            for sent, opcode in (
                (pair.server.text(said), TEXT),
                (pair.server.binary(data), BINARY),
            ):
                (frame,) = pair.to_client(sent)
                assert (frame.opcode, bytes(frame.data)) == (opcode, data)
        elif what == "ping":
            pair.client.send_ping(b"?")
            (ping,) = pair.to_server(cuts)
            assert isinstance(ping, Control)
            (pong,) = pair.to_client(ping.reply)
            assert (pong.opcode, bytes(pong.data)) == (PONG, b"?")
        elif what == "rest":
            if pair.server.deflate is not None:
                pair.server.deflate.rest()
        else:
            pair.move()


def test_the_context_is_used_across_a_move() -> None:
    pair = Pair((12, 12), (True, True))
    text = "".join(random.Random(1).choices("abcdefghij", k=600))
    first = pair.server.text(text)
    list(pair.to_client(first))
    pair.move()
    again = pair.server.text(text)
    (frame,) = pair.to_client(again)
    assert frame.data == text.encode()
    assert len(again) < len(first) / 10  # it refers to what went before the move


def test_what_a_move_takes_is_bounded_by_the_windows() -> None:
    pair = Pair((12, 12), (True, True))
    noise = random.Random(2).randbytes(100_000)
    for _ in range(3):
        pair.client.send_binary(noise)
        assert pair.to_server(random.Random(3)) == [noise]
        list(pair.to_client(pair.server.binary(noise)))
    deflate = pair.server.deflate
    assert deflate is not None
    *_, inbound, outbound = deflate.export()
    assert (len(inbound), len(outbound)) == (4096, 4096)


def test_a_last_block_may_end_a_message() -> None:
    # RFC 7692, section 7.2.3.4: what a compressor makes that ends its stream with each message.
    socket = WebSocket(1 << 16, Deflate(15, 15, True, True))
    for text in ("one and one", "two and two and one and one"):
        maker = zlib.compressobj(9, zlib.DEFLATED, -15)
        data = maker.compress(text.encode()) + maker.flush(zlib.Z_FINISH)
        assert all_of(socket, masked(0xC1, data + b"\x00")) == [text]


@pytest.mark.parametrize("cut", [False, True])
@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"\x81\x00", 1002),  # not masked
        (masked(0x83, b""), 1002),
        (masked(0x8B, b""), 1002),
        (masked(0xC1, b"x"), 1002),  # compressed, and that was not agreed on
        (masked(0xA1, b"x"), 1002),
        (masked(0x80, b"x"), 1002),
        (masked(0x01, b"x") + masked(0x81, b"x"), 1002),
        (masked(0x09, b""), 1002),
        (masked(0x89, b"x" * 126), 1002),
        (masked(0x88, b"x"), 1002),
        (masked(0x88, b"\x03\xed"), 1002),  # 1005
        (masked(0x88, b"\x03\xe8\xff"), 1007),
        (masked(0x81, b"\xff"), 1007),
        (masked(0x81, b"\xe2\x82"), 1007),
        (masked(0x01, b"\xe2\x82") + masked(0x80, b"x"), 1007),
        (masked(0x82, b"x" * 101), 1009),
        (masked(0x02, b"x" * 60) + masked(0x80, b"x" * 41), 1009),
        (masked(0x82, b"", length=b"\xff" + b"\xff" * 8), 1009),
    ],
)
def test_broken_rules(data: bytes, code: int, cut: bool) -> None:
    socket = WebSocket(100)
    if cut:
        came = [event for byte in data for event in all_of(socket, bytes((byte,)))]
        assert [event.code for event in came if isinstance(event, Control)] == [code]
    else:
        assert failure(socket, data).code == code
    assert socket.over
    assert all_of(socket, masked(0x81, b"later")) == []
    assert socket.close(1000) == b""


def test_a_bomb_is_not_inflated() -> None:
    maker = zlib.compressobj(9, zlib.DEFLATED, -15)
    data = maker.compress(bytes(8 << 20)) + maker.flush(zlib.Z_SYNC_FLUSH)
    socket = WebSocket(1 << 20, Deflate(15, 15, True, True))
    assert failure(socket, masked(0xC2, data[:-4])).code == 1009


def test_what_cannot_be_inflated() -> None:
    socket = WebSocket(1 << 20, Deflate(12, 12, True, True))
    assert failure(socket, masked(0xC2, b"\xff\xff\xff\xff")).code == 1007


def test_a_message_may_have_as_much_as_it_may() -> None:
    maker = zlib.compressobj(9, zlib.DEFLATED, -12)
    data = maker.compress(bytes(1000)) + maker.flush(zlib.Z_SYNC_FLUSH)
    for most, fits in ((1000, True), (999, False)):
        socket = WebSocket(most, Deflate(12, 12, True, True))
        (came,) = all_of(socket, masked(0xC2, data[:-4]))
        assert (came == bytes(1000)) is fits


@pytest.mark.parametrize("data", [b"", b"\x03\xe8", b"\x0f\xa0why"])
def test_the_peers_close_is_answered_alike(data: bytes) -> None:
    socket = WebSocket(100)
    (came,) = all_of(socket, masked(0x88, data))
    assert isinstance(came, Control)
    assert came.kind is FrameKind.CLOSED
    assert came.reply == bytes((0x88, len(data))) + data
    assert came.code == (int.from_bytes(data[:2], "big") if data else 1005)
    assert came.reason == data[2:].decode()


def test_closing() -> None:
    socket = WebSocket(100)
    client = Protocol(CLIENT)
    client.receive_data(socket.close(1012, "restart"))
    (frame,) = client.events_received()
    assert isinstance(frame, Frame)
    assert frame.opcode is CLOSE
    assert frame.data == b"\x03\xf4restart"
    assert socket.close(1000) == b""
    came = all_of(socket, b"".join(client.data_to_send()))
    assert came == [Control(FrameKind.CLOSED, code=1012, reason="restart")]


@pytest.mark.parametrize(("code", "reason"), [(1006, ""), (999, ""), (5000, ""), (1000, "x" * 124)])
def test_what_cannot_be_closed_with(code: int, reason: str) -> None:
    with pytest.raises(ValueError, match=r"[Cc]lose"):
        WebSocket(100).close(code, reason)
