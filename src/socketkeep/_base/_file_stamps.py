"""Files that are read anew once they have changed, and have done so all of them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Final, TypeAlias

#: Of each file: device, inode, size and time of change; None: it is not there.
_Stamp: TypeAlias = tuple[tuple[int, int, int, int] | None, ...]


class FileStamps:
    """Tells when files are to be read anew, from looks at them now and then.

    A certificate and its key are two files, and a program that renews them changes one after the
    other.  So what has changed is told once it has been the same for two looks.
    """

    def __init__(self, paths: Sequence[str]) -> None:
        self._paths: Final = paths
        self._seen = self._read = self._stamp()

    def begin(self) -> None:
        """Take them as they are for who looks now, which may be another user than before."""
        self._seen = self._read = self._stamp()

    def note(self) -> None:
        """They are read as they are now."""
        self._read = self._stamp()

    def have_changed(self) -> bool:
        """Look; whether they are to be read, which is told once."""
        stamp = self._stamp()
        settled = stamp == self._seen
        self._seen = stamp
        if not settled or stamp == self._read:
            return False
        self._read = stamp
        return True

    def _stamp(self) -> _Stamp:
        found: list[tuple[int, int, int, int] | None] = []
        for path in self._paths:
            try:
                status = os.stat(path)
            except OSError:
                found.append(None)
            else:
                found.append((status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns))
        return tuple(found)
