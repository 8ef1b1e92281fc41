"""What the processes of a server hold at a moment, by /proc."""

from __future__ import annotations

import os
from pathlib import Path

from tests._processes import all_processes, descendants


def descriptors(pid: int) -> tuple[int, int]:
    """Return how many descriptors a process has, and how many its epolls watch.

    One that is closed meanwhile does not count.  Raises FileNotFoundError when the process has
    ended.
    """
    count = watched = 0
    for number in os.listdir(f"/proc/{pid}/fd"):
        try:
            of = os.readlink(f"/proc/{pid}/fd/{number}")
            if of == "anon_inode:[eventpoll]":
                told = Path(f"/proc/{pid}/fdinfo/{number}").read_text().splitlines()
                watched += sum(line.startswith("tfd:") for line in told)
        except FileNotFoundError:
            continue
        count += 1
    os.stat(f"/proc/{pid}")
    return count, watched


def own_memory(pid: int) -> int:
    """Return the bytes of a process that are of no file, what it shares counted in parts."""
    found = 0
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith(("Pss_Anon:", "Pss_Shmem:")):
            found += int(line.split()[1]) * 1024
    return found


def processes(pid: int) -> int:
    """Return how many processes are below this one, those that nobody has waited for included."""
    return len(descendants(pid, all_processes()))
