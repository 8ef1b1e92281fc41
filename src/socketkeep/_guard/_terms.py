"""A keeper's knowledge of its guard."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from socketkeep._base._process_stat import PARENT, stat_fields
from socketkeep._guard._program import GUARDED

_FIELDS: Final = 3  # before the cause, which may have spaces


@dataclass(frozen=True, slots=True)
class GuardTerms:
    """The words of the guard about itself to the keeper that it has started.

    pid: of the guard.  soft: the limit of descriptors that the server was started with.  starts:
    how many keepers there were before.  cause: how the last one of them ended.
    """

    pid: int = 0
    soft: int = 0
    starts: int = 0
    cause: str = ""

    @classmethod
    def of(cls, environment: Mapping[str, str]) -> GuardTerms | None:
        """Read them; None: nothing, or something else, is said there."""
        words = environment.get(GUARDED, "").split(" ", _FIELDS)
        if len(words) <= _FIELDS or not all(word.lstrip("-").isdecimal() for word in words[:3]):
            return None
        return cls(int(words[0]), int(words[1]), int(words[2]), words[3])


def guard_of_this() -> GuardTerms | None:
    """Return the terms of this process's guard; None: it has none, or that has died.

    A guard is the parent of the keeper, or its child, where the keeper has started it itself.
    """
    terms = GuardTerms.of(os.environ)
    if terms is None or os.getpid() == terms.pid:
        return None
    try:
        related = terms.pid == os.getppid() or int(stat_fields(terms.pid)[PARENT]) == os.getpid()
    except OSError:
        return None
    return terms if related else None
