"""Two surfaces compared: what of the earlier one a user can no longer rely on in the later one."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from tests.surface.collected import Fact, Surface

_BY_POSITION = ("position", "either")
_BY_KEYWORD = ("either", "keyword")


class Break(NamedTuple):
    """Something that an earlier version had, and that is gone or no longer the same."""

    sort: str
    name: str
    what: str

    def __str__(self) -> str:
        return f"{self.sort}: {self.name} {self.what}"


def breaks(earlier: Surface, later: Surface) -> list[Break]:
    """Return what is gone, and what has changed so that its users have to.

    Additions are none: a key, a choice, a parameter that need not be given.
    """
    found = []
    for sort, facts in earlier.items():
        there = later.get(sort, {})
        for name, before in facts.items():
            if name not in there:
                if not _below(name, facts, there):
                    found.append(Break(sort, name, "is gone"))
                continue
            found += [Break(sort, name, what) for what in _changes(before, there[name])]
    return found


def deprecated(earlier: Surface, broken: Break) -> bool:
    """Return whether the earlier version said of it, or of the class it is of, that it will go."""
    facts = earlier[broken.sort]
    names = [broken.name, broken.name.rpartition(".")[0]]
    return any("deprecated" in facts.get(name, {}) for name in names)


def _below(name: str, earlier: dict[str, Fact], later: dict[str, Fact]) -> bool:
    """Return whether it is gone with what it was a part of, which is said once."""
    over = [name.rpartition(mark)[0] for mark in (".", " ")]
    return any(each in earlier and each not in later for each in over)


def _changes(before: Fact, after: Fact) -> Iterator[str]:
    for key in ("kind", "type", "means", "variable", "labels", "value"):
        if before.get(key) != after.get(key):
            yield f"was {_said(before.get(key))}, and is {_said(after.get(key))}"
    if before.get("default", None) != after.get("default", None):
        yield f"had the default {before.get('default')!r}, and has {after.get('default')!r}"
    for key in ("bases", "words", "flags", "takes", "choices", "sorts"):
        # Without choices all is taken.
        if key == "choices" and not after.get(key):
            continue
        for gone in sorted({*before.get(key, ())} - {*after.get(key, ())}):
            yield f"no longer has {gone}"
    if after.get("choices") and "choices" in before and not before["choices"]:
        yield f"takes {', '.join(after['choices'])} alone"
    if after.get("required") and not before.get("required"):
        yield "must be given"
    if "arguments" in before and not _takes(after["arguments"], before["arguments"]):
        yield f"took the arguments {before['arguments']}, and takes {after['arguments']}"
    if before.get("parameters") is not None and after.get("parameters") is not None:
        yield from _calls(before["parameters"], after["parameters"])


def _said(value: Any) -> str:
    return ", ".join(value) if isinstance(value, list) else str(value)


def _takes(after: list[list[Any]], before: list[list[Any]]) -> bool:
    """Return whether arguments (required, how many) that were right still are."""
    same = len(after) >= len(before) and all(
        now[1] == then[1] and (then[0] or not now[0])
        for now, then in zip(after, before, strict=False)
    )
    return same and not any(required for required, _ in after[len(before) :])


def _calls(before: list[list[Any]], after: list[list[Any]]) -> Iterator[str]:
    """Yield why a call that was right no longer is, or no longer means the same."""
    now = {name: (place, way, default) for place, (name, way, default) in enumerate(after)}
    catches = {way for _, way, _ in after}
    for place, (name, way, default) in enumerate(before):
        if way in ("positions", "keywords"):
            if way not in catches:
                yield f"takes no more {way} than it names"
            continue
        if way == "position" and name not in now and place < len(after):
            continue  # its name was no promise
        if name not in now:
            if "keywords" not in catches:
                yield f"has no parameter {name}"
            continue
        its_place, its_way, its_default = now[name]
        if way in _BY_POSITION and (its_way not in _BY_POSITION or its_place != place):
            yield f"does not take {name} as argument number {place + 1}"
        if way in _BY_KEYWORD and its_way not in _BY_KEYWORD:
            yield f"does not take {name} by its name"
        if default is not None and its_default != default:
            yield (
                f"has to be given {name}"
                if its_default is None
                else f"had {name}={default}, and has {name}={its_default}"
            )
    known = {name for name, _, _ in before}
    for name, way, default in after:
        if name not in known and default is None and way in ("position", "either", "keyword"):
            yield f"has to be given {name}"
