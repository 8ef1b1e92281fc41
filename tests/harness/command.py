"""The command `socketkeep`, in this process."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from socketkeep._cli import _main

#: Each command by its name, with its line in the help.
COMMANDS: Final = _main.COMMANDS


def main(arguments: Sequence[str]) -> int:
    """Run the command with these arguments; return its exit code."""
    return _main.main(list(arguments))
