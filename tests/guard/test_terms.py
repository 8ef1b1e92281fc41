"""The words of a guard, as its keeper reads them."""

from __future__ import annotations

import os

import pytest

from socketkeep._guard._terms import GuardTerms, guard_of_this


def test_they_are_read_from_the_environment() -> None:
    terms = GuardTerms.of({"SOCKETKEEP_GUARDED": "12 1024 2 exit code 1"})
    assert terms == GuardTerms(12, 1024, 2, "exit code 1")
    assert GuardTerms.of({}) is None


def test_a_guard_is_near(monkeypatch: pytest.MonkeyPatch) -> None:
    for pid, is_guard in ((os.getppid(), True), (os.getpid(), False), (1 << 22, False)):
        monkeypatch.setenv("SOCKETKEEP_GUARDED", f"{pid} 1024 0 ")
        assert guard_of_this() == (GuardTerms(pid, 1024) if is_guard else None)


@pytest.mark.parametrize("text", ["", "12", "12 1 1", "a b c d", "12 1 x "])
def test_what_is_no_guards_word_is_none(text: str) -> None:
    assert GuardTerms.of({"SOCKETKEEP_GUARDED": text}) is None
