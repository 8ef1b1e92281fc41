"""The log in a file, which may be moved, removed, or have no room."""

from __future__ import annotations

import os

from socketkeep._log import Complaint, LineHandler
from socketkeep._log_sink import Sink, file_sink


class LogFile:
    """The file at a path, opened anew when another one, or none, is there.

    It outlives a full disk, and a directory that is gone when the file is opened anew.
    """

    def __init__(self, path: str) -> None:
        # Opened at the first line: a new generation must start though there is no place to log to.
        self._path = os.path.abspath(path)
        self._sink: Sink | None = None

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


def file_handler(path: str) -> LineHandler:
    """Return a handler that appends to the file; its failures are told on standard error."""
    file, complaint = LogFile(path), Complaint()

    def close() -> None:
        file.close()
        complaint.close()

    return LineHandler(file.current, close, complaint.make)
