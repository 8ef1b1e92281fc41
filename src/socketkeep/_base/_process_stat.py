"""The fields of /proc/PID/stat, proc_pid_stat(5)."""

from __future__ import annotations

from typing import Final

#: Places in what `stat_fields` returns; START is in clock ticks since the system's start.
STATE: Final = 0
PARENT: Final = 1
GROUP: Final = 2
START: Final = 19
STACK: Final = 25


def stat_fields(pid: int) -> list[bytes]:
    """Return the fields behind a process's name, its state first.

    The name before them may hold blanks and brackets.  Raises OSError when the process has ended,
    or cannot be seen from here.
    """
    with open(f"/proc/{pid}/stat", "rb") as file:
        return file.read().rpartition(b")")[2].split()


def has_ended(state: bytes) -> bool:
    """Return whether a process in this state only waits to be reaped, or is being removed."""
    return state in (b"Z", b"X")
