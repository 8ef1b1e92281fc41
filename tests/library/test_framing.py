"""Messages come out the same, however the stream is split."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from socketkeep import LimitExceeded, Malformed
from socketkeep._stream._framing import (
    ByteOrder,
    Prefix,
    check_bound,
    check_separator,
    frame,
    netstring,
    prefix_size,
    take_frame,
    take_line,
    take_netstring,
    take_until,
)
from tests.harness.seam import buffer as make_buffer

PREFIXES: tuple[Prefix, ...] = ("u8", "u16", "u32", "u64")
ORDERS: tuple[ByteOrder, ...] = ("big", "little")

streams = st.lists(st.sampled_from(b"a\r\n;"), max_size=40).map(bytes)


def split(stream: bytes, cuts: Iterable[int]) -> list[bytes]:
    edges = sorted({0, len(stream), *(cut % (len(stream) + 1) for cut in cuts)})
    return [stream[a:b] for a, b in pairwise(edges)]


def messages(
    chunks: Iterable[bytes], take: Callable[[Any], bytes | None], retain: bool = True
) -> tuple[list[bytes], bytes]:
    buffer = make_buffer(retain=retain)
    found = []
    for chunk in chunks:
        buffer.feed(chunk)
        while (message := take(buffer)) is not None:
            found.append(message)
    return found, buffer.unread


@given(streams, st.lists(st.integers(0, 40)), st.booleans())
def test_lines(stream: bytes, cuts: list[int], retain: bool) -> None:
    *lines, rest = stream.split(b"\n")
    expected = [line[:-1] if line.endswith(b"\r") else line for line in lines]
    chunks = split(stream, cuts)
    assert messages(chunks, lambda b: take_line(b, False, 99), retain) == (expected, rest)
    kept = [line + b"\n" for line in lines]
    assert messages(chunks, lambda b: take_line(b, True, 99), retain) == (kept, rest)


def test_many_lines_keep_to_the_bound() -> None:
    buffer = make_buffer()
    buffer.feed(b"x\n" * 200 + b"y" * 50 + b"\n")
    assert [take_line(buffer, False, 49) for _ in range(200)] == [b"x"] * 200
    with pytest.raises(LimitExceeded):
        take_line(buffer, False, 49)
    assert take_line(buffer, False, 50) == b"y" * 50


@given(streams, st.lists(st.integers(0, 40)), st.sampled_from([b";", b"\r\n", b"a\ra", b"\n\n\n"]))
def test_until(stream: bytes, cuts: list[int], separator: bytes) -> None:
    *expected, rest = stream.split(separator)
    found, unread = messages(split(stream, cuts), lambda b: take_until(b, separator, 99))
    assert (found, unread) == (expected, rest)


@pytest.mark.parametrize("separator", [b"\n", b"\r\n", b"abc"])
@pytest.mark.parametrize("size", [4, 5, 6])
def test_the_bound_holds_wherever_the_stream_is_split(separator: bytes, size: int) -> None:
    """`bound` bytes pass; one more is refused, byte by byte as at once, and stays unread."""
    stream = b"x" * size + separator
    for step in (1, 2, len(stream)):
        buffer = make_buffer()
        outcome: bytes | str | None = None
        for start in range(0, len(stream), step):
            buffer.feed(stream[start : start + step])
            try:
                outcome = take_until(buffer, separator, 5)
            except LimitExceeded:
                outcome = "refused"
                break
        if size <= 5:
            assert outcome == b"x" * size
        else:
            assert outcome == "refused"
            assert buffer.unread.startswith(b"x" * 6)


def test_the_beginning_of_a_separator_does_not_count_against_the_bound() -> None:
    buffer = make_buffer()
    buffer.feed(b"12345\r")
    assert take_until(buffer, b"\r\n", 5) is None
    buffer.feed(b"x")
    with pytest.raises(LimitExceeded, match=r"found no b'\\r\\n' within 5 bytes"):
        take_until(buffer, b"\r\n", 5)


def test_a_line_over_the_bound_is_refused_even_when_it_is_whole() -> None:
    buffer = make_buffer()
    buffer.feed(b"123456\n")
    with pytest.raises(LimitExceeded) as caught:
        take_line(buffer, False, 5)
    assert caught.value.bytes_done == 7
    assert take_line(buffer, False, 6) == b"123456"


def test_senseless_bounds_are_refused() -> None:
    with pytest.raises(ValueError, match="the separator is empty"):
        check_separator(b"", 1)
    with pytest.raises(ValueError, match="a number of bytes >= 1, not 0"):
        check_bound(0)


def at_every_point(stream: bytes, take: Callable[[Any], bytes | None]) -> list[object]:
    """Return what the stream comes to, having seen it to be the same wherever it is split.

    In two pieces, at every point; byte by byte; and at once.  An error is the last entry, as type.
    """
    splits = [[stream], [stream[n : n + 1] for n in range(len(stream))]]
    splits += [[stream[:at], stream[at:]] for at in range(1, len(stream))]
    outcomes = []
    for chunks in splits:
        buffer = make_buffer(retain=True)
        found: list[object] = []
        taken = 0
        try:
            for chunk in chunks:
                buffer.feed(chunk)
                while (message := take(buffer)) is not None:
                    found.append(message)
                    taken = len(buffer.replay()) - buffer.size
        except (LimitExceeded, Malformed) as error:
            found.append(type(error))
        else:
            assert buffer.replay() == stream
        assert len(buffer.replay()) - buffer.size == taken, "an error took something"
        outcomes.append(found)
    assert all(outcome == outcomes[0] for outcome in outcomes), outcomes
    return outcomes[0]


@given(
    st.lists(st.binary(max_size=12), max_size=5),
    st.sampled_from(PREFIXES),
    st.sampled_from(ORDERS),
)
def test_frames_split_at_every_point(
    contents: list[bytes], prefix: Prefix, byteorder: ByteOrder
) -> None:
    stream = b"".join(frame(content, prefix, byteorder, None) for content in contents)
    size = prefix_size(prefix, byteorder)
    assert at_every_point(stream, lambda b: take_frame(b, size, byteorder, 12)) == contents


@given(st.lists(st.binary(max_size=12), max_size=5))
def test_netstrings_split_at_every_point(contents: list[bytes]) -> None:
    stream = b"".join(netstring(content, None) for content in contents)
    assert at_every_point(stream, lambda b: take_netstring(b, 12)) == contents


@given(st.binary(max_size=30), st.sampled_from(PREFIXES), st.sampled_from(ORDERS))
def test_any_bytes_as_frames_split_at_every_point(
    stream: bytes, prefix: Prefix, byteorder: ByteOrder
) -> None:
    size = prefix_size(prefix, byteorder)
    for found in at_every_point(stream, lambda b: take_frame(b, size, byteorder, 9)):
        assert found is LimitExceeded or (isinstance(found, bytes) and len(found) <= 9)


@given(st.lists(st.sampled_from(b"0129:,x"), max_size=24).map(bytes), st.sampled_from([1, 9, 12]))
def test_anything_like_netstrings_split_at_every_point(stream: bytes, bound: int) -> None:
    at_every_point(stream, lambda b: take_netstring(b, bound))


@pytest.mark.parametrize(
    ("stream", "bound", "outcome"),
    [
        (b"0:,", 9, b""),
        (b"5:hello,", 5, b"hello"),
        (b"10:0123456789,", 10, b"0123456789"),
        (b"6", 5, LimitExceeded),
        (b"100", 99, LimitExceeded),
        (b"6x", 5, LimitExceeded),
        (b":,", 9, Malformed),
        (b"-1:,", 9, Malformed),
        (b" 1:a,", 9, Malformed),
        (b"01:a,", 9, Malformed),
        (b"00:,", 9, Malformed),
        (b"1a", 99, Malformed),
        (b"1:ab", 9, Malformed),
        (b"0:x", 9, Malformed),
    ],
)
def test_netstrings_and_what_is_none(stream: bytes, bound: int, outcome: object) -> None:
    assert at_every_point(stream, lambda b: take_netstring(b, bound)) == [outcome]


@pytest.mark.parametrize("byteorder", ORDERS)
@pytest.mark.parametrize("prefix", PREFIXES)
def test_a_frame_is_refused_as_soon_as_its_length_is_there(
    prefix: Prefix, byteorder: ByteOrder
) -> None:
    size = prefix_size(prefix, byteorder)
    buffer = make_buffer()
    head = frame(b"123456", prefix, byteorder, None)[:size]
    buffer.feed(head)
    with pytest.raises(LimitExceeded, match="a frame of 6 bytes or more is announced, 5 are the"):
        take_frame(buffer, size, byteorder, 5)
    assert buffer.unread == head
    assert take_frame(buffer, size, byteorder, 6) is None


def test_a_frame_reads_as_the_field_writes_it() -> None:
    assert frame(b"ab", "u8", "big", None) == b"\x02ab"
    assert frame(b"ab", "u32", "big", None) == b"\x00\x00\x00\x02ab"
    assert frame(b"ab", "u16", "little", None) == b"\x02\x00ab"
    assert frame(memoryview(b"abcd").cast("H"), "u8", "big", None) == b"\x04abcd"
    assert netstring(b"hello", None) == b"5:hello,"
    assert netstring(b"", None) == b"0:,"


def test_nothing_longer_than_its_bound_is_framed() -> None:
    with pytest.raises(LimitExceeded, match="a frame of 256 bytes, 255 are the most"):
        frame(bytes(256), "u8", "big", None)
    with pytest.raises(LimitExceeded, match="a frame of 6 bytes, 5 are the most"):
        frame(bytes(6), "u8", "big", 5)
    with pytest.raises(LimitExceeded, match="a netstring of 6 bytes, 5 are the most"):
        netstring(bytes(6), 5)


def test_senseless_prefixes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"one of u8, u16, u32, u64, not 'u24'"):
        prefix_size("u24", "big")
    with pytest.raises(ValueError, match=r'"big" or "little", not \'network\''):
        prefix_size("u8", "network")
