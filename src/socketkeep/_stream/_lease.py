"""The seam between a connection and the server that serves it.

The library knows the server only through these types, so a `Connection` is the same class in a
worker and in a plain script, where it is told nothing.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple, Protocol

from socketkeep._names._naming import Registration
from socketkeep._stream._modes import Deadline
from socketkeep._stream._record import Record, blank_record
from socketkeep._stream._waiting import Orders

if TYPE_CHECKING:  # asyncio is for who uses it
    from asyncio import AbstractEventLoop

#: Why a server ends a connection: it stops, or is drained; the code or the worker that serves it is
#: replaced, and cannot hand it over; somebody has asked for the end of this one.
Why = Literal["stop", "drain", "reload", "disconnect"]
Attached = Literal["accepted", "reload", "parked", "upgrade", "crash", "pushed"]
#: Of these the last handler has left the options of the socket as it wished.
PARKED: Final = ("parked", "pushed")
#: How a connection leaves its handler: the handler has ended, or is called again, in another worker
#: or when something comes.
HowLeft = Literal["ended", "moved", "parked"]

#: The connection whose handler runs in this context.  Tasks and threads that the handler starts by
#: `asyncio` inherit it; a broadcast from another handler does not.  A send in another context than
#: the connection's own is a push (it counts as sent only while its bytes go out).
handling: Final[ContextVar[object]] = ContextVar("socketkeep_handling", default=None)


class Aside(NamedTuple):
    """In the place of a connection: the service's code runs for it, and is not its handler.

    What is sent there is a push; what is logged there is about the connection all the same.
    """

    conn: Any


class Runaway(BaseException):
    """The handler goes on, and its connection is over: the text names it and says why.

    Raised in the place of `Detached` or another end that was swallowed, to end the handler's call.
    """


class Refusals(Protocol):
    """A server's answers to operations on a connection that is over for its handler."""

    def refused(self, conn: Any, operation: str, error: BaseException) -> BaseException:
        """Return what is raised: `error`, or what names the handler that does not end.

        Does not return to a sync handler that goes on even so; with an async one it sets
        `Hooks.abandoned`.
        """

    def at_end(self, conn: Any, operation: str) -> BaseException | None:
        """Return what is raised to a receive that asks on at the peer's EOF, None: nothing.

        As `refused` otherwise.
        """


@dataclass(frozen=True, slots=True)
class Order:
    """An order how a retiring worker's connections are to end, or one connection alone.

    move: resumable connections detach at their next safe point, others go on until `deadline`.
    close: resumable connections that wait with nothing uncommitted are closed, others go on.
    end: as close, and others are closed where they wait with nothing unread.
    finish: all go on.
    At `deadline` (seconds of the monotonic clock) what is left is closed in an orderly way.
    why: what people are told.  begins, apart: from when on, and how many seconds after each other,
    the worker's connections obey an order to close; a sync worker's rows stand for their turns.
    """

    how: Literal["move", "close", "end", "finish"]
    deadline: float
    why: Why = "stop"
    begins: float = 0.0
    apart: float = 0.0


#: Why an order was given by who does not say it: a keeper or a worker of an earlier version.
WHY_OF: Final[dict[str, Why]] = {"move": "reload", "close": "stop", "finish": "reload"}


class Leaving(NamedTuple):
    """The word that the server is to end a connection.

    Attributes:
        why: "stop", "drain", "reload" or "disconnect".
        deadline: The `Deadline` by which it must be over.
    """

    why: Why
    deadline: Deadline


class Farewell(Protocol):
    """The service's word to a peer whose connection is to end."""

    def say(self, conn: Any, leaving: Leaving) -> None:
        """Say it, in a receive of sync code."""

    async def say_async(self, conn: Any, leaving: Leaving) -> None:
        """Say it, in a receive of async code."""


class DrainSignal(Protocol):
    """The way in which a worker tells its sync handlers to let go of their connections.

    A receive that waits polls `wake_fd` beside the connection.  When it is readable the receive
    calls `woken()` and looks at `order`.  Once `order` is not None, the receive no longer polls
    `wake_fd` (it may stay readable for good) but bounds its wait by `order.deadline`, and calls
    `woken()` from time to time while the order is to finish: a later one may be to close.
    """

    @property
    def wake_fd(self) -> int: ...

    @property
    def order(self) -> Order | None: ...

    def asked(self, record: Record) -> Order | None:
        """Return the order that is for the connection of this record alone, if there is one."""

    @property
    def crowded(self) -> bool:
        """Return whether others wait for a seat: who waits then parks at once, not after a while.

        `wake_fd` becomes readable when this becomes true.  Asked at each wait: it must be cheap.
        """

    @property
    def full(self) -> bool:
        """Return whether all seats are taken.

        Others may come to wait for one then.  It must be cheap, too.
        """

    def is_awaited(self) -> bool:
        """Return whether others wait for a seat where only a system call tells.

        It is asked now and then.
        """

    def woken(self) -> None:
        """Read what made `wake_fd` readable, if anything did, and update `order`."""


class Backup(Protocol):
    """The way to entrust a connection to the keeper, so that it outlives its worker's death.

    A receive that is about to wait, at `at` on the monotonic clock or later, calls `offer`, and
    again at the moment that returns; None: never again.
    """

    at: float

    def offer(self) -> float | None: ...


