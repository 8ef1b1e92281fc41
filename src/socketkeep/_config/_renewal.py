"""A running server's options, read anew from its settings file at each reload.

What the command line and the environment say was said at the start, and goes before the file as
it did then.  An option that cannot change while the server runs stays as it is, and is named.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from socketkeep._base._mistakes import OptionError
from socketkeep._config._capacity import check_descriptors
from socketkeep._config._kinds import check_kind
from socketkeep._config._options import PATH, Option
from socketkeep._config._server_options import OPTIONS, ServeConfig, option
from socketkeep._config._settings import FlagValue, gather

#: The keeper reads it between two looks at its connections.
_MOST_BYTES: Final = 1 << 20


class Origins(msgspec.Struct, frozen=True, kw_only=True):
    """The sources of a server's options, from which they can be read anew.

    told: what the sources said, as far as it is gone by.  flags: what the command line gave, by
    key.  file: the settings file, "" where there is none that can be read again.  directory: that
    relative paths are taken from.  path: of the settings file as it was given, "" where none was.
    """

    told: ServeConfig
    flags: dict[str, str | bool | list[str]] = {}
    file: str = ""
    directory: str = ""
    path: str = ""

    def encoded(self) -> bytes:
        """Return them for the store, which the next keeper has them from."""
        return msgspec.msgpack.encode(self)

    def config(self, *, inherits_listeners: bool) -> ServeConfig:
        """Return what a server is started by that goes on from them.

        inherits_listeners: as of `Settings.config`.
        """
        bind = option("bind")
        unsaid = bind.key not in self.flags and self.told.bind == bind.default
        if inherits_listeners and unsaid:
            return msgspec.structs.replace(self.told, bind=[])
        return self.told

    def are_of(self, flags: Mapping[str, FlagValue], path: str) -> bool:
        """Return whether a server that is started so is the one that had these sources."""
        return bool(path) and path == self.path and _given(flags) == self.flags


@dataclass(frozen=True, slots=True)
class Change:
    """An option that the file has another value for."""

    option: Option
    was: Any
    now: Any

    @property
    def text(self) -> str:
        return f"{self.option.shown(self.was)} -> {self.option.shown(self.now)}"


@dataclass(frozen=True, slots=True)
class Renewal:
    """The outcome of reading the options anew: what to go by, and what is other than before.

    applied: what `config` has that the server had not.  waiting: what takes a restart.
    """

    config: ServeConfig
    origins: Origins | None
    applied: tuple[Change, ...] = ()
    waiting: tuple[Change, ...] = ()


def origins_of(
    flags: Mapping[str, FlagValue], path: str, started_in: str, directory: str, told: ServeConfig
) -> Origins:
    """Return the sources of options that were just read.

    path: of the settings file, "" for none, from the directory `started_in`.
    """
    file = os.path.join(started_in, path) if path else ""
    if not os.path.isfile(file):
        file = ""  # a pipe has been read, and has nothing more
    return Origins(told=told, flags=_given(flags), file=file, directory=directory, path=path)


def read_origins(data: bytes) -> Origins | None:
    """Return what `Origins.encoded` made; None: another version did, and this cannot read it."""
    try:
        return msgspec.msgpack.decode(data, type=Origins)
    except ValueError:
        return None


def _given(flags: Mapping[str, FlagValue]) -> dict[str, str | bool | list[str]]:
    return {
        key: list(value) if isinstance(value, tuple) else value
        for key, value in flags.items()
        if value is not None and value != ()
    }


def renew(origins: Origins, running: ServeConfig, environment: Mapping[str, str]) -> Renewal:
    """Return what a server that runs by `running` goes by from its next generation on.

    Raises OptionError, whose text names the file, when that will not do.
    """
    if not origins.file:
        return Renewal(running, origins)
    _check_file(origins.file)
    flags: dict[str, FlagValue] = {
        key: tuple(value) if isinstance(value, list) else value
        for key, value in origins.flags.items()
    }
    said = gather(flags, environment, origins.file).config(inherits_listeners=None)
    changes = [
        Change(declared, was, now)
        for declared in OPTIONS
        if (was := getattr(origins.told, declared.key)) != (now := getattr(said, declared.key))
    ]
    applied = tuple(change for change in changes if change.option.at_reload)
    told = {change.option.key: change.now for change in applied}
    absolute = {
        change.option.key: os.path.join(origins.directory, change.now)
        for change in applied
        if change.option.kind is PATH and change.now
    }
    config = msgspec.structs.replace(running, **{**told, **absolute})
    check_kind(config)
    check_descriptors(config.max_connections)
    return Renewal(
        config,
        msgspec.structs.replace(origins, told=msgspec.structs.replace(origins.told, **told)),
        applied,
        tuple(change for change in changes if not change.option.at_reload),
    )


def _check_file(path: str) -> None:
    """Raise OptionError for what the keeper would wait for, or take long to read."""
    try:
        status = os.stat(path)
    except OSError as error:
        raise OptionError(f"cannot read the configuration file {path}: {error.strerror}") from None
    if not stat.S_ISREG(status.st_mode):
        raise OptionError(f"{path} is no regular file, and cannot be read anew")
    if status.st_size > _MOST_BYTES:
        raise OptionError(f"{path} has {status.st_size} bytes; expected {_MOST_BYTES} at most")
