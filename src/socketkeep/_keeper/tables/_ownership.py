"""The ownership of a connection: one table of transitions, no I/O.

The keeper knows of a connection from the moment its worker detaches it, or entrusts a handle of it
to the keeper, until it has ended or another worker alone has it.  Each lease has a new epoch,
and what an older epoch says is refused: a slow message must never undo a newer decision.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Final

from socketkeep._wire._scoreboard import LAST_EPOCH


class OwnershipState(Enum):
    """The place of a connection."""

    __hash__ = object.__hash__  # an enumeration's own is a call of Python's, at each step

    OWNED = "owned"
    MOVING = "moving"
    PARKED = "parked"
    ORPHANED = "orphaned"
    CLOSING = "closing"
    CLOSED = "closed"


class OwnershipEvent(Enum):
    """An event in its life."""

    __hash__ = object.__hash__

    DETACHED = "detached"  # its worker gave it up at a safe point, to another worker
    PARKED = "parked"  # its worker gave it up at a safe point, until bytes arrive
    ENDED = "ended"  # its worker ended it
    OWNER_DIED = "owner died"  # its worker was reaped and had not ended it
    WOKEN = "woken"  # bytes, EOF or an error arrived
    RESUMED = "resumed"  # it can go on from its last commit
    CONDEMNED = "condemned"  # it cannot
    ASSIGNED = "assigned"  # it was sent to a worker
    ATTACHED = "attached"  # that worker holds it
    REFUSED = "refused"  # that worker cannot take it
    RECEIVER_DIED = "receiver died"  # that worker was reaped and had not received it
    EXPIRED = "expired"  # no worker took it within the orphan timeout
    IDLE = "idle"  # nothing arrived within the idle timeout
    STOPPED = "stopped"  # the server stops
    DRAINED = "drained"  # the peer has all that was sent, or the bound was reached


TRANSITIONS: Final[dict[tuple[OwnershipState, OwnershipEvent], OwnershipState]] = {
    (OwnershipState.OWNED, OwnershipEvent.DETACHED): OwnershipState.MOVING,
    (OwnershipState.OWNED, OwnershipEvent.PARKED): OwnershipState.PARKED,
    (OwnershipState.OWNED, OwnershipEvent.ENDED): OwnershipState.CLOSED,
    (OwnershipState.OWNED, OwnershipEvent.OWNER_DIED): OwnershipState.ORPHANED,
    # Where it was taken for attached when it was sent:
    (OwnershipState.OWNED, OwnershipEvent.REFUSED): OwnershipState.MOVING,
    (OwnershipState.OWNED, OwnershipEvent.RECEIVER_DIED): OwnershipState.MOVING,
    (OwnershipState.ORPHANED, OwnershipEvent.RESUMED): OwnershipState.MOVING,
    (OwnershipState.ORPHANED, OwnershipEvent.CONDEMNED): OwnershipState.CLOSING,
    (OwnershipState.PARKED, OwnershipEvent.WOKEN): OwnershipState.MOVING,
    (OwnershipState.PARKED, OwnershipEvent.IDLE): OwnershipState.CLOSING,
    (OwnershipState.PARKED, OwnershipEvent.STOPPED): OwnershipState.CLOSING,
    (OwnershipState.MOVING, OwnershipEvent.ASSIGNED): OwnershipState.MOVING,
    (OwnershipState.MOVING, OwnershipEvent.ATTACHED): OwnershipState.OWNED,
    (OwnershipState.MOVING, OwnershipEvent.REFUSED): OwnershipState.MOVING,
    (OwnershipState.MOVING, OwnershipEvent.RECEIVER_DIED): OwnershipState.MOVING,
    (OwnershipState.MOVING, OwnershipEvent.EXPIRED): OwnershipState.CLOSING,
    (OwnershipState.MOVING, OwnershipEvent.STOPPED): OwnershipState.CLOSING,
    (OwnershipState.CLOSING, OwnershipEvent.DRAINED): OwnershipState.CLOSED,
}


def _after(event: OwnershipEvent) -> dict[OwnershipState, OwnershipState]:
    """Return what each state becomes by an event."""
    return {state: following for (state, each), following in TRANSITIONS.items() if each is event}


# Of what comes with each wake of a parked connection.
_AFTER_PARKED: Final = _after(OwnershipEvent.PARKED)
_AFTER_WOKEN: Final = _after(OwnershipEvent.WOKEN)
_AFTER_ASSIGNED: Final = _after(OwnershipEvent.ASSIGNED)
_AFTER_ATTACHED: Final = _after(OwnershipEvent.ATTACHED)


class Stale(Exception):
    """A message speaks of a lease that is over."""


@dataclass(slots=True)
class Ownership:
    """One connection's place in the table: its state, its epoch and the worker it goes to.

    `worker` is the serial number of the owner (OWNED) or of the worker it was sent to (MOVING; None
    while no worker has been chosen).
    """

    state: OwnershipState
    epoch: int
    worker: int | None

    def detached(self, epoch: int) -> None:
        """The owner of `epoch` gave it up.  Raises Stale."""
        self._step(OwnershipEvent.DETACHED, epoch)
        self.worker = None

    def parked(self, epoch: int) -> None:
        """The owner of `epoch` gave it up until bytes arrive.  Raises Stale."""
        following = _AFTER_PARKED.get(self.state)
        if following is None or epoch != self.epoch:
            raise self._stale(OwnershipEvent.PARKED, epoch)
        self.state, self.worker = following, None

    def ended(self, epoch: int) -> None:
        """The owner of `epoch` ended it.  Raises Stale."""
        self._step(OwnershipEvent.ENDED, epoch)
        self.worker = None

    def owner_died(self) -> None:
        """The owner was reaped.  Raises Stale."""
        self._step(OwnershipEvent.OWNER_DIED, self.epoch)
        self.worker = None

    def resumed(self) -> None:
        """It goes on from its last commit, in another worker.  Raises Stale."""
        self._step(OwnershipEvent.RESUMED, self.epoch)

    def condemned(self) -> None:
        """It cannot go on.  Raises Stale."""
        self._step(OwnershipEvent.CONDEMNED, self.epoch)

    def woken(self) -> None:
        """Something arrived while it was parked.  Raises Stale."""
        following = _AFTER_WOKEN.get(self.state)
        if following is None:
            raise self._stale(OwnershipEvent.WOKEN, self.epoch)
        self.state = following

    def idle(self) -> None:
        """Nothing arrived for too long.  Raises Stale."""
        self._step(OwnershipEvent.IDLE, self.epoch)

    def assigned(self, worker: int) -> int:
        """It was sent to `worker`; return the new epoch.  Raises Stale when it is with another."""
        if self.worker is not None:
            raise Stale(f"already sent to worker {self.worker}")
        following = _AFTER_ASSIGNED.get(self.state)
        if following is None:
            raise self._stale(OwnershipEvent.ASSIGNED, self.epoch)
        self.state, self.worker, self.epoch = following, worker, self.epoch % LAST_EPOCH + 1
        return self.epoch

    @property
    def next_epoch(self) -> int:
        """The epoch of the next lease."""
        return self.epoch % LAST_EPOCH + 1

    @property
    def given_up_at(self) -> int:
        """The epoch of the last lease that was given up: while it is on its way, the one before."""
        return self.epoch if self.worker is None else (self.epoch - 2) % LAST_EPOCH + 1

    def attached(self, epoch: int) -> None:
        """The worker of `epoch` holds it.  Raises Stale."""
        if self.worker is None:
            raise _not_assigned()
        following = _AFTER_ATTACHED.get(self.state)
        if following is None or epoch != self.epoch:
            raise self._stale(OwnershipEvent.ATTACHED, epoch)
        self.state = following

    def refused(self, epoch: int) -> None:
        """The worker of `epoch` cannot take it.  Raises Stale."""
        self._require_assigned()
        self._step(OwnershipEvent.REFUSED, epoch)
        self.worker = None

    def receiver_died(self) -> None:
        """The worker it was sent to was reaped and had not received it.  Raises Stale."""
        self._require_assigned()
        self._step(OwnershipEvent.RECEIVER_DIED, self.epoch)
        self.worker = None

    def expired(self) -> None:
        """Nobody took it in time.  Raises Stale while a worker may still acknowledge it."""
        self._close(OwnershipEvent.EXPIRED)

    def stopped(self) -> None:
        """The server stops.  Raises Stale while a worker may still acknowledge it."""
        self._close(OwnershipEvent.STOPPED)

    def drained(self) -> None:
        """It has been closed in an orderly way.  Raises Stale."""
        self._step(OwnershipEvent.DRAINED, self.epoch)

    def _close(self, event: OwnershipEvent) -> None:
        if self.worker is not None:
            raise Stale(f"worker {self.worker} may hold it")
        self._step(event, self.epoch)

    def _require_assigned(self) -> None:
        if self.worker is None:
            raise _not_assigned()

    def _step(self, event: OwnershipEvent, epoch: int) -> None:
        following = TRANSITIONS.get((self.state, event))
        if following is None or epoch != self.epoch:
            raise self._stale(event, epoch)
        self.state = following

    def _stale(self, event: OwnershipEvent, epoch: int) -> Stale:
        if epoch != self.epoch:
            return Stale(f"epoch {epoch}, now {self.epoch}")
        return Stale(f"{event.value} while {self.state.value}")


def _not_assigned() -> Stale:
    return Stale("sent to no worker")
