"""The library's reference: verbs of both connections together, and nothing that is internal.

``.. verbs::`` has a name on each line.  It describes that member of `Connection` and of
`AsyncConnection` in one place: both signatures, the text once, and what differs in async code.

Members that are for other parts of the package say so in their docstring, and parameters that
only a server gives have types of its own: neither is shown.
"""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Coroutine, Iterator
from pathlib import Path
from typing import Any, Final, get_args, get_origin

from docutils import nodes
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective
from sphinx.util.inspect import signature, stringify_signature
from sphinx.util.parsing import nested_parse_to_nodes
from sphinx.util.typing import stringify_annotation

from socketkeep import AsyncConnection, Connection

#: The folder of the pages, and the one that has all of them.
PAGES: Final = Path(__file__).parents[1] / "reference" / "library"
OVERVIEW: Final = PAGES.with_suffix(".md")
ERRORS: Final = OVERVIEW.with_name("errors.md")

_DIRECTIVE: Final = re.compile(
    r"^\.\. (?:(?P<module>py:currentmodule|automodule)|auto\w+|py:data):: (?P<name>[\w.]+)"
    r"(?P<bare>\(\))?"
)
_INTERNAL: Final = re.compile(r"\bFor (the (server|library)|our own protocols)\b")
#: Of a NamedTuple's field: the class's docstring says what it is.
_ALIAS: Final = "Alias for field number "
_GIVEN_BY_A_SERVER: Final = ("lease", "hooks")
#: A default that is a constant of the module.
_CONSTANT: Final = re.compile(r"(?<== )_?[A-Z][A-Z_]+\b")
#: The words that the two kinds of code have apart.
_ASYNC_WORDS: Final = (
    ("Iterate, with ``async for``, over", "Iterate over"),
    ("Seconds, None for as long as it takes.", "Seconds, in place of the mode."),
    ("After an error or a cancellation", "After `WouldBlock` or `TimedOut`"),
    ("Another task", "Another thread"),
)


def is_internal(member: object) -> bool:
    """Return whether a member's docstring says that it is not for users."""
    text = inspect.getdoc(member) or ""
    return bool(_INTERNAL.search(text)) or text.startswith(_ALIAS)


def public_members(kind: type) -> list[str]:
    """Return the names of a class's members that its users are told of."""
    names = []
    for name in dir(kind):
        member = inspect.getattr_static(kind, name)
        documented = (inspect.getdoc(member) or "").strip()
        slot = inspect.ismemberdescriptor(member)
        if not (name.startswith("_") or slot or not documented or is_internal(member)):
            names.append(name)
    return names


def public_signature(text: str, module: str) -> str:
    """Return a signature without what a server gives, and with the values of its constants."""
    for name in _GIVEN_BY_A_SERVER:
        text = re.sub(rf",? ?\b{name}: '?[\w.~]+ \| None'? = None", "", text)
    names = vars(sys.modules[module])
    return _CONSTANT.sub(
        lambda found: repr(names[found[0]]) if found[0] in names else found[0], text
    )


def names_on(page: Path, *, only_made_by_the_library: bool = False) -> list[str]:
    """Return the names that a page describes, with their modules.

    only_made_by_the_library: those classes whose constructor it does not show.
    """
    module, names = "socketkeep", []
    for line in page.read_text().splitlines():
        found = _DIRECTIVE.match(line)
        if found is None:
            continue
        if found["module"]:
            module = found["name"]
        elif found["bare"] or not only_made_by_the_library:
            names.append(f"{module}.{found['name']}")
    return names


def verbs_on(page: Path) -> list[str]:
    """Return the members of connections that a page describes."""
    blocks = re.findall(r"^\.\. verbs::\n((?:   \w+\n)+)", page.read_text(), re.MULTILINE)
    return [name for block in blocks for name in block.split()]


def pages() -> list[Path]:
    """Return the pages of the library's reference, in their order."""
    names = re.findall(r"^library/(\w+)$", OVERVIEW.read_text(), re.MULTILINE)
    return [PAGES / f"{name}.md" for name in names]


def topics_markdown() -> str:
    """Return the table's rows: each page, and the names that it describes."""
    rows = []
    for page in pages():
        title = page.read_text().partition("\n")[0].removeprefix("# ")
        names = [f"`{name.removeprefix('socketkeep.')}`" for name in names_on(page)]
        names += [f"`.{name}`" for name in verbs_on(page)]
        rows.append(f"| [{title}](library/{page.name}) | {', '.join(names)} |")
    return "\n".join(rows)


