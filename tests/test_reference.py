"""The library's reference: each public name on one page, for users alone, parameters in lists."""

from __future__ import annotations

import inspect
import re
import types
from collections import Counter
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path

import pytest
from docs._ext.declared import PAGES as DECLARED
from docs._ext.docstrings import parted
from docs._ext.reference import (
    ERRORS,
    OVERVIEW,
    PAGES,
    is_internal,
    names_on,
    pages,
    public_members,
    public_signature,
    topics_markdown,
    verbs_on,
)

import socketkeep
from socketkeep import AsyncConnection, Connection, SocketkeepError
from socketkeep.inspect import HeldSocket

MODULES = (
    "",
    *sorted(
        f".{path.stem}"
        for path in Path(socketkeep.__file__).parent.glob("*.py")
        if not path.name.startswith("_")
    ),
)


def module(name: str) -> types.ModuleType:
    return import_module(f"socketkeep{name}")


def public_names() -> Iterator[tuple[str, object]]:
    for name in MODULES:
        for each in module(name).__all__:
            yield f"socketkeep{name}.{each}", getattr(module(name), each)


def errors() -> set[str]:
    kinds = {
        name
        for name, value in public_names()
        if inspect.isclass(value) and issubclass(value, SocketkeepError)
    }
    return kinds - {"socketkeep.SocketkeepError"}


def test_every_public_name_is_on_one_page() -> None:
    """The errors are on theirs, which is made from the code; tests/test_errors_page.py has it."""
    told = Counter(name for page in [*pages(), ERRORS] for name in names_on(page))
    assert told == Counter({name for name, _ in public_names()} - errors())


@pytest.mark.parametrize("kind", [Connection, AsyncConnection])
def test_every_verb_is_on_one_page(kind: type) -> None:
    told = Counter(name for page in pages() for name in verbs_on(page))
    assert {name: told[name] for name in public_members(kind)} == dict.fromkeys(
        public_members(kind), 1
    )
    assert set(told) == set(public_members(Connection)) | set(public_members(AsyncConnection))


def test_every_page_is_in_the_overview() -> None:
    assert sorted(pages()) == sorted(PAGES.glob("*.md"))
    assert "{{ declared: topics }}" in OVERVIEW.read_text()
    rows = topics_markdown().splitlines()
    assert len(rows) == len(pages())
    assert "| [Messages](library/messages.md) | `.recv`, " in "\n".join(rows)


@pytest.mark.parametrize(
    ("name", "internal"),
    [("recv", False), ("end_at_once", True), ("complete_reply", True), ("receive_by", True)],
)
def test_what_is_for_the_server_is_internal(name: str, internal: bool) -> None:
    assert is_internal(inspect.getattr_static(AsyncConnection, name)) == internal
    assert (name in public_members(AsyncConnection)) != internal


def test_what_a_server_gives_is_in_no_signature() -> None:
    shown = public_signature(
        "(sock: ~socket.socket, *, inherit: bool = False, lease: ~x._lease.Lease | None = None,"
        " hooks: ~x._lease.Hooks | None = None)",
        Connection.__module__,
    )
    assert shown == "(sock: ~socket.socket, *, inherit: bool = False)"


def test_a_default_is_shown_by_its_value() -> None:
    shown = public_signature("(max: int = CHUNK, *, mode: Mode = _BLOCKING)", Connection.__module__)
    assert shown == "(max: int = 65536, *, mode: Mode = Blocking())"
    assert public_signature("(n: int = NOWHERE)", Connection.__module__) == "(n: int = NOWHERE)"


#: The classes that a page shows without a constructor: the library makes them.
MADE_BY_THE_LIBRARY = {
    name for page in pages() for name in names_on(page, only_made_by_the_library=True)
}


def takes_arguments(name: str, kind: type) -> bool:
    if issubclass(kind, BaseException) or name in MADE_BY_THE_LIBRARY:
        return False
    return kind.__init__ is not object.__init__


def text_of(described: object) -> str:
    """Return its own text; one that it has of the standard library's class is none of ours."""
    return inspect.cleandoc(described.__doc__ or "")


def documented() -> Iterator[tuple[str, Callable[..., object]]]:
    """Yield each public class, function and method, under its name."""
    for name, value in public_names():
        if inspect.isroutine(value) or (inspect.isclass(value) and takes_arguments(name, value)):
            yield name, value
        if inspect.isclass(value):
            for member in public_members(value):
                method = inspect.unwrap(getattr(value, member))
                ours = str(getattr(method, "__module__", "")).startswith("socketkeep.")
                if callable(method) and ours:
                    yield f"{name}.{member}", method


def listed(text: str, section: str) -> list[str]:
    """Return the names that a section of a docstring is about."""
    _, _, rest = text.partition(f"\n{section}:\n")
    return re.findall(r"^    (\w+): \S", rest.partition("\n\n")[0], re.MULTILINE)


def parameters(described: Callable[..., object]) -> list[str]:
    shown = public_signature(str(inspect.signature(described)), described.__module__)
    given = inspect.signature(described).parameters
    return [name for name in given if name != "self" and re.search(rf"\b{name}: ", shown)]


@pytest.mark.parametrize(("name", "described"), list(documented()))
def test_each_parameter_is_in_the_list_or_in_the_sentence(
    name: str, described: Callable[..., object]
) -> None:
    text = text_of(described)
    if not text or re.search(r"(whose|same) arguments|arguments of", text):
        return
    told = [*listed(text, "Args"), *listed(text, "Attributes")]
    named = [each for each in parameters(described) if each in told or f"`{each}`" in text]
    assert named == parameters(described)


def test_errors_are_in_lists() -> None:
    prose = re.compile(r"\bRaises [A-Z`]")
    assert not [name for name, each in documented() if prose.search(text_of(each))]


def test_the_attributes_of_a_docstring() -> None:
    about, meanings = parted(HeldSocket)
    assert about == "A socket, and who holds it."
    assert meanings["shut"].startswith("The directions in which this side has ended it")
    assert list(meanings) == list(HeldSocket.__struct_fields__)
    assert parted(int)[1] == {}


def test_each_field_of_a_report_has_a_meaning() -> None:
    """So that nobody has to guess it from the name."""
    rows = re.findall(r"^\| `(\w+)` \| (.*?) \| (.*) \|$", DECLARED["reports"](), re.MULTILINE)
    assert len(rows) > 200
    assert [name for name, _, meaning in rows if not meaning] == []
