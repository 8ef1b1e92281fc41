"""The keeper's records of workers, generations and connections, as far as they outlive it.

Each class here is the one declaration of what passes to the next version of the keeper as it is.
The live record (`Worker`, `Generation`, `Held`) and the saved one (`_state.py`) are made from it,
and each adds what it says in its own way: a channel here is the number of a descriptor there.
`carried` returns what both have.  The names of the fields are the format: they stay.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from enum import Enum
from functools import cache
from typing import Any, Literal

from socketkeep._config._server_options import WorkerModel
from socketkeep._keeper.tables._crash_policy import Policy
from socketkeep._stream._lease import Attached, Order


class WorkerState(Enum):
    """The stage of a worker's life; it only moves down this list."""

    STARTING = "starting"
    READY = "ready"
    DRAINING = "draining"
    DEAD = "dead"


class GenerationState(Enum):
    """The stage of a generation's life."""

    LOADING = "loading"
    STARTING = "starting"
    SERVING = "serving"
    RETIRED = "retired"


@dataclass(frozen=True, slots=True)
class AdoptedWorker:
    """The differences of a worker that an earlier keeper started.

    moves: whether its connections may go to the workers of this server.  listeners: by its number
    of a listener this server's, -1 where this one does not have it.
    """

    moves: bool
    listeners: tuple[int, ...]


@dataclass(slots=True, eq=False, kw_only=True)
class WorkerRecord:
    """One worker process, from the request to fork it until it has been reaped."""

    serial: int
    slot: int
    generation: int
    model: WorkerModel
    resumable: bool  # whether its handler is
    policy: Policy
    memfd: int  # of the scoreboard
    wake: int  # eventfd that wakes the handlers that poll it
    started_at: float = 0.0
    state: WorkerState = WorkerState.STARTING
    pid: int = 0
    forked: bool = False  # the template has said so
    order: Order | None = None
    seats: int = 0  # how many connections it may serve
    accept_below: int = 0  # what it was last told of them
    promises: list[tuple[int, int, int]] = field(default_factory=list)  # see `Worker.promise`
    arriving: int = 0  # connections sent to it and not yet acknowledged
    given: int = 0  # connections sent to it, ever
    departures: int = 0  # connections that were taken from it, or refused by it
    error: str = ""
    killed: bool = False  # by the keeper
    stuck: bool = False  # and for that it made no progress
    rogue: bool = False  # or for that it said what cannot be
    #: Ids of connections that it was given and that the keeper has no handle of; None: of a worker
    #: that an earlier version of the keeper had, it is not known.
    guests: set[str] | None = None
    fork_children: set[int] = field(default_factory=set)  # pids, once it has died
    expires_at: float = float("inf")
    adopted: AdoptedWorker | None = None
    lane: int = 0  # of the census; 0: none


@dataclass(slots=True, eq=False, kw_only=True)
class GenerationRecord:
    """One load of the user's code."""

    number: int
    state: GenerationState = GenerationState.LOADING
    model: WorkerModel = "fork"
    resumable: bool = False
    policy: Policy = field(default_factory=Policy)
    on_taken: Literal["close", "keep"] = "close"
    on_push: bool = False
    on_leaving: bool = False


@dataclass(slots=True, eq=False, kw_only=True)
class ConnectionRecord:
    """One connection that the keeper has a handle of.

    why: what its next handler is told by `conn.attached`.
    row: its row in the scoreboard of the worker that owns it.
    deaths: when owners of it died that were in the middle of a message of it.
    stored_as, parcel_as, header_as: the epochs by which the service manager's store has it, its
    handoff (saved under its old name) and its PROXY header; 0: it has not.  called_as: likewise,
    the version of what it is called.
    """

    since: float
    why: Attached = "reload"
    redelivered: bool = False
    row: int = -1
    deaths: tuple[float, ...] = ()
    stored_as: int = 0
    parcel_as: int = 0
    header_as: int = 0
    called_as: int = 0


def carried(record: Any, kind: type) -> dict[str, Any]:
    """Return by name the fields of `record` that those of `kind` have, too."""
    return {name: getattr(record, name) for name in _names(kind)}


@cache
def _names(kind: type) -> tuple[str, ...]:
    return tuple(each.name for each in fields(kind))
