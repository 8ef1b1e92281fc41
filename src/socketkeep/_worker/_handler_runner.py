"""The coroutine of a connection's task in an async worker."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine
from contextvars import ContextVar
from typing import Any, Final, TypeAlias

from socketkeep import _native

#: Called with an entry, its connection, and what the handler has raised, which is handled then;
#: returns what is still to be awaited for the end.
Ended: TypeAlias = Callable[[Any, Any, BaseException | None], Coroutine[Any, Any, None] | None]


class HandlerRunner:
    """The runner of one handler, for all its connections.

    handling: tells code that runs for a connection which one that is.
    """

    def __init__(
        self,
        handling: ContextVar[object],
        call: Callable[[Any], Awaitable[object]],
        ended: Ended,
        /,
    ) -> None:
        self._handling = handling
        self._call = call
        self._ended = ended

    async def serve(self, entry: Any, conn: Any, /) -> None:
        """Call the handler on the connection of an entry, and end the connection after it."""
        self._handling.set(conn)
        try:
            await self._call(conn)
        except BaseException as error:
            rest = self._ended(entry, conn, error)
        else:
            rest = self._ended(entry, conn, None)
        if rest is not None:
            await rest


make_runner: Final = _native.compiled_or(HandlerRunner, "HandlerRunner")
