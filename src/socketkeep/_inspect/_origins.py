"""The origin of a process's socket, as far as its relatives show it."""

from __future__ import annotations

from collections.abc import Collection
from typing import Literal, TypeAlias

from socketkeep._inspect._processes import Process, Processes, keeper_above

How: TypeAlias = Literal["inherited", "kept", "serves", ""]
Origin: TypeAlias = tuple[How, int]

_UNKNOWN: Origin = ("", 0)
#: /proc counts in hundredths of a second, and the kernel's clocks are read one after the other.
_SLACK = 0.1


def origin_of(
    process: Process,
    holders: Collection[Process],
    processes: Processes,
    *,
    kept: bool,
    made: float | None,
) -> Origin:
    """Return how `process`, one of `holders`, came by a socket of theirs.

    kept: what a keeper has such a socket for is keeping: it is a connection.  made: seconds since
    the system's start when it was made, None where that is not known.

    A process that is older than the socket cannot have inherited it.  What was sent to a process
    over a Unix socket by its parent, which still has it too, cannot be told from what was inherited
    when its age is not known.
    """
    if process.is_keeper:
        return ("kept", 0) if kept else _UNKNOWN
    if len(holders) == 1:
        return _UNKNOWN
    keeper = keeper_above(process, processes)
    if keeper is not None and keeper in holders:
        return "serves", keeper.pid
    if made is not None and process.started < made - _SLACK:
        return _UNKNOWN
    related = any(
        other.pid == process.parent
        or (other.parent == process.parent and other.pid != process.pid and process.parent > 1)
        for other in holders
    )
    return ("inherited", process.parent) if related else _UNKNOWN
