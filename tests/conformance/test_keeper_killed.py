"""Keepers killed in the middle of moves, a guard being there: nothing is lost, nothing is twice."""

from __future__ import annotations

from pathlib import Path

from tests.conformance.dying_keeper import storms


def test_clients_count_while_keepers_die_at_the_steps_of_moves(tmp_path: Path) -> None:
    result = storms(tmp_path, 4)
    assert not result.wrong
    assert result.kills >= 4
    assert result.answers > 1000
