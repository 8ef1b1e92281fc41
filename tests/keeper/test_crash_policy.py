"""What becomes of a connection whose owner died, against the rule as people are told it."""

from __future__ import annotations

from typing import get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from socketkeep._keeper.tables._crash_policy import MEMORY, Fate, OnCrash, Policy, judge
from tests.harness.seam import STATUSES, status_word

CLEAN, BOUND, AGAIN = map(status_word, ("clean", "bound", "again"))
POLICIES = st.builds(Policy, st.sampled_from(get_args(OnCrash)), st.booleans())
WORDS = st.sampled_from([*STATUSES, "again", "read again", "sent again"]).map(status_word)
#: Deaths: the seconds since the one before, and what the connection was then.
HISTORIES = st.lists(st.tuples(st.floats(0, 40), WORDS), max_size=20)


@given(POLICIES, HISTORIES, st.integers(1, 5))
@settings(max_examples=150, derandomize=True, deadline=None)
def test_a_history_of_deaths(policy: Policy, history: list[tuple[float, int]], limit: int) -> None:
    """The model keeps every death for good and looks at the whole of it each time."""
    now = 0.0
    known: tuple[float, ...] = ()
    guilty: list[float] = []
    for pause, status in history:
        now += pause
        fate, known = judge(status, policy, known, now, limit)
        if status == CLEAN:
            assert fate == "resume"
            continue
        if status == AGAIN and policy.redeliver:  # its handler had not been given it again
            assert fate == "redeliver"
            continue
        if status == BOUND:  # the keys of its TLS died with the owner
            assert fate == ("reset" if policy.on_crash == "reset" else "close")
            return
        if policy.redeliver and status < AGAIN:  # what owners died of before has been dealt with
            guilty.clear()
        guilty.append(now)
        lately = sum(now - death < MEMORY for death in guilty)
        expected: Fate = policy.on_crash
        if policy.redeliver or policy.on_crash == "resume":
            expected = "redeliver" if policy.redeliver else "resume"
            if lately >= limit:
                expected = "poison"
        assert fate == expected
        assert len(known) == lately
        if fate in ("close", "reset", "poison"):
            return


@given(st.integers(-(2**63), 2**64), POLICIES)
@settings(derandomize=True, deadline=None)
def test_a_word_that_is_no_status_is_not_clean(status: int, policy: Policy) -> None:
    """Only one value says that nothing is under way."""
    fate, _ = judge(status, policy, (), 0.0, 3)
    clean, bound = status == CLEAN, status == BOUND
    resumes = policy.on_crash == "resume" and not policy.redeliver and not bound
    assert (fate == "resume") is (clean or resumes)


@pytest.mark.parametrize(("ago", "fate"), [(59.9, "poison"), (60.0, "redeliver")])
def test_the_minute_is_sixty_seconds(ago: float, fate: Fate) -> None:
    assert (
        judge(status_word("read again"), Policy(redeliver=True), (100.0,), 100.0 + ago, 2)[0]
        == fate
    )


def test_the_history_does_not_grow() -> None:
    deaths: tuple[float, ...] = ()
    for second in range(10_000):
        _, deaths = judge(status_word("read"), Policy("resume"), deaths, second, 10**6)
    assert len(deaths) == MEMORY
