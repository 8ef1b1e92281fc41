"""Mistakes of a user: a value that will not do, and a word that is near to another."""

from __future__ import annotations

from typing import Final

EXIT_LOAD_FAILED: Final = 4


class OptionError(ValueError):
    """A value that an option cannot take; the text names the option, its source and the remedy."""


class LoadError(Exception):
    """TARGET cannot be served: what to tell the user, and the exit code."""

    def __init__(self, text: str, exit_code: int = EXIT_LOAD_FAILED) -> None:
        super().__init__(text)
        self.text = text
        self.exit_code = exit_code


def nearest(word: str, known: tuple[str, ...]) -> str:
    """Return " (did you mean ...?)" for the nearest of `known`, or "" when none is near."""
    from difflib import get_close_matches  # for who has mistyped

    match = get_close_matches(word.lower(), [name.lower() for name in known], n=1, cutoff=0.6)
    if not match:
        return ""
    found = next(name for name in known if name.lower() == match[0])
    return f" (did you mean {found}?)"
