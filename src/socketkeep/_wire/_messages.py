"""The messages between keeper, templates and workers.

Encoded as msgpack arrays with a tag.  Fields are only ever appended, each with a default, so that
two versions of Socketkeep can talk: an older reader ignores what it does not know, a newer one
takes the default for what an older writer did not send.

A field that is a `Descriptor` is not encoded: it rides beside the message.  How many come with a
message its class says by them: one without a default must come, one with a default may, in their
order; `Descriptors` takes the rest.
"""

# Without `from __future__ import annotations`: as texts they would be compiled by each process.
from collections.abc import Callable, Sequence
from typing import (
    TYPE_CHECKING,
    Annotated,
    Any,
    Final,
    Literal,
    NamedTuple,
    TypeAlias,
    Union,
    cast,
    get_args,
)

from socketkeep._base import _msgpack
from socketkeep._base._structs import PLAIN, Struct, astuple

Descriptor: TypeAlias = Annotated[int, "beside the message"]
Descriptors: TypeAlias = Annotated[Sequence[int], "beside the message"]
#: A descriptor that did not come.
ABSENT: Final = -1


class Message(Struct, array_like=True, frozen=True):
    """Base of all messages; the tag of each is its class's name."""


class LoadTarget(Message, frozen=True, tag="Load"):
    """Keeper to template: load the user's code, and listen on `sockets`."""

    config: bytes
    generation: int
    boot: int
    listeners: list[str]
    sockets: Descriptors
    name: str = ""
    descriptors: int = 0  # the soft limit to set; 0: none
    rendezvous: str = ""  # the directory where workers wait for another keeper; "": nowhere
    allow: list[str] = []  # of the files of networks: who is served
    deny: list[str] = []  # and who is not
    inlets: list[
        int
    ] = []  # listeners that edges accept from; behind the `sockets` come their inlets
    settings: bytes = b""  # the options of the listeners, as `_config/_chosen.py` has them
    idle: dict[str, str] | None = None  # what is wrong with the options, by the way of serving
    bound_as: list[str] = []  # the listeners as --bind has them, without their options


class Loaded(Message, frozen=True, tag="Loaded"):
    """Template to keeper: the code is loaded."""

    model: Literal["fork", "prefork", "thread", "async"]
    resumable: bool
    threads: list[str]
    on_crash: Literal["close", "reset", "resume"] = "close"
    redeliver: bool = False
    on_taken: Literal["close", "keep"] = "close"  # what becomes of who loses its name
    on_push: bool = False  # pushes are for its code, not for the peer as they are
    on_leaving: bool = False  # its code has a last word for a peer whose connection is to end
    never_commits: bool = False  # a resumable handler that is seen to answer and not to commit


class LoadFailed(Message, frozen=True, tag="LoadFailed"):
    """Template to keeper: the code cannot be served; the template exits."""

    error: str
    exit_code: int


class ForkWorker(Message, frozen=True, tag="ForkWorker"):
    """Keeper to template: fork a worker.

    channel: its end of it.  wake: the eventfd that wakes its handlers.  census: where connections
    are counted by address, and the lane in it that is the worker's, 0: none.
    """

    serial: int
    slot: int
    channel: Descriptor
    scoreboard: Descriptor
    wake: Descriptor
    census: Descriptor = ABSENT
    lane: int = 0


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
    why: Literal["", "stop", "drain", "reload"] = ""  # what peers are told; "": what `how` suggests
    # When the first of the worker's connections is to obey an order to close, on the monotonic
    # clock, and how many seconds later each of the others; 0: all at once.
    begins: float = 0.0
    apart: float = 0.0


