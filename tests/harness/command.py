"""The command `socketkeep`, in this process."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from click import Context
from click.shell_completion import BashComplete

from socketkeep._cli import _main

#: Each command by its name, with its line in the help.
COMMANDS: Final = _main.COMMANDS


def main(arguments: Sequence[str]) -> int:
    """Run the command with these arguments; return its exit code."""
    return _main.main(list(arguments))


def proposed(command: str, typed: str) -> dict[str, str | None]:
    """Return the words that a shell is told for an argument of a command, with their help."""
    asked = BashComplete(_main.group, {}, "socketkeep", "_SOCKETKEEP_COMPLETE")
    return {each.value: each.help for each in asked.get_completions([command], typed)}


def option_flags() -> set[str]:
    """Return the flags of all commands."""
    context = Context(_main.group)
    commands = [_main.group.get_command(context, name) for name in COMMANDS]
    return {flag for each in commands if each for option in each.params for flag in option.opts}
