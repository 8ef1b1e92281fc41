"""A keeper that was started again and cannot load the code: it stays, and tries again."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from tests.keeper.bench import Bench


def start(bench: Bench, starts: int) -> None:
    """Start one before which there were so many keepers; its code does not load."""
    keeper: Any = bench.keeper
    keeper.guard = SimpleNamespace(starts=starts)
    keeper.start()
    bench.settle()
    bench.template.load_failed("SyntaxError: no")
    bench.settle()


@pytest.fixture
def holding(bench: Bench) -> Bench:
    """One in the place of another that was killed, whose code does not load."""
    start(bench, 1)
    assert (bench.keeper.state, bench.keeper.holding.why) == ("holding", "SyntaxError: no")
    return bench


def test_it_loads_again_by_itself_and_less_and_less_often(holding: Bench) -> None:
    for attempt, wait in enumerate((1, 2, 4, 8, 16, 30, 30), 1):
        assert len(holding.system.templates) == attempt
        holding.advance(wait - 0.5)
        assert len(holding.system.templates) == attempt
        holding.advance(0.6)
        assert holding.keeper.state == "holding"
        holding.template.load_failed(f"SyntaxError: {attempt}")
        holding.settle()
        assert holding.keeper.holding.why == f"SyntaxError: {attempt}"
    assert not holding.has_stopped()
    holding.advance(30.1)
    holding.bring_up()
    assert (holding.keeper.state, holding.keeper.holding.why) == ("running", "")
    holding.advance(60)
    assert len(holding.system.templates) == 9, "it has what it waited for"


def test_a_reload_is_tried_at_once(holding: Bench) -> None:
    holding.reload()
    holding.template.load_failed("SyntaxError: still")
    holding.settle()
    assert holding.ended_rollouts == [(4, 2, "SyntaxError: still")]
    holding.reload()
    holding.bring_up()
    assert holding.ended_rollouts[1:] == [(0, 3, "")]
    assert holding.keeper.state == "running"


def test_an_upgrade_is_refused(holding: Bench) -> None:
    """There is no generation that could be handed to the next version."""
    told: list[Any] = []
    holding.keeper.upgrade(told.append)
    assert [each.exit_code for each in told] == [1]
    assert "no code is loaded (SyntaxError: no)" in told[0].error


def test_an_upgrade_waits_for_the_attempt_that_is_under_way(holding: Bench) -> None:
    """It is refused if that fails, and follows if that brings code."""
    told: list[Any] = []
    holding.reload()
    holding.keeper.upgrade(told.append)
    assert not told
    holding.template.load_failed("SyntaxError: still")
    holding.settle()
    assert [each.exit_code for each in told] == [1]
    holding.reload()
    holding.keeper.upgrade(told.append)
    holding.bring_up()
    assert len(told) == 1
    assert len(holding.system.checks) == 1, "the new version is looked at"


@pytest.mark.parametrize("how", ["close", "finish"])
def test_it_ends_when_it_is_told_to(holding: Bench, how: str) -> None:
    holding.keeper.stop("close" if how == "close" else "finish")
    holding.settle()
    assert holding.has_stopped()
    assert holding.keeper.failure is None
    holding.advance(60)
    assert len(holding.system.templates) == 1


def test_one_that_is_the_first_ends_with_its_code(bench: Bench) -> None:
    start(bench, 0)
    assert bench.has_stopped()
    assert bench.keeper.failure is not None
