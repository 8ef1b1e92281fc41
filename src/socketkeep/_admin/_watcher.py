"""``python -m socketkeep._admin._watcher PATH…``: writes a line whenever a Python file changes.

A process of its own: watching takes a thread (watchfiles has one in Rust), and the keeper has none.

A path is a directory, or a file and then what stands beside it, too.  Both are watched by their
name: where a symbolic link on the way is switched to another release, or the files in a directory
are links that are switched all at once (Kubernetes does so with a ConfigMap), that is a change, and
what they lead to now is watched from then on.
"""

from __future__ import annotations

from socketkeep._base._importing import ours_first

if __name__ == "__main__":
    ours_first()

import os
import select
import sys
from collections.abc import Iterator, Sequence
from typing import Final

_LOOK_EVERY: Final = 500  # milliseconds, at links and at the parent: of these nothing is told


def main(paths: Sequence[str]) -> None:
    """Watch until the process that started this one has gone."""
    parent = os.pidfd_open(os.getppid())
    said = False
    seen = links(paths)
    while not _has_ended(parent, 0):
        directories = sorted({each for each in map(_directory, paths) if os.path.isdir(each)})
        if not directories:
            _has_ended(parent, _LOOK_EVERY)
        for changed in _changes(directories):
            if _has_ended(parent, 0):
                return
            if not said:  # until a first look is over, nothing says that the watch is set up
                print("watching", flush=True)
                said = True
            if changed:
                print(changed, flush=True)
            if links(paths) != seen:
                break
        now = links(paths)
        switched = sorted(path for path, leads in now.items() if seen.get(path) != leads)
        if switched or now != seen:
            print((switched or list(paths))[0], flush=True)
        seen = now


def links(paths: Sequence[str]) -> dict[str, str]:
    """Return where each path leads, and each link that stands in a directory of theirs."""
    found = {}
    for path in paths:
        directory = _directory(path)
        found[path] = os.path.realpath(path)
        found[directory] = os.path.realpath(directory)
        try:
            with os.scandir(directory) as entries:
                for entry in entries:
                    if entry.is_symlink():
                        found[entry.path] = os.path.realpath(entry.path)
        except OSError:
            found[directory] = ""  # there is none now; the next one is a change
    return found


def _directory(path: str) -> str:
    return os.path.dirname(path) if path.endswith(".py") else path


def _changes(directories: Sequence[str]) -> Iterator[str]:
    """Yield the path of a Python file that has changed, or "" when time has passed."""
    if not directories:
        return
    from watchfiles import PythonFilter, watch

    changes = watch(
        *directories,
        watch_filter=PythonFilter(),
        rust_timeout=_LOOK_EVERY,
        yield_on_timeout=True,
        raise_interrupt=False,
    )
    try:
        for changed in changes:
            yield min((path for _, path in changed), default="")
    except FileNotFoundError:
        return  # a directory was removed between two looks


def _has_ended(pidfd: int, timeout: int) -> bool:
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    return bool(poll.poll(timeout))


if __name__ == "__main__":
    main(sys.argv[1:])
