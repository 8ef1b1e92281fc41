"""The flags that say what TARGET is, where it is no handler of connections."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from socketkeep._base._mistakes import OptionError

if TYPE_CHECKING:
    from socketkeep._config._server_options import ServeConfig

_SYNC: Final = ("fork", "prefork", "thread")
#: By the key of its option: the models that serve it.
KINDS: Final[dict[str, tuple[str, ...]]] = {
    "asgi": ("async",),
    "asyncio": ("async",),
    "protocol": ("async",),
    "socketserver": _SYNC,
}


def kind_of(config: ServeConfig) -> str:
    """Return which of `KINDS` TARGET is said to be, "" for a handler of connections."""
    return next((kind for kind in KINDS if getattr(config, kind)), "")


def check_kind(config: ServeConfig) -> None:
    """Raise OptionError for two kinds at once, or a model that does not serve the kind."""
    given = [f"--{kind}" for kind in KINDS if getattr(config, kind)]
    if len(given) > 1:
        raise OptionError(f"{' and '.join(given)}: TARGET is one of these; leave the others out")
    for kind in KINDS:
        models = KINDS[kind]
        if getattr(config, kind) and config.model not in ("auto", *models):
            raise OptionError(
                f"--{kind}: the {config.model} model does not serve it; expected --model"
                f" {' or '.join(models)}, or none"
            )
