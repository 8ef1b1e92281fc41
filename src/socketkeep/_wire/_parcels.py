"""Parcels: a connection that only waits, as the bytes of the message by which its worker parks it.

Most parked connections have nothing but an address, a state and counts.  They go round, from a
worker to the keeper and to the next worker, thousands of times a second, and the keeper changes
nothing of them but who has them.  So it keeps the message as it came, and makes the next one of its
bytes.  What has more than that, or has sent nothing yet, is a message as any other.
"""

from __future__ import annotations

from typing import Final, NamedTuple, TypeVar

from socketkeep import _native
from socketkeep._base._passing import SURELY_INLINE
from socketkeep._stream._lease import Attached
from socketkeep._wire._messages import (
    ABSENT,
    Attach,
    ConnectionDetached,
    Unreadable,
    decode,
    encode,
)

_Known = TypeVar("_Known")

#: As every payload that is not in a memfd begins, and as this message does.
_HEAD: Final = b"\0\xdc\0\x19\xa8Detached"
_HEAD_OF_ATTACH: Final = b"\0\xdc\0\x19\xa6Attach"
_FIRST_OF_PAYLOAD: Final = 0
_LARGEST: Final = 2**63
_LONGEST_ID: Final = 64
_LONGEST_PEER: Final = 1024


class GivenConnection(NamedTuple):
    """A connection that a worker is given, with no more from before, as `Attach` has it."""

    id: str
    epoch: int
    attached: Attached
    listener: int
    peer: str
    state: bytes | None
    accepted_at: int
    bytes_in: int
    bytes_out: int
    kept: bool
    returnable: bool
    taken: bool


def is_parcel(data: bytes) -> bool:
    """Return whether these bytes, of a handoff that is kept, are a payload as it came."""
    return data[0] == _FIRST_OF_PAYLOAD


def open_parcel(payload: bytes) -> ConnectionDetached:
    """Return what a parcel says of its connection."""
    message = decode(payload[1:])
    assert isinstance(message, ConnectionDetached)
    return message


def read_in_python(
    payload: bytes, known: dict[str, _Known], rows: int, listeners: int
) -> tuple[_Known, int, int] | None:
    """Return whose parcel it is, of those known by id, its epoch, and when it was last active.

    None: it is none, or is of nobody who is known.  Nothing in a parcel needs another look before
    it is believed, but whether the epoch is the connection's, and the worker its owner.

    rows, listeners: how many there can be.
    """
    if not payload.startswith(_HEAD):
        return None
    try:
        message = decode(payload[1:])
    except Unreadable:
        return None
    assert isinstance(message, ConnectionDetached)
    plain = ConnectionDetached(
        message.id,
        message.epoch,
        message.listener,
        message.peer,
        message.state,
        b"",
        message.accepted_at,
        message.bytes_in,
        message.bytes_out,
        parked=True,
        active_at=message.active_at,
        row=message.row,
    )
    if message != plain or encode(plain) != payload[1:]:
        return None
    if not (_is_fit(message.id, _LONGEST_ID) and _is_fit(message.peer, _LONGEST_PEER)):
        return None
    if not (0 <= message.row < rows and 0 <= message.listener < listeners and message.epoch >= 0):
        return None
    amounts = (message.accepted_at, message.bytes_out, message.active_at)
    if min(amounts) < 0 or message.bytes_in < 1 or max(*amounts, message.bytes_in) >= _LARGEST:
        return None
    if message.state is not None and len(message.state) > SURELY_INLINE:
        return None
    found = known.get(message.id)
    return None if found is None else (found, message.epoch, message.active_at)


def attach_in_python(payload: bytes, epoch: int, why: str, returnable: bool, taken: bool) -> bytes:
    """Return the payload of the `Attach` by which a worker gets the connection of a parcel.

    Its descriptor rides beside it.  The keeper goes on holding a handle of it.  Raises ValueError
    for what is no parcel.
    """
    try:
        message = open_parcel(payload)
    except (Unreadable, AssertionError) as error:
        raise ValueError("that is no parcel") from error
    attach = Attach(
        message.id,
        epoch,
        why,  # type: ignore[arg-type]  # one of these
        message.listener,
        message.peer,
        message.state,
        b"",
        message.accepted_at,
        message.bytes_in,
        message.bytes_out,
        ABSENT,
        kept=True,
        returnable=returnable,
        taken=taken,
    )
    return b"\0" + encode(attach)


def given_in_python(kind: type[GivenConnection], payload: bytes) -> GivenConnection | None:
    """Return what an `Attach` says, which has come with a descriptor; None: it says more."""
    if not payload.startswith(_HEAD_OF_ATTACH):
        return None
    try:
        message = decode(payload[1:], (ABSENT,))
    except Unreadable:
        return None
    assert isinstance(message, Attach)
    given = kind(*(getattr(message, name) for name in kind._fields))
    texts_fit = _is_fit(given.id, _LONGEST_ID) and _is_fit(given.peer, _LONGEST_PEER)
    amounts = (given.accepted_at, given.bytes_in, given.bytes_out)
    amounts_fit = min(*amounts, given.listener, given.epoch) >= 0 and max(amounts) < _LARGEST
    state_fits = given.state is None or len(given.state) <= SURELY_INLINE
    if not (texts_fit and amounts_fit and state_fits):
        return None
    plain = Attach(**given._asdict(), unread=b"", connection=ABSENT)
    return given if message == plain and encode(plain) == payload[1:] else None


def pack_in_python(
    name: str,
    epoch: int,
    listener: int,
    peer: str,
    state: bytes | None,
    accepted_at: int,
    bytes_in: int,
    bytes_out: int,
    active_at: int,
    row: int,
) -> bytes | None:
    """Return the payload by which a worker parks a connection that has no more to it.

    None: a text or the state does not fit in one.
    """
    if not (_is_fit(name, _LONGEST_ID) and _is_fit(peer, _LONGEST_PEER)):
        return None
    if state is not None and len(state) > SURELY_INLINE:
        return None
    detached = ConnectionDetached(
        *(name, epoch, listener, peer, state, b"", accepted_at, bytes_in, bytes_out),
        parked=True,
        active_at=active_at,
        row=row,
    )
    return b"\0" + encode(detached)


def _is_fit(text: str, longest: int) -> bool:
    return len(text) <= longest and text.isascii()


read_parcel: Final = _native.compiled_or(read_in_python, "read_parcel")
attach_parcel: Final = _native.compiled_or(attach_in_python, "attach_parcel")
read_given: Final = _native.compiled_or(given_in_python, "read_given")
pack_parcel: Final = _native.compiled_or(pack_in_python, "pack_parcel")
