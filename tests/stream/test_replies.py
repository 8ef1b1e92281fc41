"""The record of a reply, and what follows from it after a death: tables, without a socket."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from socketkeep._stream._replies import REPLY_LIMIT, Left, ReplyRecord, checked
from tests.harness.seam import totals as totals_that

OFFSETS = st.integers(0, 2**62)
SIZES = st.integers(0, 300)


@given(OFFSETS, SIZES, OFFSETS, st.binary(max_size=300))
def test_what_is_packed_is_unpacked(since: int, size: int, sent_at: int, data: bytes) -> None:
    record = ReplyRecord(since, since + size, sent_at, data)
    assert ReplyRecord.unpack(record.pack()) == record
    assert checked(record.pack()) == record.pack()


def test_no_record_is_none() -> None:
    assert checked(b"") == b""


@given(st.binary(max_size=100))
def test_what_is_no_record_is_refused(noise: bytes) -> None:
    with pytest.raises(ValueError, match="record of a reply"):
        checked(b"\0" + noise)


@given(st.integers(0, 31), st.binary(min_size=1, max_size=50))
def test_a_record_of_another_length_is_refused(cut: int, more: bytes) -> None:
    packed = ReplyRecord(1, 2, 3, b"reply").pack()
    for wrong in (packed[: cut + 1], packed + more):
        with pytest.raises(ValueError, match="record of a reply"):
            checked(wrong)


@pytest.mark.parametrize(
    "record",
    [
        ReplyRecord(2, 1, 0, b""),
        ReplyRecord(0, 2**63, 0, b""),
        ReplyRecord(0, 0, 2**63, b""),
    ],
)
def test_offsets_that_cannot_be_are_refused(record: ReplyRecord) -> None:
    with pytest.raises(ValueError, match="record of a reply"):
        checked(record.pack())


#: Whoever writes does these in order, and may die before any of them and between any two bytes.
@given(OFFSETS, OFFSETS, SIZES, st.binary(max_size=300), st.data())
def test_whenever_it_dies_what_is_left_completes_the_reply(
    taken: int, written: int, asked: int, data: bytes, draw: st.DataObject
) -> None:
    record = ReplyRecord(taken, taken + asked, written, data)
    later = draw.draw(SIZES)  # more has come behind the message
    out = draw.draw(st.integers(0, len(data)))
    answered = draw.draw(st.integers(0, asked)) if out == len(data) else 0
    totals = totals_that(written + out, taken + answered, asked - answered + later)
    left = record.left(totals)
    assert data[:out] + left.data == data
    assert answered + left.answered == asked
    # Who completes it may die in the same way: what is left then is left to the next.
    more = draw.draw(st.integers(0, len(left.data)))
    again = record.left(totals._replace(written=totals.written + more))
    assert again == Left(left.data[more:], left.answered)
    done = totals_that(written + len(data), taken + asked, later)
    assert record.left(done) == Left(b"", 0)


@given(st.integers(1, 300), st.integers(1, 300))
def test_nothing_is_left_of_a_reply_that_others_have_followed(sent: int, received: int) -> None:
    """Pushes and commits that are on no record come after it."""
    record = ReplyRecord(100, 200, 50, b"reply")
    assert record.left(totals_that(55 + sent, 200 + received, 0)) == Left(b"", 0)


@pytest.mark.parametrize(
    "totals",
    [
        totals_that(written=49, taken=100, waiting=100),  # it begins where nothing has been sent
        totals_that(written=50, taken=99, waiting=101),  # and what was before it is not taken
        totals_that(written=50, taken=100, waiting=99),  # it answers what has not come
    ],
)
def test_a_record_of_another_connection_is_refused(totals: Any) -> None:
    with pytest.raises(ValueError, match="differ"):
        ReplyRecord(100, 200, 50, b"reply").left(totals)


def test_nothing_is_left_to_do_for_a_connection_that_is_over() -> None:
    """A reset has emptied the kernel's queues, and nothing can be sent."""
    assert ReplyRecord(100, 200, 50, b"reply").left(totals_that(0, 0, 0, over=True)) == Left(b"", 0)


def test_a_reply_and_a_state_have_the_room_of_a_state() -> None:
    assert len(ReplyRecord(0, 0, 0, b"").pack()) + REPLY_LIMIT == 65536
