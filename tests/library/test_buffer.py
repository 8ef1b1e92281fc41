"""The receive buffer against a model that keeps everything, and against splitting anywhere.

With both cores.
"""

from __future__ import annotations

import sys
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from tests.harness.seam import buffer
from tests.native.cores import both, on_both

LIMIT = 24
# Few letters, so that separators and their beginnings turn up often.
pieces = st.lists(st.sampled_from(b"ab\n"), min_size=1, max_size=12).map(bytes)


on_each = on_both("make", buffer, "ReceiveBuffer")


class BufferMachine(RuleBasedStateMachine):
    """Two plain byte strings are the model: what was taken since the commit, and what is unread."""

    make = staticmethod(buffer)

    def __init__(self) -> None:
        super().__init__()
        self.buffer = self.make(retain=True, replay_limit=LIMIT)
        self.taken = b""
        self.unread = b""

    @rule(data=pieces)
    def feed(self, data: bytes) -> None:
        self.buffer.feed(data)
        self.unread += data

    @rule(most=st.integers(1, 20))
    def take(self, most: int) -> None:
        self._took(self.unread[:most] or None, self.buffer.take(most))

    @rule(count=st.integers(0, 20))
    def take_exactly(self, count: int) -> None:
        expected = self.unread[:count] if count <= len(self.unread) else None
        self._took(expected, self.buffer.take_exactly(count))

    @rule(separator=st.sampled_from([b"\n", b"ab", b"aab", b"\n\n", b"aba\n"]), take=st.booleans())
    def find(self, separator: bytes, take: bool) -> None:
        at = self.unread.find(separator)
        assert self.buffer.find(separator) == at
        if at >= 0 and take:
            assert self.buffer.take_found(at, len(separator)) == self.unread[:at]
            self._moved(at + len(separator))

    @rule(most=st.integers(0, 20))
    def peek(self, most: int) -> None:
        seen = self.buffer.peek(most)
        assert type(seen) is bytes
        assert seen == self.unread[:most]
        if self.unread:
            assert self.buffer.byte_at(len(self.unread) - 1) == self.unread[-1]

    @rule()
    def commit(self) -> None:
        self.buffer.commit()
        self.taken = b""

    def _took(self, expected: bytes | None, got: bytes | None) -> None:
        assert got == expected
        assert got is None or type(got) is bytes
        self._moved(len(expected or b""))

    def _moved(self, count: int) -> None:
        self.taken += self.unread[:count]
        self.unread = self.unread[count:]

    @invariant()
    def sees_the_same(self) -> None:
        assert self.buffer.size == len(self.unread)
        assert self.buffer.unread == self.unread
        assert self.buffer.untouched == (not self.taken and not self.unread)
        if len(self.taken) > LIMIT:
            assert self.buffer.overflowed

    @invariant()
    @precondition(lambda self: len(self.taken) <= LIMIT)
    def replays_all_since_the_commit(self) -> None:
        assert not self.buffer.overflowed
        assert self.buffer.replay() == self.taken + self.unread


class CompiledBufferMachine(BufferMachine):
    make = staticmethod(both(buffer, "ReceiveBuffer")[-1])


TestBuffer = BufferMachine.TestCase
TestCompiledBuffer = CompiledBufferMachine.TestCase


@on_each
@given(st.lists(pieces, min_size=1), st.integers(1, 9))
def test_without_retention_nothing_is_kept(make: Any, chunks: list[bytes], most: int) -> None:
    buffer = make()
    out = []
    for chunk in chunks:
        buffer.feed(chunk)
        while (data := buffer.take(most)) is not None:
            out.append(data)
    assert b"".join(out) == b"".join(chunks)
    with pytest.raises(RuntimeError, match="were not retained"):
        buffer.replay()
    buffer.commit()
    assert buffer.replay() == b""


@on_each
def test_past_the_limit_only_a_commit_makes_it_good(make: Any) -> None:
    buffer = make(retain=True, replay_limit=4)
    buffer.feed(b"12345678")
    seen = []
    for count in (4, 1):
        buffer.take(count)
        seen.append(buffer.overflowed)
    with pytest.raises(RuntimeError, match="were not retained"):
        buffer.replay()
    buffer.commit()
    assert [*seen, buffer.overflowed] == [False, True, False]
    assert buffer.replay() == b"678"


@on_each
def test_what_overflowed_is_let_go_of(make: Any) -> None:
    buffer = make(retain=True, replay_limit=100)
    for _ in range(1000):
        buffer.feed(b"x" * 60)
        buffer.take(60)
    held = buffer._aside_size if hasattr(buffer, "_aside_size") else sys.getsizeof(buffer)
    assert held <= 500


def seconds_to_gather(make: Any, chunks: int) -> float:
    buffer = make(retain=True, replay_limit=1 << 30)
    chunk = b"x" * 100
    started = time.process_time()
    for _ in range(chunks):
        buffer.feed(chunk)
        assert buffer.find(b"\n") == -1
    assert buffer.take_exactly(chunks * 100) is not None
    return time.process_time() - started


@on_each
def test_gathering_a_large_message_takes_linear_time(make: Any) -> None:
    """Sixteen times as much; quadratic would take 256 times as long."""
    small = min(seconds_to_gather(make, 2_000) for _ in range(3))
    large = min(seconds_to_gather(make, 32_000) for _ in range(3))
    assert large < 80 * small
