"""The working directory, followed by its name from one generation to the next.

A process has a directory, not a name: after a deploy that switches a symbolic link (`current` ->
`releases/2`) it would go on in the old release for ever.  So each generation enters what has the
name then.
"""

from __future__ import annotations

import itertools
import os
from dataclasses import dataclass
from typing import Final

from socketkeep._base import _log

#: How far up links to the working directory are looked for, and among how many entries.
_LEVELS: Final = 4
_MOST_ENTRIES: Final = 1000


@dataclass(frozen=True, slots=True)
class NamedDirectory:
    """A directory's name, absolute; `guessed` when nobody has said that it is the one."""

    name: str
    guessed: bool = False


def place_of(wanted: str, shell: str | None) -> NamedDirectory:
    """Return the place that a server runs in: `wanted` when it is not "", else where it is.

    shell: $PWD, the name by which a shell has come here.  Without it, as under a service manager,
    one symbolic link beside the directory or above that leads to it is taken for its name, when
    there is no second one.  Raises OSError when the working directory has been removed.
    """
    if os.path.isabs(wanted):
        return NamedDirectory(os.path.normpath(wanted))
    here = os.getcwd()
    named = shell if shell and os.path.isabs(shell) and _same(shell, here) else ""
    if wanted:
        return NamedDirectory(os.path.normpath(os.path.join(named or here, wanted)))
    if named:
        return NamedDirectory(named)
    links = _links_to(here)
    return NamedDirectory(links[0], guessed=True) if len(links) == 1 else NamedDirectory(here)


class WorkingDirectory:
    """The directory in which the server runs, and what is run there next.

    `follow` enters what has the name now, and then either `stay` or `go_back` settles it.
    """

    def __init__(self, place: NamedDirectory) -> None:
        self.place: Final = place
        self._before = -1

    @property
    def name(self) -> str:
        return self.place.name

    def follow(self) -> str:
        """Enter the directory that has the name now; return why that cannot be, "" when it can."""
        self.stay()
        was = _here()
        try:
            self._before = os.open(".", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
            os.chdir(self.name)
        except OSError as error:
            self.stay()
            if not _can_do_without(self.place, error, was):
                return (
                    f"cannot enter the working directory {self.name}: {error.strerror}"
                    f" (the server is in {was}; --chdir DIR names one that reloads can follow)"
                )
            _log.warning("working directory stays", path=was, name=self.name, error=error.strerror)
            return ""
        now = _here()
        if now != was:
            _log.info("working directory changed", path=self.name, was=was, now=now)
        return ""

    def stay(self) -> None:
        """The generation that was begun here serves."""
        if self._before >= 0:
            os.close(self._before)
            self._before = -1

    def go_back(self) -> None:
        """It does not: what is started for the one before is started where that was."""
        if self._before >= 0:
            os.fchdir(self._before)
            self.stay()


def _can_do_without(place: NamedDirectory, error: OSError, here: str) -> bool:
    """Tell whether the server may stay where it is, the name being of no use."""
    if not os.path.isdir(here):
        return False
    # A directory may be one's own, and the way to it be closed: the server was started so.
    return place.guessed or isinstance(error, PermissionError)


def _here() -> str:
    """Return the working directory's path, with " (deleted)" behind it when it has none."""
    try:
        return os.readlink("/proc/self/cwd")
    except OSError:
        return "a directory that cannot be named"


def _same(one: str, other: str) -> bool:
    try:
        return os.path.samefile(one, other)
    except OSError:
        return False


def _links_to(directory: str) -> list[str]:
    """Return the names of `directory` that go over a link beside it, or beside one it is in."""
    found = []
    inner, rest = directory, ""
    for _ in range(_LEVELS):
        outer, last = os.path.split(inner)
        if outer == inner:
            break
        # `releases/current` beside `releases/1`, or `current` beside `releases`.
        for around in (outer, os.path.dirname(outer)):
            for link in _links_in(around, inner):
                name = os.path.join(link, rest) if rest else link
                if name not in found:
                    found.append(name)
        inner, rest = outer, os.path.join(last, rest) if rest else last
    return found


def _links_in(around: str, directory: str) -> list[str]:
    """Return the links in `around` whose text says `directory`.

    By their text alone: to look where others lead may take for ever, on a dead network mount.
    """
    found = []
    try:
        with os.scandir(around) as entries:
            for entry in itertools.islice(entries, _MOST_ENTRIES):
                if entry.is_symlink():
                    leads = os.path.join(around, os.readlink(entry.path))
                    if os.path.normpath(leads) == directory:
                        found.append(entry.path)
    except OSError:
        pass  # it may not be read, and no name is found by it
    return found
