"""The log in a file, which may be moved, removed, or have no room."""

from __future__ import annotations

import contextlib
import os

from socketkeep._base._log_sink import Sink, file_sink


class LogFile:
    """The file at a path, opened anew when another one, or none, is there.

    It outlives a full disk, and a directory that is gone when the file is opened anew.
    """

    def __init__(self, path: str) -> None:
        self._path = os.path.abspath(path)
        self._sink: Sink | None = None
        # Now, while there are descriptors.  A new generation must start though there is no place to
        # log to: that is told at the first line.
        with contextlib.suppress(OSError):
            self._sink = file_sink(self._path)

    def current(self) -> Sink:
        """Return what to write to.  Raises OSError; the next call tries again."""
        if self._sink is not None and not (self._is_there(self._sink) and self._sink.lives):
            self.close()
        if self._sink is None:
            self._sink = file_sink(self._path)
        return self._sink

    def close(self) -> None:
        if self._sink is not None:
            self._sink.close()
            self._sink = None

    def _is_there(self, sink: Sink) -> bool:
        try:
            found = os.stat(self._path)
        except OSError:
            return False
        return (found.st_dev, found.st_ino) == sink.identity
