"""Sentences that commands print: none of them steers the terminal, whoever chose a name in it."""

from __future__ import annotations

from collections.abc import Iterable

import click

from socketkeep._base._printable import printable, printable_lines


def say(text: str) -> None:
    """Print text of one line."""
    click.echo(printable(text))


def say_blocks(blocks: Iterable[str]) -> None:
    """Print blocks of lines, an empty line between them."""
    click.echo(printable_lines("\n\n".join(blocks)))


def finding(sentence: str, evidence: Iterable[str], remedy: str) -> str:
    """Return a block: what is so, what shows it (-), and what to do (=>), "" for nothing."""
    lines = [printable(sentence), *(f"  - {printable(each)}" for each in evidence)]
    if remedy:
        lines.append(f"  => {printable(remedy)}")
    return "\n".join(lines)
