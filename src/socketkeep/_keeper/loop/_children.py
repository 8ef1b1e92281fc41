"""Child processes: each is watched by a pidfd, and reaped when it ends."""

from __future__ import annotations

import errno
import os
import signal
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from socketkeep._base import _log
from socketkeep._keeper.loop._reactor import Reactor
from socketkeep._keeper.loop._system import Exit, System

_RETRY: Final = 0.1

Ended = Callable[[Exit], None]


@dataclass(slots=True, eq=False)
class _Child:
    pid: int
    ended: Ended
    adopted: bool
    pidfd: int = -1
    doomed: bool = False


class ChildWatch:
    """Tells of each child's end, once, when it has been reaped.

    While this process has no descriptor for another pidfd the child is watched later: its pid is
    its own until it has been reaped, and that happens nowhere else.
    """

    def __init__(self, reactor: Reactor, system: System) -> None:
        self._reactor = reactor
        self._system = system
        self._watched: dict[int, _Child] = {}
        self._throttle = _log.Throttle()

    def __len__(self) -> int:
        return len(self._watched)

    @property
    def pids(self) -> set[int]:
        """The children that have not been reaped."""
        return set(self._watched)

    def watch(
        self, pid: int, ended: Ended, *, adopted: bool = False, pidfd: int | None = None
    ) -> None:
        """Call `ended` when the child has ended.

        adopted: it is another process's child, as the workers are that another keeper started; how
        it ended is then not known.  pidfd: of the child, which is taken; None: one is opened.
        """
        self.unwatch(pid)  # of a process that was taken for another's
        child = self._watched[pid] = _Child(pid, ended, adopted)
        self._system.reaper.expect(pid, lambda: self._reap(child))
        if pidfd is None:
            self._open(child)
        else:
            child.pidfd = pidfd
            self._reactor.register(pidfd, lambda _events: self._reap(child))

    def unwatch(self, pid: int) -> None:
        """Leave a child to itself."""
        child = self._watched.pop(pid, None)
        if child is not None:
            self._system.reaper.forget(pid)
            self._close(child)

    def kill(self, pid: int) -> None:
        """End a child at once; nothing happens when it is not watched any more."""
        child = self._watched.get(pid)
        if child is not None:
            child.doomed = True
            if child.pidfd >= 0:
                self._system.kill(child.pidfd, signal.SIGKILL)

    def kill_all(self) -> None:
        """End every child at once."""
        for pid in tuple(self._watched):
            self.kill(pid)

    def _open(self, child: _Child) -> None:
        if self._watched.get(child.pid) is not child:
            return
        try:
            child.pidfd = self._system.open_pidfd(child.pid)
        except ProcessLookupError:  # another process's child, or reaped before it was waited for
            self._finish_soon(child, self._system.reaper.claim(child.pid) or Exit(None))
            return
        except OSError as error:
            scarce = error.errno in (errno.EMFILE, errno.ENFILE)
            self._throttle.warning(
                "out of file descriptors" if scarce else "cannot watch a process",
                process="keeper",
                wanted="a pidfd",
                error=error.strerror,
            )
            self._reactor.call_later(_RETRY, lambda: self._open(child))
            return
        ended = self._system.reaper.claim(child.pid)
        if ended is not None and not self._system.is_child(child.pid):
            # What has the pid now is somebody else's.
            os.close(child.pidfd)
            child.pidfd = -1
            self._finish_soon(child, ended)
            return
        if child.doomed:
            self._system.kill(child.pidfd, signal.SIGKILL)
        self._reactor.register(child.pidfd, lambda _events: self._reap(child))

    def _finish_soon(self, child: _Child, ended: Exit) -> None:
        self._reactor.call_later(0.0, lambda: self._finish(child, ended))

    def _reap(self, child: _Child) -> None:
        if child.adopted:
            ended = Exit(None) if self._system.has_ended(child.pidfd) else None
        elif child.pidfd < 0:
            ended = self._system.reap_child(child.pid)
        else:
            ended = self._system.reap(child.pidfd)
        if ended is None:
            return  # an event of a descriptor that had the number before
        self._close(child)
        self._finish(child, ended)

    def _finish(self, child: _Child, ended: Exit) -> None:
        if self._watched.get(child.pid) is child:
            del self._watched[child.pid]
            self._system.reaper.forget(child.pid)
            child.ended(ended)

    def _close(self, child: _Child) -> None:
        if child.pidfd >= 0:
            self._reactor.unregister(child.pidfd)
            os.close(child.pidfd)
            child.pidfd = -1
