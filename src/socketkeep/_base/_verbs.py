"""The verbs that let go of a connection, and what each does: the one statement of it.

The documentation's table is made from this, and a test does each verb and looks.
"""

from __future__ import annotations

from enum import Enum
from typing import Final, NamedTuple


class Peer(Enum):
    """The end that the peer sees, once it has read."""

    EOF = "all that was sent, then EOF, at once"
    NOTHING = "nothing, while another handle lives; with the last one, EOF"
    RESET = "a reset; what was on its way is lost"


class Descriptor(Enum):
    """The fate of this process's handle."""

    FREED = "freed"
    OPEN = "open; `close` is still needed"


class Others(Enum):
    """The connection as the other holders of the socket find it."""

    ENDED = "the connection has ended for them"
    UNTOUCHED = "nothing has changed"
    CANNOT_SEND = "they can send no more either, and receive as before"


class Unread(Enum):
    """The fate of bytes that have come and were not received."""

    DROPPED = "dropped, and so is what still comes for a bounded time, that no reset cuts the reply"
    LEFT = "what lies in the kernel is left to the other holders; `unread` goes with this handle"
    KEPT = "can still be received, as can what comes later"
    LOST = "lost"


class Verb(NamedTuple):
    """One way to let go; `call` is how it is written."""

    call: str
    peer: Peer
    descriptor: Descriptor
    others: Others
    unread: Unread


VERBS: Final = (
    Verb("close()", Peer.EOF, Descriptor.FREED, Others.ENDED, Unread.DROPPED),
    Verb("release()", Peer.NOTHING, Descriptor.FREED, Others.UNTOUCHED, Unread.LEFT),
    Verb("send_eof()", Peer.EOF, Descriptor.OPEN, Others.CANNOT_SEND, Unread.KEPT),
    Verb("shutdown(SHUT_WR)", Peer.EOF, Descriptor.OPEN, Others.CANNOT_SEND, Unread.KEPT),
    Verb("abort()", Peer.RESET, Descriptor.FREED, Others.ENDED, Unread.LOST),
)
