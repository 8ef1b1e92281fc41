"""Options that do something only beside another one: the table of these, and its check.

Whoever gives an option counts on it, so one that can do nothing is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Final, NamedTuple

from socketkeep._base._mistakes import OptionError
from socketkeep._config._kinds import KINDS, kind_of
from socketkeep._config._listener_options import LISTENER_OPTIONS, Sort, parse_listener, sort_of
from socketkeep._config._server_options import OPTIONS, ServeConfig

_MODELS: Final = ("fork", "prefork", "thread", "async")
_OF_ADDRESSES: Final = ("max-per-address", "accept-rate-per-address", "allow", "deny")


class Setup(NamedTuple):
    """A server as far as it is known.

    models: that may serve it.  asgi: it may be an ASGI application.  inherits: it has listeners
    that somebody else has made.
    """

    config: ServeConfig
    models: tuple[str, ...]
    asgi: bool
    inherits: bool = True

    def listeners_say(self, *names: str) -> bool:
        """Return whether a listener has one of these options of its own."""
        given = (parse_listener(text).given for text in self.config.bind)
        return any(not each.keys().isdisjoint(names) for each in given)

    def listens_on(self, sorts: Iterable[Sort]) -> bool:
        """Return whether there is, or may be, a listener of one of these sorts."""
        bound = (parse_listener(text).address for text in self.config.bind)
        return self.inherits or any(sort_of(address) in sorts for address in bound)


class Need(NamedTuple):
    """A need of some options.

    what: of what there must be for them to do anything; is_met: returns whether it is there.
    """

    what: str
    is_met: Callable[[Setup], bool]
    options: tuple[str, ...]


def _model(name: str) -> Callable[[Setup], bool]:
    return lambda setup: name in setup.models


def _looks_at_addresses(setup: Setup) -> bool:
    config = setup.config
    return bool(
        config.max_per_address
        or config.accept_rate_per_address != "off"
        or (config.allow or config.deny or config.allow_file or config.deny_file)
        or setup.listeners_say(*_OF_ADDRESSES)
    )


def _of_listeners() -> Iterator[Need]:
    """Yield the needs of the server's options that are for listeners of some sorts alone."""
    for declared in LISTENER_OPTIONS:
        if declared.default and "TCP" not in declared.sorts:
            what = "a Unix socket to listen on, -b unix:/PATH"
        elif declared.default and "Unix" not in declared.sorts:
            what = "an address of TCP to listen on, -b HOST:PORT"
        else:
            continue
        yield Need(
            what,
            lambda setup, sorts=declared.sorts: setup.listens_on(sorts),  # type: ignore[misc]
            (declared.default,),
        )


