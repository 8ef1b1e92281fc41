"""The messages between keeper, templates and workers.

Encoded as msgpack arrays with a tag.  Fields are only ever appended, each with a default, so that
two versions of Socketkeep can talk: an older reader ignores what it does not know, a newer one
takes the default for what an older writer did not send.

What rides along as descriptors stands in each docstring, in order.
"""

# Without `from __future__ import annotations`: as texts they would be compiled by each process.
from typing import Final, Literal, TypeAlias, get_args

import msgspec


class Message(msgspec.Struct, array_like=True, frozen=True):
    """Base of all messages; the tag of each is its class's name."""


class LoadTarget(Message, frozen=True, tag="Load"):
    """Keeper to template: load the user's code.  Descriptors: the listeners."""

    config: bytes
    generation: int
    boot: int
    listeners: list[str]
    name: str = ""
    descriptors: int = 0  # the soft limit to set; 0: none
    rendezvous: str = ""  # the directory where workers wait for another keeper; "": nowhere


class Loaded(Message, frozen=True, tag="Loaded"):
    """Template to keeper: the code is loaded."""

    model: Literal["fork", "prefork", "thread", "async"]
    resumable: bool
    threads: list[str]
    on_crash: Literal["close", "reset", "resume"] = "close"
    redeliver: bool = False


class LoadFailed(Message, frozen=True, tag="LoadFailed"):
    """Template to keeper: the code cannot be served; the template exits."""

    error: str
    exit_code: int


class ForkWorker(Message, frozen=True, tag="ForkWorker"):
    """Keeper to template: fork a worker.

    Descriptors: its end of the channel, its scoreboard, the eventfd that wakes its handlers.
    """

    serial: int
    slot: int


class Forked(Message, frozen=True, tag="Forked"):
    """Template to keeper: the worker runs; the keeper is its parent and must reap it."""

    serial: int
    pid: int


class Began(Message, frozen=True, tag="Began"):
    """Worker to keeper, over its template's channel, before it does anything else: it runs.

    Says what `Forked` says.  Who sends that may be killed between the fork and its word.
    """

    serial: int
    pid: int


class ForkFailed(Message, frozen=True, tag="ForkFailed"):
    """Template to keeper: the system has no room for another process."""

    serial: int
    error: str


class Ready(Message, frozen=True, tag="Ready"):
    """Worker to keeper: I can accept connections."""

    pid: int


class StartFailed(Message, frozen=True, tag="StartFailed"):
    """Worker to keeper: the lifespan or the model could not start; I exit."""

    error: str


class Seats(Message, frozen=True, tag="Seats"):
    """Keeper to worker: accept new connections while you serve fewer than this.

    Nothing is accepted before the first such message, so that a generation that is rolled back has
    taken no connection.  What is above the figure up to the worker's rows is kept for `Attach`.
    """

    accept_below: int
    departures: int = 0  # how many that the worker detached or refused that takes into account
    full: bool = False  # a seat that becomes free is not for a new connection
    serial: int = 0  # shown in the scoreboard by a worker that goes by it


class CloseListeners(Message, frozen=True, tag="CloseListeners"):
    """Keeper to worker: accept no more, and go on; for a drain."""


class Retire(Message, frozen=True, tag="Retire"):
    """Keeper to worker: accept no more, give up your connections as `how` says, then exit."""

    how: Literal["move", "close", "finish"]
    deadline: float
    more: bool = False  # but wait for another such word: connections are still to come, by `Attach`


class ConnectionDetached(Message, frozen=True, tag="Detached", gc=False):
    """Worker to keeper: I no longer serve this connection; give it to another.

    Descriptors: the connection, and, from a sender that does not read the channel itself, the
    write end of a pipe that takes one byte once the keeper holds the connection.  Without the pipe
    the keeper says so in the row, too: a message may never arrive, should the keeper die.
    """

    id: str
    epoch: int
    listener: int
    peer: str
    state: bytes | None
    unread: bytes
    accepted_at: int
    bytes_in: int
    bytes_out: int
    parked: bool = False  # watch it until bytes arrive, then give it to another
    active_at: int = 0  # when bytes last passed, as in the row
    redelivered: bool = False  # a worker that died may have dealt with what is uncommitted
    row: int = -1  # in the worker's scoreboard
    proxy: bytes = b""  # the PROXY header that it began with
    # It has not been served: its PROXY header is still to come, until this moment, CLOCK_MONOTONIC
    # in ns; 0: not so.  `unread` is the begin of the header then.
    header_by: int = 0


class Acknowledged(Message, frozen=True, tag="Acknowledged"):
    """Keeper to worker: the detached connection is held (or, at the fd limit, it is not)."""

    id: str
    epoch: int
    taken: bool


