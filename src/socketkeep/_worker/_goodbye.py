"""The service's last word to a peer: `on_leaving` is called in a receive, once for each reason.

The connection is no handler's own in it: what is sent there is a push.
"""

from __future__ import annotations

import contextvars
import inspect
from collections.abc import Callable
from typing import Any, TypeAlias

from socketkeep._base import _log
from socketkeep._base._tracebacks import users_traceback
from socketkeep._net._reporting import report_error
from socketkeep._stream._lease import Aside, Leaving, handling

OnLeaving: TypeAlias = Callable[[Any, Any, Any], object]


class Goodbye:
    """Calls the service's `on_leaving`; all connections of a worker share one."""

    def __init__(self, on_leaving: OnLeaving) -> None:
        self._on_leaving = on_leaving

    def say(self, conn: Any, leaving: Leaving) -> None:
        """Call it in this thread."""
        token = handling.set(Aside(conn))
        try:
            self._on_leaving(conn, leaving.why, leaving.deadline)
        except Exception as error:
            _note_failure(conn, error)
        finally:
            handling.reset(token)

    async def say_async(self, conn: Any, leaving: Leaving) -> None:
        """Call it, in a task of its own where it is async, which ends with the one that waits."""
        context = contextvars.copy_context()
        context.run(handling.set, Aside(conn))
        try:
            returned = context.run(self._on_leaving, conn, leaving.why, leaving.deadline)
            if inspect.iscoroutine(returned):
                from asyncio import get_running_loop  # sync workers do without

                loop = get_running_loop()
                await loop.create_task(returned, context=context)
        except Exception as error:
            _note_failure(conn, error)


def _note_failure(conn: Any, error: Exception) -> None:
    """Log that it has failed, but for its meeting the end of the connection."""
    if not (isinstance(error, OSError) and conn.core.life.over):
        text = users_traceback(error)
        _log.error("on_leaving failed", id=conn.id, peer=conn.peer, traceback=text)
        report_error(conn, error)
