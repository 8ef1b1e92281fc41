"""What ``import socketkeep`` gives: each name once, documented, and nothing besides."""

from __future__ import annotations

import ast
import inspect
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

import socketkeep

SOURCE = Path(socketkeep.__file__)


def test_names_are_sorted_and_stand_once() -> None:
    assert list(socketkeep.__all__) == sorted(set(socketkeep.__all__))


@pytest.mark.parametrize("name", sorted(set(socketkeep.__all__)))
def test_name_exists_and_is_documented(name: str) -> None:
    value = getattr(socketkeep, name)
    if inspect.isclass(value) or inspect.isroutine(value):
        assert (value.__doc__ or "").strip(), f"socketkeep.{name} has no docstring"


def test_type_checkers_see_each_name_imported_once() -> None:
    module = ast.parse(SOURCE.read_text())
    # What is imported inside a function, lazily, a type checker does not see.
    seen = [
        *module.body,
        *(inner for node in module.body if isinstance(node, ast.If) for inner in node.body),
    ]
    imported = Counter(
        alias.asname or alias.name
        for node in seen
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("socketkeep.")
        for alias in node.names
    )
    assert imported == Counter(dict.fromkeys(socketkeep.__all__, 1))


def test_dir_and_unknown_attributes() -> None:
    assert set(socketkeep.__all__) <= set(dir(socketkeep))
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = socketkeep.no_such_name  # type: ignore[attr-defined,unused-ignore]


def test_importing_does_not_import_asyncio() -> None:
    """A keeper and a sync worker do not pay for what only async handlers need."""
    check = "import sys, socketkeep; sys.exit('asyncio' in sys.modules)"
    done = subprocess.run([sys.executable, "-W", "error", "-c", check], check=False)
    assert done.returncode == 0


def test_the_package_is_marked_as_typed() -> None:
    assert SOURCE.with_name("py.typed").is_file()
