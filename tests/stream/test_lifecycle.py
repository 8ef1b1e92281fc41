"""The table of a connection's life: an end is an end, and each refusal has its reason there."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from socketkeep import Closed, Detached, PeerReset, Released, SocketkeepError
from socketkeep._stream._lifecycle import RECORDED, TRANSITIONS, Lifecycle, LifecycleEvent, State
from tests.harness.seam import ENDS

ALIVE: Final = {State.OPEN, State.WRITE_ENDED, State.PEER_ENDED, State.BOTH_ENDED}
STOPPED_BY: Final = Closed("ended: idle for 5 s")

#: What a send and a receive are refused with, None: they are not.
REFUSED: Final[Mapping[State, tuple[type[BaseException] | None, type[BaseException] | None]]] = {
    State.OPEN: (None, None),
    State.WRITE_ENDED: (Closed, None),
    State.PEER_ENDED: (None, None),
    State.BOTH_ENDED: (Closed, None),
    State.STOPPED: (Closed, Closed),
    State.RESET: (PeerReset, PeerReset),
    State.DETACHED: (Released, Detached),
    State.RELEASED: (Released, Released),
    State.CLOSED: (Closed, Closed),
}

EVENTS: Final = st.lists(st.sampled_from(list(LifecycleEvent)), max_size=12)


def step(life: Lifecycle, event: LifecycleEvent) -> bool:
    errors: dict[LifecycleEvent, SocketkeepError] = {
        LifecycleEvent.STOP: STOPPED_BY,
        LifecycleEvent.RELEASE: Released("refused: given away"),
    }
    return life.step(event, errors.get(event))


def after(events: list[LifecycleEvent]) -> Lifecycle:
    life = Lifecycle()
    for event in events:
        step(life, event)
    return life


@given(EVENTS)
def test_it_goes_where_the_table_says_and_nowhere_else(events: list[LifecycleEvent]) -> None:
    life = Lifecycle()
    state = State.OPEN
    for event in events:
        moved = step(life, event)
        assert moved == ((state, event) in TRANSITIONS)
        state = TRANSITIONS.get((state, event), state)
        assert life.state is state
        assert life.over == (state not in ALIVE)


@given(EVENTS, EVENTS)
def test_no_end_is_undone(before: list[LifecycleEvent], later: list[LifecycleEvent]) -> None:
    life = after(before)
    over, sends = life.over, life.sends
    for event in later:
        step(life, event)
        assert life.over >= over
        assert life.sends <= sends
        over, sends = life.over, life.sends


@given(EVENTS)
def test_what_is_refused_and_with_what(events: list[LifecycleEvent]) -> None:
    life = after(events)
    send, receive = REFUSED[life.state]
    for operation, kind in (("send", send), ("recv", receive), ("give", receive)):
        refusal = life.refusal(operation)
        assert type(refusal) is (kind or type(None))
    assert life.sends == (send is None)
    assert life.over == (receive is not None)


_ENDS = {
    event: {after for (_, by), after in TRANSITIONS.items() if by is event}
    for event in LifecycleEvent
}


@given(EVENTS)
def test_it_says_who_ended_it(events: list[LifecycleEvent]) -> None:
    life = after(events)
    recorded: Any = next((RECORDED[event] for event in RECORDED if life.state in _ENDS[event]), 0)
    why = life.why_over(recorded)
    if life.state is State.STOPPED:
        assert why == "idle for 5 s"
    elif ENDS[recorded] in ("not yet", "closed"):
        assert why == ("the peer ended it" if life.peer_ended else "the handler ended it")
    else:
        assert why in ("reset by the peer", "moved to another worker", "released by the handler")


def test_the_reasons_are_kept() -> None:
    released = after([LifecycleEvent.PEER_EOF, LifecycleEvent.RELEASE]).refusal("recv")
    assert isinstance(released, Released)
    assert released.reason == "refused: given away"
    assert after([LifecycleEvent.STOP]).refusal("send") is STOPPED_BY


@pytest.mark.parametrize("state", State)
def test_every_state_can_be_reached(state: State) -> None:
    assert state is State.OPEN or state in TRANSITIONS.values()


def test_what_is_freed_stays_freed() -> None:
    """Of a descriptor that is closed here nothing is to be said any more."""
    assert not {state for state, _ in TRANSITIONS} & {State.RELEASED, State.CLOSED}
