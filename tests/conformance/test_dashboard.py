"""The dashboard of contrib, read by Grafana's own types: nothing in it is unknown to them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest
from grafana_foundation_sdk.cog import plugins
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.dashboard import Dashboard

_FILE: Final = Path(__file__).parents[2] / "contrib" / "grafana" / "socketkeep.json"


def lost(ours: Any, theirs: Any, place: str = "") -> Iterator[str]:
    """Yield what Grafana's types have dropped or changed; what they add are defaults."""
    if isinstance(ours, dict) and isinstance(theirs, dict):
        for key, value in ours.items():
            if key in theirs:
                yield from lost(value, theirs[key], f"{place}.{key}")
            else:
                yield f"{place}.{key}"
    elif isinstance(ours, list) and isinstance(theirs, list) and len(ours) == len(theirs):
        for number, (one, other) in enumerate(zip(ours, theirs, strict=True)):
            yield from lost(one, other, f"{place}[{number}]")
    elif ours != theirs:
        yield place


@pytest.mark.parametrize("mistake", [None, "tittle"])
def test_the_dashboard_is_one_of_grafana(mistake: str | None) -> None:
    plugins.register_default_plugins()
    ours = json.loads(_FILE.read_text())
    if mistake is not None:
        ours["panels"][1][mistake] = ours["panels"][1].pop("title")
    theirs = json.loads(JSONEncoder().encode(Dashboard.from_json(ours)))
    # What titles of annotations are made of is known to Prometheus' part of Grafana alone.
    unknown = [place for place in lost(ours, theirs) if not place.endswith("].titleFormat")]
    assert unknown == ([] if mistake is None else [f".panels[1].{mistake}"])
