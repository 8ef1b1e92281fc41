"""The options of a server as they were chosen: values, and what follows from these.

Templates and workers read them here, without the declarations of the options, their texts, parsers
and checks.  The memory of those would be a part of each process that is forked for a connection.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

from socketkeep._base import _msgpack
from socketkeep._config._listener_settings import ListenerSettings, TlsSettings

if TYPE_CHECKING:
    from socketkeep._config._server_options import ServeConfig
    from socketkeep._net._proxied import Reception


class _Chosen(SimpleNamespace):
    """The values of a `ServeConfig`.  One that an older keeper has not told is the default."""

    def __getattr__(self, name: str) -> Any:
        from socketkeep._config._server_options import OPTIONS

        for option in OPTIONS:
            if option.key == name:
                return option.default
        raise AttributeError(f"there is no option {name}")


def chosen(encoded: bytes) -> ServeConfig:
    """Return the options that the keeper has encoded."""
    return cast("ServeConfig", _Chosen(**_msgpack.unpack(encoded)))


def chosen_for_listeners(
    encoded: bytes, bound_as: list[str], config: ServeConfig, listeners: int
) -> tuple[list[ListenerSettings], list[str]]:
    """Return the options of each listener, and the addresses that are bound, as the keeper says.

    An older keeper says neither: then `config` does.
    """
    if not encoded:
        from socketkeep._config._server_options import bound_addresses, listener_settings

        return listener_settings(config, listeners), bound_addresses(config)
    return [_settings(values) for values in _msgpack.unpack(encoded)], bound_as


def _settings(values: list[Any]) -> ListenerSettings:
    told = dict(zip(ListenerSettings._fields, _tuples(values), strict=False))
    if told["tls"] is not None:
        told["tls"] = TlsSettings(**dict(zip(TlsSettings._fields, told["tls"], strict=False)))
    return ListenerSettings(**told)


def _tuples(value: Any) -> Any:
    """Return a value as it was before it was encoded: what is a list now was a tuple."""
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


def encoded_settings(settings: Sequence[ListenerSettings]) -> bytes:
    """Return what `chosen_for_listeners` takes."""
    return _msgpack.pack(settings)


def names_networks(config: ServeConfig, settings: Sequence[ListenerSettings]) -> bool:
    """Return whether it is looked at where connections come from."""
    return bool(config.allow_file or config.deny_file) or any(
        each.allow or each.deny for each in settings
    )


def counts_by_address(settings: Sequence[ListenerSettings]) -> bool:
    """Return whether connections are counted by address, so that a census is needed."""
    return any(
        each.max_per_address or (each.accept_rate, each.accept_rate_per_address) != ("off", "off")
        for each in settings
    )


def receptions(settings: Sequence[ListenerSettings]) -> list[Reception | None]:
    """Return how the connections of listeners are met; None: no header is looked for."""
    if all(each.proxy == "off" and not each.of_edges for each in settings):
        return [None] * len(settings)
    from socketkeep._net._proxied import FromEdge, Reception  # for who is behind a proxy

    return [
        FromEdge()
        if each.of_edges
        else None
        if each.proxy == "off"
        else Reception(required=each.proxy == "on", networks=each.proxy_from)
        for each in settings
    ]


def limit_seconds(limit: str, automatic: float | None) -> float | None:
    """Return what `parse_limit` returned as seconds, None for off; `automatic` is for auto."""
    if limit == "auto":
        return automatic
    return None if limit == "off" else float(limit)


def park_after(config: ServeConfig, model: str) -> float | None:
    """Return after how many seconds of waiting a connection is parked; None: never."""
    automatic = {"prefork": 0.2, "thread": 0.2}.get(model)
    return limit_seconds(config.park_after, automatic)


def closing_time(config: ServeConfig) -> float:
    """Return how many seconds of the graceful timeout, its last ones, are for closing.

    Handlers have what is before: their time must be over while their connections can still be
    closed in an orderly way.
    """
    return min(1.0, config.graceful_timeout / 4)


def handlers_time(config: ServeConfig) -> float:
    """Return how many seconds of the graceful timeout handlers have."""
    return config.graceful_timeout - closing_time(config)


def worker_timeout(config: ServeConfig, model: str) -> float | None:
    """Return after how many seconds without progress a worker is killed; None: never."""
    return limit_seconds(config.worker_timeout, 30.0 if model == "async" else None)
