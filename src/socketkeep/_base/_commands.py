"""The command lines of processes, as they are shown."""

from __future__ import annotations

import os
from typing import Final

_WIDTH: Final = 60


def command_of(pid: int) -> str:
    """Return the command line of a process, cut to 60 characters; "?" when it cannot be read."""
    return cut(command_line(pid))


def command_line(pid: int) -> str:
    """Return the command line of a process on one printable line; "?" when it cannot be read."""
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            words = file.read(4096).rstrip(b"\0").split(b"\0")
    except OSError:
        return "?"
    text = " ".join(os.fsdecode(word) for word in words).strip()
    return "".join(letter if letter.isprintable() else "?" for letter in text) or "?"


def cut(command: str) -> str:
    """Return the beginning of a command line, for a table: at most 60 characters."""
    if len(command) > _WIDTH:
        return f"{command[: _WIDTH - 3]}..."
    return command
