"""Aligned tables: by rich in a terminal where it is installed, else as plain text."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Table:
    """Rows of cells under headings, or without any; numbers are aligned to the right."""

    headings: Sequence[str]
    rows: Sequence[Sequence[Any]]


def show(tables: Sequence[Table]) -> None:
    """Print the tables, an empty line between them."""
    if not (sys.stdout.isatty() and _show_rich(tables)):
        sys.stdout.write("\n".join(_plain(table) for table in tables))
    sys.stdout.flush()


def _plain(table: Table) -> str:
    cells = [[_text(cell) for cell in row] for row in table.rows]
    headings = [[heading.upper() for heading in table.headings]] if table.headings else []
    lines = headings + cells
    right = _right(table)
    widths = [max(len(line[column]) for line in lines) for column in range(len(right))]
    text = ""
    for line in lines:
        padded = (
            cell.rjust(width) if to_right else cell.ljust(width)
            for cell, width, to_right in zip(line, widths, right, strict=True)
        )
        text += "  ".join(padded).rstrip() + "\n"
    return text


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
    return [
        bool(table.rows)
        and all(isinstance(row[column], (int, float, Measure)) for row in table.rows)
        for column in range(len(table.headings or table.rows[0]))
    ]


def _text(cell: object) -> str:
    if cell is None:
        return "-"
    if isinstance(cell, bool):
        return "yes" if cell else "no"
    return str(cell)


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


def size(count: int) -> Measure:
    """Return bytes as people say them: ``512``, ``1.4K``, ``27M``."""
    amount = float(count)
    for unit in ("", "K", "M", "G"):
        if amount < 1024:
            return Measure(f"{amount:.1f}{unit}" if unit and amount < 10 else f"{amount:.0f}{unit}")
        amount /= 1024
    return Measure(f"{amount:.1f}T")
