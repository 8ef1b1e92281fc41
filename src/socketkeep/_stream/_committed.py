"""The state that a handler commits, as it travels from one worker to the next."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any, Final

from socketkeep._base._errors import StateMismatch, StateNotEncodable, StateTooLarge

#: A committed state encodes to at most this many bytes.
STATE_LIMIT: Final = 65536


def unpack_state(packed: bytes, of_type: Any) -> Any:
    """Return the state in `packed`, decoded to `of_type`.  Raises StateMismatch."""
    import msgspec  # not before a state is committed or read: it takes longer to import than we

    try:
        return msgspec.msgpack.decode(packed, type=of_type)
    except msgspec.DecodeError as error:
        raise StateMismatch(f"the committed state does not fit {of_type!r}: {error}") from error


@cache
def encoder() -> Callable[[object], bytes]:
    """Return what encodes a state; importing it takes long, and a process that forks does it once.

    Raises what msgspec raises.
    """
    import msgspec

    return msgspec.msgpack.Encoder().encode


def pack_state(state: object, operation: str = "commit") -> bytes:
    """Return `state` encoded, for that operation.  Raises StateNotEncodable and StateTooLarge."""
    try:
        packed = encoder()(state)
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise StateNotEncodable(
            f"{operation}: a state of type {type(state).__qualname__} cannot be encoded: {error}"
        ) from error
    if len(packed) > STATE_LIMIT:
        raise StateTooLarge(
            f"{operation}: the state encodes to {len(packed)} bytes, the limit is {STATE_LIMIT}: "
            "commit what identifies the state, and keep the rest elsewhere"
        )
    return packed
