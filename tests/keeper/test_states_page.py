"""The page of states has every transition of the tables."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
from docs._ext.declared import PAGES


def _words(name: str) -> list[tuple[str, str, str]]:
    """Return the transitions of a table from which the page is made."""
    page = PAGES[name]
    assert isinstance(page, partial)
    (transitions,) = page.args
    return [
        (state.value, event.value, following.value)
        for (state, event), following in transitions.items()
    ]


PAGE = Path(__file__).parents[2] / "docs" / "reference" / "states.md"
TABLES = {name: _words(name) for name in ("ownership", "generations", "lifecycle")}


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
