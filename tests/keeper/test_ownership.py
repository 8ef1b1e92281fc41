"""The ownership table: one owner at most, and what is not in the table is refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from socketkeep._keeper._ownership import TRANSITIONS, Event, Ownership, Stale, State

#: What makes each event happen, in the epoch at hand.
MAKE: Final[dict[Event, Callable[[Ownership], object]]] = {
    Event.DETACHED: lambda owned: owned.detached(owned.epoch),
    Event.PARKED: lambda owned: owned.parked(owned.epoch),
    Event.ENDED: lambda owned: owned.ended(owned.epoch),
    Event.OWNER_DIED: lambda owned: owned.owner_died(),
    Event.WOKEN: lambda owned: owned.woken(),
    Event.RESUMED: lambda owned: owned.resumed(),
    Event.CONDEMNED: lambda owned: owned.condemned(),
    Event.IDLE: lambda owned: owned.idle(),
    Event.ASSIGNED: lambda owned: owned.assigned(7),
    Event.ATTACHED: lambda owned: owned.attached(owned.epoch),
    Event.REFUSED: lambda owned: owned.refused(owned.epoch),
    Event.RECEIVER_DIED: lambda owned: owned.receiver_died(),
    Event.EXPIRED: lambda owned: owned.expired(),
    Event.STOPPED: lambda owned: owned.stopped(),
    Event.DRAINED: lambda owned: owned.drained(),
}

#: Where a connection can be: its state, and whether a worker has been named.
PLACES = [
    (State.OWNED, 5),
    (State.PARKED, None),
    (State.ORPHANED, None),
    (State.MOVING, None),
    (State.MOVING, 5),
    (State.CLOSING, None),
    (State.CLOSED, None),
]
#: What of the table depends on whether a worker has been named.
NEEDS_WORKER = {Event.ATTACHED, Event.REFUSED, Event.RECEIVER_DIED}
NEEDS_NONE = {Event.ASSIGNED, Event.EXPIRED, Event.STOPPED}


def allowed(state: State, worker: int | None, event: Event) -> bool:
    if state is State.MOVING and worker is None and event in NEEDS_WORKER:
        return False
    if worker is not None and event in NEEDS_NONE:
        return False
    return (state, event) in TRANSITIONS


@pytest.mark.parametrize("event", Event)
@pytest.mark.parametrize(("state", "worker"), PLACES)
def test_each_event_in_each_place(state: State, worker: int | None, event: Event) -> None:
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
        for event in Event
        if allowed(state, worker, event)
    }
    assert reached == set(TRANSITIONS)


@pytest.mark.parametrize("epoch", [0, 2, 4])
@pytest.mark.parametrize(
    ("place", "say"),
    [
        ((State.OWNED, 5), Ownership.detached),
        ((State.OWNED, 5), Ownership.parked),
        ((State.OWNED, 5), Ownership.ended),
        ((State.MOVING, 5), Ownership.attached),
        ((State.MOVING, 5), Ownership.refused),
    ],
)
def test_what_another_epoch_says_is_refused(
    place: tuple[State, int], say: Callable[[Ownership, int], None], epoch: int
) -> None:
    state, worker = place
    ownership = Ownership(state, 3, worker)
    with pytest.raises(Stale, match=f"epoch {epoch}, now 3"):
        say(ownership, epoch)
    assert ownership == Ownership(state, 3, worker)


WORKERS: Final = st.integers(1, 3)
#: How many epochs ago something was true; mostly it is so now.
AGES: Final = st.sampled_from([0, 0, 0, 1, 2, -1])


class OneConnection(RuleBasedStateMachine):
    """One connection, and everything that could be said of it at any moment, true or stale.

    The model knows no states and no table: only who has the connection.  `server` is the worker
    that serves it, `receiver` the one it was sent to and that has not answered (it may be serving
    already), `held` whether the keeper alone has it, `waits` for what: bytes, or a judgement after
    its server's death; and `ended` how far its end has come.
    """

    def __init__(self) -> None:
        super().__init__()
        self.ownership = Ownership(State.OWNED, 1, 1)
        self.epoch = 1
        self.server: int | None = 1
        self.receiver: int | None = None
        self.held = False
        self.waits = ""
        self.ended = 0

    @property
    def free(self) -> bool:
        return self.held and self.receiver is None and not self.ended and not self.waits

    def happens(self, expected: bool, event: Callable[[], object]) -> bool:
        """Make it happen; it must be refused unless it was to be expected."""
        try:
            event()
        except Stale:
            assert not expected, "refused, though it is so"
            return False
        assert expected, "accepted, though it cannot be"
        return True

    @rule(serial=WORKERS, older=AGES)
    def detached(self, serial: int, older: int) -> None:
        epoch = self.epoch - older
        true = self.server == serial and older == 0
        if self.ownership.worker == serial and self.happens(
            true, lambda: self.ownership.detached(epoch)
        ):
            self.server, self.held = None, True

    @rule(serial=WORKERS, older=AGES)
    def parked(self, serial: int, older: int) -> None:
        epoch = self.epoch - older
        true = self.server == serial and older == 0
        if self.ownership.worker == serial and self.happens(
            true, lambda: self.ownership.parked(epoch)
        ):
            self.server, self.held, self.waits = None, True, "bytes"

    @rule(serial=WORKERS, older=AGES)
    def ended_by_its_server(self, serial: int, older: int) -> None:
        epoch = self.epoch - older
        true = self.server == serial and older == 0
        if self.ownership.worker == serial and self.happens(
            true, lambda: self.ownership.ended(epoch)
        ):
            self.server, self.ended = None, 2

    @rule()
    def owner_died(self) -> None:
        if self.happens(self.server is not None, self.ownership.owner_died):
            self.server, self.held, self.waits = None, True, "judgement"

    @rule()
    def resumed(self) -> None:
        if self.happens(self.waits == "judgement", self.ownership.resumed):
            self.waits = ""

    @rule()
    def condemned(self) -> None:
        if self.happens(self.waits == "judgement", self.ownership.condemned):
            self.waits, self.ended = "", 1

    @rule()
    def woken(self) -> None:
        if self.happens(self.waits == "bytes", self.ownership.woken):
            self.waits = ""

    @rule()
    def idle(self) -> None:
        if self.happens(self.waits == "bytes", self.ownership.idle):
            self.waits, self.ended = "", 1

    @rule(serial=WORKERS, older=AGES)
    def attached(self, serial: int, older: int) -> None:
        epoch = self.epoch - older
        true = self.receiver == serial and older == 0
        if self.ownership.worker == serial and self.happens(
            true, lambda: self.ownership.attached(epoch)
        ):
            self.server, self.receiver, self.held = serial, None, False

    @rule(serial=WORKERS, older=AGES)
    def refused(self, serial: int, older: int) -> None:
        epoch = self.epoch - older
        true = self.receiver == serial and older == 0
        if self.ownership.worker == serial and self.happens(
            true, lambda: self.ownership.refused(epoch)
        ):
            self.receiver = None

    @rule(serial=WORKERS)
    def assigned(self, serial: int) -> None:
        epochs: list[int] = []
        if self.happens(self.free, lambda: epochs.append(self.ownership.assigned(serial))):
            assert epochs == [self.epoch + 1], "each assignment has a new epoch"
            self.epoch += 1
            self.receiver = serial

    @rule()
    def receiver_died(self) -> None:
        if self.happens(self.receiver is not None, self.ownership.receiver_died):
            self.receiver = None

    @rule()
    def expired(self) -> None:
        if self.happens(self.free, self.ownership.expired):
            self.ended = 1

    @rule()
    def stopped(self) -> None:
        if self.happens(self.free or self.waits == "bytes", self.ownership.stopped):
            self.waits, self.ended = "", 1

    @rule()
    def drained(self) -> None:
        if self.happens(self.ended == 1, self.ownership.drained):
            self.ended, self.held = 2, False

    @invariant()
    def one_has_it_and_no_more(self) -> None:
        serving = [worker for worker in (self.server, self.receiver) if worker is not None]
        assert len(serving) <= 1
        assert self.ownership.worker == (serving[0] if serving else None)
        assert not (serving and self.ended), "never closed while a worker may serve it"
        assert (self.server is not None) + self.held + (self.ended == 2) == 1

    @invariant()
    def the_state_says_so(self) -> None:
        if self.ended:
            expected = State.CLOSING if self.ended == 1 else State.CLOSED
        elif self.waits:
            expected = State.PARKED if self.waits == "bytes" else State.ORPHANED
        else:
            expected = State.MOVING if self.held else State.OWNED
        assert self.ownership.state is expected
        assert self.ownership.epoch == self.epoch


TestOneConnection = OneConnection.TestCase
TestOneConnection.settings = settings(max_examples=60, stateful_step_count=40, derandomize=True)
