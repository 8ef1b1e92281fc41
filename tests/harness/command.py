"""The command `socketkeep`, in this process."""

from __future__ import annotations

from collections.abc import Sequence

from socketkeep import _cli


def main(arguments: Sequence[str]) -> int:
    """Run the command with these arguments; return its exit code."""
    return _cli.main(list(arguments))
