"""`socketkeep.Socket` in the place of `socket.socket`: CPython's own tests see no difference."""

from __future__ import annotations

import importlib.util
from importlib.machinery import ModuleSpec

import pytest

from tests.stdlib import compare
from tests.stdlib.compare import SECONDS, Outcome, Unusable
from tests.stdlib.selection import SELECTED

#: The machine's kernel says what is skipped: about 1300 of the 1400 are run where it has little.
LEAST = 1000


@pytest.mark.timeout(SECONDS + 30)
def test_cpythons_own_tests_see_no_difference() -> None:
    """Each test of sockets ends with either class as with the other."""
    try:
        comparison = compare.compare()
    except Unusable as error:
        pytest.fail(str(error), pytrace=False)
    report = comparison.report()
    print(report)
    if comparison.different:
        pytest.fail(report, pytrace=False)
    assert len(comparison.run) >= LEAST
    idle = [name for name in SELECTED if not any(test.startswith(name) for test in comparison.run)]
    assert not idle, "nothing of these was run"


def test_without_cpythons_tests_it_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """A Python that has not all of the package is named, with what to install; nothing is run."""

    def find_spec(name: str) -> ModuleSpec | None:
        return ModuleSpec(name, None) if name == "test" else None

    monkeypatch.setattr(importlib.util, "find_spec", find_spec)
    with pytest.raises(Unusable, match=r"without CPython's own tests.*libpython3-testsuite"):
        compare.compare()


def test_the_comparison_sees() -> None:
    """Another outcome, and a test that only one run had, are differences; another reason is not."""
    standard = {
        "same": Outcome("skipped", "one reason"),
        "other": Outcome("ok", ""),
        "gone": Outcome("ok", ""),
    }
    socketkeep = {
        "same": Outcome("skipped", "another reason"),
        "other": Outcome("failed", "why"),
        "new": Outcome("ok", ""),
    }
    assert compare.differing(standard, socketkeep) == ["gone", "new", "other"]
