"""The report of a failure of the user's code, about one connection, to the service's `on_error`."""

from __future__ import annotations

from typing import Any

from socketkeep._base import _log
from socketkeep._base._tracebacks import users_traceback


def report_error(conn: Any, error: BaseException) -> None:
    """Call `on_error`, if the service has one."""
    on_error = conn.hooks.on_error
    if on_error is None:
        return
    try:
        on_error(conn, error)
    except (Exception, SystemExit) as failure:
        text = users_traceback(failure)
        _log.error("on_error failed", id=conn.id, peer=conn.peer, traceback=text)
