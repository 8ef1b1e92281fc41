"""Forked children, each known by its pidfd: started, reaped and ended without a race.

A pidfd says that this very child has ended, so that no wait takes the status of a child that other
code started (waitpid(-1) would), and no signal reaches a process that got the number later.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final, Generic, NoReturn, TypeVar

from socketkeep._base._forking import block_signals, drop, fork_keeping, leave, restore_signals

#: Seconds between attempts at a pidfd while other threads have all descriptors.
_RETRY: Final = 0.01

#: The si_code, which the kernel never gives, of a child that other code has reaped.
_UNKNOWN: Final = 0

Work = TypeVar("Work")


@dataclass(slots=True, eq=False)
class Child(Generic[Work]):
    """A child and what it was forked for; `pidfd` is readable when it has ended."""

    pid: int
    pidfd: int
    work: Work


class Children(Generic[Work]):
    """The living children of one parent, and those that have ended and are not reaped yet."""

    def __init__(self) -> None:
        self._running: dict[int, Child[Work]] = {}

    def __len__(self) -> int:
        return len(self._running)

    def __iter__(self) -> Iterator[Child[Work]]:
        return iter(tuple(self._running.values()))

    def fork(
        self,
        work: Work,
        sock: socket.socket | None,
        body: Callable[[], None],
        *,
        started: Callable[[Child[Work]], None],
        prepare: Callable[[], None] | None = None,
    ) -> None:
        """Fork a child that calls `body` and exits, and close the accepted `sock` in the parent.

        Without a `sock` the child keeps none of the library's.

        started: called with the child in the parent, prepare: called in the child, both while
        signals are still blocked, so that what a signal handler raises cannot part a child from
        who watches it.  Raises OSError when there is no process; then `sock` is still open.
        """
        mask = block_signals()
        try:
            pid = fork_keeping(() if sock is None else (sock,))
            if pid == 0:
                leave_after(self._run, body, prepare, mask)
            # Before the pidfd: so the process has a descriptor for it.
            if sock is not None:
                drop(sock)
            child = Child(pid, _open_pidfd(pid), work)
            self._running[child.pidfd] = child
            started(child)
        finally:
            restore_signals(mask)

    def reap(self, child: Child[Work]) -> os.waitid_result | None:
        """Return how `child` ended, and forget it; None while it has not ended.

        To be called when its pidfd is readable, which is for the caller to close, once nothing
        polls it any more.  Where the program has reaped it (waitpid(-1), or SIGCHLD ignored) its
        status is not known: see `is_unknown`.
        """
        try:
            ended = os.waitid(os.P_PIDFD, child.pidfd, os.WEXITED | os.WNOHANG)
        except ChildProcessError:
            ended = os.waitid_result((child.pid, 0, int(signal.SIGCHLD), -1, _UNKNOWN))
        if ended is not None:
            del self._running[child.pidfd]
        return ended

    def kill(self) -> None:
        """End every child at once, by SIGKILL."""
        for pidfd in self._running:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(pidfd, signal.SIGKILL)

    def forget(self) -> None:
        """Let go, in a child, of its siblings' pidfds."""
        for pidfd in self._running:
            os.close(pidfd)

    def _run(
        self,
        body: Callable[[], None],
        prepare: Callable[[], None] | None,
        mask: set[int],
    ) -> None:
        self.forget()
        if prepare is not None:
            prepare()
        restore_signals(mask)
        body()


def leave_after(work: Callable[..., None], *args: object) -> NoReturn:
    """In a forked process: do its work, and end it."""
    status = 1
    try:
        work(*args)
        status = 0
    except SystemExit as end:
        status = exit_status(end)
    except BaseException:
        traceback.print_exc()
    finally:
        leave(status)


def exit_status(end: SystemExit) -> int:
    """Return the status with which the interpreter ends for it."""
    return end.code if isinstance(end.code, int) else int(end.code is not None)


def is_unknown(ended: os.waitid_result) -> bool:
    """Return whether other code has reaped the process, and nobody here knows how it ended."""
    return ended.si_code == _UNKNOWN


def status_text(ended: os.waitid_result) -> str:
    """Return how a process ended as a log says it."""
    if is_unknown(ended):
        return "not known: the program's own code has reaped it"
    if ended.si_code == os.CLD_EXITED:
        return f"exit code {ended.si_status}"
    try:
        return f"killed by {signal.Signals(ended.si_status).name}"
    except ValueError:  # a real-time signal has a number only
        return f"killed by signal {ended.si_status}"


def _open_pidfd(pid: int) -> int:
    while True:
        try:
            return os.pidfd_open(pid)
        except OSError:
            # Another thread took the descriptor.  The child must be watched: who else reaps it?
            time.sleep(_RETRY)
