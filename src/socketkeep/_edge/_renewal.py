"""Certificates and keys anew: when it is asked for, and when the files change."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TypeAlias

from socketkeep._base import _log
from socketkeep._edge._certificates import BadTls
from socketkeep._edge._clients import Listening

#: Of each file: device, inode, size and time of change; None: it is not there.
_Stamp: TypeAlias = tuple[tuple[int, int, int, int] | None, ...]


class Renewal:
    """Keeps what listeners read from files as it is there.

    A certificate and its key are two files, and a program that renews them changes one after the
    other.  So what has changed is read once it has been the same for two looks; and what is no good
    then is said once, and leaves all as it was.
    """

    def __init__(self, listening: Sequence[Listening]) -> None:
        self._listening = listening
        self._read = {each.number: _stamp(each) for each in listening}
        self._seen = dict(self._read)

    def renew(self) -> None:
        """Read all files anew."""
        for each in self._listening:
            self._renew(each, _stamp(each))

    def look(self) -> None:
        """Read anew what has changed; to be called now and then."""
        for each in self._listening:
            stamp = _stamp(each)
            settled = stamp == self._seen[each.number]
            self._seen[each.number] = stamp
            if settled and stamp != self._read[each.number]:
                self._renew(each, stamp)

    def _renew(self, each: Listening, stamp: _Stamp) -> None:
        self._read[each.number] = stamp
        try:
            changed = each.tls.renew()
        except BadTls as error:
            _log.error(
                "certificates not renewed: those before stay", listener=each.text, error=str(error)
            )
        else:
            if changed:
                _log.info("certificates renewed", listener=each.text)


def _stamp(each: Listening) -> _Stamp:
    found: list[tuple[int, int, int, int] | None] = []
    for path in each.tls.files:
        try:
            status = os.stat(path)
        except OSError:
            found.append(None)
        else:
            found.append((status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns))
    return tuple(found)