class ConnectionDetached(Message, frozen=True, tag="Detached", gc=False):
    """Worker to keeper: I no longer serve this connection; give it to another.

    connection: none when the keeper has a handle of it.  answer: from a sender that does not read
    the channel itself, the write end of a pipe that takes one byte once the keeper holds the
    connection.  Without the pipe the keeper says so in the row, too: a message may never arrive,
    should the keeper die.
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
    connection: Descriptor = ABSENT
    answer: Descriptor = ABSENT
    deadline: int = 0  # when it ends, CLOCK_MONOTONIC in ns; 0: at no moment that is set
    inflow_full_at: int = 0  # when as many bytes as in one second may come at once again
    # The record of the last reply of a worker that died, to be completed before all else.  Written
    # by the keeper alone: who gives a connection up has completed it.
    reply: bytes = b""
    name: str = ""  # what it is called, as `Registered` has it
    groups: list[str] = []
    labels: dict[str, str] = {}
    # How much has passed over the plain end of an edge, by who has counted it along: written to it
    # and taken from it by workers; -1: that is not known.
    written: int = -1
    taken_in: int = -1
    trace: str = ""  # what the service's hooks have noted for those where it goes


class Acknowledged(Message, frozen=True, tag="Acknowledged"):
    """Keeper to worker: the detached connection is held (or, at the fd limit, it is not)."""

    id: str
    epoch: int
    taken: bool


class Attach(Message, frozen=True, tag="Attach"):
    """Keeper to worker: serve this connection."""

    id: str
    epoch: int
    attached: Literal["accepted", "reload", "parked", "upgrade", "crash", "pushed"]
    listener: int
    peer: str
    state: bytes | None
    unread: bytes
    accepted_at: int
    bytes_in: int
    bytes_out: int
    connection: Descriptor
    redelivered: bool = False
    kept: bool = False  # the keeper goes on holding a handle of it
    returnable: bool = False  # parked again, it may come back by the message alone, unanswered
    proxy: bytes = b""  # the PROXY header that it began with
    deadline: int = 0  # as `ConnectionDetached` has it
    inflow_full_at: int = 0  # likewise
    taken: bool = False  # the worker need not say `Attached`: its row does, when it has died
    name: str = ""  # what it is called, as `Registered` has it
    groups: list[str] = []
    labels: dict[str, str] = {}
    reply: bytes = b""  # as `ConnectionDetached` has it
    written: int = -1  # likewise
    taken_in: int = -1  # likewise
    trace: str = ""  # likewise


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
    """Worker to keeper: hold a handle of this connection.

    The keeper acknowledges in the row's KEEP word; what else it must know stands in the row.
    """

    id: str
    epoch: int
    row: int
    listener: int
    peer: str
    connection: Descriptor
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
    reply: bytes = b""  # the record that stands in front of the state
    deadline: int = 0  # as `ConnectionDetached` has it


class Free(Message, frozen=True, tag="Free"):
    """Worker to keeper: while CROWDED is set, a seat has become free."""


class Worn(Message, frozen=True, tag="Worn"):
    """Worker to keeper: have another worker take my place, and retire me."""

    reason: str


class Ping(Message, frozen=True, tag="Ping"):
    """Keeper to worker: write the time into the scoreboard's BEAT word, to show you are alive."""


class Crowded(Message, frozen=True, tag="Crowded"):
    """Keeper to worker: others wait for a seat; the scoreboard's CROWDED word says until when."""


class ReattachOffer(Message, frozen=True, tag="Stranded"):
    """Worker to a keeper that did not start it: mine has died, take me over.

    wake: the eventfd that wakes its handlers.  sockets: in the order of `listeners`, unless it has
    closed them.
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
    scoreboard: Descriptor
    wake: Descriptor
    sockets: Descriptors


class ServeTls(Message, frozen=True, tag="ServeTls"):
    """Keeper to edge: speak TLS on these listeners, `sockets`, once `Admit` says so.

    numbers: those of the listeners, in the order of `sockets`, by which the configuration has them.
    Behind the listeners come, in the same order, the outlets by which connections are passed on.
    """

    config: bytes
    listeners: list[str]  # all of the server's
    numbers: list[int]
    sockets: Descriptors
    name: str = ""
    secrets: list[bytes] = []  # as `TicketSecrets` has them
    serial: int = 0  # the edge's, of all that there have been; 0: it is not known


class TicketSecrets(Message, frozen=True, tag="TicketSecrets"):
    """Keeper to edge: have the keys of session tickets from these, the first for new ones."""

    secrets: list[bytes]


class Pace(Message, frozen=True, tag="Pace"):
    """Keeper to edge, before `Admit`: accept no faster than the rates say.

    census: where it stands how fast all accept together.
    """

    census: Descriptor


class EdgeReady(Message, frozen=True, tag="EdgeReady"):
    """Edge to keeper: my certificates are read; before it can say so it may say `StartFailed`."""


class Admit(Message, frozen=True, tag="Admit"):
    """Keeper to edge: accept connections, or leave them in the kernel's queue."""

    accepting: bool


class TlsFile(Message, frozen=True, tag="TlsFile"):
    """Keeper to edge: a file that you may not open, in place of the one that you had by that path.

    Those that there are come before `ServeTls`, and before `RenewCertificates` when there are new
    ones.
    """

    path: str
    file: Descriptor


class RenewCertificates(Message, frozen=True, tag="RenewCertificates"):
    """Keeper to edge: read the files of TLS anew."""