NEEDS: Final[tuple[Need, ...]] = (
    Need("--model thread", _model("thread"), ("threads",)),
    Need("--model fork", _model("fork"), ("child_requests", "spare", "fork_snapshot")),
    Need("--model async", _model("async"), ("loop",)),
    Need(
        "an ASGI application (--asgi)",
        lambda setup: setup.asgi,
        (
            *("lifespan", "root_path", "forwarded_allow_ips", "date_header", "server_header"),
            *("request_log", "request_log_file", "limit_request_head", "limit_request_fields"),
            *("request_head_timeout", "request_timeout"),
            *("ws_resume", "ws_redeliver", "ws_max_size", "ws_ping_interval", "ws_ping_timeout"),
            *("ws_per_message_deflate", "ws_window_bits", "ws_auto_response"),
        ),
    ),
    Need(
        "--request-log common or combined",
        lambda setup: setup.config.request_log != "off",
        ("request_log_file",),
    ),
    Need(
        "--ws-ping-interval",
        lambda setup: setup.config.ws_ping_interval > 0,
        ("ws_ping_timeout",),
    ),
    Need(
        "--ws-per-message-deflate",
        lambda setup: setup.config.ws_per_message_deflate,
        ("ws_window_bits",),
    ),
    Need(
        "--keep crash",
        lambda setup: setup.config.keep == "crash",
        ("keep_after", "poison_limit", "ws_redeliver"),
    ),
    Need(
        "--keep reload or crash",
        lambda setup: setup.config.keep != "none",
        ("park_after", "replay_limit", "rebalance", "ws_resume"),
    ),
    Need(
        "a listener with TLS, -b HOST:PORT,tls=CERT.pem",
        lambda setup: setup.listeners_say("tls"),
        ("edges", "edge_drain"),
    ),
    Need(
        "--proxy-protocol on or optional",
        lambda setup: setup.config.proxy_protocol != "off" or setup.listeners_say("proxy"),
        ("proxy_from",),
    ),
    Need(
        "a limit of addresses, such as --max-per-address or --allow",
        _looks_at_addresses,
        ("over_limit",),
    ),
    Need(
        "--worker-lifetime",
        lambda setup: setup.config.worker_lifetime > 0,
        ("worker_lifetime_jitter",),
    ),
    Need("a guard (--guard)", lambda setup: setup.config.guard != "off", ("guard_store",)),
    Need("--user", lambda setup: bool(setup.config.user), ("group", "rebind")),
    Need(
        "--admin ADDRESS",
        lambda setup: bool(setup.config.admin),
        ("admin_token", "admin_token_file", "metrics_label", "push_token", "push_token_file"),
    ),
    Need(
        "--cluster",
        lambda setup: bool(setup.config.cluster),
        (
            *("cluster_name", "cluster_lease", "cluster_credentials", "cluster_ca"),
            *("cluster_certificate", "cluster_key"),
        ),
    ),
    Need(
        "--cluster-certificate",
        lambda setup: bool(setup.config.cluster_certificate),
        ("cluster_key",),
    ),
    *_of_listeners(),
)


def needs_of(key: str) -> list[str]:
    """Return what an option needs, for the reader of its reference."""
    return [need.what for need in NEEDS if key in need.options]


def check_needs(
    config: ServeConfig, given: Iterable[tuple[str, str]], *, inherits_listeners: bool
) -> None:
    """Raise OptionError for an option that does nothing, whatever TARGET is.

    given: the key of each option that somebody gave, and where.
    """
    kind = kind_of(config)
    models = KINDS[kind] if kind else _MODELS
    setup = Setup(
        config,
        models if config.model == "auto" else (config.model,),
        kind in ("", "asgi") and config.model in ("auto", "async"),
        inherits_listeners,
    )
    for key, source in given:
        need = _unmet(setup, key)
        if need is not None:
            raise OptionError(
                f"{source} does nothing without {need.what}: add that, or leave it out"
            )


def without_effect(config: ServeConfig, model: str, *, asgi: bool) -> str:
    """Return what is wrong with an option that does nothing for the loaded TARGET; "" if none is.

    model: that serves it.  asgi: it is an ASGI application.
    """
    setup = Setup(config, (model,), asgi)
    for declared in OPTIONS:
        if getattr(config, declared.key) == declared.default:
            continue
        need = _unmet(setup, declared.key)
        if need is not None:
            served = "an ASGI application" if asgi else f"served by the {model} model"
            return (
                f"{declared.long_flag} does nothing for {config.target}, which is {served}:"
                f" it needs {need.what}; leave it out"
            )
    return ""


def idle_options(config: ServeConfig) -> dict[str, str]:
    """Return what `without_effect` says for the models, and for "asgi", where it says anything."""
    told = {model: without_effect(config, model, asgi=False) for model in _MODELS}
    told["asgi"] = without_effect(config, "async", asgi=True)
    return {way: text for way, text in told.items() if text}


def _unmet(setup: Setup, key: str) -> Need | None:
    """Return the first need of an option that is not met."""
    return next((need for need in NEEDS if key in need.options and not need.is_met(setup)), None)
