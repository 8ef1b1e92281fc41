"""The log in a file, which may be moved, removed, or have no room."""

from __future__ import annotations

import logging
import logging.handlers

from socketkeep._log import Complaint


class LogFile(logging.handlers.WatchedFileHandler):
    """One that outlives a full disk, and a directory that is gone when the file is reopened."""

    def __init__(self, path: str) -> None:
        # Opened at the first line: a new generation must start though there is no place to log to.
        super().__init__(path, encoding="utf-8", delay=True)
        self._complaint = Complaint()

    def emit(self, record: logging.LogRecord) -> None:
        try:
            super().emit(record)
        except OSError:  # from opening the file anew, which logging lets through
            self._complaint.make()

    def reopenIfNeeded(self) -> None:  # noqa: N802 - logging's name
        try:
            super().reopenIfNeeded()
        except OSError:  # tried again at the next line
            self._complaint.make()

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - logging's name
        self._complaint.make()
