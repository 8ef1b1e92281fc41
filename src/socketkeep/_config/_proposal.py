"""Proposals of a target, to who gave a file or a module without an attribute."""

from __future__ import annotations

import ast
import os
from collections.abc import Iterator
from typing import Final

#: Larger files are not read to make a proposal.
_LONGEST: Final = 1 << 20
_USUAL: Final = ("handle", "handler", "service", "app", "serve", "main")


def proposal(target: str) -> str:
    """Return the likely target in a file or module of this directory, as a clause; "" for none.

    The code is read, not run.  Names come in this order: what is marked `resumable`, a `Service`,
    a name that is usual for a handler, the first function that takes an argument.
    """
    place = target.rstrip(":")
    path = place if place.endswith(".py") else f"{place.replace('.', os.sep)}.py"
    try:
        with open(path, "rb") as file:
            tree = ast.parse(file.read(_LONGEST))
    except (OSError, ValueError, SyntaxError, RecursionError):
        return ""
    candidates = sorted(_candidates(tree), key=lambda each: each[0])
    if not candidates:
        return f": {path} has no function that takes a connection"
    return f": did you mean {place}:{candidates[0][1]}?"


def _candidates(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Yield what may be a handler, each with how little it looks like one."""
    for node in tree.body:
        match node:
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
                if name.startswith("_") or not (node.args.posonlyargs or node.args.args):
                    continue
                if any(_last_name(each) == "resumable" for each in node.decorator_list):
                    yield 0, name
                else:
                    yield (2 if name in _USUAL else 3), name
            case (
                ast.Assign(targets=[ast.Name(id=name)], value=ast.Call(func=func))
                | ast.AnnAssign(target=ast.Name(id=name), value=ast.Call(func=func))
            ):
                if _last_name(func) == "Service":
                    yield 1, name


def _last_name(node: ast.expr) -> str:
    match node:
        case ast.Call(func=func):
            return _last_name(func)
        case ast.Attribute(attr=name) | ast.Name(id=name):
            return name
    return ""
