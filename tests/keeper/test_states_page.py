"""The page of states has every transition of the tables."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from pathlib import Path
from typing import TypeVar

import pytest
from docs._ext.declared import PAGES

from socketkeep._keeper.tables import _ownership
from socketkeep._keeper.workers import _generations
from socketkeep._stream import _lifecycle

S = TypeVar("S", bound=Enum)
E = TypeVar("E", bound=Enum)


def _words(transitions: Mapping[tuple[S, E], S]) -> list[tuple[str, str, str]]:
    return [
        (state.value, event.value, following.value)
        for (state, event), following in transitions.items()
    ]


PAGE = Path(__file__).parents[2] / "docs" / "reference" / "states.md"
TABLES = {
    "ownership": _words(_ownership.TRANSITIONS),
    "generations": _words(_generations.TRANSITIONS),
    "lifecycle": _words(_lifecycle.TRANSITIONS),
}


@pytest.mark.parametrize("name", TABLES)
def test_every_transition_is_on_the_page(name: str) -> None:
    assert f"{{{{ declared: {name} }}}}" in PAGE.read_text()
    made = PAGES[name]()
    drawing, _, table = made.partition("</svg>")
    rows = [line for line in table.splitlines() if line.startswith("| ")][1:]
    assert rows == [f"| {' | '.join(words)} |" for words in TABLES[name]]
    for state, event, following in TABLES[name]:
        assert f">{state}</text>" in drawing
        assert f">{following}</text>" in drawing
        assert event in drawing