class StartTls(Message, frozen=True, tag="StartTls"):
    """Worker to keeper: have an edge shake hands with the client of this connection.

    From here on the keeper has no handle of it.  plain: one end of a pair, whose other end is the
    worker's; the edge answers over it, and then has the connection's plaintext there.
    unread: what has been received of the handshake.
    """

    id: str
    epoch: int
    listener: int
    peer: str
    unread: bytes
    proxy: bytes  # the PROXY header that it began with
    connection: Descriptor
    plain: Descriptor


class ShakeHands(Message, frozen=True, tag="ShakeHands"):
    """Keeper to edge: what a worker has asked for by `StartTls`."""

    listener: int
    peer: str
    unread: bytes
    proxy: bytes
    connection: Descriptor
    plain: Descriptor


class AskBytes(Message, frozen=True, tag="AskBytes"):
    """Keeper to edge: say how many bytes of a connection have passed.

    question: stands in the answer.  number: the edge's own, as `Passed` and the facts of the
    connection have it.
    """

    question: int
    number: int


class BytesPassed(Message, frozen=True, tag="BytesPassed"):
    """Edge to keeper: so many bytes of a connection have passed.

    taken: of what the worker's side has sent.  waiting: how many more of these are in the kernel.
    given: to the worker's side.  All are -1 when there is no such connection any more.
    """

    question: int
    taken: int
    waiting: int
    given: int


class CertificateTold(Struct, array_like=True, frozen=True):
    """A certificate that an edge has; expires: in seconds of the epoch, 0 for what it has."""

    listener: int
    path: str
    names: list[str]
    expires: int


class EdgeReport(Message, frozen=True, tag="EdgeReport"):
    """Edge to keeper: what it has and has done, now and then.

    handshakes: by version.  failed: by why.
    """

    open: int = 0
    shaking: int = 0
    handshakes: dict[str, int] = {}
    resumed: int = 0
    failed: dict[str, int] = {}
    certificates: list[CertificateTold] = []


class Registered(Message, frozen=True, tag="Registered"):
    """Worker to keeper: what a connection of mine is called from here on, all of it.

    line: one end of a pair (SOCK_SEQPACKET): what is pushed to the connection goes there, and the
    answers come by it, from a handler that does not read the channel itself.
    """

    id: str
    epoch: int
    name: str
    groups: list[str]
    labels: dict[str, str]
    line: Descriptor = ABSENT


class OpenLine(Message, frozen=True, tag="OpenLine"):
    """Worker to keeper: letters come by this line (SOCK_SEQPACKET), and the answers go there."""

    line: Descriptor


class NameTaken(Message, frozen=True, tag="NameTaken"):
    """Keeper to worker: another connection has this connection's name now.

    close: it is to end.
    """

    id: str
    epoch: int
    name: str
    close: bool


class Letter(Struct, array_like=True, frozen=True, gc=False):
    """A message that is pushed.

    number: the sender's, by which it is answered.  to: from a worker a name or, with `group`, a
    group; from the keeper an id or a group.  until: CLOCK_MONOTONIC in ns; past it it is not to be
    handed over.  asks: nothing is handed over, it is told who has the name or is in the group.
    """

    number: int
    to: str
    data: bytes
    until: int
    group: bool = False
    asks: bool = False


class PresenceTold(Struct, array_like=True, frozen=True, gc=False):
    """A connection that has a name, or is in a group, and the node where it is."""

    node: str
    id: str
    epoch: int
    name: str
    member: bool = False  # it is in the group that was asked for


BEGUN: Final = 6


class LetterTold(Struct, array_like=True, frozen=True, gc=False):
    """The outcome of a `Letter`.

    outcome: one of `Outcome`; from a worker 0, it has no such connection any more, or `BEGUN`, it
    waits for room at the peer, and another answer follows.  id, epoch: of
    the connection.  delivered, failed: of a group, how many.  node: of another machine, where that
    was.  found: what was asked for by a letter that asks; silent: how many nodes did not answer.
    """

    number: int
    outcome: int
    id: str = ""
    epoch: int = 0
    delivered: int = 0
    failed: int = 0
    node: str = ""
    found: list[PresenceTold] = []
    silent: int = 0


class Push(Message, frozen=True, tag="Push"):
    """Worker to keeper: have these delivered, in their order."""

    letters: list[Letter]


class Deliver(Message, frozen=True, tag="Deliver"):
    """Keeper to worker: deliver these to connections of yours, in their order."""

    letters: list[Letter]


