"""Finding a handler that never commits, by its source, before it has served anybody.

A resumable handler that answers again and again without a commit is at a safe point never again
after its first answer: no reload moves its connections.  The source tells where each use of the
connection can be followed: a verb of it, or a call of a function of the user's with it.  Where one
cannot be, nothing is said; the handler is then named once it has received a thousand times.
"""

from __future__ import annotations

import ast
import builtins
import functools
import inspect
import textwrap
from collections.abc import Callable, Iterator
from types import FunctionType, MethodType
from typing import Final

_SENDS: Final = frozenset({"send", "send_frame", "send_netstring"})
_RECEIVES: Final = frozenset({"recv", "recv_into", "recv_exactly", "recv_until"})
#: These commit by themselves where they are told to.
_MESSAGES: Final = frozenset({"lines", "frames", "recv_frame", "netstrings", "recv_netstring"})
_OTHERS: Final = frozenset(
    {
        *("mode", "using", "send_eof", "shutdown", "close", "abort", "gather", "state", "id"),
        *("peer", "local", "proxy", "listener", "attached", "redelivered", "unacknowledged"),
        *("unread", "ended", "tls", "deadline", "leaving", "name", "groups", "join", "leave"),
        *("labels", "fileno", "holders", "handles", "received", "bytes_sent"),
    }
)
_LOOPS: Final = (ast.For, ast.AsyncFor, ast.While)
_MOST_FUNCTIONS: Final = 50


class _UnknownError(Exception):
    """A use of the connection that cannot be followed, or that commits."""


def never_commits(handler: Callable[..., object]) -> bool:
    """Return whether `handler` is seen to answer in a loop, and to commit nowhere."""
    try:
        return "answers" in _Reader().read(*_function_of(handler))
    except _UnknownError:
        return False


def _function_of(handler: object) -> tuple[FunctionType, int]:
    """Return the function that runs in the end, and which of its parameters the connection is."""
    position = 0
    while isinstance(handler, functools.partial):
        position += len(handler.args)
        handler = handler.func
    if not isinstance(handler, FunctionType | MethodType):
        handler = getattr(handler, "__call__", None)  # noqa: B004 - the method, not a test
    if isinstance(handler, MethodType):
        position += 1
        handler = handler.__func__
    if not isinstance(handler, FunctionType) or hasattr(handler, "__wrapped__"):
        raise _UnknownError
    if handler.__module__.startswith("socketkeep._serve"):
        raise _UnknownError  # what others wrote is called in it, and it commits for them
    return handler, position


class _Reader:
    """Reads functions to which the connection is given, each once."""

    def __init__(self) -> None:
        self._verbs: dict[tuple[FunctionType, int], set[str]] = {}

    def read(self, function: FunctionType, position: int) -> set[str]:
        """Return which of "sends", "receives", and "answers", both in a loop, it does."""
        key = function, position
        if key in self._verbs:
            return self._verbs[key]
        if len(self._verbs) >= _MOST_FUNCTIONS:
            raise _UnknownError
        verbs = self._verbs[key] = set()
        tree = _tree_of(function)
        name = _parameter(tree, position)
        parents = {child: node for node in ast.walk(tree) for child in ast.iter_child_nodes(node)}
        in_loops: dict[ast.AST, set[str]] = {}
        for node in ast.walk(tree):
            if isinstance(node, ast.arg) and node.arg == name and parents[node] is not tree.args:
                raise _UnknownError  # a function within has another of that name
            if isinstance(node, ast.Name) and node.id == name:
                done = self._use(node, parents, function)
                verbs |= done
                for loop in _loops_around(node, parents):
                    in_loops.setdefault(loop, set()).update(done)
        if any({"sends", "receives"} <= done for done in in_loops.values()):
            verbs.add("answers")
        return verbs

    def _use(
        self, node: ast.Name, parents: dict[ast.AST, ast.AST], function: FunctionType
    ) -> set[str]:
        """Return what one use of the connection does.  Raises _UnknownError."""
        parent = parents[node]
        if isinstance(node.ctx, ast.Load):
            if isinstance(parent, ast.Attribute):
                return _verb(parent, parents[parent])
            if isinstance(parent, ast.withitem) and parent.optional_vars is None:
                return set()
            if isinstance(parent, ast.FormattedValue | ast.Compare):
                return set()
            if isinstance(parent, ast.Call) and node in parent.args:
                return self._call(parent, parent.args.index(node), function)
        raise _UnknownError

    def _call(self, call: ast.Call, position: int, function: FunctionType) -> set[str]:
        if not isinstance(call.func, ast.Name):
            raise _UnknownError
        if any(isinstance(each, ast.Starred) for each in call.args):
            raise _UnknownError
        name = call.func.id
        if name in function.__code__.co_varnames or name in function.__code__.co_freevars:
            raise _UnknownError  # it is no global
        if name not in function.__globals__ and hasattr(builtins, name):
            return set()
        called = function.__globals__.get(name)
        if not isinstance(called, FunctionType) or hasattr(called, "__wrapped__"):
            raise _UnknownError
        return self.read(called, position)


def _verb(attribute: ast.Attribute, around: ast.AST) -> set[str]:
    """Return what an attribute of the connection does.  Raises _UnknownError."""
    verb = attribute.attr
    if verb in _SENDS:
        return {"sends"}
    if verb in _RECEIVES:
        return {"receives"}
    if verb in _MESSAGES:
        if not isinstance(around, ast.Call) or around.func is not attribute:
            raise _UnknownError  # it is called elsewhere, who knows how
        for keyword in around.keywords:
            plain = isinstance(keyword.value, ast.Constant) and not keyword.value.value
            if keyword.arg is None or (keyword.arg == "commit" and not plain):
                raise _UnknownError
        return {"receives"}
    if verb in _OTHERS:
        return set()
    raise _UnknownError  # such as commit and reply


def _loops_around(node: ast.AST, parents: dict[ast.AST, ast.AST]) -> Iterator[ast.AST]:
    while (outer := parents.get(node)) is not None:
        if isinstance(outer, _LOOPS):
            yield outer
        node = outer


def _tree_of(function: FunctionType) -> ast.FunctionDef | ast.AsyncFunctionDef:
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(function))).body[0]
    except (OSError, TypeError, SyntaxError, ValueError, IndexError):
        raise _UnknownError from None
    if not isinstance(tree, ast.FunctionDef | ast.AsyncFunctionDef):
        raise _UnknownError  # a lambda
    return tree


def _parameter(tree: ast.FunctionDef | ast.AsyncFunctionDef, position: int) -> str:
    names = [each.arg for each in (*tree.args.posonlyargs, *tree.args.args)]
    if position >= len(names):
        raise _UnknownError
    return names[position]
