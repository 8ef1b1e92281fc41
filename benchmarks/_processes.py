"""What a server's processes use: CPU time and memory, of all of them together."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

_TICK: Final = os.sysconf("SC_CLK_TCK")


def tree(pid: int) -> list[int]:
    """Return the process and its descendants."""
    return [each for each, _ in _family(pid)]


def cpu_seconds(pid: int) -> float:
    """Return the CPU time of the process and its descendants, those that they reaped included."""
    for _ in range(5):
        used = 0.0
        try:
            for each, reaped in _family(pid):
                # The clock's number is made as clock_getcpuclockid(3) does, which Python lacks.
                used += time.clock_gettime((~each << 3) | 2) + reaped
        except OSError:
            continue  # one has been reaped since its parent was looked at
        break
    return used


def _family(pid: int) -> list[tuple[int, float]]:
    """Return the process and its descendants, each with the CPU time of those that it reaped."""
    children: dict[int, list[tuple[int, float]]] = {}
    family = []
    # Not every kernel has /proc/PID/task/TID/children.
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            with contextlib.suppress(OSError):
                fields = Path(f"/proc/{entry}/stat").read_bytes().rpartition(b")")[2].split()
                each = (int(entry), (int(fields[13]) + int(fields[14])) / _TICK)
                children.setdefault(int(fields[1]), []).append(each)
                if each[0] == pid:
                    family.append(each)
    for parent, _ in family:
        family += children.get(parent, [])
    return family


def wait_quiet(pid: int, most: int, deadline: float = 5.0) -> float:
    """Wait until the processes are `most` at most and do nothing, or for `deadline` seconds.

    Returns the CPU time that they have used by then.
    """
    until = time.monotonic() + deadline
    used = cpu_seconds(pid)
    while time.monotonic() < until:
        time.sleep(0.01)  # the span that is looked at, not a wait for an event
        now = cpu_seconds(pid)
        if now - used < 0.0005 and len(_family(pid)) <= most:
            return now
        used = now
    return used


def memory_bytes(pid: int) -> int:
    """Return the proportional set size of the process and its descendants."""
    return sum(_rollup(each, "Pss") for each in tree(pid))


def own_anonymous_bytes(pid: int) -> int:
    """Return the proportional set size of what is the process's own: of no file."""
    return _rollup(pid, "Pss_Anon")


def _rollup(pid: int, field: str) -> int:
    with contextlib.suppress(OSError):  # it has ended
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith(f"{field}:"):
                return int(line.split()[1]) * 1024
    return 0


def busy_seconds(cpu: int) -> float:
    """Return how long a processor has not been idle."""
    for line in Path("/proc/stat").read_text().splitlines():
        name, *fields = line.split()
        if name == f"cpu{cpu}":
            numbers = list(map(int, fields))
            return (sum(numbers[:8]) - numbers[3] - numbers[4]) / _TICK
    raise LookupError(f"no processor {cpu}")


def wait_until(reached: Callable[[], bool], what: str, deadline: float = 60.0) -> None:
    """Ask until it is so; raise TimeoutError, naming it, after `deadline` seconds."""
    until = time.monotonic() + deadline
    while not reached():
        if time.monotonic() > until:
            raise TimeoutError(f"{what}: not within {deadline:g} s")
        time.sleep(0.02)
