"""A keeper's knowledge of its guard."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from socketkeep._guard._program import GUARDED

_FIELDS: Final = 3  # before the cause, which may have spaces


@dataclass(frozen=True, slots=True)
class GuardTerms:
    """What the guard says of itself to the keeper that it has started.

    pid: of the guard.  soft: the limit of descriptors that the server was started with.  starts:
    how many keepers there were before.  cause: how the last one of them ended.
    """

    pid: int = 0
    soft: int = 0
    starts: int = 0
    cause: str = ""

    @classmethod
    def of(cls, environment: Mapping[str, str], parent: int) -> GuardTerms | None:
        """Read them for a process whose parent is `parent`; None: that is no guard."""
        words = environment.get(GUARDED, "").split(" ", _FIELDS)
        if len(words) <= _FIELDS or not all(word.lstrip("-").isdecimal() for word in words[:3]):
            return None
        terms = cls(int(words[0]), int(words[1]), int(words[2]), words[3])
        return terms if terms.pid == parent else None


def guard_of_this() -> GuardTerms | None:
    """Return the terms of this process's guard; None: it has none, or that has died."""
    return GuardTerms.of(os.environ, os.getppid())