class Delivered(Message, frozen=True, tag="Delivered"):
    """Worker to keeper: what has become of letters that it was to deliver.

    Said before it gives up or ends the connection: what is not answered then was not delivered.
    """

    answers: list[LetterTold]


class Told(Message, frozen=True, tag="Told"):
    """Keeper to worker: what has become of letters that it has sent."""

    answers: list[LetterTold]


class Disconnect(Message, frozen=True, tag="Disconnect"):
    """Keeper to worker: end this connection, where it waits for input, or at once by force."""

    id: str
    epoch: int
    force: bool = False


class JoinCluster(Message, frozen=True, tag="JoinCluster"):
    """Keeper to the cluster's process, first: join as this node, which people are told as `label`.

    config: as JSON.  From here on letters (`Push`) and answers (`Told`) go both ways.
    """

    config: bytes
    node: str
    label: str
    cluster: str


class NamesTold(Message, frozen=True, tag="NamesTold"):
    """Keeper to the cluster's process: what connections here are called, and are not any more.

    names: name, id, epoch, and since when, in seconds of the system's clock, 0: not known.
    """

    names: list[tuple[str, str, int, float]]
    gone: list[str]
    groups: list[str]
    groups_gone: list[str]


class TakenElsewhere(Message, frozen=True, tag="TakenElsewhere"):
    """The cluster's process to keeper: a connection of another node has this one's name now."""

    id: str
    name: str
    node: str


class ClusterTold(Message, frozen=True, tag="ClusterTold"):
    """The cluster's process to keeper: how the cluster is.

    state: "connecting", "connected", "away", or "refused": by the broker, or by the other nodes.
    server: the broker's address.  error: why it is not connected.  since: when that began,
    CLOCK_MONOTONIC in seconds.  nodes: the labels of all that there are, this one's too.
    counts: since the process has started, as `COUNTS` in `_cluster/_node.py` has them.
    """

    state: str
    server: str = ""
    error: str = ""
    since: float = 0.0
    nodes: list[str] = []
    counts: dict[str, int] = {}


class GiveUp(Message, frozen=True, tag="GiveUp"):
    """Keeper to worker: detach so many of your connections that wait at a safe point, or fewer.

    Others have room for them.
    """

    count: int


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
    | ReattachOffer
    | ServeTls
    | Pace
    | EdgeReady
    | Admit
    | TlsFile
    | RenewCertificates
    | TicketSecrets
    | AskBytes
    | BytesPassed
    | StartTls
    | ShakeHands
    | EdgeReport
    | Registered
    | OpenLine
    | NameTaken
    | Push
    | Deliver
    | Delivered
    | Told
    | Disconnect
    | GiveUp
    | JoinCluster
    | NamesTold
    | TakenElsewhere
    | ClusterTold
)


class _Form(NamedTuple):
    """The form of messages that have descriptors: those stand side by side in it."""

    kind: type[Message]
    beside: slice  # the numbers of their fields
    least: int
    most: int  # that have a field each
    rest: bool  # whether the last field takes all others
    tag: str

    @classmethod
    def of(cls, kind: type[Message]) -> "_Form | None":
        names, types = kind.__struct_fields__, kind.__annotations__
        beside = [n for n, name in enumerate(names) if types[name] in (Descriptor, Descriptors)]
        if not beside:
            return None
        defaulted = names[len(names) - len(kind.__struct_defaults__) :]
        single = [names[n] for n in beside if types[names[n]] is Descriptor]
        least = sum(name not in defaulted for name in single)
        place = slice(beside[0], beside[-1] + 1)
        return cls(kind, place, least, len(single), len(single) < len(beside), _tag_of(kind))

    def message(self, values: Sequence[Any], fds: Sequence[int], *, lost: bool) -> Message:
        """Return the message of those values.  Raises ValueError for another number of descriptors.

        lost: there were more of them, and those did not arrive.
        """
        if (len(fds) < self.least and not lost) or (len(fds) > self.most and not self.rest):
            raise ValueError(f"it came with {len(fds)} descriptors")
        first = self.beside.start
        single = *fds[: self.most], *[ABSENT] * (self.most - len(fds))
        rest = (fds[self.most :],) if self.rest else ()
        return self.kind(*values[:first], *single, *rest, *values[first:])


def _tag_of(kind: type[Message]) -> str:
    return str(kind.__struct_config__.tag)


_KINDS: Final[tuple[type[Message], ...]] = get_args(AnyMessage)
_forms: Final = {kind: form for kind in _KINDS if (form := _Form.of(kind))}
#: The tags of the messages that this version knows.
TAGS: Final = frozenset(map(_tag_of, _KINDS))

