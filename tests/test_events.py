"""Every line that a server can log is declared, and every declared one is logged somewhere."""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Final, NamedTuple

import pytest
from docs._ext.declared import PAGES

import socketkeep
from tests.harness.command import option_flags
from tests.harness.configuration import OPTIONS

PACKAGE = Path(socketkeep.__file__).parent
LEVELS = ("debug", "info", "warning", "error")
#: Modules that write the lines of others: the library's own servers, and asyncio's transport.
OF_OTHERS = ("_net/_forking_server.py", "_net/_serving.py", "_serve/_transport.py")
#: The fields that stand behind ``**``, by its expression; None: any that are declared.
BEHIND: Final[dict[str, tuple[str, ...] | None]] = {
    "worker.label": ("slot", "pid", "generation"),
    "self.label": ("slot", "pid", "generation"),
    "held.label": ("id", "peer"),
    "connection": ("id", "peer"),
    "fates": ("resumed", "redelivered", "lost_*"),
    "_shown(listener)": ("address", "serves", "name"),
    "fields": None,
    "more": None,
}


@dataclass
class Logged:
    """The calls that log one event."""

    levels: set[str] = field(default_factory=set)
    fields: set[str] = field(default_factory=set)
    any_fields: bool = False
    bounded: bool = False
    places: list[str] = field(default_factory=list)


