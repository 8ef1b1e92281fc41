"""Aligned tables: by rich in a terminal where it is installed, else as plain text."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from msgspec import Struct

from socketkeep._base._printable import printable


class Table(Struct, frozen=True):
    """Rows of cells under headings, or without any; numbers are aligned to the right."""

    headings: Sequence[str]
    rows: Sequence[Sequence[Any]]


def show(tables: Sequence[Table]) -> None:
    """Print the tables, an empty line between them."""
    if not (sys.stdout.isatty() and _show_rich(tables)):
        sys.stdout.write("\n".join(_plain(table) for table in tables))
    sys.stdout.flush()


def _plain(table: Table) -> str:
    # By columns, so that of many thousand rows most is done in C.
    columns = [_texts(column) for column in zip(*table.rows, strict=True)]
    if table.headings:
        columns = columns or [[] for _ in table.headings]
        for heading, texts in zip(table.headings, columns, strict=True):
            texts.insert(0, heading.upper())
    cells = []
    for texts, to_right in zip(columns, _right(table), strict=True):
        width = max(map(len, texts))
        cells.append(f"%{width}s" if to_right else f"%-{width}s")
    line = "  ".join(cells)
    return "".join([(line % texts).rstrip() + "\n" for texts in zip(*columns, strict=True)])


def _show_rich(tables: Sequence[Table]) -> bool:
    try:
        from rich import box
        from rich.console import Console
        from rich.table import Table as RichTable
        from rich.text import Text
    except ImportError:
        return False
    console = Console(highlight=False)
    for table in tables:
        drawn = RichTable(box=box.SIMPLE_HEAD, show_header=bool(table.headings))
        right = _right(table)
        for heading, to_right in zip(table.headings or [""] * len(right), right, strict=True):
            drawn.add_column(heading, justify="right" if to_right else "left", overflow="fold")
        for row in table.rows:
            # Text, not str: an address in brackets would be taken for markup.
            drawn.add_row(*(Text(_text(cell)) for cell in row))
        console.print(drawn)
    return True


def _right(table: Table) -> list[bool]:
    if not table.rows:
        return [False] * len(table.headings)
    return [
        all(issubclass(kind, (int, float, Measure)) for kind in set(map(type, column)))
        for column in zip(*table.rows, strict=True)
    ]


def _texts(column: Sequence[object]) -> list[str]:
    if not {type(None), bool}.isdisjoint(map(type, column)):
        return list(map(_text, column))
    texts = list(map(str, column))
    # All at once: of many thousand cells hardly ever one has what would steer the terminal.
    return texts if "".join(texts).isprintable() else list(map(printable, texts))


def _text(cell: object) -> str:
    if cell is None:
        return "-"
    if isinstance(cell, bool):
        return "yes" if cell else "no"
    return printable(str(cell))


class Measure(str):
    """A number with its unit, written for people; aligned as a number is."""

    __slots__ = ()


def duration(seconds: float) -> Measure:
    """Return seconds as people say them: ``0.4s``, ``12s``, ``3m05s``, ``2h07m``, ``4d03h``."""
    if seconds < 10:
        return Measure(f"{seconds:.1f}s")
    whole = int(seconds)
    if whole < 60:
        return Measure(f"{whole}s")
    if whole < 3600:
        return Measure(f"{whole // 60}m{whole % 60:02}s")
    if whole < 86400:
        return Measure(f"{whole // 3600}h{whole % 3600 // 60:02}m")
    return Measure(f"{whole // 86400}d{whole % 86400 // 3600:02}h")


@lru_cache(maxsize=1024)
def size(count: int) -> Measure:
    """Return bytes as people say them: ``512``, ``1.4K``, ``27M``."""
    if count < 1024:
        return Measure(count)
    amount = count / 1024
    for unit in ("K", "M", "G"):
        if amount < 1024:
            return Measure(f"{amount:.1f}{unit}" if amount < 10 else f"{amount:.0f}{unit}")
        amount /= 1024
    return Measure(f"{amount:.1f}T")
