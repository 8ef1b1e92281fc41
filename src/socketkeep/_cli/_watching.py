"""Showing something once or again and again, for people or as JSON: common to commands."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any, Final, TypeVar

import click
import msgspec

from socketkeep._base._printable import printable_data
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
    try:
        encoded = msgspec.json.encode(result)
    except UnicodeEncodeError:  # a name that is no UTF-8, which JSON cannot carry
        encoded = msgspec.json.encode(printable_data(msgspec.to_builtins(result)))
    written = msgspec.json.format(encoded, indent=indent)
    if not written.isascii():
        # Valid in JSON, and no other text: what would steer a terminal stands in a string.
        text = written.decode()
        written = "".join(c if c.isprintable() or c == "\n" else _escaped(c) for c in text).encode()
    written = written.replace(b"\x7f", b"\\u007f")
    sys.stdout.flush()
    # As the bytes they are: of 10,000 sockets they are megabytes.
    sys.stdout.buffer.writelines((written, b"\n"))
    sys.stdout.buffer.flush()


def _escaped(character: str) -> str:
    return json.dumps(character)[1:-1]
