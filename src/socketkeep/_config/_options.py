"""Options: where a value may come from, how it is read, checked and written.

An option of `socketkeep serve` is declared once, as the annotation of its field in
`_config.ServeConfig`: the field's name, type and default, and an `Option` with the rest.  The
command line, the environment, the TOML file, ``--print-config`` and the reference page are all
read off that one declaration.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any, Final, get_type_hints

import msgspec

from socketkeep._base._mistakes import OptionError, nearest

_DURATION: Final = r"(\d+(?:\.\d*)?|\.\d+)\s*(ms|s|m|h|d|)"
_SECONDS: Final = {"ms": 0.001, "": 1.0, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_RATE: Final = r"(\d+(?:\.\d*)?|\.\d+)(?:/([smh]))?(?::(\d{1,9}))?"
#: How many connections a second may be ended or moved.
MOST_PACE: Final = 100_000
_LEAST_RATE: Final = 1e-5
_MOST_RATE: Final = 10**6
_SIZE: Final = r"(\d+(?:\.\d*)?|\.\d+)\s*([kmgt]?)(i?b)?"
_MOST_NUMBER: Final = (1 << 31) - 1  # what listen(2) and the like take
_MOST_SECONDS: Final = 10**9
_MOST_KEEPALIVE: Final = 32767  # seconds, and probes: MAX_TCP_KEEPIDLE and the like of the kernel
_MOST_PROBES: Final = 127
_MOST_BYTES: Final = 1 << 53  # exact as a float
_BYTES: Final = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}


class Kind(msgspec.Struct, frozen=True):
    """A type of value: how it is read from text and from TOML, and how it is written.

    `parse` raises ValueError when the text is not of this kind; `expected` then says what would
    have been.  `python` is the type that `ServeConfig` holds.  most: the greatest number that the
    system can be told, so that it fails here and not in the middle of a start.
    """

    name: str
    expected: str
    python: type[Any]
    parse: Callable[[str], Any]
    toml_types: tuple[type[Any], ...]
    write: Callable[[Any], str] = str
    is_list: bool = False
    most: int | None = None
    parted: bool = False


def parse_duration(text: str) -> float:
    """Return the seconds that `text` means: ``30``, ``1.5``, ``500ms``, ``2m``, ``1h``, ``1d``.

    Raises ValueError for anything else, a negative duration included.
    """
    match = re.fullmatch(_DURATION, text.strip(), re.ASCII)
    if match is None:
        raise ValueError(f"not a duration: {text!r}")
    # Rounded so that "1.1ms" is written back as it was read.
    return round(float(match[1]) * _SECONDS[match[2]], 9)


def parse_limit(text: str) -> str:
    """Return the limit that `text` means: ``auto``, ``off``, or a duration's seconds as text.

    Raises ValueError for anything else.
    """
    word = text.strip().lower()
    return word if word in {"auto", "off"} else _number(parse_duration(word))


def parse_size(text: str) -> int:
    """Return the bytes that `text` means: ``65536``, ``64K``, ``200M``, ``1G`` (powers of 1024).

    Raises ValueError for anything else, a negative size included.
    """
    match = re.fullmatch(_SIZE, text.strip(), re.ASCII | re.IGNORECASE)
    if match is None:
        raise ValueError(f"not a size: {text!r}")
    size = float(match[1]) * _BYTES[match[2].lower()]
    if size > _MOST_BYTES:
        raise ValueError(f"more bytes than there can be: {text!r}")
    return int(size)


def parse_flag(text: str) -> bool:
    """Return the truth of ``true yes on 1`` or ``false no off 0``; raises ValueError for others."""
    word = text.strip().lower()
    if word in {"true", "yes", "on", "1"}:
        return True
    if word in {"false", "no", "off", "0"}:
        return False
    raise ValueError(f"not a yes or a no: {text!r}")


def parse_keepalive(text: str) -> str:
    """Return when a silent peer is asked, as ``IDLE:INTERVAL:COUNT`` in seconds, or ``off``.

    ``60s``, ``60:15`` and ``1m:15s:3`` are alike.  Raises ValueError for anything else, and for
    what tcp(7) cannot be told.
    """
    word = text.strip().lower()
    if word == "off":
        return word
    parts = word.split(":")
    if len(parts) > 3:
        raise ValueError(f"not a keepalive: {text!r}")
    idle, interval = (parse_duration(part) for part in (*parts, "15")[:2])
    count = _integer((*parts[2:], "3")[0])
    for seconds in (idle, interval):
        if not (seconds.is_integer() and 1 <= seconds <= _MOST_KEEPALIVE):
            raise ValueError(f"no number of seconds from 1 to {_MOST_KEEPALIVE}: {text!r}")
    if not 1 <= count <= _MOST_PROBES:
        raise ValueError(f"no number of probes from 1 to {_MOST_PROBES}: {text!r}")
    return f"{idle:.0f}:{interval:.0f}:{count}"


def parse_rate(text: str) -> str:
    """Return how often something may happen, as ``RATE:BURST`` a second, or ``off``.

    ``10``, ``10/s``, ``10:10`` and ``600/m:10`` are alike.  Raises ValueError for anything else.
    """
    word = text.strip().lower()
    if word == "off":
        return word
    match = re.fullmatch(_RATE, word, re.ASCII)
    if match is None:
        raise ValueError(f"not a rate: {text!r}")
    rate = float(match[1]) / _SECONDS[match[2] or "s"]
    burst = int(match[3]) if match[3] else max(1, round(rate))
    if not (_LEAST_RATE <= rate <= _MOST_RATE and 1 <= burst <= _MOST_RATE):
        raise ValueError(f"no rate that can be held: {text!r}")
    return f"{_number(rate)}:{burst}"


def parse_pace(text: str) -> float:
    """Return how many a second ``500/s``, ``500`` or ``30/m`` are.  Raises ValueError."""
    match = re.fullmatch(_RATE, text.strip().lower(), re.ASCII)
    if match is None or match[3]:
        raise ValueError(f"not a pace: {text!r}")
    pace = float(match[1]) / _SECONDS[match[2] or "s"]
    if not _LEAST_RATE <= pace <= MOST_PACE:
        raise ValueError(f"no pace that can be held: {text!r}")
    return pace


def parse_permissions(text: str) -> str:
    """Return octal permissions as four digits ("0660"); raises ValueError for others."""
    if re.fullmatch(r"(0o)?[0-7]{3,4}", text.strip()) is None or int(text, 8) > 0o777:
        raise ValueError(f"not octal permissions: {text!r}")
    return f"{int(text, 8):04o}"


def parse_umask(text: str) -> str:
    """Return an octal umask as four digits ("0027"), "" for none; raises ValueError for others."""
    word = text.strip()
    if not word:
        return ""
    if re.fullmatch(r"(0o)?[0-7]{1,4}", word) is None or int(word, 8) > 0o777:
        raise ValueError(f"not an octal umask: {text!r}")
    return f"{int(word, 8):04o}"


def _integer(text: str) -> int:
    # int() alone would take "1_000" and Arabic digits, which nobody means on a command line.
    if re.fullmatch(r"\s*[+-]?[0-9]+\s*", text) is None:
        raise ValueError(f"not a number: {text!r}")
    return int(text)


def _words(text: str) -> list[str]:
    return [word.strip() for word in text.split(",") if word.strip()]


def _listeners(text: str) -> list[str]:
    """Return the listeners in a variable's text: at a comma the next one, or an option, begins."""
    found: list[str] = []
    for word in _words(text):
        if found and re.match(r"[a-z][a-z0-9-]*=", word):
            found[-1] += f",{word}"
        else:
            found.append(word)
    return found


