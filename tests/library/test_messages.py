"""The verbs for frames and netstrings, sync and async, on real sockets."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from itertools import product
from typing import Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from socketkeep import (
    AsyncConnection,
    Connection,
    LimitExceeded,
    Malformed,
    NonBlocking,
    PeerClosed,
    TimedOut,
    Timeout,
    WouldBlock,
)
from tests.harness.seam import leased
from tests.library.conftest import Pair, Run

PREFIXES: tuple[Literal["u8", "u16", "u32", "u64"], ...] = ("u8", "u16", "u32", "u64")
ORDERS: tuple[Literal["big", "little"], ...] = ("big", "little")
CONTENTS = [b"", b"one", b"\x00\r\n:,", bytes(200)]


def test_what_one_sends_the_other_receives(pair: Pair) -> None:
    ours, theirs = Connection(pair[0], mode=Timeout(5)), Connection(pair[1], mode=Timeout(5))
    for prefix, byteorder in product(PREFIXES, ORDERS):
        for content in CONTENTS:
            ours.send_frame(content, prefix, byteorder=byteorder)
            ours.send_netstring(content)
        for content in CONTENTS:
            assert theirs.recv_frame(prefix, byteorder=byteorder) == content
            assert theirs.recv_netstring() == content
    ours.send_frame(bytearray(b"ab"), "u8")
    ours.send_eof()
    assert list(theirs.frames("u8")) == [b"ab"]


def test_what_one_sends_the_other_receives_async(pair: Pair, run: Run) -> None:
    async def scenario() -> None:
        ours, theirs = AsyncConnection(pair[0]), AsyncConnection(pair[1])
        for prefix, byteorder in product(PREFIXES, ORDERS):
            for content in CONTENTS:
                await ours.send_frame(content, prefix, byteorder=byteorder)
                await ours.send_netstring(content)
            for content in CONTENTS:
                assert await theirs.recv_frame(prefix, byteorder=byteorder) == content
                assert await theirs.recv_netstring() == content
        await ours.send_netstring(bytearray(b"ab"))
        await ours.send_eof()
        assert [content async for content in theirs.netstrings()] == [b"ab"]

    run(scenario)


@settings(max_examples=40)
@given(st.lists(st.binary(max_size=9), min_size=1, max_size=4), st.integers(1, 5), st.booleans())
def test_non_blocking_iterators_go_on_however_the_stream_is_split(
    contents: list[bytes], step: int, as_frames: bool
) -> None:
    ours, peer = socket.socketpair()
    with ours, peer:
        conn = Connection(ours, mode=NonBlocking())
        messages = conn.frames("u16", 9) if as_frames else conn.netstrings(9)
        if as_frames:
            stream = b"".join(len(content).to_bytes(2, "big") + content for content in contents)
        else:
            stream = b"".join(b"%d:%s," % (len(content), content) for content in contents)
        found = []
        for start in range(0, len(stream), step):
            peer.sendall(stream[start : start + step])
            while True:
                try:
                    found.append(next(messages))
                except WouldBlock:
                    break
        peer.shutdown(socket.SHUT_WR)
        assert list(messages) == []
        assert found == contents


def test_a_long_message_comes_out_whole(tcp: Pair, run: Run) -> None:
    content = bytes(range(256)) * 8192

    async def scenario() -> None:
        ours, theirs = AsyncConnection(tcp[0]), AsyncConnection(tcp[1])
        sending = asyncio.ensure_future(ours.send_frame(content, "u32"))
        assert await theirs.recv_frame("u32", len(content)) == content
        await sending
        sending = asyncio.ensure_future(ours.send_netstring(content))
        assert await theirs.recv_netstring(len(content)) == content
        await sending

    run(scenario)


def test_after_a_timeout_a_message_goes_on_with_its_first_unsent_byte(tcp: Pair) -> None:
    content = bytes(range(256)) * 8192
    ours, theirs = Connection(tcp[0], mode=Timeout(0.05)), Connection(tcp[1], mode=NonBlocking())
    found = None
    sent = False
    while found is None:
        with contextlib.suppress(TimedOut):
            if not sent:
                ours.send_frame(content, "u64", byteorder="little")
                sent = True
        with contextlib.suppress(WouldBlock):
            found = theirs.recv_frame("u64", len(content), byteorder="little")
    assert found == content


def test_bounds_and_malformed_messages_are_errors_that_name_the_operation(pair: Pair) -> None:
    conn = Connection(pair[0], mode=Timeout(5))
    pair[1].sendall(b"12:hello")
    with pytest.raises(LimitExceeded, match=r"^recv_netstring from .* 11 are the most") as caught:
        conn.recv_netstring(11)
    assert (caught.value.operation, caught.value.peer) == ("recv_netstring", conn.peer)
    with pytest.raises(LimitExceeded, match=r"^netstrings from "):
        next(conn.netstrings(11))
    with pytest.raises(LimitExceeded, match=r"^recv_frame from "):
        conn.recv_frame("u8", 48)
    assert conn.recv_exactly(3) == b"12:"
    with pytest.raises(Malformed, match=r"^recv_netstring from .* begins b'hel") as malformed:
        conn.recv_netstring()
    assert malformed.value.operation == "recv_netstring"
    assert conn.recv() == b"hello"
    with pytest.raises(LimitExceeded):
        conn.send_frame(bytes(256), "u8")
    with pytest.raises(LimitExceeded):
        conn.send_netstring(b"123", 2)
    pair[1].setblocking(False)
    with pytest.raises(BlockingIOError):
        pair[1].recv(1)


def test_bounds_and_malformed_messages_are_errors_async(pair: Pair, run: Run) -> None:
    async def scenario() -> None:
        conn = AsyncConnection(pair[0])
        pair[1].sendall(b"12:hello")
        with pytest.raises(LimitExceeded, match=r"^recv_netstring from .* 11 are the most"):
            await conn.recv_netstring(11)
        with pytest.raises(LimitExceeded, match=r"^frames from "):
            await anext(conn.frames("u8", 48))
        assert await conn.recv_exactly(3) == b"12:"
        with pytest.raises(Malformed, match=r"^netstrings from "):
            await anext(conn.netstrings())
        with pytest.raises(LimitExceeded):
            await conn.send_frame(bytes(256), "u8")
        assert await conn.recv() == b"hello"

    run(scenario)


def test_eof_in_the_middle_is_no_end(pair: Pair) -> None:
    conn = Connection(pair[0], mode=Timeout(5))
    pair[1].sendall(b"\x01a\x05ab")
    pair[1].close()
    frames = conn.frames("u8")
    assert next(frames) == b"a"
    with pytest.raises(PeerClosed, match=r"^frames from "):
        next(frames)
    with pytest.raises(PeerClosed, match=r"^recv_frame from "):
        conn.recv_frame("u8")
    assert conn.recv() == b"\x05ab"
    with pytest.raises(PeerClosed):
        conn.recv_netstring()
    assert list(conn.netstrings()) == []


def test_eof_in_the_middle_is_no_end_async(pair: Pair, run: Run) -> None:
    async def scenario() -> None:
        conn = AsyncConnection(pair[0])
        pair[1].sendall(b"1:a,5:ab")
        pair[1].close()
        netstrings = conn.netstrings()
        assert await anext(netstrings) == b"a"
        with pytest.raises(PeerClosed):
            await anext(netstrings)
        with pytest.raises(PeerClosed):
            await conn.recv_netstring()
        assert await conn.recv() == b"5:ab"
        assert [frame async for frame in conn.frames("u64")] == []

    run(scenario)


def test_iterators_commit_when_the_next_is_asked_for(pair: Pair) -> None:
    conn = Connection(pair[0], mode=NonBlocking(), **leased(resumable=True))
    pair[1].sendall(b"\x03one3:two,")
    frames = conn.frames("u8", 9, commit=True)
    next(frames)
    assert conn.hand_over().unread == b"\x03one3:two,"
    with pytest.raises(LimitExceeded):
        next(frames)
    netstrings = conn.netstrings(commit=True)
    next(netstrings)
    assert conn.hand_over().unread == b"3:two,"
    with pytest.raises(WouldBlock):
        next(netstrings)
    assert conn.hand_over().unread == b""


def test_iterators_commit_when_the_next_is_asked_for_async(pair: Pair, run: Run) -> None:
    async def scenario() -> None:
        conn = AsyncConnection(pair[0], **leased(resumable=True))
        pair[1].sendall(b"\x03one\x03two")
        frames = conn.frames("u8", commit=True, timeout=0)
        await anext(frames)
        assert conn.hand_over().unread == b"\x03one\x03two"
        await anext(frames)
        assert conn.hand_over().unread == b"\x03two"
        with pytest.raises(WouldBlock):
            await anext(frames)
        assert conn.hand_over().unread == b""

    run(scenario)


def test_senseless_arguments_are_refused_before_anything_is_received(pair: Pair) -> None:
    conn = Connection(pair[0], mode=Timeout(5))
    with pytest.raises(ValueError, match="a number of bytes >= 1, not 0"):
        conn.recv_frame("u8", 0)
    with pytest.raises(ValueError, match="a number of bytes >= 1, not 0"):
        conn.netstrings(0)
    with pytest.raises(ValueError, match="one of u8, u16, u32, u64"):
        conn.frames("u7")  # type: ignore[arg-type]
