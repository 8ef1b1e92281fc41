"""The common part of `push` and `publish`: where the message is taken from."""

from __future__ import annotations

import base64
import sys
from collections.abc import Callable
from typing import Any, Final, TypeVar

import click

from socketkeep._cli._completion import files
from socketkeep._cli._exit import USAGE, Failure
from socketkeep._cli._numbers import seconds
from socketkeep._names._naming import MESSAGE_LIMIT
from socketkeep._names._pushing import LONGEST_PATIENCE, PATIENCE

Command = TypeVar("Command", bound=Callable[..., Any])

_OPTIONS: Final = (
    click.argument("text", nargs=-1),
    click.option(
        "--file",
        metavar="PATH",
        default="",
        help="Take the message from this file.",
        shell_complete=files,
    ),
    click.option("-n", "--newline", is_flag=True, help="End the message with a newline."),
    click.option(
        "--timeout",
        type=seconds(0, LONGEST_PATIENCE),
        default=PATIENCE,
        show_default=True,
        help="Seconds in which it is to be handed over.",
    ),
)


def message_options(command: Command) -> Command:
    """Add TEXT, --file, --newline and --timeout to a command."""
    for declared in reversed(_OPTIONS):
        command = declared(command)
    return command


def arguments_of(
    to: str, text: tuple[str, ...], file: str, newline: bool, timeout: float
) -> dict[str, Any]:
    """Return what the server is asked.  Raises Failure for a message that cannot be."""
    data = _message(text, file) + (b"\n" if newline else b"")
    if len(data) > MESSAGE_LIMIT:
        raise Failure(f"a message has at most {MESSAGE_LIMIT} bytes, not {len(data)}", USAGE)
    return {"to": to, "data": base64.b64encode(data).decode(), "timeout": timeout}


def _message(text: tuple[str, ...], file: str) -> bytes:
    if text and file:
        raise Failure("the message is given twice: as TEXT, and by --file", USAGE)
    if text:
        return " ".join(text).encode("utf-8", "surrogateescape")
    if not file:
        return sys.stdin.buffer.read(MESSAGE_LIMIT + 1)
    try:
        with open(file, "rb") as opened:
            return opened.read(MESSAGE_LIMIT + 1)
    except OSError as error:
        raise Failure(f"cannot read {file}: {error.strerror}", USAGE) from None
