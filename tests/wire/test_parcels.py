"""Parcels: what C and Python make of the same bytes, and that both say what the messages say."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from socketkeep._wire import _parcels
from tests.native.cores import on_both
from tests.wire.sending import changed, decoded, encoded, fields_of, message

on_each_reader = on_both("read", _parcels.read_in_python, "read_parcel")
on_each_writer = on_both("attach", _parcels.attach_in_python, "attach_parcel")
on_each_taker = on_both("take", _parcels.given_in_python, "read_given")
on_each_packer = on_both("pack", _parcels.pack_in_python, "pack_parcel")

_ROWS = 300
_LISTENERS = 3
_ID = "6743a1b0-1-5"

_amounts = st.integers(0, 2**63 - 1) | st.integers(0, 300)
_plain = st.builds(
    lambda epoch, listener, peer, state, amounts, row: message(
        *("Detached", _ID, epoch, listener, peer, state, b"", amounts[0], amounts[1] or 1),
        *(amounts[2], True, amounts[3]),
        row=row,
    ),
    st.integers(1, 2**32),
    st.integers(0, _LISTENERS - 1),
    st.text(st.characters(max_codepoint=0x7F), max_size=300),
    st.none() | st.binary(max_size=500),
    st.tuples(_amounts, _amounts, _amounts, _amounts),
    st.integers(0, _ROWS - 1),
)


def plain(**more: Any) -> Any:
    """Return the message of a connection that only waits, but for these fields."""
    fields = ("Detached", _ID, 7, 1, "127.0.0.1:4000", b"\x05", b"", 10**12, 65, 65, True, 10**13)
    return changed(message(*fields, row=3), **more)


def read_by(read: Any, payload: bytes) -> Any:
    return read(payload, {_ID: "held"}, _ROWS, _LISTENERS)


@on_each_reader
@given(_plain)
def test_it_is_read_as_the_message_is(read: Any, parked: Any) -> None:
    payload = encoded(parked)
    assert read_by(read, payload) == ("held", parked.epoch, parked.active_at)
    assert _parcels.is_parcel(payload)
    assert fields_of(_parcels.open_parcel(payload)) == fields_of(parked)


@on_each_reader
@pytest.mark.parametrize(
    "more",
    [
        {"id": "6743a1b0-1-6"},
        {"id": "1" * 65},
        {"id": "6743a1b0-1-\u00b5"},
        {"listener": _LISTENERS},
        {"listener": -1},
        {"peer": "p\u00e9"},
        {"peer": "p" * 1025},
        {"state": bytes(16385)},
        {"unread": b"more"},
        {"accepted_at": 2**63},
        {"accepted_at": -1},
        {"bytes_in": 0},
        {"bytes_in": 2**63},
        {"bytes_out": 2**64 - 1},
        {"parked": False},
        {"active_at": 2**63},
        {"redelivered": True},
        {"row": -1},
        {"row": _ROWS},
        {"proxy": b"PROXY"},
        {"header_by": 1},
        {"deadline": 1},
        {"inflow_full_at": 1},
        {"reply": b"r"},
        {"name": "n"},
        {"groups": ["g"]},
        {"labels": {"k": "v"}},
        {"written": 0},
        {"taken_in": 0},
        {"trace": "t"},
    ],
    ids=str,
)
def test_whatever_else_is_said_is_for_who_reads_messages(read: Any, more: dict[str, Any]) -> None:
    assert read_by(read, encoded(plain(**more))) is None


@on_each_reader
def test_every_cut_and_every_wrong_byte_is_none(read: Any) -> None:
    """Or says the same as the message that these bytes are."""
    payload = encoded(plain())
    assert read_by(read, payload) == ("held", 7, 10**13)
    for size in range(len(payload)):
        assert read_by(read, payload[:size]) is None
    assert read_by(read, payload + b"\xc0") is None, "of a later version, which says more"
    for place in range(len(payload)):
        for value in (0x00, 0x7F, 0x80, 0xC0, 0xC3, 0xCF, 0xD9, 0xDC, 0xFF, payload[place] ^ 1):
            wrong = payload[:place] + bytes([value]) + payload[place + 1 :]
            found = read_by(read, wrong)
            if found is not None:
                said = _parcels.open_parcel(wrong)
                assert found == ("held", said.epoch, said.active_at)
                assert said == plain(**differing(said))


def differing(said: Any) -> dict[str, Any]:
    """Return the fields that a parcel may have as it likes."""
    names = ("epoch", "listener", "peer", "state", "accepted_at", "bytes_in", "bytes_out")
    return {name: getattr(said, name) for name in (*names, "active_at", "row")}


@on_each_reader
def test_a_message_of_another_kind_is_none(read: Any) -> None:
    assert read_by(read, encoded(message("Free"))) is None
    assert read_by(read, encoded(message("Attached", _ID, 1, 3))) is None
    assert read_by(read, b"\1") is None
    assert read_by(read, b"") is None


@on_each_writer
@given(
    _plain,
    st.integers(1, 2**32),
    st.sampled_from(["parked", "pushed", "crash"]),
    st.booleans(),
    st.booleans(),
)
def test_the_next_worker_gets_the_same(
    attach: Any, parked: Any, epoch: int, why: str, returnable: bool, taken: bool
) -> None:
    payload = attach(encoded(parked), epoch, why, returnable, taken)
    got = decoded(payload, (9,))
    assert got == message(
        *("Attach", _ID, epoch, why, parked.listener, parked.peer, parked.state, b""),
        *(parked.accepted_at, parked.bytes_in, parked.bytes_out, 9),
        kept=True,
        returnable=returnable,
        taken=taken,
    )


@on_each_writer
@pytest.mark.parametrize("payload", [b"", b"\0", encoded(message("Free"))])
def test_what_is_no_parcel_is_given_to_nobody(attach: Any, payload: bytes) -> None:
    with pytest.raises(ValueError, match="no parcel"):
        attach(payload, 2, "parked", True, True)


def given_to_a_worker(**more: Any) -> Any:
    """Return the message by which a worker gets it, but for these fields."""
    fields = ("Attach", _ID, 8, "parked", 1, "127.0.0.1:4000", b"\x05", b"", 10**12, 65, 65, 9)
    return changed(message(*fields, kept=True, returnable=True, taken=True), **more)


@on_each_taker
@given(
    _plain,
    st.integers(1, 2**32),
    st.sampled_from(["accepted", "reload", "parked", "upgrade", "crash", "pushed"]),
    st.tuples(st.booleans(), st.booleans(), st.booleans()),
)
def test_a_worker_is_told_what_the_message_says(
    take: Any, parked: Any, epoch: int, why: str, flags: tuple[bool, bool, bool]
) -> None:
    fields = (parked.listener, parked.peer, parked.state)
    amounts = (parked.accepted_at, parked.bytes_in, parked.bytes_out)
    named = dict(zip(("kept", "returnable", "taken"), flags, strict=True))
    attach = message("Attach", _ID, epoch, why, *fields, b"", *amounts, 9, **named)
    told = take(_parcels.GivenConnection, encoded(attach))
    assert type(told) is _parcels.GivenConnection
    assert told == (_ID, epoch, why, *fields, *amounts, *flags)


@on_each_taker
@pytest.mark.parametrize(
    "more",
    [
        {"id": "1" * 65},
        {"peer": "p\u00e9"},
        {"state": bytes(16385)},
        {"unread": b"more"},
        {"bytes_in": 2**63},
        {"accepted_at": -1},
        {"redelivered": True},
        {"proxy": b"PROXY"},
        {"deadline": 1},
        {"inflow_full_at": 1},
        {"name": "n"},
        {"groups": ["g"]},
        {"labels": {"k": "v"}},
        {"reply": b"r"},
        {"written": 0},
        {"taken_in": 0},
        {"trace": "t"},
    ],
    ids=str,
)
def test_a_worker_reads_whatever_says_more_as_a_message(take: Any, more: dict[str, Any]) -> None:
    assert take(_parcels.GivenConnection, encoded(given_to_a_worker(**more))) is None


@on_each_taker
def test_a_cut_or_a_wrong_reason_tells_a_worker_nothing(take: Any) -> None:
    payload = encoded(given_to_a_worker())
    assert take(_parcels.GivenConnection, payload) is not None
    for size in range(len(payload)):
        assert take(_parcels.GivenConnection, payload[:size]) is None
    assert take(_parcels.GivenConnection, payload + b"\xc0") is None
    assert take(_parcels.GivenConnection, payload.replace(b"parked", b"barked")) is None
    assert take(_parcels.GivenConnection, encoded(plain())) is None


@on_each_packer
@given(_plain)
def test_a_worker_says_what_the_message_says(pack: Any, parked: Any) -> None:
    fields = (_ID, parked.epoch, parked.listener, parked.peer, parked.state)
    amounts = (parked.accepted_at, parked.bytes_in, parked.bytes_out, parked.active_at)
    assert pack(*fields, *amounts, parked.row) == encoded(parked)


@on_each_packer
@pytest.mark.parametrize(
    ("name", "peer", "state"),
    [
        ("1" * 65, "a peer", None),
        (_ID, "p\u00e9", None),
        (_ID, "p" * 1025, None),
        (_ID, "a peer", bytes(16385)),
    ],
    ids=["id", "text", "peer", "state"],
)
def test_what_does_not_fit_is_said_by_a_message(
    pack: Any, name: str, peer: str, state: bytes | None
) -> None:
    assert pack(name, 1, 0, peer, state, 1, 2, 3, 4, 0) is None
