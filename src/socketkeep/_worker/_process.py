"""The process's own settings that the user's code may have changed: put right, or borne.

The code runs in the template when it is imported, and in the workers.  What it does to its own
process is its right as long as the server's own work goes on; where a setting would keep that from
going on it is put back here, once the code has been loaded.
"""

from __future__ import annotations

import os
import sys
from typing import Final, NoReturn

from socketkeep._base import _log
from socketkeep._base._forking import leave
from socketkeep._base._tracebacks import users_traceback
from socketkeep._wire._scoreboard import FORKED_TOLD, Scoreboard

#: Seconds between two lines of the log about processes that handlers have forked.
_TOLD_EVERY: Final = 10.0


def mend_process() -> None:
    """Put back what the server's own work needs of the process.

    The standard descriptors: what is opened next would get their numbers, and whatever is printed.
    The excepthook: without one `threading` starts no thread.
    """
    for fd in range(3):
        try:
            os.fstat(fd)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free: this one
    hook: object = sys.excepthook
    if hook is None:
        sys.excepthook = sys.__excepthook__


def end_forked(name: str, board: Scoreboard, error: BaseException | None) -> NoReturn:
    """End a process that a handler has forked and that has come back to the worker's code.

    It can be no second worker: the channel, the rows and the seats are its parent's.
    name: the handler's.  error: what it ended with.
    """
    status = 0
    if isinstance(error, SystemExit):
        status = error.code if isinstance(error.code, int) else int(error.code is not None)
    elif error is not None:
        status = 1
        _log.error(
            "process forked by a handler failed",
            handler=name,
            pid=os.getpid(),
            traceback=users_traceback(error),
        )
    elif board.is_due(FORKED_TOLD, _TOLD_EVERY):
        _log.warning(
            "process forked by a handler came back: ended",
            handler=name,
            pid=os.getpid(),
            remedy="end it in the handler, with os._exit()",
        )
    leave(status)
