"""Settings that a server's process inherits from whoever started it, put in order.

Signal masks and dispositions, descriptors 0 to 2, interval timers and the umask pass through
execve(2): from a shell's `trap`, nohup(1), cron, a supervisor, a test runner.  None of them may
decide whether the server can be reloaded, hears of its workers' ends, or can be stopped.
"""

from __future__ import annotations

import os
import signal
import sys
from typing import Final, Literal, TextIO

_TIMERS: Final = (signal.ITIMER_REAL, signal.ITIMER_VIRTUAL, signal.ITIMER_PROF)
_OWNERS: Final = 0o700


def hear_of_children() -> None:
    """Undo that SIGCHLD is ignored: the kernel would reap the children, and say nothing of it."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)


def open_standard_streams() -> None:
    """Open descriptors 0 to 2 where they are closed, on the null device.

    What is opened next would get their numbers, and everybody's error messages with them: the
    scoreboard was once descriptor 2.  Raises OSError when there is no null device.
    """
    for fd in range(3):
        try:
            os.fstat(fd)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # the lowest number: `fd`
    # Python has None for a stream whose descriptor was closed.
    sys.stdin = sys.stdin or _stream(0, "r")
    sys.stdout = sys.stdout or _stream(1, "w")
    sys.stderr = sys.stderr or _stream(2, "w")


def _stream(fd: int, mode: Literal["r", "w"]) -> TextIO:
    return open(fd, mode, errors="backslashreplace", closefd=False)


def put_in_order() -> list[str]:
    """Undo what else was inherited and would harm; return what is to be told of it, a line each."""
    told = []
    hear_of_children()
    # An interpreter with it takes its own end for a reason to ask somebody: it has no exit code.
    os.environ.pop("PYTHONINSPECT", None)
    if any(signal.getitimer(timer)[0] for timer in _TIMERS):
        for timer in _TIMERS:
            signal.setitimer(timer, 0)
        told.append(
            "a timer that was inherited (alarm) is cancelled: it would have ended the server"
        )
    umask = os.umask(0o077)
    os.umask(umask & ~_OWNERS)
    if umask & _OWNERS:
        told.append(
            f"the umask {umask:04o} is taken as {umask & ~_OWNERS:04o}: it would keep the server"
            " from its own files"
        )
    return told
