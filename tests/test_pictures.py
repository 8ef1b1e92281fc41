"""Each picture of the documentation is shown by a page, and made by a script that is there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PICTURES = sorted(
    path.relative_to(ROOT)
    for kind in ("*.svg", "*.png", "*.gif", "*.jpg")
    for path in DOCS.rglob(kind)
    if "_build" not in path.parts
)
PAGES = [ROOT / "README.md", *(page for page in DOCS.rglob("*.md") if "_build" not in page.parts)]
#: By the pattern of a picture's path: its script.
MADE_BY = dict(
    re.findall(
        r"^\| `(docs/\S+)` \| `(\S+\.py)`", (ROOT / "CONTRIBUTING.md").read_text(), re.MULTILINE
    )
)


@pytest.mark.parametrize("picture", PICTURES, ids=str)
def test_a_picture_has_a_script_and_a_page(picture: Path) -> None:
    scripts = [script for pattern, script in MADE_BY.items() if picture.match(pattern)]
    assert len(scripts) == 1
    assert (ROOT / scripts[0]).is_file()
    shown = {
        (page.parent / target).resolve()
        for page in PAGES
        for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text())
    }
    assert (ROOT / picture).resolve() in shown


def test_no_script_is_named_for_nothing() -> None:
    assert all(any(picture.match(pattern) for picture in PICTURES) for pattern in MADE_BY)
