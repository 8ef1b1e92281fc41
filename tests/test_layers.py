"""Lower layers never import upper ones.  The table here is the one statement of the layering."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "src" / "socketkeep"

#: From the lowest to the uppermost; a module may import its own row and those above it in the
#: table.  ``__init__`` is what ``import socketkeep`` gives: the library's public names.
LAYERS: tuple[tuple[str, tuple[str, ...]], ...] = (
    (
        "base",
        (
            "_address",
            "_commands",
            "_creating",
            "_errors",
            "_forking",
            "_guarding",
            "_handlers",
            "_handles",
            "_happy",
            "_holding",
            "_importing",
            "_inherited",
            "_mistakes",
            "_net",
            "_originals",
            "_passing",
            "_prctl",
            "_printable",
            "_process_stat",
            "_resolving",
            "_verbs",
            "_version",
            "_visibility",
        ),
    ),
    ("stream", ("_stream",)),
    (
        "net",
        (
            "_async_connecting",
            "_binding",
            "_children",
            "_connecting",
            "_forking_server",
            "_listener",
            "_serving",
            "_socket",
        ),
    ),
    ("public names", ("__init__", "proxy")),
    ("testing", ("_testing", "testing")),
    (
        "settings",
        (
            "_config",
            "_log",
            "_log_file",
            "_log_sink",
            "_options",
            "_options_page",
            "_roles",
            "_settings",
            "_titles",
        ),
    ),
    ("wire", ("_wire",)),
    ("inspection", ("_inspect", "inspect")),
    ("experiments", ("_lab",)),
    ("processes", ("_keeper", "_worker")),
    ("administration", ("_admin",)),
    ("commands", ("__main__", "_cli", "_demo")),
)

#: Modules of one layer that do not know each other all the same.
STRANGERS = (frozenset({"_keeper", "_worker"}),)

LAYER_OF = {part: number for number, (_, parts) in enumerate(LAYERS) for part in parts}


def part_of(module: str) -> str:
    """Return the row entry that a dotted module name belongs to."""
    _, _, rest = module.partition(".")
    return rest.partition(".")[0] or "__init__"


def imports(module: str, source: str, *, is_package: bool) -> Iterator[str]:
    """Yield the dotted names in socketkeep that the source imports, at whatever depth."""
    package = module if is_package else module.rpartition(".")[0]
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if within(alias.name))
        elif isinstance(node, ast.ImportFrom):
            origin = node.module or ""
            if node.level:
                base = package.split(".")[: len(package.split(".")) - node.level + 1]
                origin = ".".join([*base, origin]).rstrip(".")
            if origin == "socketkeep":
                for alias in node.names:
                    known = alias.name in LAYER_OF
                    yield f"socketkeep.{alias.name}" if known else "socketkeep"
            elif within(origin):
                yield origin


def within(module: str) -> bool:
    return module == "socketkeep" or module.startswith("socketkeep.")


def violations(module: str, source: str, *, is_package: bool) -> list[str]:
    """Return what the source of the module imports against the table, a line each."""
    found = []
    importer = part_of(module)
    for imported in imports(module, source, is_package=is_package):
        other = part_of(imported)
        if other not in LAYER_OF:
            found.append(f"{module} imports {imported}, which has no layer")
        elif LAYER_OF[other] > LAYER_OF[importer]:
            found.append(
                f"{module} ({LAYERS[LAYER_OF[importer]][0]}) imports {imported} "
                f"({LAYERS[LAYER_OF[other]][0]}), which is above it"
            )
        elif other != importer and any({importer, other} <= pair for pair in STRANGERS):
            found.append(f"{module} imports {imported}: the two do not know each other")
    return found


def modules() -> Iterator[tuple[str, Path]]:
    for path in sorted(PACKAGE.rglob("*.py")):
        names = path.relative_to(PACKAGE.parent).with_suffix("").parts
        yield ".".join(names[:-1] if names[-1] == "__init__" else names), path


def test_every_module_has_a_layer() -> None:
    missing = {module for module, _ in modules() if part_of(module) not in LAYER_OF}
    assert not missing, "give these a layer in the table above"


def test_no_module_imports_an_upper_layer() -> None:
    found = [
        line
        for module, path in modules()
        if part_of(module) in LAYER_OF
        for line in violations(module, path.read_text(), is_package=path.stem == "__init__")
    ]
    assert not found


@pytest.mark.parametrize(
    ("module", "source", "reason"),
    [
        ("socketkeep._stream._buffer", "import socketkeep._listener", "above it"),
        ("socketkeep._stream._buffer", "from socketkeep import _listener", "above it"),
        ("socketkeep._stream._buffer", "from socketkeep import Connection", "above it"),
        ("socketkeep._stream._buffer", "def f():\n  from .._listener import x", "above it"),
        ("socketkeep._keeper._loop", "from .._cli import main", "above it"),
        ("socketkeep._keeper._loop", "from .._worker._run import run", "do not know"),
        ("socketkeep._cli", "import socketkeep._new", "no layer"),
        ("socketkeep._log", "if TYPE_CHECKING:\n  from socketkeep._wire import x", "above it"),
    ],
)
def test_the_check_sees(module: str, source: str, reason: str) -> None:
    (line,) = violations(module, source, is_package=False)
    assert reason in line


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("socketkeep._cli._serve", "from socketkeep import Connection"),
        ("socketkeep._keeper._loop", "from socketkeep._wire._channel import Channel"),
        ("socketkeep._keeper._loop", "from ._table import Table"),
        ("socketkeep._stream._aio", "import asyncio, socketkeepers"),
    ],
)
def test_the_check_lets_pass(module: str, source: str) -> None:
    assert violations(module, source, is_package=False) == []
