"""The surface of the package that is imported, as plain data that can be recorded and compared."""

from __future__ import annotations

import inspect
import re
import signal
from collections.abc import Callable, Iterator
from importlib import import_module
from typing import Any, Final, TypeAlias

import click
import msgspec

#: What is said of one thing that has a name.
Fact: TypeAlias = dict[str, Any]
#: By sort (names, options, …), and by the name of each thing.
Surface: TypeAlias = dict[str, dict[str, Fact]]

_PACKAGE: Final = "socketkeep"
_MODULES: Final = ("", ".adapters", ".channels", ".inspect", ".otel", ".proxy", ".testing")

#: Classes of which users have instances and make none.
_MADE_FOR_USERS: Final = frozenset(
    f"{_PACKAGE}.{name}"
    for name in (
        *("Detached", "Guard", "Server", "TlsInfo", "WorkerInfo"),
        *("adapters.ConnectionSocket", "adapters.KeptReader", "adapters.KeptWriter"),
        *("testing.AsyncCheck", "testing.AsyncStream", "testing.Check", "testing.SyncStream"),
    )
)
#: Of a class, and among its parameters, what is for the server alone, as is what says so.
_INTERNAL: Final = frozenset(
    (
        *(
            "assignment",
            "capacity_of",
            "core",
            "default_errno",
            "default_reason",
            "desk_name",
            "hooks",
            "lease",
        ),
        *("registration", "shares_of"),
    )
)
_SAYS_SO: Final = re.compile(r"For (the server|our own)\b|\bthe server alone\b")

#: The type of what each command prints with ``--json``; a version without it did not.
_REPORTS: Final = (
    ("status", "_admin._reports", "StatusReport"),
    ("workers[]", "_admin._reports", "WorkerReport"),
    ("connections[]", "_admin._reports", "ConnectionReport"),
    ("listeners[]", "_admin._reports", "ListenerReport"),
    ("reload --dry-run", "_admin._reports", "ReloadForecast"),
    ("reload --wait", "_admin._reports", "ReloadReport"),
    ("push", "_admin._reports", "PushReport"),
    ("publish", "_admin._reports", "PublishReport"),
    ("disconnect", "_admin._reports", "DisconnectReport"),
    ("who", "_admin._reports", "PresentReport"),
    ("holders", "_inspect._results", "HeldSockets"),
    ("why", "_inspect._why", "Explanation"),
    ("leaks", "_inspect._leaks", "Leaks"),
    ("doctor", "_cli.doctor", "Examination"),
    ("fin", "_cli._ending", "EndedSockets"),
    ("abort", "_cli._ending", "EndedSockets"),
    ("lab", "_lab._results", "LabReport"),
)

#: What is awaited, and is no coroutine.
_AWAITED: Final = frozenset(("Awaitable[bytes]", "Receiving"))

_HOW_GIVEN: Final = {
    inspect.Parameter.POSITIONAL_ONLY: "position",
    inspect.Parameter.POSITIONAL_OR_KEYWORD: "either",
    inspect.Parameter.VAR_POSITIONAL: "positions",
    inspect.Parameter.KEYWORD_ONLY: "keyword",
    inspect.Parameter.VAR_KEYWORD: "keywords",
}


def collect() -> Surface:
    """Return the surface of the package that is imported as `socketkeep`."""
    sorts: dict[str, Callable[[], Iterator[tuple[str, Fact]]]] = {
        "names": _names,
        "commands": _commands,
        "options": _options,
        "listener options": _listener_options,
        "json": _json,
        "metrics": _metrics,
        "exit codes": _exit_codes,
        "signals": _signals,
    }
    return {sort: dict(sorted(facts())) for sort, facts in sorts.items()}


def version() -> str:
    """Return the version of the package that is imported."""
    said: str = _module("._version").VERSION
    return said


def _module(name: str) -> Any:
    return import_module(f"{_PACKAGE}{name}")


def _first_of(*modules: str) -> Any:
    """Return the first module that this version has; None when it has none."""
    for module in modules:
        try:
            return _module(module)
        except ModuleNotFoundError as error:
            if not (error.name or "").startswith(_PACKAGE):
                raise
    return None


def _names() -> Iterator[tuple[str, Fact]]:
    public = set(_module("").__all__)
    for module in filter(None, map(_first_of, _MODULES)):
        for name in module.__all__:
            path = f"{module.__name__}.{name}"
            value = getattr(module, name)
            if inspect.isclass(value):
                yield path, _class(path, value, public)
                for member in _members(value):
                    yield f"{path}.{member}", _member(value, member)
            elif callable(value):
                yield path, fact_of(value)
            elif isinstance(value, frozenset):
                yield path, {"kind": "words", "words": sorted(value)}
            else:
                yield path, {"kind": type(value).__name__}


