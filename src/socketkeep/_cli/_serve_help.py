"""The help of `socketkeep serve`: its options by topic.

``--help`` has all that is said of each, ``-h`` a line.  What is the same for all of them, variable
and key, is said once.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Iterator
from typing import Final, NamedTuple

import click

from socketkeep._config._options import FLAG, Option
from socketkeep._config._server_options import by_topic

_TEXT_INDENT: Final = 6
_NAME_WIDTH: Final = 28  # of the column in front of the lines of -h
_OWN_TOPIC: Final = "This command"


class _Entry(NamedTuple):
    """An option in the help.  name: its spelling in short, spelling: as a whole."""

    name: str
    spelling: str
    text: str
    default: str


def metavar(declared: Option) -> str:
    """Return what stands for an option's value."""
    if declared.metavar:
        return declared.metavar
    return "|".join(declared.choices) if declared.choices else declared.kind.name.upper()


def default_of(declared: Option) -> str:
    """Return the default as the help has it, "" for none."""
    if declared.kind is FLAG:
        return "on" if declared.default else ""
    return declared.default_text


def write_whole(formatter: click.HelpFormatter, others: Iterable[click.Parameter]) -> None:
    """Write all that is said of the options, by topic; `others` are those of the command alone."""
    for title, entries in _topics(others):
        with formatter.section(title):
            for entry in entries:
                formatter.write(f"{'':>{formatter.current_indent}}{entry.spelling}\n")
                default = f"  [default: {entry.default}]" if entry.default else ""
                before, formatter.current_indent = formatter.current_indent, _TEXT_INDENT
                formatter.write_text(entry.text + default)
                formatter.current_indent = before


def write_in_short(formatter: click.HelpFormatter, others: Iterable[click.Parameter]) -> None:
    """Write a line for each option, by topic; its text is cut."""
    for title, entries in _topics(others):
        with formatter.section(title):
            for entry in entries:
                start = f"{'':>{formatter.current_indent}}{entry.name:<{_NAME_WIDTH - 1}} "
                text = textwrap.shorten(entry.text, formatter.width - len(start), placeholder=" …")
                formatter.write(f"{start}{text}\n")


def _topics(others: Iterable[click.Parameter]) -> Iterator[tuple[str, list[_Entry]]]:
    for title, options in by_topic().items():
        yield title, [_declared(option) for option in options if option.flags]
    yield _OWN_TOPIC, [_of_command(other) for other in others if isinstance(other, click.Option)]


def _declared(option: Option) -> _Entry:
    names = ", ".join(option.flags)
    value = f" / {option.no_flag}" if option.kind is FLAG else f" {metavar(option)}"
    return _Entry(names, names + value, option.help, default_of(option))


def _of_command(option: click.Option) -> _Entry:
    names = ", ".join(option.opts)
    return _Entry(names, f"{names} {option.metavar or ''}".rstrip(), option.help or "", "")