class Front(Protocol):
    """The way to have an edge begin TLS on a connection that began in plain text."""

    def ask(self, sock: socket.socket, plain: socket.socket, unread: bytes) -> None:
        """Have the edge shake hands on `sock` and go on over `plain`, the other end of a pair.

        unread: what has been received of the handshake.  Raises OSError.
        """

    def done(self, plain: socket.socket, header: bytes) -> None:
        """Hands are shaken: the connection is this socket, and the header is what it has."""


class Registrar(Protocol):
    """The way to tell the server what a connection is called."""

    def changed(self, conn: Any) -> None:
        """Tell it all of `conn.registration`, which has changed."""


class Mail(Protocol):
    """The pushes to a connection that wait for its handler to come to a receive.

    waiting: whether there is anything.  A connection does not leave its worker meanwhile.
    """

    @property
    def waiting(self) -> bool: ...

    def deliver(self, conn: Any) -> BaseException | None:
        """Deal with what there is, in a receive of sync code; return what is to be raised."""

    async def hear(self, conn: Any) -> None:
        """Deal with what there is, in a receive of async code."""


class Reader(Protocol):
    """A reader of a descriptor: `_on_readable` is called whenever that is readable."""

    def _on_readable(self) -> None: ...


class SharedReactor(Protocol):
    """The reactor that an async worker's connections share, in place of the loop's methods.

    Who gives it to them has them told of forks, too (`_forking.own_all`).
    """

    @property
    def loop(self) -> AbstractEventLoop: ...

    def add_reader(self, fd: int, reader: Reader, /) -> None: ...

    def remove_reader(self, fd: int, /) -> object: ...


class Shelf(Protocol):
    """The place for a committed state, where the keeper finds it when this process has died.

    reply: the record of the reply that it follows, see `_replies`.
    """

    def put(self, state: bytes | None, reply: bytes = b"") -> None: ...


class Lease(NamedTuple):
    """One giving of one connection to one worker: what its handler's connection is told.

    Of all that a server tells, this changes no more; a tuple, since it is quickly made.
    """

    id: str = ""
    epoch: int = 0
    listener: str = ""
    attached: Attached = "accepted"
    resumable: bool = False
    state: bytes | None = None  # msgpack of the committed state, None: never committed
    state_type: Any = Any
    unread: bytes = b""
    idle_timeout: float | None = None
    replay_limit: int = 65536
    park_after: float | None = None  # seconds of waiting after which it is detached to be parked
    redeliver: bool = False  # received bytes stay in the kernel until they are committed
    redelivered: bool = False  # some of them may have been delivered before
    peer: str = ""  # the peer's address, where accept(2) has told it
    proxy: bytes = b""  # the PROXY header that the connection began with, as it came
    nodelay: bool = True  # what is sent goes out at once (TCP_NODELAY); False: as it is set
    turn: float = 0.0  # seconds from an order to move until it is obeyed, in sync models
    deadline: float | None = None  # when it ends, on the monotonic clock; its handler may change it
    first_bytes_timeout: float | None = None  # seconds from its accept to its first byte
    receive_rate: int = 0  # bytes a second that are received of it; 0: as they come
    inflow_full_at: float = 0.0  # when as many as in one second may come at once again
    registration: Registration | None = None  # what the connection is called
    reply: bytes = b""  # the record of the last reply of a worker that died, see `_replies`
    passed: tuple[int, int] | None = None  # written and taken before, where the kernel has no count
    trace: str = ""  # what the service's hooks have noted in `Hooks.trace` where it was before


@dataclass(slots=True, eq=False)
class Hooks:
    """The services of a server for one connection, and its demands."""

    record: Record = field(default_factory=blank_record)
    shelf: Shelf | None = None
    backup: Backup | None = None
    drain_signal: DrainSignal | None = None  # sync models only; async workers call `ask()`
    orders: Orders | None = None  # beside it, where a word of shared memory tells of an order
    reactor: SharedReactor | None = None  # async workers only
    front: Front | None = None  # where the listener has TLS for `start_tls`
    registrar: Registrar | None = None
    registered: bool = False  # the server has been told what it is called
    mail: Mail | None = None  # where it is called something
    farewell: Farewell | None = None
    refusals: Refusals | None = None
    ordered: Callable[[Order], None] | None = None  # async: told of each order before it is obeyed
    refused: int = 0  # for `refusals` to count
    spin: Any = None  # for `refusals` to note receives at the peer's EOF
    yields: Callable[[], bool] | None = None  # an adapter's: commits to leave; False: not now
    deaf: bool = False  # it has ended in the words of its protocol: nothing can be pushed to it
    abandoned: bool = False  # the server goes on without the handler, which is never resumed again
    on_error: Callable[[Any, BaseException], object] | None = None  # the service's
    trace: str = ""  # goes along when the connection is handed over


@dataclass(slots=True)
class Handoff:
    """The load that a detached connection takes along: everything the next worker needs."""

    sock: socket.socket
    state: bytes | None
    unread: bytes
    parked: bool = False  # it goes to the keeper until bytes arrive, not to another worker
    redelivered: bool = False  # some of what is uncommitted was delivered to a worker that died
    deadline: float | None = None  # as the lease has it
    inflow_full_at: float = 0.0  # likewise
    registration: Registration | None = None  # likewise
    passed: tuple[int, int] | None = None  # likewise
    trace: str = ""  # likewise
