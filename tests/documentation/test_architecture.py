"""The page of the architecture names files, folders and names of the code that there are."""

from __future__ import annotations

import re
from functools import cache
from typing import Final

import pytest
from markdown_it import MarkdownIt

from tests.documentation.pages import DOCS, ROOT

PACKAGE: Final = ROOT / "src" / "socketkeep"
PAGE: Final = DOCS / "architecture.md"
#: Words of others, which the code need not have, and one that stands for any.
FOREIGN: Final = frozenset({"sys.setprofile", "path/file.py"})

_PATH: Final = re.compile(r"[\w.-]+(?:/[\w.-]+)+/?|\w+\.(?:py|c|md)|_[a-z]+")
_NAME: Final = re.compile(r"[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*")


def code_of(markdown: str) -> list[str]:
    """Return what stands in code spans, in its order."""
    tokens = MarkdownIt("commonmark").enable("table").parse(markdown)
    return [
        child.content
        for token in tokens
        for child in token.children or ()
        if child.type == "code_inline"
    ]


def is_there(path: str) -> bool:
    """Return whether there is a file or a folder of this path, or of this name where it is C."""
    if path.endswith(".c") and "/" not in path:
        return (PACKAGE / "_native" / path).exists()
    return any((root / path).exists() for root in (PACKAGE, ROOT))


@cache
def words() -> frozenset[str]:
    """Return each word of the sources and of the model."""
    found: set[str] = set()
    for folder in (PACKAGE, ROOT / "tests" / "model"):
        for path in folder.rglob("*"):
            if path.suffix in (".py", ".c", ".h", ".pyi", ".pml"):
                found.update(re.findall(r"\w+", path.read_text()))
    return frozenset(found)


def missing(markdown: str) -> list[str]:
    """Return what the page names and the code does not have."""
    gone = []
    for span in code_of(markdown):
        if span in FOREIGN:
            continue
        if "/" in span or span.endswith((".py", ".c")):
            if _PATH.fullmatch(span) and not is_there(span):
                gone.append(span)
        elif _NAME.fullmatch(span):
            gone += [span for part in span.split(".") if part not in words()][:1]
    return gone


def test_everything_that_the_page_names_is_there() -> None:
    assert missing(PAGE.read_text()) == []


@pytest.mark.parametrize(
    "span",
    ["_worker/_gone.py", "_gone.c", "tests/gone", "NobodyHasThis", "Connections.nobody_has_this"],
)
def test_what_is_gone_is_found(span: str) -> None:
    assert missing(f"see `{span}` and `_worker/_sync.py`") == [span]


def test_what_is_no_name_is_passed_over() -> None:
    assert missing("by `/readyz`, `--keep crash` and `poll(2)`, see `Connections`") == []
