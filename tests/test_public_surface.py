"""What ``import socketkeep`` gives: each name once, documented, and nothing besides.

And what earlier versions had of names, options, JSON, metrics, exit codes and signals: it is there.
"""

from __future__ import annotations

import ast
import inspect
import os
import re
import subprocess
import sys
import zipfile
from collections import Counter
from functools import cache
from pathlib import Path

import pytest

import socketkeep
from tests.harness import FIRST_WHEEL
from tests.surface import collected, recorded
from tests.surface.compared import Break, breaks, deprecated

ROOT = Path(__file__).parents[1]
SOURCE = Path(socketkeep.__file__)
VERSION = collected.version()
HEADLESS = {"How", "What", "When", "Where", "Whether", "Which", "Who", "Whose", "Why"}


def test_names_are_sorted_and_stand_once() -> None:
    assert list(socketkeep.__all__) == sorted(set(socketkeep.__all__))


@pytest.mark.parametrize("name", sorted(set(socketkeep.__all__)))
def test_name_exists_and_is_documented(name: str) -> None:
    value = getattr(socketkeep, name)
    if inspect.isclass(value) or inspect.isroutine(value):
        assert (value.__doc__ or "").strip(), f"socketkeep.{name} has no docstring"


def test_docstrings_begin_with_what_they_are_about() -> None:
    """Or with a verb: "What …" and "Whether …" are half a sentence."""
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    found = [
        f"{path}: {docstring.splitlines()[0]}"
        for path in sorted(SOURCE.parent.rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, kinds) and (docstring := ast.get_docstring(node))
        if docstring.split()[0] in HEADLESS
    ]
    assert not found


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


@pytest.mark.process
@pytest.mark.parametrize(
    ("statement", "spared"),
    [
        ("import socketkeep", "asyncio inspect logging msgspec select socket ssl threading"),
        ("from socketkeep import Socket, Timeout", "asyncio logging msgspec ssl"),
        ("from socketkeep import Connection, Listener, connect", "asyncio logging msgspec ssl"),
        ("from socketkeep import resumable", "asyncio logging msgspec ssl"),
        ("from socketkeep import AsyncConnection, open_connection", "msgspec"),
    ],
)
def test_nobody_pays_for_what_others_need(statement: str, spared: str) -> None:
    check = f"import sys; {statement}; print(*sys.modules)"
    command = [sys.executable, "-W", "error", "-c", check]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    assert not set(spared.split()) & set(done.stdout.split())


@pytest.mark.process
def test_every_name_can_be_imported_alone() -> None:
    """Modules are imported when a name is asked for, in whatever order a program asks."""
    script = """
import os, sys
for name in sys.argv[1:]:
    child = os.fork()
    if child == 0:
        exec(f"from socketkeep import {name}")
        os._exit(0)
    if os.waitpid(child, 0)[1]:
        sys.exit(f"{name} cannot be imported alone")
"""
    subprocess.run([sys.executable, "-c", script, *socketkeep.__all__], check=True)


def test_the_package_is_marked_as_typed() -> None:
    assert SOURCE.with_name("py.typed").is_file()


@cache
def surface() -> collected.Surface:
    """Return that of the present code."""
    return collected.collect()


@pytest.mark.parametrize("version", recorded.versions())
def test_what_a_version_had_is_there(version: str) -> None:
    earlier = recorded.read(version)
    found = [each for each in breaks(earlier, surface()) if not may_break(version, earlier, each)]
    how = "make surface" if version == VERSION else "docs/reference/stability.md says how"
    assert not found, f"{version} had it ({how}):\n" + "\n".join(map(str, found))


def may_break(version: str, earlier: collected.Surface, broken: Break) -> bool:
    """Return whether it may be gone now: it was deprecated, and the changes name it."""
    if version == VERSION or f"`{broken.name}`" not in changes_of(VERSION):
        return False
    then, now = (int(each.partition(".")[0]) for each in (version, VERSION))
    return then == 0 or (now > then and deprecated(earlier, broken))


def changes_of(version: str) -> str:
    """Return the section of CHANGELOG.md on that version."""
    text = (ROOT / "CHANGELOG.md").read_text()
    found = re.search(rf"^## {re.escape(version)}, .*?(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)
    assert found is not None, f"CHANGELOG.md has no section {version}"
    return found[0]


def test_the_changes_of_each_version_are_written_down() -> None:
    assert all(changes_of(version).count("\n- ") for version in {*recorded.versions(), VERSION})


@pytest.mark.process
def test_the_record_of_the_last_version_is_what_its_wheel_has(tmp_path: Path) -> None:
    with zipfile.ZipFile(FIRST_WHEEL) as archive:
        archive.extractall(tmp_path)
    done = subprocess.run(
        [sys.executable, "-m", "tests.surface", "--check"],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
