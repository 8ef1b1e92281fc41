"""The snapshot from which a worker forks, where the option asks for it (`--fork-snapshot`).

What it is, and what of the memory it takes, `_native/snapshot.c` says.
"""

from __future__ import annotations

import os

from socketkeep._base import _log
from socketkeep._native import core


def take_snapshot() -> None:
    """Take it of this process, or log why there is none: the process is as it was then."""
    try:
        if core is None:
            raise RuntimeError("it needs the compiled core")
        size = core.take_snapshot()
    except (OSError, RuntimeError) as error:
        _log.warning("no fork snapshot", pid=os.getpid(), why=str(error))
    else:
        _log.info("fork snapshot", pid=os.getpid(), bytes=size)
