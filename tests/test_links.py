"""Links of the documentation: those of a whole page lead somewhere, those to elsewhere have a form.

Sphinx checks what its pages link to among themselves (`make docs`), and for who has a network
what is elsewhere (`make linkcheck`).  Here is what it does not see: the pages in the repository's
root, and links to files that are no pages.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from markdown_it import MarkdownIt

ROOT = Path(__file__).parents[1]
PAGES = sorted(
    page
    for page in (*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"))
    if "_build" not in page.parts
)
#: Nobody has to be asked for these, and nobody is.
OF_NOBODY = {"127.0.0.1", "localhost"}


def links(page: Path) -> Iterator[str]:
    for token in MarkdownIt("commonmark").enable("table").parse(page.read_text()):
        for child in token.children or []:
            target = child.attrGet("href") or child.attrGet("src")
            if isinstance(target, str):
                yield target


def slugs(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as GitHub has them, and those that it names."""
    tokens = MarkdownIt("commonmark").parse(page.read_text())
    titles = [after.content for token, after in pairwise(tokens) if token.type == "heading_open"]
    made = {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}
    return made | set(re.findall(r"^\((\S+)\)=$", page.read_text(), re.MULTILINE))


def is_well_formed(target: str) -> bool:
    parts = urlsplit(target)
    host = parts.hostname or ""
    if host in OF_NOBODY:
        return parts.scheme == "http"
    whole = re.fullmatch(r"([a-z0-9-]+\.)+[a-z]{2,}", host) is not None
    return parts.scheme == "https" and whole and not re.search(r"[\s<>{}]|\.\.$", target)


def leads_somewhere(page: Path, target: str) -> bool:
    path, _, anchor = unquote(target).partition("#")
    if path.startswith("/"):
        return False
    found = (page.parent / path) if path else page
    if not found.exists():
        return False
    return not anchor or found.suffix != ".md" or anchor in slugs(found)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links(page: Path) -> None:
    for target in links(page):
        if "://" in target:
            assert is_well_formed(target), target
        elif page.parent == ROOT or not target.partition("#")[0].endswith((".md", "")):
            assert leads_somewhere(page, target), target


@pytest.mark.parametrize(
    ("target", "good"),
    [
        ("https://docs.python.org/3/library/socket.html", True),
        ("http://127.0.0.1:9000/", True),
        ("http://example.org/", False),
        ("https://example/", False),
        ("https://exa mple.org/", False),
        ("https://example.org/{name}", False),
    ],
)
def test_forms(target: str, good: bool) -> None:
    assert is_well_formed(target) == good


@pytest.mark.parametrize(
    ("target", "good"),
    [
        ("README.md", True),
        ("docs/how-to/deploy.md", True),
        ("docs/no-such.md", False),
        ("CONTRIBUTING.md#set-up", True),
        ("CONTRIBUTING.md#no-such", False),
        ("/docs/how-to/deploy.md", False),
    ],
)
def test_targets(target: str, good: bool) -> None:
    assert leads_somewhere(ROOT / "README.md", target) == good
