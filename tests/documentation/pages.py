"""The pages of the documentation: their programs, and the commands that they show."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[2]
DOCS: Final = ROOT / "docs"

_BLOCK: Final = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_PROMPT: Final = re.compile(r"^\$ ", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Shown:
    """A command of a page, and what the page shows of its output."""

    page: str
    command: str
    output: str

    @property
    def words(self) -> list[str]:
        """The command as a shell has it, without the comment behind it."""
        return shlex.split(self.command, comments=True)

    def __str__(self) -> str:
        return f"{self.page}: {self.command}"


def pages() -> list[Path]:
    """Return the README and every page, but not what was built from them."""
    found = (page for page in DOCS.rglob("*.md") if "_build" not in page.parts)
    return [ROOT / "README.md", *sorted(found)]


def name_of(page: Path) -> str:
    """Return what a page is called here: ``how-to/push``."""
    return str(page.relative_to(DOCS if page.is_relative_to(DOCS) else ROOT).with_suffix(""))


def blocks(page: str, language: str) -> list[str]:
    """Return the code blocks of a page in a language, in their order."""
    path = ROOT / "README.md" if page == "README" else DOCS / f"{page}.md"
    return [source for kind, source in _BLOCK.findall(path.read_text()) if kind == language]


def commands(page: str) -> list[Shown]:
    """Return the commands of a page, in their order."""
    found = []
    for block in blocks(page, "console"):
        for part in _PROMPT.split(block)[1:]:
            command, _, output = part.partition("\n")
            found.append(Shown(page, command, output))
    return found
