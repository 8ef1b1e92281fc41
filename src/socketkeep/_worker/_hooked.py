"""The calls of a service's `on_connect`, `on_leave` and `on_error` around those of its handler.

They are part of the handler's call, so that each model has them where it calls handlers, and who
has none of them pays nothing.
"""

from __future__ import annotations

import os
from dataclasses import replace
from types import CoroutineType
from typing import Any

from socketkeep._base import _log
from socketkeep._base._tracebacks import users_traceback
from socketkeep._net._handlers import Handler
from socketkeep._net._reporting import report_error
from socketkeep._worker._outcome import is_failure


def hooked(handler: Handler) -> Handler:
    """Return the handler whose call has what its service does before and after it."""
    if handler.on_connect is None and handler.on_leave is None and handler.on_error is None:
        return handler
    call = handler.call
    connect = handler.on_connect or _nothing
    leave = handler.on_leave or _nothing

    def serve(conn: Any) -> Any:
        pid, met = os.getpid(), False
        try:
            connect(conn)
            met = True
            return call(conn)
        except BaseException as error:
            if os.getpid() == pid:  # else the handler has forked, and this is its child
                _report(conn, error)
            raise
        finally:
            if met and os.getpid() == pid:
                try:
                    leave(conn, conn.how_left)
                except Exception as error:
                    _note_failure(conn, error)

    async def serve_async(conn: Any) -> None:
        pid, met = os.getpid(), False
        try:
            await awaited(connect(conn))
            met = True
            await call(conn)
        except GeneratorExit:
            met = False  # nothing can be awaited any more
            raise
        except BaseException as error:
            if os.getpid() == pid:
                _report(conn, error)
            raise
        finally:
            if met and os.getpid() == pid:
                try:
                    await awaited(leave(conn, conn.how_left))
                except Exception as error:
                    _note_failure(conn, error)

    return replace(handler, call=serve_async if handler.is_async else serve)


async def awaited(returned: object) -> None:
    """Await what a function has returned, if it is async."""
    if isinstance(returned, CoroutineType):
        await returned


def _nothing(*_: object) -> None:
    """Stand for a function that the service has not."""


def _report(conn: Any, error: BaseException) -> None:
    if is_failure(error, conn):
        report_error(conn, error)


def _note_failure(conn: Any, error: Exception) -> None:
    text = users_traceback(error)
    _log.error("on_leave failed", id=conn.id, peer=conn.peer, traceback=text)
    report_error(conn, error)
