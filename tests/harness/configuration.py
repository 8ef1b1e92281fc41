"""The configuration of a server, as options have it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, Literal, TypeAlias, get_args

import msgspec
import pytest

from socketkeep._base import _mistakes
from socketkeep._config import (
    _chosen,
    _listener_options,
    _renewal,
    _rights,
    _server_options,
    _settings,
)

Model: TypeAlias = Literal["fork", "prefork", "thread", "async"]
MODELS: Final[tuple[Model, ...]] = get_args(Model)


#: All options of `serve`, and all that a listener may have behind its address, as declared.
OPTIONS: Final = _server_options.OPTIONS
LISTENER_OPTIONS: Final = _listener_options.LISTENER_OPTIONS
TOPICS: Final[dict[str, tuple[str, ...]]] = _server_options.TOPICS


def option(key: str) -> Any:
    """Return the declaration of an option, by its name in a file."""
    return _server_options.option(key)


def read(key: str, text: str) -> Any:
    """Return the value that a text has for an option, at the command line or in a variable."""
    declared = option(key)
    return declared.from_text(text, declared.long_flag)


def topics() -> dict[str, list[str]]:
    """Return the options of each topic, by their names in a file."""
    return {
        title: [declared.key for declared in options]
        for title, options in _server_options.by_topic().items()
    }


def option_refused(match: str | None = None) -> pytest.RaisesExc[_mistakes.OptionError]:
    """Expect that an option is refused."""
    return pytest.raises(_mistakes.OptionError, match=match)


def code_refused(match: str | None = None) -> pytest.RaisesExc[_mistakes.LoadError]:
    """Expect that the user's code is refused."""
    return pytest.raises(_mistakes.LoadError, match=match)


def configured(target: str = "app:handle", **options: Any) -> _server_options.ServeConfig:
    """Return what `socketkeep serve TARGET` goes by with these options."""
    return _server_options.ServeConfig(target=target, **options)


def as_told(config: _server_options.ServeConfig, *without: str) -> _server_options.ServeConfig:
    """Return the options as a template has them from a keeper that does not know some of them."""
    values = msgspec.to_builtins(config)
    return _chosen.chosen(
        msgspec.msgpack.encode({key: values[key] for key in values if key not in without})
    )


def listeners_as_told(
    settings: list[Any], config: _server_options.ServeConfig, *more: object
) -> list[Any]:
    """Return what a template has of `settings`, which a later keeper tells with `more` of each.

    Of none: an older keeper tells nothing, and `config` has one listener.
    """
    encoded = msgspec.msgpack.encode([[*each, *more] for each in settings])
    told = encoded if settings else b""
    return _chosen.chosen_for_listeners(told, [], config, 1)[0]


def gathered(
    flags: Mapping[str, _settings.FlagValue] | None = None,
    environment: Mapping[str, str] | None = None,
    path: str | None = None,
) -> _settings.Settings:
    """Return what a command line, an environment and a file say together."""
    return _settings.gather(flags or {}, environment or {}, path)


def user_to_become(config: _server_options.ServeConfig) -> tuple[str, int, int, tuple[int, ...]]:
    """Return name, user, group and further groups of who is to serve; no name: who it is."""
    account = _rights.account_to_become(config)
    return (account.name, account.uid, account.gid, account.groups) if account else ("", 0, 0, ())


def origins(
    directory: Path, text: str | None, environment: Mapping[str, str] | None = None, **flags: Any
) -> _renewal.Origins:
    """Return where the options of a server come from that has `text` for its settings file.

    That is server.toml in `directory`; None: there is no file.
    """
    path = directory / "server.toml"
    if text is not None:
        path.write_text(text)
    named = path.name if text is not None else ""
    given = {"target": "app:handle", **flags}
    said = _settings.gather(given, environment or {}, str(path) if named else "").config()
    return _renewal.origins_of(given, named, str(directory), str(directory), said)


def renewed(
    origins: _renewal.Origins,
    running: _server_options.ServeConfig | None = None,
    environment: Mapping[str, str] | None = None,
) -> _renewal.Renewal:
    """Read the options of a running server anew."""
    return _renewal.renew(origins, running or origins.told, environment or {})


def read_origins(encoded: bytes) -> _renewal.Origins | None:
    """Return the sources that a keeper has left in the store."""
    return _renewal.read_origins(encoded)


def configuration_in(encoded: bytes) -> _server_options.ServeConfig:
    """Return what one process of a server has sent to another."""
    return msgspec.msgpack.decode(encoded, type=_server_options.ServeConfig)


def tls_settings(*pairs: tuple[str, str], **more: Any) -> Any:
    """Return the TLS of a listener that has these certificates and keys."""
    certificates, keys = zip(*pairs, strict=True) if pairs else ((), ())
    made = _listener_options.tls_settings({"tls": certificates, "key": keys})
    assert made is not None
    return made._replace(**more)


def listener(text: str) -> _listener_options.Bound:
    """Return what a text says of a listener: its address, and the options behind it."""
    return _listener_options.parse_listener(text)


def listeners(config: _server_options.ServeConfig, count: int) -> list[Any]:
    """Return what each of `count` listeners has, those first that were passed to the server."""
    return _server_options.listener_settings(config, count)


def listener_in(directory: str, text: str) -> str:
    """Return a listener's text with the paths of its options taken from a directory."""
    return _listener_options.with_whole_paths(text, directory)


def listener_options(**options: Any) -> Any:
    """Return what a listener has beside its address."""
    (of_one,) = listeners(configured(bind=["127.0.0.1:0"]), 1)
    return of_one._replace(**options)


def closing_seconds(config: _server_options.ServeConfig) -> float:
    """Return how much of the graceful timeout is left for connections to close in."""
    return min(1.0, config.graceful_timeout / 4)
