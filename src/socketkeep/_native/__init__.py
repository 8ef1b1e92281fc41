"""The compiled core, and the one place that decides whether it runs.

What is in it has a twin in Python, which does the same and stands where it belongs by its subject;
`compiled_or` gives the one of the two that runs.  Python alone runs where the core was not
compiled, and with SOCKETKEEP_PURE=1 in the environment.
"""

from __future__ import annotations

import os
from importlib import import_module
from types import ModuleType
from typing import Final, TypeVar, cast

_Twin = TypeVar("_Twin")


#: Set to anything but "0", it has Python alone run.
PURE_VARIABLE: Final = "SOCKETKEEP_PURE"


def _load() -> ModuleType | None:
    if os.environ.get(PURE_VARIABLE, "") not in ("", "0"):
        return None
    try:
        return import_module("socketkeep._native._core")
    except ModuleNotFoundError:
        return None


#: The compiled module, None where Python alone runs.
core: Final = _load()

#: Which of the two runs, as it is told to people.
CORE: Final = "compiled core" if core else "pure Python"


def compiled_or(twin: _Twin, name: str) -> _Twin:
    """Return what the compiled core has under this name, or the twin where there is none."""
    return twin if core is None else cast("_Twin", getattr(core, name))
