"""What passes between a connection and the server that serves it.

The library knows the server only through these types, so a `Connection` is the same class in a
worker and in a plain script: there it has no assignment.
"""

from __future__ import annotations

import socket
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, Final, Literal, Protocol

from socketkeep._record import Record, blank_record

Attached = Literal["accepted", "reload", "parked", "upgrade", "crash"]

#: The connection whose handler runs in this context.  Tasks and threads that the handler starts by
#: `asyncio` inherit it; a broadcast from another handler does not.  A send in another context than
#: the connection's own is a push (it counts as sent only while its bytes go out).
handling: Final[ContextVar[object]] = ContextVar("socketkeep_handling", default=None)


class Detached(BaseException):
    """The connection has left this worker; the handler is called again in the next one.

    Raised by a receive at a safe point.  It is not an `Exception`, so that ``except Exception``
    lets it through; ``finally`` blocks run.
    """


@dataclass(frozen=True, slots=True)
class Order:
    """How a retiring worker's connections are to end.

    move: resumable connections detach at their next safe point, others go on until `deadline`.
    close: resumable connections that wait with nothing uncommitted are closed, others go on.
    finish: all go on.
    At `deadline` (seconds of the monotonic clock) what is left is closed in an orderly way.
    """

    how: Literal["move", "close", "finish"]
    deadline: float


class Retirement(Protocol):
    """How a worker tells the sync handlers in it to let go of their connections.

    A receive that waits polls `wake_fd` beside the connection.  When it is readable the receive
    calls `woken()` and looks at `order`.  Once `order` is not None, the receive no longer polls
    `wake_fd` (it may stay readable for good) but bounds its wait by `order.deadline`, and calls
    `woken()` from time to time while the order is to finish: a later one may be to close.
    """

    @property
    def wake_fd(self) -> int: ...

    @property
    def order(self) -> Order | None: ...

    def woken(self) -> None:
        """Read what made `wake_fd` readable, if anything did, and update `order`."""


@dataclass(slots=True)
class Assignment:
    """One giving of one connection to one worker: what its handler's connection is told."""

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
    record: Record = field(default_factory=blank_record)
    retirement: Retirement | None = None  # sync models only; async workers call `ask()`


@dataclass(slots=True)
class Handover:
    """What leaves a connection when it is detached: everything the next worker needs."""

    sock: socket.socket
    state: bytes | None
    unread: bytes
