"""The ownership table: one owner at most, and what is not in the table is refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from socketkeep._keeper.tables._ownership import (
    TRANSITIONS,
    Ownership,
    OwnershipEvent,
    OwnershipState,
    Stale,
)
from tests.keeper.ledger import SAYINGS, Ledger, logged

#: What makes each event happen, in the epoch at hand.
MAKE: Final[dict[OwnershipEvent, Callable[[Ownership], object]]] = {
    OwnershipEvent.DETACHED: lambda owned: owned.detached(owned.epoch),
    OwnershipEvent.PARKED: lambda owned: owned.parked(owned.epoch),
    OwnershipEvent.ENDED: lambda owned: owned.ended(owned.epoch),
    OwnershipEvent.OWNER_DIED: lambda owned: owned.owner_died(),
    OwnershipEvent.WOKEN: lambda owned: owned.woken(),
    OwnershipEvent.RESUMED: lambda owned: owned.resumed(),
    OwnershipEvent.CONDEMNED: lambda owned: owned.condemned(),
    OwnershipEvent.IDLE: lambda owned: owned.idle(),
    OwnershipEvent.ASSIGNED: lambda owned: owned.assigned(7),
    OwnershipEvent.ATTACHED: lambda owned: owned.attached(owned.epoch),
    OwnershipEvent.REFUSED: lambda owned: owned.refused(owned.epoch),
    OwnershipEvent.RECEIVER_DIED: lambda owned: owned.receiver_died(),
    OwnershipEvent.EXPIRED: lambda owned: owned.expired(),
    OwnershipEvent.STOPPED: lambda owned: owned.stopped(),
    OwnershipEvent.DRAINED: lambda owned: owned.drained(),
}

#: Where a connection can be: its state, and whether a worker has been named.
PLACES = [
    (OwnershipState.OWNED, 5),
    (OwnershipState.PARKED, None),
    (OwnershipState.ORPHANED, None),
    (OwnershipState.MOVING, None),
    (OwnershipState.MOVING, 5),
    (OwnershipState.CLOSING, None),
    (OwnershipState.CLOSED, None),
]
#: What of the table depends on whether a worker has been named.
NEEDS_WORKER = {OwnershipEvent.ATTACHED, OwnershipEvent.REFUSED, OwnershipEvent.RECEIVER_DIED}
NEEDS_NONE = {OwnershipEvent.ASSIGNED, OwnershipEvent.EXPIRED, OwnershipEvent.STOPPED}


def allowed(state: OwnershipState, worker: int | None, event: OwnershipEvent) -> bool:
    if state is OwnershipState.MOVING and worker is None and event in NEEDS_WORKER:
        return False
    if worker is not None and event in NEEDS_NONE:
        return False
    return (state, event) in TRANSITIONS


@pytest.mark.parametrize("event", OwnershipEvent)
@pytest.mark.parametrize(("state", "worker"), PLACES)
def test_each_event_in_each_place(
    state: OwnershipState, worker: int | None, event: OwnershipEvent
) -> None:
    ownership = Ownership(state, 3, worker)
    if allowed(state, worker, event):
        MAKE[event](ownership)
        assert ownership.state is TRANSITIONS[state, event]
    else:
        with pytest.raises(Stale):
            MAKE[event](ownership)
        assert ownership == Ownership(state, 3, worker), "a refusal changes nothing"


def test_every_row_of_the_table_can_be_reached() -> None:
    reached = {
        (state, event)
        for state, worker in PLACES
        for event in OwnershipEvent
        if allowed(state, worker, event)
    }
    assert reached == set(TRANSITIONS)


@pytest.mark.parametrize("epoch", [0, 2, 4])
@pytest.mark.parametrize(
    ("place", "say"),
    [
        ((OwnershipState.OWNED, 5), Ownership.detached),
        ((OwnershipState.OWNED, 5), Ownership.parked),
        ((OwnershipState.OWNED, 5), Ownership.ended),
        ((OwnershipState.MOVING, 5), Ownership.attached),
        ((OwnershipState.MOVING, 5), Ownership.refused),
    ],
)
def test_what_another_epoch_says_is_refused(
    place: tuple[OwnershipState, int], say: Callable[[Ownership, int], None], epoch: int
) -> None:
    state, worker = place
    ownership = Ownership(state, 3, worker)
    with pytest.raises(Stale, match=f"epoch {epoch}, now 3"):
        say(ownership, epoch)
    assert ownership == Ownership(state, 3, worker)


#: How many epochs ago something was true; mostly it is so now.
AGES: Final = st.sampled_from([0, 0, 0, 1, 2, -1])


class OneConnection(RuleBasedStateMachine):
    """One connection, and everything that could be said of it at any moment, true or stale."""

    def __init__(self) -> None:
        super().__init__()
        self.ownership = Ownership(OwnershipState.OWNED, 1, 1)
        self.ledger = Ledger()

    @rule(saying=st.sampled_from(list(SAYINGS)), older=AGES, worker=st.integers(1, 3))
    def it_is_said(self, saying: str, older: int, worker: int) -> None:
        values = {"epoch": (self.ledger.epoch - older,), "worker": (worker,), "": ()}[
            SAYINGS[saying]
        ]
        expected = self.ledger.tell(saying, *values)
        try:
            answer = getattr(self.ownership, saying)(*values)
        except Stale:
            assert not expected, "refused, though it is so"
            return
        assert expected, "accepted, though it cannot be"
        if saying == "assigned":
            assert answer == self.ledger.epoch, "each lease has a new epoch"

    @invariant()
    def one_has_it_and_no_more(self) -> None:
        ledger = self.ledger
        serving = [each for each in (ledger.server, ledger.receiver) if each is not None]
        assert len(serving) <= 1
        assert not (serving and ledger.ended), "never closed while a worker may serve it"
        assert (ledger.server is not None) + ledger.held + (ledger.ended == 2) == 1

    @invariant()
    def the_table_says_the_same(self) -> None:
        ledger = self.ledger
        assert self.ownership == Ownership(
            OwnershipState(ledger.state), ledger.epoch, ledger.worker
        )


TestOneConnection = OneConnection.TestCase
TestOneConnection.settings = settings(
    max_examples=60, stateful_step_count=60, derandomize=True, deadline=None
)


def test_every_saying_is_an_event() -> None:
    """What the account knows is what the table knows."""
    assert {saying.replace("_", " ") for saying in SAYINGS} == {
        event.value for event in OwnershipEvent
    }


def test_the_account_finds_what_the_table_should_have_refused() -> None:
    """The log of a table that lets two workers have one connection does not pass."""
    with logged() as log:
        ownership = Ownership(OwnershipState.OWNED, 1, 1)
        ownership.detached(1)
        ownership.assigned(2)
        ownership.worker = None
        ownership.assigned(3)
    with pytest.raises(AssertionError, match="assigned"):
        log.replay()
