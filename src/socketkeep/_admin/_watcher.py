"""``python -m socketkeep._admin._watcher DIR…``: writes a line whenever a Python file changes.

A process of its own: watching takes a thread (watchfiles has one in Rust), and the keeper has none.
"""

from __future__ import annotations

import os
import sys
from typing import Final

_LOOK_AT_PARENT_EVERY: Final = 1000  # milliseconds


def main(directories: list[str]) -> None:
    """Watch until the process that started this one has gone."""
    from watchfiles import PythonFilter, watch

    parent = os.getppid()
    changes = watch(
        *directories,
        watch_filter=PythonFilter(),
        rust_timeout=_LOOK_AT_PARENT_EVERY,
        yield_on_timeout=True,
        raise_interrupt=False,
    )
    watching = False
    for changed in changes:
        if os.getppid() != parent:
            return
        if not watching:  # until a first look is over, nothing says that the watch is set up
            print("watching", flush=True)
            watching = True
        if changed:
            print(min(path for _, path in changed), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
