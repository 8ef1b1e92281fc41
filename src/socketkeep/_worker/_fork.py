"""The `fork` model: a process a connection.

The notes' loop: accept, fork; the child closes the listener, the parent closes the accepted socket.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import traceback
from collections import deque
from functools import partial
from typing import NoReturn

from socketkeep import _log
from socketkeep._assignment import Order
from socketkeep._worker._roster import Entry
from socketkeep._worker._signals import forking
from socketkeep._worker._sync import SyncLoop, run_handler


class ForkModel:
    """Forks a child for each connection and learns of its end by its pidfd."""

    def __init__(self, loop: SyncLoop) -> None:
        self._loop = loop
        self.retirement = _ScoreboardRetirement(loop)
        self._children: dict[int, tuple[int, Entry]] = {}  # pidfd: pid, entry
        self._unforked: deque[Entry] = deque()

    def serve(self, entry: Entry) -> None:
        # In the order they came, and none is dropped while the system has no process for it.
        self._unforked.append(entry)
        self.resume()

    def retire(self, order: Order) -> None:
        os.eventfd_write(self._loop.environment.wake, 1)

    def force(self) -> None:
        for pidfd in self._children:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(pidfd, signal.SIGKILL)

    def resume(self) -> None:
        while self._unforked:
            entry = self._unforked[0]
            try:
                with forking():
                    pid = os.fork()
            except OSError as error:
                self._loop.gate.pause("cannot fork", error.strerror or str(error))
                return
            if pid == 0:
                self._serve_in_child(entry)
            self._unforked.popleft()
            entry.sock.close()
            pidfd = os.pidfd_open(pid)
            self._children[pidfd] = (pid, entry)
            self._loop.watch(pidfd, partial(self._reap, pidfd))

    def _reap(self, pidfd: int) -> None:
        ended = os.waitid(os.P_PIDFD, pidfd, os.WEXITED | os.WNOHANG)
        if ended is None:
            return
        pid, entry = self._children.pop(pidfd)
        if ended.si_status != 0:
            _log.warning(
                "process of a connection died",
                id=entry.assignment.id,
                peer=self._loop.environment.scoreboard.peer(entry.row),
                pid=pid,
                status=_status_text(ended),
            )
        self._loop.unwatch(pidfd)
        os.close(pidfd)
        self._loop.done(entry)

    def _serve_in_child(self, entry: Entry) -> NoReturn:
        status = 1
        try:
            # What the child was not given: the listeners, its siblings and their connections.
            self._loop.gate.forget()
            for pidfd in self._children:
                os.close(pidfd)
            for other in self._unforked:
                if other is not entry:
                    other.sock.close()
            run_handler(self._loop, entry)
            status = 0
        except BaseException:
            _log.error("connection's process failed", traceback=traceback.format_exc())
        finally:
            # Not sys.exit: exit handlers and buffers are the parent's, and would run twice.
            with contextlib.suppress(OSError, ValueError):
                sys.stdout.flush()
                sys.stderr.flush()
            os._exit(status)


def _status_text(ended: os.waitid_result) -> str:
    if ended.si_code == os.CLD_EXITED:
        return f"exit code {ended.si_status}"
    return f"killed by {signal.Signals(ended.si_status).name}"


class _ScoreboardRetirement:
    """The order as the parent, or the keeper for a parent that died, wrote it to the scoreboard."""

    def __init__(self, loop: SyncLoop) -> None:
        self._scoreboard = loop.environment.scoreboard
        self.wake_fd = loop.environment.wake

    @property
    def order(self) -> Order | None:
        return self._scoreboard.order

    def woken(self) -> None:
        """Nothing to read: the event stays readable, so that every child sees it."""
