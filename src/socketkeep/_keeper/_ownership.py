"""Who owns a connection: one table of transitions, no I/O.

The keeper knows of a connection from the moment its worker detaches it until another worker has
acknowledged it.  Each assignment has a new epoch, and what an older epoch says is refused: a slow
message must never undo a newer decision.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Final


class State(Enum):
    """Where a connection is."""

    OWNED = "owned"
    MOVING = "moving"
    CLOSING = "closing"
    CLOSED = "closed"


class Event(Enum):
    """What can happen to it."""

    DETACHED = "detached"  # its worker gave it up at a safe point
    ASSIGNED = "assigned"  # it was sent to a worker
    ATTACHED = "attached"  # that worker holds it
    REFUSED = "refused"  # that worker cannot take it
    RECEIVER_DIED = "receiver died"  # that worker was reaped before it acknowledged
    EXPIRED = "expired"  # no worker took it within the orphan timeout
    STOPPED = "stopped"  # the server stops
    DRAINED = "drained"  # the peer has all that was sent, or the bound was reached


TRANSITIONS: Final[dict[tuple[State, Event], State]] = {
    (State.OWNED, Event.DETACHED): State.MOVING,
    (State.MOVING, Event.ASSIGNED): State.MOVING,
    (State.MOVING, Event.ATTACHED): State.OWNED,
    (State.MOVING, Event.REFUSED): State.MOVING,
    (State.MOVING, Event.RECEIVER_DIED): State.MOVING,
    (State.MOVING, Event.EXPIRED): State.CLOSING,
    (State.MOVING, Event.STOPPED): State.CLOSING,
    (State.CLOSING, Event.DRAINED): State.CLOSED,
}


class Stale(Exception):
    """A message speaks of an assignment that is over."""


@dataclass(slots=True)
class Ownership:
    """One connection's place in the table: its state, its epoch and the worker it goes to.

    `worker` is the serial number of the owner (OWNED) or of the worker it was sent to (MOVING; None
    while no worker has been chosen).
    """

    state: State
    epoch: int
    worker: int | None

    def detached(self, epoch: int) -> None:
        """The owner of `epoch` gave it up.  Raises Stale."""
        self._step(Event.DETACHED, epoch)
        self.worker = None

    def assigned(self, worker: int) -> int:
        """It was sent to `worker`; return the new epoch.  Raises Stale when it is with another."""
        if self.worker is not None:
            raise Stale(f"already sent to worker {self.worker}")
        self._step(Event.ASSIGNED, self.epoch)
        self.worker = worker
        self.epoch += 1
        return self.epoch

    def attached(self, epoch: int) -> None:
        """The worker of `epoch` holds it.  Raises Stale."""
        self._require_assigned()
        self._step(Event.ATTACHED, epoch)

    def refused(self, epoch: int) -> None:
        """The worker of `epoch` cannot take it.  Raises Stale."""
        self._require_assigned()
        self._step(Event.REFUSED, epoch)
        self.worker = None

    def receiver_died(self) -> None:
        """The worker it was sent to was reaped without having acknowledged.  Raises Stale."""
        self._require_assigned()
        self._step(Event.RECEIVER_DIED, self.epoch)
        self.worker = None

    def expired(self) -> None:
        """Nobody took it in time.  Raises Stale while a worker may still acknowledge it."""
        self._close(Event.EXPIRED)

    def stopped(self) -> None:
        """The server stops.  Raises Stale while a worker may still acknowledge it."""
        self._close(Event.STOPPED)

    def drained(self) -> None:
        """It has been closed in an orderly way.  Raises Stale."""
        self._step(Event.DRAINED, self.epoch)

    def _close(self, event: Event) -> None:
        if self.worker is not None:
            raise Stale(f"worker {self.worker} may hold it")
        self._step(event, self.epoch)

    def _require_assigned(self) -> None:
        if self.worker is None:
            raise Stale("sent to no worker")

    def _step(self, event: Event, epoch: int) -> None:
        if epoch != self.epoch:
            raise Stale(f"epoch {epoch}, now {self.epoch}")
        following = TRANSITIONS.get((self.state, event))
        if following is None:
            raise Stale(f"{event.value} while {self.state.value}")
        self.state = following
