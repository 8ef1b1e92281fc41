"""Recognizing a TARGET of a kind that a flag is for, to name that flag in the error."""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Callable
from typing import Final

#: Frameworks whose `Application` is served by a server of their own alone.
_OWN_SERVERS: Final = ("aiohttp", "tornado")


def flag_for(target: object) -> str:
    """Return the flag that serves what `target` seems to be, "" where it seems to be nothing.

    Imports nothing: what is of a module's classes has had that imported.
    """
    inner = target
    while isinstance(inner, functools.partial):
        inner = inner.func
    if _is_one(inner, "socketserver", "BaseRequestHandler") or _is_of(
        inner, "socketserver", "BaseServer"
    ):
        return "--socketserver"
    if _is_one(inner, "asyncio.protocols", "BaseProtocol"):
        return "--protocol"
    if callable(target) and _takes(target, 2):
        return "--asyncio"
    return ""


def framework_of(target: object) -> str:
    """Return the framework whose application `target` is, where no flag serves it; "" else."""
    for kind in type(target).__mro__:
        framework = kind.__module__.partition(".")[0]
        if kind.__name__ == "Application" and framework in _OWN_SERVERS:
            return framework
    return ""


def _takes(target: Callable[..., object], count: int) -> bool:
    """Return whether it can be called with so many arguments, and its parameters are known."""
    try:
        inspect.signature(target).bind(*(object() for _ in range(count)))
    except (TypeError, ValueError):
        return False
    return not inspect.isclass(target)


def _is_one(target: object, module: str, name: str) -> bool:
    """Return whether it is that class of an imported module, or one of its subclasses."""
    base = getattr(sys.modules.get(module), name, None)
    return inspect.isclass(target) and base is not None and issubclass(target, base)


def _is_of(target: object, module: str, name: str) -> bool:
    base = getattr(sys.modules.get(module), name, None)
    return base is not None and isinstance(target, base)
