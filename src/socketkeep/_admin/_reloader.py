"""`--reload`: reload when the handler's source files change."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable

from socketkeep import _log
from socketkeep._keeper._children import Children
from socketkeep._keeper._reactor import Reactor
from socketkeep._keeper._system import System


class Reloader:
    """Runs the watcher, and calls `changed` after each burst of changes.

    instead_of: pid of the watcher that an earlier version of the keeper had; it is ended.  What
    changed meanwhile is in the reload that follows an upgrade.
    """

    def __init__(
        self,
        reactor: Reactor,
        system: System,
        target: str,
        changed: Callable[[], None],
        instead_of: int = 0,
    ) -> None:
        self._reactor = reactor
        self._changed = changed
        if instead_of:
            earlier = Children(reactor, system)
            earlier.watch(instead_of, lambda _ended: None)
            earlier.kill(instead_of)
        import subprocess  # every server loads this module

        # A group of its own, so that Ctrl-C reaches the keeper alone.
        self._process = subprocess.Popen(
            [sys.executable, "-m", "socketkeep._admin._watcher", *_directories(target)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            process_group=0,
        )
        system.reaper.expect(self._process.pid, self._process.poll)
        assert self._process.stdout is not None
        self._output = self._process.stdout
        self._unfinished = b""
        os.set_blocking(self._output.fileno(), False)
        reactor.register(self._output.fileno(), self._read)

    @property
    def pid(self) -> int:
        """The watcher's process id."""
        return self._process.pid

    def close(self) -> None:
        if not self._output.closed:
            self._reactor.unregister(self._output.fileno())
            self._output.close()
        self._process.kill()
        self._process.wait()

    def _read(self, _events: int) -> None:
        data = os.read(self._output.fileno(), 65536)
        if not data:
            _log.error("the watcher ended: files are watched no more")
            self._reactor.unregister(self._output.fileno())
            self._output.close()
            return
        *lines, self._unfinished = (self._unfinished + data).split(b"\n")
        if b"watching" in lines:
            _log.info("watching")
            lines.remove(b"watching")
        if lines:
            _log.info("changed", path=os.fsdecode(lines[-1]))
            self._changed()


def _directories(target: str) -> list[str]:
    place = target.rpartition(":")[0]
    found = {os.getcwd()}
    if place.endswith(".py") or os.sep in place:
        found.add(os.path.dirname(os.path.realpath(place)))
    return sorted(found)
