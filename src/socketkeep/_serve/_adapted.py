"""The handler that an adapter of asyncio's interfaces makes of a user's code."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from socketkeep._base._errors import HandlerError
from socketkeep._net._handlers import Handler, Lifespan, handler_of
from socketkeep._stream._aio import AsyncConnection


def adapted(
    target: object,
    call: Callable[[AsyncConnection], Awaitable[None]],
    lifespan: Callable[[], Lifespan] | None,
    *,
    takes: str,
) -> Handler:
    """Return the handler that serves by `call`, which runs `target`.

    takes: who takes received bytes from the connection, for the error of a target that has its
    input redelivered.  Raises HandlerError for that.
    """
    handler = handler_of(target, call, is_async=True, lifespan=lifespan)
    if handler.redeliver:
        raise HandlerError(
            f"redeliver=True leaves bytes in the kernel until they are committed, and {takes}:"
            " leave it out, or write the handler for an AsyncConnection"
        )
    return handler