def _number(value: float) -> str:
    return repr(value).removesuffix(".0")


TEXT: Final = Kind("text", "text", str, str, (str,), json.dumps)
PATH: Final = Kind("path", "a path", str, str, (str,), json.dumps)
NUMBER: Final = Kind("number", "a whole number", int, _integer, (int,), most=_MOST_NUMBER)
DURATION: Final = Kind(
    "duration",
    "a duration such as 30, 1.5, 500ms, 2m or 1h",
    float,
    parse_duration,
    (int, float, str),
    _number,
    most=_MOST_SECONDS,
)
LIMIT: Final = Kind(
    "limit",
    "auto, off or a duration such as 30, 1.5, 500ms or 2m",
    str,
    parse_limit,
    (int, float, str),
    json.dumps,
)
SIZE: Final = Kind(
    "size", "a size such as 65536, 64K, 200M or 1G", int, parse_size, (int, str), most=_MOST_BYTES
)
FLAG: Final = Kind(
    "yes or no",
    "true or false",
    bool,
    parse_flag,
    (bool,),
    lambda value: "true" if value else "false",
)
KEEPALIVE: Final = Kind(
    "keepalive",
    "off, or IDLE:INTERVAL:COUNT such as 60s:15s:3 (seconds up to 32767, probes up to 127)",
    str,
    parse_keepalive,
    (str,),
    json.dumps,
)
RATE: Final = Kind(
    "rate",
    "off, or RATE[:BURST] such as 10, 10:20, 30/m or 30/m:5 (up to a million a second)",
    str,
    parse_rate,
    (int, float, str),
    json.dumps,
)
PERMISSIONS: Final = Kind(
    "permissions", 'octal permissions such as "0660"', str, parse_permissions, (str,), json.dumps
)
UMASK: Final = Kind("umask", 'an octal umask such as "027"', str, parse_umask, (str,), json.dumps)
TEXTS: Final = Kind("list", "a list of texts", list, _words, (list,), json.dumps, is_list=True)
PATHS: Final = Kind("paths", "a path", list, lambda text: [text], (list,), json.dumps, is_list=True)
LISTENERS: Final = Kind(
    "listeners", "a list of texts", list, _listeners, (list,), json.dumps, is_list=True
)
NETWORKS: Final = Kind(
    "networks",
    "networks such as 10.0.0.0/8, or addresses",
    list,
    _words,
    (list,),
    json.dumps,
    is_list=True,
    parted=True,
)


