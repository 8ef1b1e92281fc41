"""The recorded surfaces, one a version."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Final

from tests.surface.collected import Surface

RECORDS: Final = Path(__file__).parents[1] / "data" / "surface"


def text(surface: Surface) -> str:
    """Return a surface as JSON, a line for each thing: what changes is then seen."""
    sorts = []
    for sort, facts in surface.items():
        lines = ",\n".join(
            f"  {json.dumps(name)}: {json.dumps(fact)}" for name, fact in facts.items()
        )
        sorts.append(
            f" {json.dumps(sort)}: {{\n{lines}\n }}" if facts else f" {json.dumps(sort)}: {{}}"
        )
    return "{\n" + ",\n".join(sorts) + "\n}\n"


def path_of(version: str) -> Path:
    """Return where the surface of that version is recorded."""
    return RECORDS / f"{version}.json"


def versions() -> list[str]:
    """Return the versions that are recorded."""
    return sorted(path.stem for path in RECORDS.glob("*.json"))


def read(version: str) -> Surface:
    """Return the surface of that version."""
    surface: Surface = json.loads(path_of(version).read_text())
    return surface
