"""The call of a service's `on_ready`, when its worker has begun to serve."""

from __future__ import annotations

from socketkeep._base import _log
from socketkeep._base._tracebacks import users_traceback
from socketkeep._worker._environment import Environment
from socketkeep._worker._hooked import awaited


def tell_ready(environment: Environment) -> None:
    """Call it, in a worker of a sync model, which serves nothing meanwhile."""
    on_ready = environment.handler.on_ready
    if on_ready is None:
        return
    try:
        on_ready(environment.info)
    except Exception as error:
        _note_failure(error)


async def tell_ready_async(environment: Environment) -> None:
    """Call it, and wait for what it returns where it is async."""
    on_ready = environment.handler.on_ready
    assert on_ready is not None
    try:
        await awaited(on_ready(environment.info))
    except Exception as error:
        _note_failure(error)


def _note_failure(error: Exception) -> None:
    """Log that it has failed; the worker goes on."""
    _log.error("on_ready failed", traceback=users_traceback(error))
