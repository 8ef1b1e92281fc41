"""The sources of a server's options: flag, then environment, then TOML file, then default."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

import msgspec

from socketkeep._base._mistakes import OptionError, nearest
from socketkeep._config._kinds import check_kind, kind_of
from socketkeep._config._needs import check_needs
from socketkeep._config._options import Option
from socketkeep._config._server_options import OPTIONS, ServeConfig, by_topic
from socketkeep._guard._program import GUARDED
from socketkeep._native import PURE_VARIABLE

PREFIX: Final = "SOCKETKEEP_"
CONFIG_VARIABLE: Final = "SOCKETKEEP_CONFIG"
_TOML_WIDTH: Final = 48  # of a line of --print-config, without its comment
#: Variables that are ours and yet not options.
OTHER_VARIABLES: Final = (CONFIG_VARIABLE, PURE_VARIABLE, "SOCKETKEEP_RUNTIME_DIR", GUARDED)

# Kubernetes sets these in every pod of a namespace that has a service named "socketkeep"; to
# refuse them would keep the server from starting there.
_KUBERNETES: Final = re.compile(
    r"SOCKETKEEP_(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT|PORT_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)"
)

FlagValue = str | bool | tuple[str, ...] | None


class Setting(msgspec.Struct, frozen=True):
    """The value of one option, and where it came from ("default", a flag, a variable, a file)."""

    option: Option
    value: Any
    source: str


class Settings(msgspec.Struct, frozen=True):
    """All options of a server, each with its source."""

    by_key: Mapping[str, Setting]

    def config(self, *, inherits_listeners: bool | None = False) -> ServeConfig:
        """Return the configuration.

        inherits_listeners: sockets were passed by the parent (LISTEN_FDS), so that the default
        address is not listened on beside them.  None: there may be some, and the sources' word
        stands.

        Whoever says how many threads there are means the model of threads, as with gunicorn.

        Raises OptionError when there is no TARGET, for options that exclude each other, and for one
        that does nothing without another.
        """
        target = self.by_key.get("target")
        if target is None:
            raise OptionError(
                "TARGET is missing: give package.module:attribute or path/file.py:attribute"
            )
        values = {key: setting.value for key, setting in self.by_key.items()}
        if inherits_listeners and self.by_key["bind"].source == "default":
            values["bind"] = []
        config = ServeConfig(**values)
        given = dict(self._given())
        sync = kind_of(config) in ("", "socketserver")
        if config.model == "auto" and "threads" in given and sync:
            config = msgspec.structs.replace(config, model="thread")
        check_kind(config)
        check_needs(config, given.items(), inherits_listeners=inherits_listeners is not False)
        return config

    def _given(self) -> Iterator[tuple[str, str]]:
        """Yield the key of each option that somebody gave, and where.

        A default that a variable or a file repeats is not taken for given: --print-config writes
        all of them.  Nor is a value that asks for nothing, such as off.
        """
        for key, setting in self.by_key.items():
            option, source = setting.option, setting.source
            nothing = setting.value == "off" or (option.zero and not setting.value)
            if not option.flags or nothing:
                continue
            if source in (option.long_flag, option.no_flag):
                yield key, source
            elif setting.value != option.default:
                yield key, source if source == option.variable else f"{source}: {key}"

    def as_toml(self) -> str:
        """Return a TOML file that sets every option to its value, the source as a comment."""
        parts = []
        for title, options in by_topic().items():
            lines = [self._toml_line(declared) for declared in options]
            written = (f"{line:<{_TOML_WIDTH}}  # {source}\n" for line, source in lines)
            parts.append(f"# {title}\n{''.join(written)}")
        return "\n".join(parts)

    def _toml_line(self, declared: Option) -> tuple[str, str]:
        """Return the line that sets an option, and where its value comes from."""
        setting = self.by_key.get(declared.key)
        if setting is None:
            return f'# {declared.key} = "package.module:attribute"', "not given"
        if declared.secret and setting.value:
            return f"# {declared.key} is not shown", setting.source
        return f"{declared.key} = {declared.kind.write(setting.value)}", setting.source


def gather(
    flags: Mapping[str, FlagValue],
    environment: Mapping[str, str],
    config_file: str | None = None,
) -> Settings:
    """Return every option's value from the first of its sources that gives one.

    flags: what the command line gave, by key; None or () where it gave nothing.
    config_file: the TOML file; when None, the one that SOCKETKEEP_CONFIG names, if it does.

    Raises OptionError: an unknown key or variable, a value that will not do, a file that cannot
    be read.  Every source is checked, also the values that another source overrides.
    """
    path = config_file if config_file is not None else environment.get(CONFIG_VARIABLE, "")
    from_file = _from_file(path) if path else {}
    from_environment = _from_environment(environment)
    from_flags = _from_flags(flags)
    found: dict[str, Setting] = {}
    for declared in OPTIONS:
        key = declared.key
        setting = from_flags.get(key) or from_environment.get(key) or from_file.get(key)
        if setting is not None:
            _check_text(setting)
            found[key] = setting
        elif key != "target":
            found[key] = Setting(declared, declared.default, "default")
    return Settings(found)


def _check_text(setting: Setting) -> None:
    """Refuse what cannot be told to another process, whose messages are UTF-8."""
    texts = setting.value if isinstance(setting.value, list | tuple) else [setting.value]
    for text in texts:
        try:
            str(text).encode()
        except UnicodeEncodeError:
            raise OptionError(f"{setting.source}: {text!r} is no UTF-8") from None


def _from_flags(flags: Mapping[str, FlagValue]) -> dict[str, Setting]:
    found: dict[str, Setting] = {}
    for declared in OPTIONS:
        given = flags.get(declared.key)
        if given is None or given == ():
            continue
        source = declared.long_flag
        if isinstance(given, bool):
            value: Any = given
            source = source if given else declared.no_flag
        elif isinstance(given, tuple):
            value = declared.from_texts(given, source)
        else:
            value = declared.from_text(given, source)
        found[declared.key] = Setting(declared, value, source)
    return found


def _from_environment(environment: Mapping[str, str]) -> dict[str, Setting]:
    by_variable = {declared.variable: declared for declared in OPTIONS}
    found: dict[str, Setting] = {}
    for variable, text in environment.items():
        if not variable.startswith(PREFIX):
            continue
        declared = by_variable.get(variable)
        if declared is None:
            if variable in OTHER_VARIABLES or _KUBERNETES.fullmatch(variable):
                continue
            # Without the prefix, which would make all of them alike.
            near = nearest(
                variable.removeprefix(PREFIX),
                tuple(name.removeprefix(PREFIX) for name in (*by_variable, *OTHER_VARIABLES)),
            ).replace("mean ", f"mean {PREFIX}")
            raise OptionError(f"{variable}: no option has this environment variable{near}")
        # Unset and empty are one: compose files and unit files often cannot unset.
        if text:
            value = declared.from_text(text, variable)
            found[declared.key] = Setting(declared, value, variable)
    return found


def _from_file(path: str) -> dict[str, Setting]:
    import tomllib  # a tenth of what a command takes to start, for those without a file too

    text = _read(path)
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        python = "; options stand in TOML, and this is Python" if path.endswith(".py") else ""
        raise OptionError(f"{path}: not TOML: {error}{python}") from None
    table = _table(path, document)
    by_key = {declared.key: declared for declared in OPTIONS}
    found: dict[str, Setting] = {}
    for key, value in table.items():
        place = _place(path, text, key)
        declared = by_key.get(key)
        if declared is None:
            as_flag = key.replace("-", "_")
            near = (
                f" (keys have underscores: {as_flag})"
                if as_flag in by_key
                else nearest(as_flag, tuple(by_key))
            )
            raise OptionError(f"{place}: unknown key {key}{near}")
        found[key] = Setting(declared, declared.from_toml(value, f"{place}: {key}"), path)
    return found


def _read(path: str) -> str:
    try:
        with open(path, encoding="utf-8") as file:
            return file.read()
    except UnicodeDecodeError:
        raise OptionError(f"{path}: not TOML: the file is not UTF-8 text") from None
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else str(error)
        raise OptionError(f"cannot read the configuration file {path}: {reason}") from None


def _table(path: str, document: dict[str, Any]) -> dict[str, Any]:
    """Return the table of options: [socketkeep] when there is one, else the root."""
    table = document.get("socketkeep")
    if table is None:
        return document
    if not isinstance(table, dict):
        raise OptionError(f"{path}: socketkeep must be a table, [socketkeep]")
    # Other tables may belong to other programs; a bare option cannot, it would be lost silently.
    known = {declared.key for declared in OPTIONS}
    for key in document:
        if key in known:
            raise OptionError(f"{path}: {key} stands outside of the table [socketkeep]")
    return table


def _place(path: str, text: str, key: str) -> str:
    """Return the file and, where it can be found, the line of a key (tomllib keeps no lines)."""
    pattern = re.compile(rf"""\s*(\[+\s*)?["']?{re.escape(key)}["']?\s*[=\]]""")
    for number, line in enumerate(text.splitlines(), 1):
        if pattern.match(line):
            return f"{path}, line {number}"
    return path
