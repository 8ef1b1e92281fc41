"""Proposals of a target, to who gave a file or a module without an attribute."""

from __future__ import annotations

import ast
import os
from collections.abc import Iterator
from typing import Final, NamedTuple

#: Larger files are not read to make a proposal.
_LONGEST: Final = 1 << 20
_USUAL: Final = ("handle", "handler", "service", "app", "application", "serve", "main")
#: Functions and classes that make an application of each kind.
_ASGI: Final = (
    *("FastAPI", "Starlette", "Quart", "Litestar", "Sanic", "ProtocolTypeRouter", "ASGIApp"),
    *("get_asgi_application", "get_default_application"),
)
_WSGI: Final = ("Flask", "Bottle", "get_wsgi_application", "make_wsgi_app")


class _Candidate(NamedTuple):
    """Something that may be served.

    unlike: how little it looks like what is meant.  flag: the one that serves it, "" for none.
    """

    unlike: int
    name: str
    flag: str = ""


def proposal(target: str) -> str:
    """Return the likely target in a file or module of this directory, as a clause; "" for none.

    The code is read, not run.  Names come in this order: what is marked `resumable`, a `Service`,
    an application of a framework, a name that is usual for a handler, the first function or class
    that could serve.
    """
    place = target.rstrip(":")
    path = _path_of(place)
    if path.endswith(os.sep) or os.path.isdir(path):
        return f": {path} is a directory"
    try:
        with open(path, "rb") as file:
            tree = ast.parse(file.read(_LONGEST))
    except FileNotFoundError:
        return f": there is no file {path}" if place.endswith(".py") else ""
    except SyntaxError as error:
        return f": {path} is no Python: line {error.lineno}: {error.msg}"
    except (OSError, ValueError, RecursionError):
        return ""
    if os.sep in place:
        place = path
    found = min(_candidates(tree), key=lambda each: each.unlike, default=None)
    if found is None:
        return f": {path} has no function that takes a connection"
    if found.flag == "wsgi":
        return (
            f": {path} has a WSGI application, {found.name}, and what is served is ASGI: wrap it,"
            f" as in {found.name} = a2wsgi.WSGIMiddleware({found.name}), and give"
            f" --asgi {place}:{found.name}"
        )
    return f": did you mean {found.flag}{place}:{found.name}?"


def servable(place: str) -> list[str]:
    """Return the names in a file or a module of this directory that may be served, likely first."""
    try:
        with open(_path_of(place), "rb") as file:
            tree = ast.parse(file.read(_LONGEST))
    except (OSError, ValueError, SyntaxError, RecursionError):
        return []
    return [each.name for each in sorted(_candidates(tree), key=lambda each: each.unlike)]


def _path_of(place: str) -> str:
    if place.endswith((".py", os.sep)) or os.path.isfile(place):
        return place
    path = place if os.sep in place else place.replace(".", os.sep)
    package = os.path.join(path, "__init__.py")
    return package if os.path.isfile(package) and not os.path.isfile(f"{path}.py") else f"{path}.py"


def _candidates(tree: ast.Module) -> Iterator[_Candidate]:
    """Yield what may be served, in the order of the code."""
    for node in tree.body:
        match node:
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
                if not name.startswith("_"):
                    yield from _of_function(node)
            case ast.ClassDef(name=name, bases=bases):
                names = [_last_name(each) for each in bases]
                if any(each.endswith("RequestHandler") for each in names):
                    yield _Candidate(5, name, "--socketserver ")
                elif any(each in ("Protocol", "BufferedProtocol") for each in names):
                    yield _Candidate(5, name, "--protocol ")
            case (
                ast.Assign(targets=[ast.Name(id=name)], value=ast.Call(func=func))
                | ast.AnnAssign(target=ast.Name(id=name), value=ast.Call(func=func))
            ):
                maker = _last_name(func)
                if maker == "Service":
                    yield _Candidate(1, name)
                elif maker in _ASGI:
                    yield _Candidate(2, name, "--asgi ")
                elif maker in _WSGI:
                    yield _Candidate(2, name, "wsgi")
                elif name in _USUAL:
                    yield _Candidate(5, name)


def _of_function(node: ast.FunctionDef | ast.AsyncFunctionDef) -> Iterator[_Candidate]:
    """Yield what a function may be, by how many arguments it needs, and whether it is async."""
    marks = [_last_name(each) for each in node.decorator_list]
    if "resumable" in marks:
        yield _Candidate(0, node.name)
        return
    parameters = [*node.args.posonlyargs, *node.args.args]
    needed = len(parameters) - len(node.args.defaults)
    if marks or any(each is None for each in node.args.kw_defaults):
        return  # a framework's, such as what answers a path, or a fixture
    is_async = isinstance(node, ast.AsyncFunctionDef)
    if needed <= 1 <= len(parameters):
        yield _Candidate(3 if node.name in _USUAL else 6, node.name)
    elif needed == 2 and is_async and parameters[0].arg.endswith("reader"):
        yield _Candidate(4, node.name, "--asyncio ")
    elif needed == 3 and is_async and parameters[0].arg == "scope":
        yield _Candidate(2, node.name, "--asgi ")


def _last_name(node: ast.expr) -> str:
    match node:
        case ast.Call(func=func):
            return _last_name(func)
        case ast.Attribute(attr=name) | ast.Name(id=name):
            return name
        case ast.Subscript(value=value):
            return _last_name(value)
    return ""
