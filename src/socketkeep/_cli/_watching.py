"""What all commands share that show something: once or again and again, for people or as JSON."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from typing import Any, Final, TypeVar

import click
import msgspec

from socketkeep._cli._table import Table, show

Report = TypeVar("Report")

WATCH_INTERVAL: Final = 1.0
_CLEAR: Final = "\x1b[H\x1b[2J"

json_option: Final = click.option(
    "--json", "as_json", is_flag=True, help="Print JSON, whose fields are stable."
)
watch_option: Final = click.option(
    "--watch", is_flag=True, help="Show it anew every second, until Ctrl-C."
)


def present(
    look: Callable[[], Report],
    as_json: bool,
    watch: bool,
    tables: Callable[[Report], Sequence[Table]],
) -> Report:
    """Print what `look` returns, laid out by `tables`; with `watch` each second anew.

    Returns what was printed.
    """
    while True:
        report = look()
        laid_out = [] if as_json else tables(report)
        if watch and sys.stdout.isatty():
            sys.stdout.write(_CLEAR)
        if as_json:
            print_json(report, indent=-1 if watch else 2)
        else:
            show(laid_out)
        if not watch:
            return report
        time.sleep(WATCH_INTERVAL)


def print_json(result: Any, indent: int = 2) -> None:
    """Print a result; a negative indent is one line."""
    written = msgspec.json.format(msgspec.json.encode(result), indent=indent)
    sys.stdout.flush()
    # As the bytes they are: of 10,000 sockets they are megabytes.
    sys.stdout.buffer.writelines((written, b"\n"))
    sys.stdout.buffer.flush()