class Attach(Message, frozen=True, tag="Attach"):
    """Keeper to worker: serve this connection.  Descriptors: the connection."""

    id: str
    epoch: int
    attached: Literal["accepted", "reload", "parked", "upgrade", "crash"]
    listener: int
    peer: str
    state: bytes | None
    unread: bytes
    accepted_at: int
    bytes_in: int
    bytes_out: int
    redelivered: bool = False
    kept: bool = False  # the keeper goes on holding a handle of it
    returnable: bool = False  # parked again, it may come back by the message alone, unanswered
    proxy: bytes = b""  # the PROXY header that it began with


class Attached(Message, frozen=True, tag="Attached"):
    """Worker to keeper: I hold the connection and shall serve it."""

    id: str
    epoch: int
    row: int = -1  # its row in the worker's scoreboard


class AttachRefused(Message, frozen=True, tag="Refused"):
    """Worker to keeper: I cannot take the connection (no seat, or no descriptor arrived)."""

    id: str
    epoch: int
    reason: str


class Keep(Message, frozen=True, tag="Keep"):
    """Worker to keeper: hold a handle of this connection.  Descriptors: the connection.

    The keeper acknowledges in the row's KEEP word; what else it must know stands in the row.
    """

    id: str
    epoch: int
    row: int
    listener: int
    peer: str
    proxy: bytes = b""  # the PROXY header that it began with


class ConnectionEnded(Message, frozen=True, tag="Ended"):
    """Worker to keeper: these connections, which you hold too, have ended: let go of them."""

    connections: list[tuple[str, int]]  # id and epoch


class Orphaned(Message, frozen=True, tag="Orphaned"):
    """Worker to keeper: the process I forked for this connection, which you hold too, has died."""

    id: str
    epoch: int
    status: int  # the row's
    state: bytes | None
    bytes_in: int
    bytes_out: int


class Free(Message, frozen=True, tag="Free"):
    """Worker to keeper: while CROWDED is set, a seat has become free."""


class Worn(Message, frozen=True, tag="Worn"):
    """Worker to keeper: have another worker take my place, and retire me."""

    reason: str


class Ping(Message, frozen=True, tag="Ping"):
    """Keeper to worker: write the time into the scoreboard's BEAT word, to show you are alive."""


class Crowded(Message, frozen=True, tag="Crowded"):
    """Keeper to worker: others wait for a seat; the scoreboard's CROWDED word says until when."""


class Stranded(Message, frozen=True, tag="Stranded"):
    """Worker to a keeper that did not start it: mine has died, take me over.

    Descriptors: its scoreboard, the eventfd that wakes its handlers, and its listeners, in the
    order of `listeners`, unless it has closed them.
    """

    boot: int
    serial: int
    slot: int
    generation: int
    pid: int
    target: str
    model: Literal["fork", "prefork", "thread", "async"]
    resumable: bool
    on_crash: Literal["close", "reset", "resume"]
    redeliver: bool
    listeners: list[str]
    bound_as: list[str]  # what --bind said of each; "" for one that was passed to the keeper


AnyMessage: TypeAlias = (
    LoadTarget
    | Loaded
    | LoadFailed
    | ForkWorker
    | Forked
    | Began
    | ForkFailed
    | Ready
    | StartFailed
    | Seats
    | CloseListeners
    | Retire
    | ConnectionDetached
    | Acknowledged
    | Attach
    | Attached
    | AttachRefused
    | Keep
    | ConnectionEnded
    | Orphaned
    | Free
    | Worn
    | Ping
    | Crowded
    | Stranded
)

#: The tags of the messages that this version knows.
TAGS: Final = frozenset(each.__struct_config__.tag for each in get_args(AnyMessage))

_encoder = msgspec.msgpack.Encoder()
_decoder: msgspec.msgpack.Decoder[AnyMessage] = msgspec.msgpack.Decoder(AnyMessage)


def encode(message: Message) -> bytes:
    """Return `message` as it goes over a channel."""
    return _encoder.encode(message)


class Unreadable(Exception):
    """What arrived is no message of this version; `tag` is its type as far as it has one."""

    def __init__(self, tag: str, error: str) -> None:
        super().__init__(error)
        self.tag = tag


def decode(data: bytes | memoryview) -> AnyMessage:
    """Return the message in `data`.  Raises Unreadable when this version knows none such."""
    try:
        return _decoder.decode(data)
    except (ValueError, RecursionError) as error:  # DecodeError, UnicodeDecodeError
        raise Unreadable(_tag(data), str(error)) from None


def _tag(data: bytes | memoryview) -> str:
    try:
        found = msgspec.msgpack.decode(data)
    except (ValueError, RecursionError):
        return ""
    return found[0] if isinstance(found, list) and found and isinstance(found[0], str) else ""
