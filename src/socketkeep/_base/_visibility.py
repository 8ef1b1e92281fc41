"""The processes that can be seen from here at all: /proc leaves some out without a word.

A process that is not listed may hold any socket, so "nobody holds it" may not be said there.
"""

from __future__ import annotations

import os
import re
from typing import Final

#: The first pid namespace's inode, of every kernel (PROC_PID_INIT_INO).
_FIRST_NAMESPACE: Final = "pid:[4026531836]"
_CAP_SYS_PTRACE: Final = 19


def hidden_processes(proc: str = "/proc") -> str:
    """Return what hides processes of this system from this one, as a clause; "" for nothing."""
    try:
        if os.readlink(f"{proc}/self") != str(os.getpid()):
            return f"{proc} is of another pid namespace: the processes of this one are not in it"
        hiding = _hiding(proc)
        if hiding:
            return (
                f"{proc} is mounted with hidepid={hiding}: processes of other users cannot be seen "
                "from here"
            )
        if os.readlink(f"{proc}/self/ns/pid") != _FIRST_NAMESPACE:
            return (
                "this is in a pid namespace (a container): processes outside of it cannot be seen "
                "from here"
            )
    except OSError:
        return f"{proc} does not tell which processes there are"
    return ""


def exists(pid: int) -> bool:
    """Return whether there is a process of that number, though /proc may not show it."""
    try:
        os.kill(pid, 0)
    except PermissionError:
        return True
    except (OSError, OverflowError):
        return False
    return pid > 0  # other numbers mean groups of processes


def has_capability(number: int = _CAP_SYS_PTRACE) -> bool:
    """Return whether this process has a capability; by default the one to look into any process."""
    with open("/proc/self/status", encoding="utf-8", errors="replace") as file:
        found = re.search(r"^CapEff:\s*([0-9a-f]+)", file.read(), re.MULTILINE)
    return found is None or bool(int(found[1], 16) >> number & 1)


def _hiding(proc: str) -> str:
    """Return the value of hidepid that hides processes from this one, "" for none."""
    options = ""
    with open(f"{proc}/self/mountinfo", encoding="utf-8", errors="replace") as file:
        for line in file:
            before, _, after = line.partition(" - ")
            if before.split()[4] == proc and after.startswith("proc "):
                options = after.split()[2]  # of several mounts there the last one is seen
    found = re.search(r"\bhidepid=(\w+)", options)
    # 1, noaccess: they are listed, and refuse to be looked into.
    if found is None or found[1] in ("0", "1", "off", "noaccess") or has_capability():
        return ""
    group = re.search(r"\bgid=(\d+)", options)
    exempt = group is not None and found[1] in ("2", "invisible")
    if exempt and group is not None and int(group[1]) in (os.getegid(), *os.getgroups()):
        return ""
    return found[1]