class Option(msgspec.Struct, frozen=True):
    """One option, declared once.

    key: the field of `ServeConfig`, and the key in a TOML file.  `key` and `default` are filled
    from the field by `options_of`.
    flags: the command line's spellings; none for the positional TARGET.
    none_flag: for a flag, the spelling that says no.
    minimum: the least value; `zero` says what 0 stands for.
    check: raises ValueError for a value that is of the right kind and yet will not do.
    elsewhere: returns what to tell of a value that is another server's, as a clause; "" for others.
    secret: its value is never printed.
    at_reload: another value in the settings file is gone by from the next reload on; else it takes
    a restart of the server.
    """

    kind: Kind
    flags: tuple[str, ...]
    help: str
    metavar: str = ""
    choices: tuple[str, ...] = ()
    minimum: int | None = None
    zero: str = ""
    check: Callable[[Any], None] | None = None
    elsewhere: Callable[[str], str] | None = None
    secret: bool = False
    at_reload: bool = False
    key: str = ""
    default: Any = None

    @property
    def variable(self) -> str:
        """The environment variable that sets it."""
        return f"SOCKETKEEP_{self.key.upper()}"

    @property
    def long_flag(self) -> str:
        """The spelling that messages use; TARGET for the positional argument."""
        return self.flags[-1] if self.flags else self.key.upper()

    @property
    def no_flag(self) -> str:
        """The spelling that turns a yes-or-no option off."""
        return f"--no-{self.flags[-1].removeprefix('--')}"

    @property
    def default_text(self) -> str:
        """The default as a reader of the help is told it; "" when there is none to tell."""
        if self.zero and not self.default:
            return self.zero
        if isinstance(self.default, list):
            return ", ".join(self.default)
        return str(self.default) if self.kind.python is str else self.kind.write(self.default)

    def shown(self, value: Any) -> str:
        """Return a value as people are told it."""
        if self.secret:
            return "(not shown)"
        if isinstance(value, str):
            return value or '""'
        return self.kind.write(value)

    def from_text(self, text: str, source: str) -> Any:
        """Return the checked value of a text from the command line or the environment.

        Raises OptionError, whose text starts with `source`.
        """
        try:
            value = self.kind.parse(text)
        except ValueError:
            raise self._wrong(text, source) from None
        return self._checked(value, text, source)

    def from_texts(self, texts: tuple[str, ...], source: str) -> list[str]:
        """Return the checked value of a repeatable flag."""
        parts = [part for text in texts for part in self.kind.parse(text)]
        value = parts if self.kind.parted else list(texts)
        checked: list[str] = self._checked(value, ", ".join(texts), source)
        return checked

    def from_toml(self, value: object, source: str) -> Any:
        """Return the checked value of what stands in a TOML file; raises OptionError."""
        if self.kind.is_list and isinstance(value, str):
            value = [value]
        if isinstance(value, bool) and self.kind is not FLAG:
            raise self._wrong(value, source)
        if not isinstance(value, self.kind.toml_types):
            raise self._wrong(value, source)
        if isinstance(value, list):
            if not all(isinstance(item, str) for item in value):
                raise self._wrong(value, source)
        elif isinstance(value, str):
            return self.from_text(value, source)
        elif self.kind in (LIMIT, RATE):
            return self.from_text(str(value), source)
        elif self.kind.python is float:
            value = float(value)
        return self._checked(value, value, source)

    def _checked(self, value: Any, given: object, source: str) -> Any:
        if self.kind.most is not None and not value <= self.kind.most:  # so NaN fails
            if self.kind is NUMBER:
                raise OptionError(f"{source}: must be at most {self.kind.most}, got {given}")
            raise self._wrong(given, source)
        if self.kind in (DURATION, SIZE) and value < 0:
            raise self._wrong(given, source)
        if self.choices and value not in self.choices:
            known = self.elsewhere(str(value)) if self.elsewhere is not None else ""
            near = known or nearest(str(value), self.choices)
            raise OptionError(
                f"{source}: expected one of {', '.join(self.choices)}, got {_shown(given)}{near}"
            )
        if self.minimum is not None and not value >= self.minimum:
            raise OptionError(f"{source}: must be at least {self.minimum}, got {_shown(given)}")
        if self.check is not None:
            try:
                self.check(value)
            except ValueError as error:
                raise OptionError(f"{source}: {error}") from None
        return value

    def _wrong(self, given: object, source: str) -> OptionError:
        text = str(given).strip()
        if self.kind in (DURATION, SIZE) and text.startswith("-"):
            return OptionError(f"{source}: a {self.kind.name} cannot be negative, got {text}")
        return OptionError(f"{source}: expected {self.kind.expected}, got {_shown(given)}")


def _shown(given: object) -> str:
    return repr(given) if isinstance(given, str) else json.dumps(given, default=str)


def options_of(config: type[msgspec.Struct]) -> tuple[Option, ...]:
    """Return the options that the fields of `config` declare, in their order."""
    hints = get_type_hints(config, include_extras=True)
    found: list[Option] = []
    for entry in msgspec.structs.fields(config):
        declared = next(item for item in hints[entry.name].__metadata__ if isinstance(item, Option))
        default = (
            entry.default_factory()
            if entry.default_factory is not msgspec.NODEFAULT
            else entry.default
        )
        found.append(msgspec.structs.replace(declared, key=entry.name, default=default))
    return tuple(found)
