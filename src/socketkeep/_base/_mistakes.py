"""What a user got wrong: a value that will not do, and a word that is near to another."""

from __future__ import annotations


class OptionError(ValueError):
    """A value that an option cannot take; the text names the option, its source and the remedy."""


def nearest(word: str, known: tuple[str, ...]) -> str:
    """Return " (did you mean ...?)" for the nearest of `known`, or "" when none is near."""
    from difflib import get_close_matches  # for who has mistyped

    match = get_close_matches(word.lower(), [name.lower() for name in known], n=1, cutoff=0.6)
    if not match:
        return ""
    found = next(name for name in known if name.lower() == match[0])
    return f" (did you mean {found}?)"