def _class(path: str, value: type[Any], public: set[str]) -> Fact:
    bases = [
        f"{base.__module__}.{base.__qualname__}".removeprefix("builtins.")
        if not base.__module__.startswith(_PACKAGE)
        else base.__qualname__
        for base in value.__mro__[1:-1]
        if not base.__module__.startswith((_PACKAGE, "typing", "msgspec", "_socket"))
        or (base.__module__.startswith(_PACKAGE) and base.__qualname__ in public)
    ]
    fact: Fact = {"kind": "class", "bases": sorted(bases)}
    if path not in _MADE_FOR_USERS:
        fact["parameters"] = _parameters(value, bound=False)
    return _marked(fact, value.__init__)


def _members(value: type[Any]) -> list[str]:
    found: set[str] = set()
    for base in value.__mro__:
        if base.__module__.startswith(_PACKAGE):
            found |= {*vars(base), *inspect.get_annotations(base)}
    if issubclass(value, _module("").SocketkeepError):
        found |= {*vars(value())}
    return sorted(
        name for name in found - _INTERNAL if not name.startswith("_") and not _for_us(value, name)
    )


def _for_us(owner: type[Any], name: str) -> bool:
    """Return whether a member's docstring says that it is not for users."""
    said = inspect.getdoc(inspect.getattr_static(owner, name, None))
    return said is not None and _SAYS_SO.search(said) is not None


def _member(owner: type[Any], name: str) -> Fact:
    try:
        found = inspect.getattr_static(owner, name)
    except AttributeError:  # an annotation alone
        return {"kind": "attribute"}
    static = isinstance(found, staticmethod)
    if isinstance(found, staticmethod | classmethod):
        found = found.__func__
    if isinstance(found, property):
        return _marked({"kind": "attribute"}, found.fget)
    if callable(found) and not inspect.isclass(found):
        return fact_of(found, bound=not static)
    return {"kind": "attribute"}


def fact_of(value: Any, *, bound: bool = False) -> Fact:
    """Return how a function or a method is called; bound: without its first parameter."""
    function = inspect.unwrap(value)
    returned = str(getattr(function, "__annotations__", {}).get("return", ""))
    if inspect.iscoroutinefunction(function) or returned in _AWAITED:
        kind = "coroutine function"
    elif inspect.isasyncgenfunction(function) or returned.startswith("AsyncIterator"):
        kind = "async iterator"
    else:
        kind = "function"
    # Of what is written in C some versions of Python tell the parameters, and others do not.
    parameters = _parameters(function, bound=bound) if inspect.isfunction(function) else None
    return _marked({"kind": kind, "parameters": parameters}, value)


def _marked(fact: Fact, value: Any) -> Fact:
    """Add to the fact what the decorator `deprecated` has left, if it has."""
    said = getattr(value, "__deprecated__", None)
    return fact if said is None else {**fact, "deprecated": said}


def _announced(fact: Fact, about: str | None) -> Fact:
    """Add to the fact what a help text says that begins with ``Deprecated:``."""
    mark, _, said = (about or "").partition(": ")
    return {**fact, "deprecated": said} if mark == "Deprecated" else fact


def _parameters(value: Any, *, bound: bool) -> list[list[Any]] | None:
    """Return name, way to be given and default of each; None where they cannot be seen."""
    try:
        parameters = list(inspect.signature(value).parameters.values())
    except ValueError:
        return None
    return [
        [each.name, _HOW_GIVEN[each.kind], _default(each.default)]
        for each in parameters[1 if bound else 0 :]
        if each.name not in _INTERNAL
    ]


def _default(value: Any) -> str | None:
    if value is inspect.Parameter.empty:
        return None
    plain = (bool, bytes, float, int, str, tuple, type(None))
    return repr(value) if isinstance(value, plain) else f"a {type(value).__name__}"


def _commands() -> Iterator[tuple[str, Fact]]:
    main = _module("._cli._main")
    context = click.Context(main.group)
    of_serve = {flag for each in _declared_options() for flag in each.flags}
    of_serve |= {each.no_flag for each in _declared_options() if each.flags}
    yield from _command("", main.group, context, of_serve)
    for name in main.COMMANDS:
        command = main.group.get_command(context, name)
        yield from _command(name, command, context, of_serve)


