"""The state that a handler commits, as it travels from one worker to the next."""

from __future__ import annotations

from typing import Any, Final

from socketkeep._errors import StateMismatch, StateNotEncodable, StateTooLarge

#: A committed state encodes to at most this many bytes.
STATE_LIMIT: Final = 65536


def unpack_state(packed: bytes, of_type: Any) -> Any:
    """Return the state in `packed`, decoded to `of_type`.  Raises StateMismatch."""
    import msgspec  # not before a state is committed or read: it takes longer to import than we

    try:
        return msgspec.msgpack.decode(packed, type=of_type)
    except msgspec.DecodeError as error:
        raise StateMismatch(f"the committed state does not fit {of_type!r}: {error}") from error


def pack_state(state: object) -> bytes:
    """Return `state` encoded.  Raises StateNotEncodable and StateTooLarge."""
    import msgspec

    try:
        packed = msgspec.msgpack.encode(state)
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise StateNotEncodable(
            f"commit: a state of type {type(state).__qualname__} cannot be encoded: {error}"
        ) from error
    if len(packed) > STATE_LIMIT:
        raise StateTooLarge(
            f"commit: the state encodes to {len(packed)} bytes, the limit is {STATE_LIMIT}: "
            "commit what identifies the state, and keep the rest elsewhere"
        )
    return packed
