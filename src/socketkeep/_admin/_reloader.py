"""`--reload`: reload when the handler's source files change."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from socketkeep import _log
from socketkeep._keeper._reactor import Reactor


class Reloader:
    """Runs the watcher, and calls `changed` after each burst of changes."""

    def __init__(self, reactor: Reactor, target: str, changed: Callable[[], None]) -> None:
        self._reactor = reactor
        self._changed = changed
        # A group of its own, so that Ctrl-C reaches the keeper alone.
        self._process = subprocess.Popen(
            [sys.executable, "-m", "socketkeep._admin._watcher", *_directories(target)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            process_group=0,
        )
        assert self._process.stdout is not None
        self._output = self._process.stdout
        self._unfinished = b""
        os.set_blocking(self._output.fileno(), False)
        reactor.register(self._output.fileno(), self._read)

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
    found = {str(Path.cwd())}
    if place.endswith(".py") or os.sep in place:
        found.add(str(Path(place).resolve().parent))
    return sorted(found)
