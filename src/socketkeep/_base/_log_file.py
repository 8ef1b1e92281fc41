"""The log in a file, which may be moved, removed, or have no room."""

from __future__ import annotations

import contextlib
import os

from socketkeep._base._accounts import Account, acting_as
from socketkeep._base._log_sink import Sink, file_sink


class LogFile:
    """The file at a path, opened anew when another one, or none, is there.

    It outlives a full disk, and a directory that is gone when the file is opened anew.  It is
    opened as the user `account`, whose processes write to it, too.
    """

    def __init__(self, path: str, account: Account | None = None) -> None:
        self._account = account
        self._path = os.path.abspath(path)
        self._sink: Sink | None = None
        # Now, while there are descriptors.  A new generation must start though there is no place to
        # log to: that is told at the first line.
        with contextlib.suppress(OSError):
            self._sink = self._opened()

    def current(self) -> Sink:
        """Return what to write to: as long as it may not open another file, the one that was there.

        Raises OSError; the next call tries again.
        """
        try:
            return self.renewed()
        except PermissionError:
            if self._sink is None or not self._sink.lives:
                raise
            return self._sink

    def renewed(self) -> Sink:
        """Return what has the path now.

        Raises OSError; PermissionError leaves what was there.
        """
        if self._sink is not None and self._is_there(self._sink) and self._sink.lives:
            return self._sink
        try:
            fresh = self._opened()
        except PermissionError:
            raise
        except OSError:
            self.close()  # what it takes may be what is wanting
            fresh = self._opened()
        self.close()
        self._sink = fresh
        return fresh

    def _opened(self) -> Sink:
        with acting_as(self._account):
            return file_sink(self._path)

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
