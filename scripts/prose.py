"""Look for sentences in the documentation that are hard to read.

`python scripts/prose.py` prints each with its place and the rule that it breaks, and how many there
are of each rule.  With --check it exits with 1 if there are any.

The text is what a reader sees of Markdown: code, and what the code declares, is left out.  The help
of the commands and of their options is looked at where it is declared.
"""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Final, NamedTuple

import click
from markdown_it import MarkdownIt
from markdown_it.token import Token

from socketkeep._cli._main import group
from socketkeep._config._listener_options import LISTENER_OPTIONS
from socketkeep._config._server_options import OPTIONS

ROOT: Final = Path(__file__).parents[1]
#: More words have a reader go back to the beginning.
MOST_WORDS: Final = 40
MOST_PASSIVES: Final = 3

#: Words that say nothing, or promise what the reader is to judge; and what to write instead.
WORDS: Final = {
    "simply": "",
    "obviously": "",
    "of course": "",
    "basically": "",
    "easily": "",
    "seamless": "say what happens",
    "seamlessly": "say what happens",
    "robust": "say against what",
    "powerful": "say what it can do",
    "leverage": "use",
    "utilize": "use",
    "in order to": "to",
    "please": "",
    "blazing": "give the figure",
    "state-of-the-art": "give the figure",
    "etc": "name the rest, or say such as",
}

_HEADLESS: Final = re.compile(r"(What|Whatever|Who|Whoever|Whose|Which)\b(?!.*\?$)")
_PASSIVE: Final = re.compile(
    r"\b(?:is|are|was|were|be|been|being)\s+(?:(?:not|then|also|never|only)\s+)?"
    r"\w+(?:ed|en|wn|pt|ld)\b"
)
_WORD: Final = re.compile(
    rf"\b(?:{'|'.join(re.escape(word) for word in WORDS)})\b(?!-)", re.IGNORECASE
)
#: A full stop within a sentence: of a number, an abbreviation, a file's name.
_END: Final = re.compile(r"(?<=[.!?:;])(?<!\be\.g\.)(?<!\bi\.e\.)\s+(?=[\"'(\[]?[A-Z0-9`])")


class Finding(NamedTuple):
    """A sentence that breaks a rule."""

    place: str
    rule: str
    sentence: str


def is_long(sentence: str) -> bool:
    """Return whether it has more words than a reader keeps in mind."""
    return len(re.findall(r"[\w`][\w'./`-]*", sentence)) > MOST_WORDS


RULES: Final[dict[str, Callable[[str], bool]]] = {
    "headless": lambda sentence: _HEADLESS.match(sentence) is not None,
    "long": is_long,
    "passive": lambda sentence: len(_PASSIVE.findall(sentence)) >= MOST_PASSIVES,
    "word": lambda sentence: _WORD.search(sentence) is not None,
}


def sentences(markdown: str) -> Iterator[tuple[int, str]]:
    """Yield each sentence that a reader sees, with its paragraph's line; headings are none."""
    tokens = MarkdownIt("commonmark").enable("table").parse(markdown)
    for before, token in pairwise(tokens):
        if token.type != "inline" or before.type == "heading_open" or token.map is None:
            continue
        for sentence in _END.split(_text(token)):
            yield token.map[0] + 1, sentence.strip()


def _text(inline: Token) -> str:
    """Return a paragraph's text; a span of code is one word of it."""
    parts = []
    for child in inline.children or []:
        match child.type:
            case "text":
                parts.append(child.content)
            case "link_open":  # a title of another page begins as it likes
                parts.append("[")
            case "code_inline":
                parts.append("`code`")
            case "softbreak" | "hardbreak":
                parts.append(" ")
    return "".join(parts)


def findings(markdown: str, page: str) -> list[Finding]:
    """Return the sentences of a page that break a rule."""
    return [
        Finding(f"{page}:{line}", rule, sentence)
        for line, sentence in sentences(markdown)
        for rule, breaks in RULES.items()
        if breaks(sentence)
    ]


def pages() -> list[Path]:
    """Return the pages that are looked at."""
    found = sorted((ROOT / "docs").rglob("*.md"))
    return [ROOT / "README.md", *(page for page in found if "_build" not in page.parts)]


def helps() -> Iterator[tuple[str, str]]:
    """Yield what the help says of each command and each of its options, with whose it is."""
    for declared in OPTIONS:
        yield declared.long_flag, declared.help
    for of_listener in LISTENER_OPTIONS:
        yield f"--bind {of_listener.name}=", of_listener.help
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        yield name, inspect.cleandoc(command.help or "")  # as CPython has it since 3.13
        for each in command.params:
            if isinstance(each, click.Option) and each.help and name != "serve":
                yield f"{name} {each.opts[-1]}", each.help


def main() -> int:
    """Print what there is."""
    found = [
        each for page in pages() for each in findings(page.read_text(), str(page.relative_to(ROOT)))
    ]
    found += [each for place, text in helps() for each in findings(text, place)]
    for each in found:
        print(f"{each.place}: {each.rule}: {each.sentence}")
    for rule in RULES:
        count = sum(each.rule == rule for each in found)
        if count:
            print(f"{rule}: {count} sentences", file=sys.stderr)
    return 1 if found and "--check" in sys.argv else 0


if __name__ == "__main__":
    sys.exit(main())
