"""Lower layers never import upper ones, no modules import each other in a circle, and no classes
have one name.

`LAYERS` is the one statement of the layering.
"""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import Final

import pytest

TESTS = Path(__file__).parent
PACKAGE = TESTS.parent / "src" / "socketkeep"

#: From the lowest to the uppermost; a module may import its own row and those above it in the
#: table.  A part is a folder or a module; of two that fit, the longer one counts.  ``__init__`` is
#: what ``import socketkeep`` gives: the library's public names.
LAYERS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("base", ("_base", "_native", "_version")),
    ("names", ("_names",)),
    ("stream", ("_stream",)),
    ("net", ("_net",)),
    ("public names", ("__init__", "proxy")),
    ("testing", ("_testing", "testing")),
    ("the guard", ("_guard",)),
    ("configuration", ("_config",)),
    ("what others wrote", ("_serve", "adapters", "channels")),
    ("wire", ("_wire",)),
    ("inspection", ("_inspect", "inspect")),
    ("experiments", ("_lab",)),
    ("the keeper's tables", ("_keeper.tables",)),
    ("the keeper's loop", ("_keeper.loop",)),
    ("the edge", ("_edge",)),
    ("the keeper's workers", ("_keeper.workers",)),
    ("the keeper's connections", ("_keeper.connections",)),
    ("the keeper's rollout", ("_keeper.rollout",)),
    ("processes", ("_keeper", "_worker")),
    ("the cluster", ("_cluster",)),
    ("administration", ("_admin",)),
    ("telemetry", ("_telemetry", "otel")),
    ("commands", ("__main__", "_cli", "_demo")),
)

#: Folders that do not know each other, whatever their layers.
STRANGERS = (frozenset({"_keeper", "_worker"}),)

#: What the tests of a folder share: it makes what they are about of several private modules, so
#: that they need not name these.  How many each names, at the most.
DRIVERS: Final = {
    "admin/control.py": 3,
    "admin/web.py": 5,
    "asgi/differential.py": 2,
    "asgi/support.py": 2,
    "conformance/in_place.py": 2,
    "harness/configuration.py": 7,
    "harness/peers.py": 2,
    "harness/seam.py": 7,
    "keeper/bench.py": 4,
    "keeper/fakes.py": 11,
    "lab/breaks.py": 2,
    "model/recorded.py": 3,
    "websocket/bench.py": 2,
    "wire/sending.py": 3,
    "worker/fakes.py": 11,
}

#: A test file names the one private module that it is about, a table, a parser or a state machine;
#: all else it says by public names or by what its folder shares.  These name so many at the most.
EXCEPTIONS: Final = {
    "cli/test_top.py": 2,
    "cluster/test_presence.py": 3,
    "edge/test_process.py": 5,
    "guard/test_guests.py": 2,
    "inspect/test_origins.py": 2,
    "native/test_flow.py": 2,
    "serve/test_channels.py": 2,
    "stream/test_core.py": 3,
    "websocket/test_protocol.py": 2,
    "wire/test_messages.py": 3,
    "worker/test_fork.py": 4,
    "worker/test_handing.py": 2,
    "worker/test_lingering.py": 2,
    "worker/test_users_log.py": 2,
}

#: So many times all tests name private modules, at the most.
MOST_PRIVATE: Final = 201

LAYER_OF = {part: number for number, (_, parts) in enumerate(LAYERS) for part in parts}
PARTS: Final = frozenset(f"socketkeep.{part}" for part in LAYER_OF)


def part_of(module: str) -> str | None:
    """Return the part in the table that a dotted module name belongs to; None: there is none."""
    names = module.split(".")[1:] or ["__init__"]
    for length in range(len(names), 0, -1):
        if (part := ".".join(names[:length])) in LAYER_OF:
            return part
    return None


@cache
def statements_of(source: str) -> tuple[list[ast.Import | ast.ImportFrom], list[str]]:
    """Return the statements that import, at whatever depth, and the names of the classes.

    The trees of all modules are not kept: each collection of garbage would walk them.
    """
    nodes = list(ast.walk(ast.parse(source)))
    return (
        [node for node in nodes if isinstance(node, ast.Import | ast.ImportFrom)],
        [node.name for node in nodes if isinstance(node, ast.ClassDef)],
    )


def imports(
    module: str, source: str, known: Iterable[str] = (), *, is_package: bool
) -> Iterator[str]:
    """Yield the dotted names in socketkeep that the source imports, at whatever depth.

    What is imported from a package is the module of that name where it is `known` or a part in the
    table, the package otherwise.
    """
    package = module if is_package else module.rpartition(".")[0]
    found, _ = statements_of(source)
    for node in found:
        yield from imported_by(node, package, PARTS.union(known))


def imported_by(
    node: ast.Import | ast.ImportFrom, package: str, modules: Collection[str]
) -> Iterator[str]:
    """Yield what one statement in a module of the package imports, as `imports` does."""
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names if within(alias.name))
        return
    origin = node.module or ""
    if node.level:
        base = package.split(".")[: len(package.split(".")) - node.level + 1]
        origin = ".".join([*base, origin]).rstrip(".")
    if within(origin):
        for alias in node.names:
            inner = f"{origin}.{alias.name}"
            yield inner if inner in modules else origin


def within(module: str) -> bool:
    return module == "socketkeep" or module.startswith("socketkeep.")


