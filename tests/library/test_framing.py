"""Messages come out the same, however the stream is split."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from socketkeep._buffer import ReceiveBuffer
from socketkeep._errors import LimitExceeded
from socketkeep._framing import check_bound, check_separator, take_line, take_until

streams = st.lists(st.sampled_from(b"a\r\n;"), max_size=40).map(bytes)


def split(stream: bytes, cuts: Iterable[int]) -> list[bytes]:
    edges = sorted({0, len(stream), *(cut % (len(stream) + 1) for cut in cuts)})
    return [stream[a:b] for a, b in pairwise(edges)]


def messages(
    chunks: Iterable[bytes], take: Callable[[ReceiveBuffer], bytes | None], retain: bool = True
) -> tuple[list[bytes], bytes]:
    buffer = ReceiveBuffer(retain=retain)
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
    assert messages(chunks, lambda b: take_line(b, 99, False), retain) == (expected, rest)
    kept = [line + b"\n" for line in lines]
    assert messages(chunks, lambda b: take_line(b, 99, True), retain) == (kept, rest)


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
        buffer = ReceiveBuffer()
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
    buffer = ReceiveBuffer()
    buffer.feed(b"12345\r")
    assert take_until(buffer, b"\r\n", 5) is None
    buffer.feed(b"x")
    with pytest.raises(LimitExceeded, match=r"found no b'\\r\\n' within 5 bytes"):
        take_until(buffer, b"\r\n", 5)


def test_a_line_over_the_bound_is_refused_even_when_it_is_whole() -> None:
    buffer = ReceiveBuffer()
    buffer.feed(b"123456\n")
    with pytest.raises(LimitExceeded) as caught:
        take_line(buffer, 5, False)
    assert caught.value.bytes_done == 7
    assert take_line(buffer, 6, False) == b"123456"


def test_senseless_bounds_are_refused() -> None:
    with pytest.raises(ValueError, match="the separator is empty"):
        check_separator(b"", 1)
    with pytest.raises(ValueError, match="a number of bytes >= 1, not 0"):
        check_bound(0)
