"""The files of TLS, for edges that are another user's and may not read them (`--user`).

The keeper opens them and passes them on.  It keeps them open: a keeper that has given up the rights
to open them once more (`--no-rebind`) can start an edge all the same.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Sequence
from typing import Final

from socketkeep._base._file_stamps import FileStamps
from socketkeep._keeper.tables._state import KeepOpen, SavedFile
from socketkeep._wire._messages import TlsFile


class CannotOpen(Exception):
    """A file cannot be opened; the text is one line that names it."""


class TlsFiles:
    """The descriptors of some files, as they were opened last."""

    def __init__(self, paths: Sequence[str]) -> None:
        self._paths: Final = paths
        self._opened: dict[str, int] = {}
        self._stamps = FileStamps(paths)

    def open(self) -> None:
        """Open all of them anew.  Raises CannotOpen, and then those opened before stay."""
        fresh: dict[str, int] = {}
        self._stamps.note()
        try:
            for path in self._paths:
                fresh[path] = _open(path)
        except BaseException:
            _close(fresh)
            raise
        _close(self._opened)
        self._opened = fresh

    def begin_to_look(self) -> None:
        """Take them as they are, with the rights that there are by now."""
        self._stamps.begin()

    def have_changed(self) -> bool:
        """Look at them; whether they are to be opened anew."""
        return self._stamps.have_changed()

    def tell(self, send: Callable[[TlsFile], None]) -> None:
        """Have each sent to an edge."""
        for path, fd in self._opened.items():
            send(TlsFile(path, fd))

    def snapshot(self, keep: KeepOpen) -> list[SavedFile]:
        """Return what the next version of the keeper has open of them."""
        return [SavedFile(path, keep(fd)) for path, fd in self._opened.items()]

    def restore(self, saved: Sequence[SavedFile]) -> None:
        """Take over what an earlier version has opened."""
        self._opened = {each.path: each.fd for each in saved}


def _open(path: str) -> int:
    try:
        # Without waiting, should it be a named pipe.
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise CannotOpen(f"cannot read {path}: {error.strerror}") from None
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise CannotOpen(f"{path} is no regular file")
    return fd


def _close(files: dict[str, int]) -> None:
    for fd in files.values():
        os.close(fd)