class Verbs(SphinxDirective):
    """Describes members that both kinds of connections have, a line each."""

    has_content = True

    def run(self) -> list[Any]:
        """Return the descriptions."""
        found: list[Any] = []
        for name in self.content:
            found += self._described(name.strip())
        return found

    def _described(self, name: str) -> list[Any]:
        members: dict[type, Any] = {
            kind: inspect.getattr_static(kind, name)
            for kind in (Connection, AsyncConnection)
            if hasattr(kind, name)
        }
        if not members:
            raise self.error(f"no connection has {name}")
        first = next(iter(members.values()))
        role, options = "method", []
        if isinstance(first, property):
            role = "property"
            options = [f"   :type: {_type_of(first)}"]
        elif isinstance(first, classmethod):
            options = ["   :classmethod:"]
        signatures = [f"{kind.__name__}.{name}{_arguments(kind, name)}" for kind in members]
        lead = f".. py:{role}:: "
        lines = [lead + f"\n{' ' * len(lead)}".join(signatures), *options, ""]
        lines += [f"   {line}" for line in self._text(name, members)]
        described: list[Any] = nested_parse_to_nodes(self.state, "\n".join(lines))
        for node in described:
            for line in node.findall(addnodes.desc_signature):
                if line.get("class") == "AsyncConnection" and _is_async(members[AsyncConnection]):
                    line.insert(0, addnodes.desc_annotation("async ", "async "))
        return described

    def _text(self, name: str, members: dict[type, Any]) -> Iterator[str]:
        texts = {kind: inspect.getdoc(member) or "" for kind, member in members.items()}
        kinds = list(texts)
        yield from self._lines(kinds[0], name, texts[kinds[0]])
        if len(kinds) > 1 and _in_sync_words(texts[kinds[1]]) != _in_sync_words(texts[kinds[0]]):
            yield "In async code:"
            yield ""
            yield from self._lines(kinds[1], name, texts[kinds[1]])

    def _lines(self, kind: type, name: str, text: str) -> list[str]:
        lines = [*text.splitlines(), ""]
        where = f"socketkeep.{kind.__name__}.{name}"
        # By whom docstrings are prepared for autodoc.
        self.env.events.emit("autodoc-process-docstring", "method", where, None, None, lines)
        return lines


def _in_sync_words(text: str) -> str:
    for of_async, of_sync in _ASYNC_WORDS:
        text = text.replace(of_async, of_sync)
    return " ".join(text.split())


def _unwrapped(member: object) -> Any:
    """Return the function of a member: without its decorators, and without the compiled core."""
    if isinstance(member, classmethod | staticmethod):
        member = member.__func__
    elif isinstance(member, property):
        member = member.fget
    return inspect.unwrap(member)  # type: ignore[arg-type]


def _arguments(kind: type, name: str) -> str:
    member = inspect.getattr_static(kind, name)
    if isinstance(member, property):
        return ""
    function = _unwrapped(member)
    found = signature(function, bound_method=True)
    if get_origin(found.return_annotation) is Coroutine:
        found = found.replace(return_annotation=get_args(found.return_annotation)[-1])
    text = stringify_signature(found, unqualified_typehints=True)
    return public_signature(text, function.__module__)


def _is_async(member: object) -> bool:
    function = _unwrapped(member)
    if inspect.iscoroutinefunction(function):
        return True
    return get_origin(signature(function).return_annotation) is Coroutine


def _type_of(member: property) -> str:
    return stringify_annotation(signature(_unwrapped(member)).return_annotation, "smart")


def hide_internal(
    _app: Sphinx, _what: str, _name: str, member: object, skip: bool, _options: object
) -> bool | None:
    """Have autodoc leave a member out that is not for users."""
    return True if skip or is_internal(member) else None


def hide_arguments(
    _app: Sphinx,
    what: str,
    _name: str,
    described: object,
    _options: object,
    arguments: str | None,
    returned: str | None,
) -> tuple[str, str | None] | None:
    """Have autodoc show the signature that users are to know."""
    if arguments is None or what not in ("class", "function", "method"):
        return None
    return public_signature(arguments, inspect.unwrap(described).__module__), returned  # type: ignore[arg-type]


def draw_dashes(_app: Sphinx, page: Any) -> None:
    """Have a dash between a parameter and its text; in texts two hyphens are an option's."""
    for text in list(page.findall(nodes.Text)):
        if text == " -- ":
            text.parent.replace(text, nodes.Text(" \N{EN DASH} "))


def setup(app: Sphinx) -> dict[str, bool]:
    """Register with Sphinx."""
    app.setup_extension("sphinx.ext.autodoc")
    app.add_directive("verbs", Verbs)
    app.connect("autodoc-skip-member", hide_internal)
    app.connect("autodoc-process-signature", hide_arguments)
    app.connect("doctree-read", draw_dashes)
    return {"parallel_read_safe": True}