def texts(node: ast.expr) -> Iterator[str]:
    """Yield the literal texts that an expression can be; nothing where it is another."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        yield node.value
    elif isinstance(node, ast.IfExp):
        yield from texts(node.body)
        yield from texts(node.orelse)


def levels_of(node: ast.expr) -> set[str]:
    """Return the levels that a function may log at: ``_log.info if … else _log.warning``."""
    if isinstance(node, ast.IfExp):
        return levels_of(node.body) | levels_of(node.orelse)
    if isinstance(node, ast.Attribute) and last_name(node.value) == "_log":
        return {node.attr}
    return set()


def last_name(node: ast.expr) -> str:
    """Return the last name of a dotted one; empty: it is another expression."""
    if isinstance(node, ast.Attribute):
        return node.attr
    return node.id if isinstance(node, ast.Name) else ""


def fields_behind(node: ast.expr) -> tuple[str, ...] | None:
    if isinstance(node, ast.IfExp):
        return (*(fields_behind(node.body) or ()), *(fields_behind(node.orelse) or ()))
    if isinstance(node, ast.Dict):
        return tuple(str(each.value) for each in node.keys if isinstance(each, ast.Constant))
    if isinstance(node, ast.DictComp):  # of names that begin alike
        assert isinstance(node.key, ast.JoinedStr), ast.unparse(node)
        first = node.key.values[0]
        assert isinstance(first, ast.Constant), ast.unparse(node)
        return (f"{first.value!s}*",)
    return BEHIND[ast.unparse(node)]


def calls(source: str) -> Iterator[tuple[int, ast.expr, set[str], list[ast.keyword], bool]]:
    """Yield the calls that log: line, event, levels, keywords, whether at a bounded rate."""
    for scope in ast.walk(ast.parse(source)):
        if not isinstance(scope, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        inside = list(ast.walk(scope))
        chosen = {
            ast.unparse(node.targets[0]): may
            for node in inside
            if isinstance(node, ast.Assign) and (may := levels_of(node.value))
        }
        # Of the many other calls the text is not made: that would take seconds.
        may_log = {*LEVELS, "partial", "_record", "pause"}
        may_log |= {name.rpartition(".")[2] for name in chosen}
        for node in inside:
            if not (isinstance(node, ast.Call) and node.args and last_name(node.func) in may_log):
                continue
            called = ast.unparse(node.func)
            owner, _, verb = called.rpartition(".")
            throttled = owner.endswith("throttle")
            if verb in LEVELS and (throttled or owner == "_log" or "getLogger" in owner):
                yield node.lineno, node.args[0], {verb}, node.keywords, throttled
            elif levels := chosen.get(called):
                yield node.lineno, node.args[0], levels, node.keywords, False
            elif called == "partial" and (levels := levels_of(node.args[0])):
                more = [ast.keyword(None, ast.Name("more"))]
                yield node.lineno, node.args[1], levels, more, False
            elif called == "_record":
                yield node.lineno, node.args[0], {"warning"}, node.keywords, False
            elif verb == "pause":  # of a `Gate`, which says why
                told = [ast.keyword("process", node), ast.keyword("error", node)]
                yield node.lineno, node.args[0], {"warning"}, told, True


@cache
def logged() -> dict[str, Logged]:
    """Return what the package logs, by event."""
    found: dict[str, Logged] = defaultdict(Logged)
    for path in sorted(PACKAGE.rglob("*.py")):
        place = path.relative_to(PACKAGE).as_posix()
        if place in OF_OTHERS:
            continue
        for line, event, levels, keywords, throttled in calls(path.read_text()):
            names = list(texts(event))
            if not names:
                assert (place, ast.unparse(event)) in DYNAMIC, f"{place}:{line}: not a literal"
            for name in names:
                one = found[name]
                one.levels |= levels
                one.bounded |= throttled
                one.places.append(f"{place}:{line}")
                for keyword in keywords:
                    if keyword.arg is None:
                        behind = fields_behind(keyword.value)
                        one.any_fields |= behind is None
                        one.fields.update(behind or ())
                    elif not (throttled and keyword.arg == "kind"):
                        one.fields.add(keyword.arg)
    return found


#: Bounded by the scoreboard, for all workers together.
DUE = {
    "connections that cannot be served are closed",
    "handler goes on without its connection",
    "process forked by a handler came back: ended",
}
#: Where the event is handed on: who hands it over has it as a literal.
DYNAMIC = {("_worker/_accepting.py", "event"), ("_base/_log.py", "event")}

_BOUNDED: Final = " At most once in ten seconds for each kind from each process."


class Event(NamedTuple):
    """A row of the page of events."""

    name: str
    levels: str
    fields: str
    meaning: str
    remedy: str

    @property
    def bounded(self) -> bool:
        return self.meaning.endswith(_BOUNDED)


def on_the_page() -> Iterator[Event]:
    """Yield what the reference page says of each event."""
    for row in PAGES["events"]().splitlines():
        if row.startswith("| `"):
            name, levels, fields, meaning, remedy = row.strip("| ").split(" | ")
            yield Event(
                *(name.strip("`"), levels.replace(",", ""), re.sub("[`,]", "", fields)),
                *(meaning, remedy),
            )


DECLARED = {event.name: event for event in on_the_page()}


def test_each_event_is_declared_once() -> None:
    assert len(DECLARED) == len(list(on_the_page()))


def test_what_is_logged_is_declared() -> None:
    undeclared = {name: one.places for name, one in logged().items() if name not in DECLARED}
    assert not undeclared, "declare it in _base/_events.py: what it means and what to do"


def test_what_is_declared_is_logged() -> None:
    assert not DECLARED.keys() - logged().keys()


@pytest.mark.parametrize("event", DECLARED.values(), ids=DECLARED)
def test_levels_and_fields_are_as_declared(event: Event) -> None:
    one, declared = logged()[event.name], set(event.fields.split())
    assert set(event.levels.split()) == one.levels, one.places
    assert one.fields <= declared, one.places
    assert one.any_fields or declared == one.fields, one.places
    assert event.bounded == (one.bounded or event.name in DUE), one.places


def test_options_that_remedies_name_exist() -> None:
    known = {flag for option in OPTIONS for flag in option.flags}
    known |= option_flags()
    for event in DECLARED.values():
        named = set(re.findall(r"(?<![\w-])--[a-z][\w-]*", event.meaning + " " + event.remedy))
        assert named - {"--pid"} <= known, event.name  # py-spy's


def test_an_undeclared_line_would_be_found() -> None:
    source = (
        "def f(self, worker):\n"
        "    log = _log.info if worker else _log.error\n"
        "    log('one', **worker.label)\n"
        "    self._throttle.warning('two' if worker else 'three', kind='k', peer=1)\n"
    )
    found = [
        (list(texts(event)), levels, bounded) for _, event, levels, _, bounded in calls(source)
    ]
    assert found == [
        (["one"], {"info", "error"}, False),
        (["two", "three"], {"warning"}, True),
    ]
