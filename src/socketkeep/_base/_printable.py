"""Text of others, made fit to be shown: it steers no terminal, and forges no line.

A peer chooses its socket's name, a user the names of files, and an exception says what it likes.
Whatever is written for people (a log line, a table, an error, a page, a label) goes through here at
the place where it is written; data (JSON, an attribute) stays what it is, and JSON has escapes of
its own.
"""

from __future__ import annotations

from typing import Any


def printable(text: str) -> str:
    r"""Return the text on one line: ``\x1b``, ``\n``, ``\u202e`` for what would be obeyed.

    Escaped are control characters, line breaks, what turns the direction of writing, what has no
    width, and bytes that were no UTF-8; letters of every language stay.
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else _escaped(c) for c in text)


def printable_lines(text: str) -> str:
    """Return the text with its line breaks and tabs, and otherwise as `printable` does."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c in "\n\t" else _escaped(c) for c in text)


def printable_name(name: str | bytes) -> str:
    r"""Return a socket's name as text that can be printed, and encoded, and told from any other.

    Bytes that are no UTF-8 and what `printable` escapes are written as ``\xNN`` or ``\uNNNN``, and
    a backslash beside them as two.  The rest stays as it is.
    """
    raw = name if isinstance(name, bytes) else name.encode("utf-8", "surrogateescape")
    try:
        text = raw.decode()
        if text.isprintable():
            return text
    except UnicodeDecodeError:
        pass
    return printable(raw.replace(b"\\", b"\\\\").decode("utf-8", "backslashreplace"))


def printable_data(data: Any) -> Any:
    """Return what JSON is made of, each text in it as `printable` does."""
    if isinstance(data, str):
        return printable(data)
    if isinstance(data, dict):
        return {key: printable_data(value) for key, value in data.items()}
    if isinstance(data, list | tuple):
        return [printable_data(value) for value in data]
    return data


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")