#: A message, or of one with descriptors its form and the values of its other fields.
_Read: TypeAlias = Message | tuple[_Form, Sequence[Any]]


def _typed() -> tuple[Callable[[Message], bytes], Callable[[bytes | memoryview], _Read]]:
    """Return what writes messages without descriptors, and what reads all, by msgspec.

    Each value is checked to be of its field's type.
    """
    import msgspec

    def without_descriptors(form: _Form) -> type[msgspec.Struct]:
        kind = form.kind
        names, types = kind.__struct_fields__, kind.__annotations__
        defaults = kind.__struct_defaults__
        defaulted = dict(zip(names[len(names) - len(defaults) :], defaults, strict=True))
        return msgspec.defstruct(
            kind.__name__,
            [
                (name, types[name], defaulted.get(name, msgspec.NODEFAULT))
                for name in (*names[: form.beside.start], *names[form.beside.stop :])
            ],
            tag=form.tag,
            array_like=True,
            frozen=True,
        )

    forms = {without_descriptors(form): form for form in _forms.values()}
    plain = [kind for kind in _KINDS if kind not in _forms]
    # What it decodes to, a type cannot say.
    decoder: Any = msgspec.msgpack.Decoder(Union[(*forms, *plain)])

    def read(data: bytes | memoryview) -> _Read:
        message = decoder.decode(data)
        form = forms.get(type(message))
        return message if form is None else (form, astuple(message))

    return msgspec.msgpack.Encoder().encode, read


def _untyped() -> tuple[Callable[[Message], bytes], Callable[[bytes | memoryview], _Read]]:
    """Return the same where messages are plain structs; their writer, the keeper, is believed."""
    from socketkeep._base._plain_structs import ArrayPlan

    plans: Final = {
        _tag_of(kind): (
            _forms.get(kind),
            ArrayPlan(kind, _forms[kind].beside if kind in _forms else slice(0, 0)),
        )
        for kind in _KINDS
    }

    def write(message: Message) -> bytes:
        return _msgpack.pack((_tag_of(type(message)), *astuple(message)))

    def read(data: bytes | memoryview) -> _Read:
        tag, *values = _array(data)
        if tag not in plans:
            raise ValueError(f"Invalid value {tag!r}")
        form, plan = plans[tag]
        read = plan.values(values)
        return plan.kind(*read) if form is None else (form, read)

    return write, read


_write, _read = _typed() if TYPE_CHECKING or not PLAIN else _untyped()


def encode(message: Message) -> bytes:
    """Return `message` as it goes over a channel, but for its descriptors."""
    return split(message)[0]


def descriptors_of(message: Message) -> list[int]:
    """Return the descriptors that ride along with `message`, in order."""
    return split(message)[1]


def split(message: Message) -> tuple[bytes, list[int]]:
    """Return `message` as it goes over a channel, and the descriptors that ride along, in order."""
    form = _forms.get(type(message))
    if form is None:
        return _write(message), []
    values, beside = astuple(message), form.beside
    body = _msgpack.pack((form.tag, *values[: beside.start], *values[beside.stop :]))
    rest = values[beside.stop - 1] if form.rest else ()
    single = values[beside.start : beside.start + form.most]
    return body, [*[fd for fd in single if fd != ABSENT], *rest]


class Unreadable(Exception):
    """The bytes that arrived are no message of this version; `tag` is their type, if any."""

    def __init__(self, tag: str, error: str) -> None:
        super().__init__(error)
        self.tag = tag


def decode(
    data: bytes | memoryview, descriptors: Sequence[int] = (), *, lost: bool = False
) -> AnyMessage:
    """Return the message in `data`, with the descriptors that came with it.

    lost: there were more of them, which did not arrive.  Raises Unreadable when this version knows
    no such message, or none with so many descriptors.
    """
    try:
        found = _read(data)
        if type(found) is tuple:
            form, values = found
            message = form.message(values, descriptors, lost=lost)
        elif descriptors:
            raise ValueError("it takes no descriptors")
        else:
            message = cast("Message", found)
    except (ValueError, RecursionError) as error:  # DecodeError, UnicodeDecodeError
        raise Unreadable(_tag(data), str(error)) from None
    return cast("AnyMessage", message)


def _tag(data: bytes | memoryview) -> str:
    try:
        tag = _array(data)[0]
    except (ValueError, RecursionError):
        return ""
    return tag if isinstance(tag, str) else ""


def _array(data: bytes | memoryview) -> list[Any]:
    found = _msgpack.unpack(data)
    if not isinstance(found, list) or not found:
        raise ValueError("Expected `array`")
    return found