def private_modules(source: str, known: Iterable[str]) -> list[str]:
    """Return the private modules that a test imports, each as often as there is a statement.

    known: all modules of the package.
    """
    if "socketkeep" not in source:
        return []
    statements, _ = statements_of(source)
    names = PARTS.union(known)
    return [
        module
        for statement in statements
        for module in sorted(set(imported_by(statement, "", names)))
        if "._" in module
    ]


def violations(module: str, source: str, *, is_package: bool) -> list[str]:
    """Return what the source of the module imports against the table, a line each."""
    found = []
    importer = part_of(module)
    assert importer, f"{module} has no layer"
    for imported in imports(module, source, is_package=is_package):
        other = part_of(imported)
        if other is None:
            found.append(f"{module} imports {imported}, which has no layer")
        elif LAYER_OF[other] > LAYER_OF[importer]:
            found.append(
                f"{module} ({LAYERS[LAYER_OF[importer]][0]}) imports {imported} "
                f"({LAYERS[LAYER_OF[other]][0]}), which is above it"
            )
        elif {importer.split(".")[0], other.split(".")[0]} in STRANGERS:
            found.append(f"{module} imports {imported}: the two do not know each other")
    return found


def circle(graph: Mapping[str, Iterable[str]]) -> list[str]:
    """Return modules that import each other in a circle, the first one twice; empty: none do."""
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        found: list[str] = error.args[1]
        return found[::-1]
    return []


def modules() -> Iterator[tuple[str, Path]]:
    for path in sorted(PACKAGE.rglob("*.py")):
        names = path.relative_to(PACKAGE.parent).with_suffix("").parts
        yield ".".join(names[:-1] if names[-1] == "__init__" else names), path


def test_every_module_has_a_layer() -> None:
    missing = {module for module, _ in modules() if part_of(module) is None}
    assert not missing, "give these a layer in the table above"


def test_no_module_imports_an_upper_layer() -> None:
    found = [
        line
        for module, path in modules()
        if part_of(module)
        for line in violations(module, path.read_text(), is_package=path.stem == "__init__")
    ]
    assert not found


def test_no_modules_import_each_other() -> None:
    known = [module for module, _ in modules()]
    graph = {
        module: set(imports(module, path.read_text(), known, is_package=path.stem == "__init__"))
        - {module}
        for module, path in modules()
    }
    assert circle(graph) == []


def test_no_two_classes_have_one_name() -> None:
    names = [name for _, path in modules() for name in statements_of(path.read_text())[1]]
    assert [name for name, count in Counter(names).items() if count > 1] == []


@pytest.mark.parametrize(
    ("module", "source", "reason"),
    [
        ("socketkeep._stream._buffer", "import socketkeep._net._listener", "above it"),
        ("socketkeep._stream._buffer", "from socketkeep import _net", "above it"),
        ("socketkeep._stream._buffer", "from socketkeep import Connection", "above it"),
        ("socketkeep._stream._buffer", "def f():\n  from .._net._listener import x", "above it"),
        ("socketkeep._keeper._loop", "from .._cli import main", "above it"),
        ("socketkeep._keeper._loop", "from .._worker._run import run", "do not know"),
        ("socketkeep._keeper.loop._system", "from .._keeper import Keeper", "above it"),
        ("socketkeep._keeper.tables._turns", "from .. import loop", "above it"),
        ("socketkeep._keeper.tables._turns", "from ..loop._system import System", "above it"),
        ("socketkeep._worker._roster", "from .._keeper.tables import x", "do not know"),
        ("socketkeep._cli", "import socketkeep._new", "no layer"),
        (
            "socketkeep._base._log",
            "if TYPE_CHECKING:\n  from socketkeep._wire import x",
            "above it",
        ),
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
        ("socketkeep._keeper.workers._pool", "from ..loop._system import System"),
        ("socketkeep._stream._aio", "import asyncio, socketkeepers"),
    ],
)
def test_the_check_lets_pass(module: str, source: str) -> None:
    assert violations(module, source, is_package=False) == []


def test_the_tests_name_few_private_modules() -> None:
    known = [module for module, _ in modules()]
    counts = {
        path.relative_to(TESTS).as_posix(): len(private_modules(path.read_text(), known))
        for path in sorted(TESTS.rglob("*.py"))
    }
    allowed = DRIVERS | EXCEPTIONS
    too_many = [
        f"tests/{name} names private modules {count} times, and may {most} times: say it by a "
        "public name, or have what the folder's tests share name it once"
        for name, count in counts.items()
        if count > (most := allowed.get(name, 1))
    ]
    assert not too_many
    assert {name: counts.get(name, 0) for name in allowed} == allowed, "they may name fewer now"
    assert sum(counts.values()) <= MOST_PRIVATE


@pytest.mark.parametrize(
    ("source", "count"),
    [
        ("import socketkeep\nfrom socketkeep import Connection, inspect, testing", 0),
        ("from socketkeep._stream._core import CHUNK, EOF", 1),
        ("def f():\n  from socketkeep._stream import _core, _lease", 2),
        ("import socketkeep._net._listener\nfrom socketkeep import _native", 2),
        ("from socketkeep._cli import main\nfrom socketkeep._cli import main", 2),
        ('"from socketkeep._cli import main"', 0),
    ],
)
def test_the_count(source: str, count: int) -> None:
    assert len(private_modules(source, [module for module, _ in modules()])) == count


def test_the_check_sees_a_circle() -> None:
    assert circle({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}}) in (
        ["a", "b", "c", "a"],
        ["b", "c", "a", "b"],
        ["c", "a", "b", "c"],
    )
    assert circle({"a": {"b", "c"}, "b": {"c"}}) == []
