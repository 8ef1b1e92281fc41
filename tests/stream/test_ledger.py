"""The ledger: the record never says less than what is so, at any instant and from any thread.

With both cores.
"""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from socketkeep._stream._ledger import Ledger
from tests.harness.seam import WORDS, Row
from tests.native.cores import on_both

pytestmark = on_both("make", Ledger, "Ledger")

STEPS = st.lists(
    st.sampled_from(
        ["reading", "read_nothing", "sending", "push", "pushed", "commit", "commit unread"]
    ),
    max_size=20,
)


def do(ledger: Ledger, step: str) -> None:
    match step:
        case "push":
            ledger.push_begins()
        case "pushed":
            ledger.push_ends()
        case "commit":
            ledger.commit(unread=False, left_kernel=1)
        case "commit unread":
            ledger.commit(unread=True)
        case _:
            getattr(ledger, step)()


@given(STEPS)
def test_the_record_says_what_is_so(make: type[Ledger], steps: list[str]) -> None:
    ledger = make([0] * WORDS)
    read = sent = False
    pushes = 0
    for step in steps:
        do(ledger, step)
        read = step in ("reading", "commit unread") or (
            read and step not in ("read_nothing", "commit")
        )
        sent = step == "sending" or (sent and not step.startswith("commit"))
        pushes = max(0, pushes + {"push": 1, "pushed": -1}.get(step, 0))
        expected = "sent" if sent or pushes else "read" if read else "clean"
        assert Row(ledger.record).status == expected


@given(STEPS)
def test_what_is_bound_stays_bound(make: type[Ledger], steps: list[str]) -> None:
    ledger = make([0] * WORDS)
    ledger.bound = True
    ledger.show()
    for step in steps:
        do(ledger, step)
        assert Row(ledger.record).status == "bound"


@given(STEPS, st.integers(0, 3))
def test_what_comes_again_is_marked_until_something_is_committed(
    make: type[Ledger], steps: list[str], doubtful: int
) -> None:
    ledger = make([0] * WORDS)
    ledger.dispute(doubtful)
    ledger.again = True
    ledger.show()
    committed = 0
    nothing = False  # a commit when nothing was in doubt
    for step in steps:
        do(ledger, step)
        committed += step == "commit"
        nothing = nothing or (step.startswith("commit") and doubtful <= committed)
        again = Row(ledger.record).status.endswith("again")
        assert again == (not committed and not nothing)
        assert ledger.disputed == (not nothing and (committed < doubtful or not committed))


@given(st.integers(0, 6), STEPS)
def test_a_push_that_begins_in_another_thread_is_never_lost(
    make: type[Ledger], instant: int, steps: list[str]
) -> None:
    """It begins while the handler's thread writes the status, which then must not be the last."""

    class Record(list[int]):
        writes = 0

        def __setitem__(self, word: Any, value: Any) -> None:
            super().__setitem__(word, value)
            self.writes += 1
            if self.writes == instant + 1:  # as the other thread does, between two steps of this
                ledger.push_begins()

    record = Record([0] * WORDS)
    ledger = make(record)
    for step in steps:
        if step not in ("push", "pushed"):
            do(ledger, step)
    if ledger.pushes:
        assert Row(record).status == "sent"
