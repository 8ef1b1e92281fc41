"""The outcome of a call, and how that is written."""

from __future__ import annotations

import errno
from collections.abc import Mapping
from typing import Any, Final

from msgspec import Struct

from socketkeep._lab._actor import CallReply

#: Errors that speak of this machine's means, and not of what sockets do.
WANT: Final = frozenset(
    {errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS, errno.EPERM, errno.EACCES}
    | {errno.ENETUNREACH, errno.ENETDOWN, errno.EADDRNOTAVAIL}
)
HANGS: Final = "hangs"
_LONGEST: Final = 28


class CannotBeDone(Exception):
    """An experiment cannot be made here, or not be finished; the message says why."""


class CallOutcome(Struct, frozen=True):
    """The outcome of a call: `value`, or an error.

    text: the value as Python writes it, the error's name (of its errno where it has one), or
    "hangs".
    """

    text: str
    value: Any = None
    message: str = ""
    failed: bool = False
    seconds: float = 0.0
    waits: int = 0

    def __str__(self) -> str:
        return self.text


def outcome_of(reply: CallReply) -> CallOutcome:
    """Return what a process has replied, in words."""
    text = errno.errorcode.get(reply.code, reply.error) if reply.error else _text(reply.value)
    return CallOutcome(
        text, reply.value, reply.message, bool(reply.error), reply.seconds, reply.waits
    )


def written(call: str, arguments: tuple[Any, ...]) -> str:
    """Return a call as it would be written; what is text names a socket or a constant."""
    words = [each if isinstance(each, str) else _text(each) for each in arguments]
    return f"{call}({', '.join(words)})"


def _text(value: object) -> str:
    text = repr(value)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"


def counted(handles: Mapping[str, int]) -> str:
    """Return numbers of handles by process as text."""
    return ", ".join(f"{process} {number}" for process, number in handles.items()) or "none"
