"""Users and groups of this system, by name or by number."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

_MOST: Final = (1 << 32) - 2  # the largest there can be: the next one means "as it is"


def user_id(text: str) -> int:
    """Return the uid of a user.  Raises ValueError when there is none of that name."""
    import pwd  # for who names one

    return _number("user", text, lambda: pwd.getpwnam(text).pw_uid)


def group_id(text: str) -> int:
    """Return the gid of a group.  Raises ValueError when there is none of that name."""
    import grp  # for who names one

    return _number("group", text, lambda: grp.getgrnam(text).gr_gid)


def _number(kind: str, text: str, look_up: Callable[[], int]) -> int:
    try:
        return look_up()
    except (KeyError, ValueError):  # the latter of a name that no database can have
        if text.isascii() and text.isdecimal() and int(text) <= _MOST:
            return int(text)
    raise ValueError(f"there is no {kind} {text!r} on this system")