def _command(
    name: str, command: click.Command, context: click.Context, left_out: set[str]
) -> Iterator[tuple[str, Fact]]:
    title = f"{_PACKAGE} {name}".strip()
    own = click.Context(command, parent=context)
    parameters = command.get_params(own)
    arguments = [each for each in parameters if isinstance(each, click.Argument)]
    taken = [[each.required, each.nargs] for each in arguments]
    yield title, _announced({"arguments": taken}, command.help)
    for option in parameters:
        if not isinstance(option, click.Option):
            continue
        fact: Fact = {"value": not (option.is_flag or option.count), "required": option.required}
        if isinstance(option.type, click.Choice):
            fact["choices"] = list(option.type.choices)
        for flag in (*option.opts, *option.secondary_opts):
            if flag not in left_out:
                yield f"{title} {flag}", _announced(fact, option.help)


def _declared_options() -> tuple[Any, ...]:
    found: tuple[Any, ...] = _first_of("._config._server_options", "._config").OPTIONS
    return found


def _options() -> Iterator[tuple[str, Fact]]:
    for each in _declared_options():
        yield (
            each.key,
            _announced(
                {
                    "flags": [*each.flags, *([each.no_flag] if each.kind.python is bool else ())],
                    "variable": each.variable,
                    "takes": _taken(each.kind),
                    "choices": list(each.choices),
                    "default": msgspec.to_builtins(each.default) if each.flags else None,
                },
                each.help,
            ),
        )


def _taken(kind: Any) -> list[str]:
    """Return the types that a TOML file may have for a value of this kind."""
    return [each.__name__ for each in kind.toml_types]


def _listener_options() -> Iterator[tuple[str, Fact]]:
    module = _first_of("._config._listener_options")
    for each in module.LISTENER_OPTIONS if module else ():
        yield (
            each.name,
            _announced(
                {
                    "takes": _taken(each.kind),
                    "choices": list(each.choices),
                    "default": each.default,
                    "sorts": list(each.sorts),
                },
                each.help,
            ),
        )


def _json() -> Iterator[tuple[str, Fact]]:
    for command, place, name in _REPORTS:
        report = getattr(_first_of(f".{place}"), name, None)
        if report is not None:
            yield from _keys(command, msgspec.inspect.type_info(report))


def _keys(path: str, kind: msgspec.inspect.Type) -> Iterator[tuple[str, Fact]]:
    """Yield the type of what stands at `path` in the JSON, and of all below it."""
    yield path, {"type": _type(kind)}
    for each in kind.types if isinstance(kind, msgspec.inspect.UnionType) else (kind,):
        match each:
            case msgspec.inspect.StructType():
                for field in each.fields:
                    yield from _keys(f"{path}.{field.encode_name}", field.type)
            case msgspec.inspect.ListType() | msgspec.inspect.VarTupleType():
                yield from _keys(f"{path}[]", each.item_type)
            case msgspec.inspect.TupleType():
                for number, item in enumerate(each.item_types):
                    yield from _keys(f"{path}[{number}]", item)
            case msgspec.inspect.DictType():
                yield from _keys(f"{path}.*", each.value_type)


def _type(kind: msgspec.inspect.Type) -> str:
    match kind:
        case msgspec.inspect.UnionType():
            return " or ".join(sorted({_type(each) for each in kind.types}))
        case msgspec.inspect.LiteralType():
            return " or ".join(sorted({type(each).__name__ for each in kind.values}))
        case msgspec.inspect.StructType() | msgspec.inspect.DictType():
            return "object"
        case (
            msgspec.inspect.ListType()
            | msgspec.inspect.VarTupleType()
            | msgspec.inspect.TupleType()
        ):
            return "list"
    return type(kind).__name__.removesuffix("Type").lower()


def _metrics() -> Iterator[tuple[str, Fact]]:
    for each in _module("._admin._metrics").METRICS:
        fact = {"kind": each.kind, "labels": list(each.labels)}
        yield each.name, _announced(fact, each.help)


def _exit_codes() -> Iterator[tuple[str, Fact]]:
    for name, value in vars(_module("._cli._exit")).items():
        if isinstance(value, int):
            yield str(value), {"means": name.lower().replace("_", " ")}


def _signals() -> Iterator[tuple[str, Fact]]:
    for number in _module("._keeper._signals").SIGNALS:
        if number != signal.SIGCHLD:
            yield signal.Signals(number).name, {}
