"""The hooks at fork that a fork server may withhold: of `threading`, of `logging`, and our own.

They are known by being registered, which happens when these are imported: `os.register_at_fork`
is another function for the length of that.  `_native/fork.c` says why a fork can do without them,
and when; everywhere else, in `os.fork` and what is made of it, they run as ever.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from importlib import import_module
from typing import Any, Final

from socketkeep._native import core

_WITHHELD: Final = {
    "threading": "threads",
    "logging": "threads",
    "socketkeep._base._forking": "sockets",
}


def import_with_withholdable_hooks() -> None:
    """Import them; where one has been imported already, its hooks run at every fork."""
    if core is None:
        return
    withholdable: Callable[[Any, str], Any] = core.withholdable
    register = os.register_at_fork

    def register_withholdable(**hooks: Any) -> None:
        for when, hook in hooks.items():
            kind = _WITHHELD.get(getattr(hook, "__module__", ""))
            hooks[when] = hook if kind is None else withholdable(hook, kind)
        register(**hooks)

    os.register_at_fork = register_withholdable
    try:
        for name in _WITHHELD:
            import_module(name)
    finally:
        os.register_at_fork = register
