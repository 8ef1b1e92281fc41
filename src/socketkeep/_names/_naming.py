"""The names of a connection: its name, its groups, its labels; and their bounds.

All of it stands in the keeper's memory and on people's terminals, and most of it a peer has chosen:
so it is bounded, and can be printed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from socketkeep._base._errors import LimitExceeded

#: Characters of a name, a group, a label's key or its value.
LONGEST: Final = 128
MOST_GROUPS: Final = 64
MOST_LABELS: Final = 16
#: Endpoints of one worker, see `Office`.
MOST_ENDPOINTS: Final = 64
#: Bytes of a message that is pushed.
MESSAGE_LIMIT: Final = 65536


class Registration:
    """The names of one connection."""

    __slots__ = ("groups", "labels", "name")

    def __init__(
        self, name: str = "", groups: frozenset[str] = frozenset(), labels: Mapping[str, str] = {}
    ) -> None:
        self.name = name
        self.groups = groups
        self.labels = labels


def is_fit(text: str) -> bool:
    """Return whether it may be a name, a group or a part of a label."""
    return 0 < len(text) <= LONGEST and text.isprintable()


def check_text(what: str, text: object) -> str:
    """Return the text.  Raises TypeError, and ValueError for what cannot be a name."""
    if not isinstance(text, str):
        raise TypeError(f"{what} is text, not {type(text).__name__}")
    if not text:
        raise ValueError(f"{what} has at least one character, and this has none")
    if len(text) > LONGEST:
        raise ValueError(f"{what} has at most {LONGEST} characters, and this has {len(text)}")
    if not text.isprintable():
        raise ValueError(f"{what} has printable characters alone, and this is {text!r}")
    return text


def check_labels(labels: Mapping[str, str]) -> dict[str, str]:
    """Return a copy of the labels.  Raises TypeError, ValueError."""
    if not isinstance(labels, Mapping):
        raise TypeError(f"labels are a mapping of texts to texts, not {type(labels).__name__}")
    if len(labels) > MOST_LABELS:
        raise ValueError(f"a connection has at most {MOST_LABELS} labels, not {len(labels)}")
    return {
        check_text("the name of a label", key): check_text(f"the label {key!r}", value)
        for key, value in labels.items()
    }


def check_message(message: bytes | bytearray | memoryview) -> bytes:
    """Return the message as bytes.  Raises TypeError, and LimitExceeded beyond 64 KiB."""
    if not isinstance(message, bytes | bytearray | memoryview):
        raise TypeError(f"a message is bytes, not {type(message).__name__}")
    data = bytes(message)
    if len(data) > MESSAGE_LIMIT:
        raise LimitExceeded(
            f"refused: a pushed message has at most {MESSAGE_LIMIT} bytes, not {len(data)}"
        )
    return data
