"""The configuration of a server, as options have it."""

from __future__ import annotations

from typing import Any, Final, Literal, TypeAlias, get_args

import msgspec
import pytest

from socketkeep._base import _mistakes
from socketkeep._config import _listener_options, _server_options

Model: TypeAlias = Literal["fork", "prefork", "thread", "async"]
MODELS: Final[tuple[Model, ...]] = get_args(Model)


#: All options of `serve`, and all that a listener may have behind its address, as declared.
OPTIONS: Final = _server_options.OPTIONS
LISTENER_OPTIONS: Final = _listener_options.LISTENER_OPTIONS


def option(key: str) -> Any:
    """Return the declaration of an option, by its name in a file."""
    return _server_options.option(key)


def option_refused(match: str | None = None) -> pytest.RaisesExc[_mistakes.OptionError]:
    """Expect that an option is refused."""
    return pytest.raises(_mistakes.OptionError, match=match)


def code_refused(match: str | None = None) -> pytest.RaisesExc[_mistakes.LoadError]:
    """Expect that the user's code is refused."""
    return pytest.raises(_mistakes.LoadError, match=match)


def configured(target: str = "app:handle", **options: Any) -> _server_options.ServeConfig:
    """Return what `socketkeep serve TARGET` goes by with these options."""
    return _server_options.ServeConfig(target=target, **options)


def configuration_in(encoded: bytes) -> _server_options.ServeConfig:
    """Return what one process of a server has sent to another."""
    return msgspec.msgpack.decode(encoded, type=_server_options.ServeConfig)


def tls_settings(*pairs: tuple[str, str], **more: Any) -> _listener_options.TlsSettings:
    """Return the TLS of a listener that has these certificates and keys."""
    return _listener_options.TlsSettings(certificates=pairs, **more)


def listener_options(**options: Any) -> _listener_options.ListenerSettings:
    """Return what a listener has beside its address."""
    return _listener_options.ListenerSettings(**options)


def closing_seconds(config: _server_options.ServeConfig) -> float:
    """Return how much of the graceful timeout is left for connections to close in."""
    return _server_options.closing_time(config)
