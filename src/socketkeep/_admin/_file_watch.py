"""`--reload`: reload when the handler's source files change."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable

from socketkeep._base import _log
from socketkeep._keeper.loop._children import ChildWatch
from socketkeep._keeper.loop._reactor import Reactor
from socketkeep._keeper.loop._system import System


class FileWatch:
    """Runs the watcher, and calls `changed` after each burst of changes.

    instead_of: pid of the watcher that an earlier version of the keeper had; it is ended.  What
    changed meanwhile is in the reload that follows an upgrade.
    """

    def __init__(
        self,
        reactor: Reactor,
        system: System,
        directory: str,
        target: str,
        changed: Callable[[], None],
        instead_of: int = 0,
    ) -> None:
        self._reactor = reactor
        self._changed = changed
        if instead_of:
            earlier = ChildWatch(reactor, system)
            earlier.watch(instead_of, lambda _ended: None)
            earlier.kill(instead_of)
        self._output, theirs = os.pipe2(os.O_CLOEXEC)
        try:
            self.pid = system.spawn_watcher(theirs, watched_paths(directory, target))
        finally:
            os.close(theirs)
        self._reaper = system.reaper
        self._reaper.expect(self.pid, self._reap)
        self._unfinished = b""
        os.set_blocking(self._output, False)
        reactor.register(self._output, self._read)

    def close(self) -> None:
        self._let_go()
        self._reaper.forget(self.pid)
        with contextlib.suppress(ProcessLookupError, ChildProcessError):
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)

    def _reap(self) -> None:
        with contextlib.suppress(ChildProcessError):
            os.waitpid(self.pid, os.WNOHANG)

    def _let_go(self) -> None:
        if self._output >= 0:
            self._reactor.unregister(self._output)
            os.close(self._output)
            self._output = -1

    def _read(self, _events: int) -> None:
        data = os.read(self._output, 65536)
        if not data:
            _log.error("the watcher ended: files are watched no more")
            self._let_go()
            return
        *lines, self._unfinished = (self._unfinished + data).split(b"\n")
        if b"watching" in lines:
            _log.info("watching")
            lines.remove(b"watching")
        if lines:
            _log.info("changed", path=os.fsdecode(lines[-1]))
            self._changed()


def watched_paths(directory: str, target: str) -> list[str]:
    """Return what is watched for TARGET, by name: the working directory, and the file's path."""
    place = target.rpartition(":")[0]
    found = [directory]
    if place.endswith(".py") or os.sep in place:
        found.append(os.path.join(directory, place))
        # A file that is a link: what its own directory has is imported, see `_target`.
        found.append(os.path.realpath(found[-1]))
    return found
