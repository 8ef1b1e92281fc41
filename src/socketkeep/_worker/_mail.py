"""The mail of connections whose service has an `on_push`, which is called in their receives."""

from __future__ import annotations

import contextvars
from collections import deque
from collections.abc import Callable
from types import CoroutineType
from typing import Any, Final

from socketkeep._base import _log
from socketkeep._base._tracebacks import users_traceback
from socketkeep._net._reporting import report_error
from socketkeep._stream._lease import Aside, handling

OnPush = Callable[[Any, bytes], object]

#: What may wait for one handler that does not come to a receive, or one peer that does not read.
MOST_BYTES: Final = 1 << 20
MOST_LETTERS: Final = 1000


class Mailbox:
    """The messages of one connection that wait for its handler to come to a receive.

    In `on_push` the connection is no handler's own: what is sent there is a push.
    """

    def __init__(self, on_push: OnPush) -> None:
        self._on_push = on_push
        self._messages: deque[bytes] = deque()
        self._size = 0

    @property
    def waiting(self) -> bool:
        return bool(self._messages)

    def put(self, message: bytes) -> bool:
        """Have the message wait; return whether there is room for it."""
        size = self._size + len(message)
        if len(self._messages) >= MOST_LETTERS or size > MOST_BYTES:
            return False
        self._messages.append(message)
        self._size = size
        return True

    def _next(self) -> bytes:
        message = self._messages.popleft()
        self._size -= len(message)
        return message

    def deliver(self, conn: Any) -> None:
        """Call `on_push` with each, in this thread."""
        while self._messages and not conn.core.life.over:
            message = self._next()
            token = handling.set(Aside(conn))
            try:
                self._on_push(conn, message)
            except Exception as error:
                note_failure(conn, error)
            finally:
                handling.reset(token)

    async def hear(self, conn: Any) -> None:
        """Call `on_push` with each, in tasks of their own where it is async."""
        import asyncio  # which no sync worker loads

        while self._messages and not conn.core.life.over:
            message = self._next()
            context = contextvars.copy_context()
            context.run(handling.set, Aside(conn))
            try:
                returned = context.run(self._on_push, conn, message)
                if isinstance(returned, CoroutineType):
                    loop = asyncio.get_running_loop()
                    await loop.create_task(returned, context=context)
            except Exception as error:
                note_failure(conn, error)


def note_failure(conn: Any, error: Exception) -> None:
    """Log that `on_push` has failed; the connection goes on."""
    _log.error("on_push failed", id=conn.id, peer=conn.peer, traceback=users_traceback(error))
    report_error(conn, error)
