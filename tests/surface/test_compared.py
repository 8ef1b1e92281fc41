"""What counts as a break between two versions, and what does not."""

from __future__ import annotations

import copy
from typing import Any, Final

import pytest

from tests.surface.collected import Surface
from tests.surface.compared import Break, breaks, deprecated

EARLIER: Surface = {
    "names": {
        "socketkeep.Thing": {"kind": "class", "bases": ["OSError"], "parameters": []},
        "socketkeep.Thing.size": {"kind": "attribute"},
        "socketkeep.Thing.take": {
            "kind": "function",
            "parameters": [
                ["first", "either", None],
                ["second", "either", "1"],
                ["third", "keyword", "None"],
                ["more", "keywords", None],
            ],
        },
        "socketkeep.old": {"kind": "function", "parameters": [], "deprecated": "use new"},
        "socketkeep.WORDS": {"kind": "words", "words": ["a", "b"]},
    },
    "commands": {
        "socketkeep end": {"arguments": [[True, 1]]},
        "socketkeep end --json": {"value": False, "required": False},
    },
    "options": {
        "keep": {
            "flags": ["-K", "--keep"],
            "variable": "SOCKETKEEP_KEEP",
            "takes": ["str"],
            "choices": ["none", "all"],
            "default": "none",
        },
        "name": {"flags": ["--name"], "takes": ["str", "int"], "choices": [], "default": ""},
    },
    "json": {"status.pid": {"type": "int"}},
    "metrics": {"up_total": {"kind": "counter", "labels": ["slot"]}},
    "exit codes": {"3": {"means": "workers cannot start"}},
    "signals": {"SIGHUP": {}},
}
GONE: Final = object()
TAKE = ("names", "socketkeep.Thing.take", "parameters")


def changed(path: tuple[Any, ...], value: Any) -> Surface:
    """Return the surface with something else, or more, at `path`; GONE: with nothing there."""
    later = copy.deepcopy(EARLIER)
    place: Any = later
    for step in path[:-1]:
        place = place[step]
    if value is GONE:
        del place[path[-1]]
    elif isinstance(place, list) and path[-1] == len(place):
        place.append(value)
    else:
        place[path[-1]] = value
    return later


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        (("names", "socketkeep.Thing.size"), GONE, "is gone"),
        (("commands", "socketkeep end"), GONE, "is gone"),
        (("commands", "socketkeep end --json"), GONE, "is gone"),
        (("options", "name"), GONE, "is gone"),
        (("json", "status.pid"), GONE, "is gone"),
        (("metrics", "up_total"), GONE, "is gone"),
        (("exit codes", "3"), GONE, "is gone"),
        (("signals", "SIGHUP"), GONE, "is gone"),
        (("names", "socketkeep.Thing.take", "kind"), "attribute", "was function, and is attribute"),
        (("names", "socketkeep.Thing", "bases"), [], "no longer has OSError"),
        (("names", "socketkeep.WORDS", "words"), ["b", "c"], "no longer has a"),
        ((*TAKE, 0, 0), "one", "has to be given one"),
        (TAKE, [["first", "either", None]], "has no parameter second"),
        ((*TAKE, 0, 1), "keyword", "does not take first as argument number 1"),
        ((*TAKE, 0, 1), "position", "does not take first by its name"),
        ((*TAKE, 1, 2), "2", "had second=1, and has second=2"),
        ((*TAKE, 1, 2), None, "has to be given second"),
        ((*TAKE, 3), ["new", "keyword", None], "takes no more keywords than it names"),
        ((*TAKE, 3), ["new", "keyword", None], "has to be given new"),
        (("commands", "socketkeep end", "arguments"), [[True, 1], [True, 1]], "took the arguments"),
        (("commands", "socketkeep end", "arguments"), [[True, 2]], "took the arguments"),
        (("commands", "socketkeep end", "arguments"), [], "took the arguments"),
        (("commands", "socketkeep end --json", "value"), True, "was False, and is True"),
        (("commands", "socketkeep end --json", "required"), True, "must be given"),
        (("options", "keep", "flags"), ["--keep"], "no longer has -K"),
        (("options", "keep", "choices"), ["all", "some"], "no longer has none"),
        (("options", "keep", "default"), "all", "had the default 'none', and has 'all'"),
        (("options", "keep", "variable"), "KEEP", "was SOCKETKEEP_KEEP, and is KEEP"),
        (("options", "name", "choices"), ["a"], "takes a alone"),
        (("options", "name", "takes"), ["str"], "no longer has int"),
        (("json", "status.pid", "type"), "int or none", "was int, and is int or none"),
        (("metrics", "up_total", "labels"), [], "was slot, and is "),
        (("metrics", "up_total", "kind"), "gauge", "was counter, and is gauge"),
        (("exit codes", "3", "means"), "full", "was workers cannot start, and is full"),
    ],
)
def test_a_break(path: tuple[Any, ...], value: Any, said: str) -> None:
    found = breaks(EARLIER, changed(path, value))
    assert any(each.what.startswith(said) for each in found), found


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("names", "socketkeep.new"), {"kind": "function", "parameters": []}),
        (("names", "socketkeep.Thing", "bases"), ["OSError", "ValueError"]),
        (("names", "socketkeep.WORDS", "words"), ["a", "b", "c"]),
        ((*TAKE, 4), ["new", "keyword", "None"]),
        ((*TAKE, 2, 1), "either"),
        (("commands", "socketkeep end", "arguments"), [[False, 1], [False, 1]]),
        (("options", "keep", "choices"), ["none", "all", "some"]),
        (("options", "keep", "choices"), []),
        (("options", "name", "takes"), ["str", "int", "float"]),
        (("json", "status.name"), {"type": "str"}),
        (("signals", "SIGUSR1"), {}),
    ],
)
def test_an_addition_is_no_break(path: tuple[Any, ...], value: Any) -> None:
    assert breaks(EARLIER, changed(path, value)) == []


def test_what_goes_with_its_class_is_said_once() -> None:
    later = copy.deepcopy(EARLIER)
    for name in list(later["names"]):
        if name.startswith("socketkeep.Thing"):
            del later["names"][name]
    assert breaks(EARLIER, later) == [Break("names", "socketkeep.Thing", "is gone")]


def test_deprecated_is_what_the_earlier_version_said_so_of() -> None:
    assert deprecated(EARLIER, Break("names", "socketkeep.old", "is gone"))
    assert deprecated(EARLIER, Break("names", "socketkeep.old.member", "is gone"))
    assert not deprecated(EARLIER, Break("names", "socketkeep.Thing", "is gone"))
    assert not deprecated(EARLIER, Break("json", "status.pid", "is gone"))
