"""What the processes of a server hold at a moment, by /proc."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from tests._processes import all_processes


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


def processes(session: int) -> int:
    """Return how many processes a session has, those that one of it has to wait for included.

    Init's do not count: it waits for them when it likes.
    """
    found = {each.pid: each for each in all_processes() if _session(each.pid) == session}
    return sum(each.alive or each.parent in found for each in found.values())


def _session(pid: int) -> int | None:
    """Return the session of a process; None: it has ended."""
    try:
        return os.getsid(pid)
    except ProcessLookupError:
        return None


def clients_of(pid: int) -> set[int]:
    """Return the ports from which TCP clients are connected to a process, over IPv4."""
    held = set()
    for number in os.listdir(f"/proc/{pid}/fd"):
        with suppress(FileNotFoundError):
            held.add(os.readlink(f"/proc/{pid}/fd/{number}"))
    rows = (line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:])
    return {int(row[2].partition(":")[2], 16) for row in rows if f"socket:[{row[9]}]" in held}
