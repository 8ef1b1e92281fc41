"""Which right is missing when a process may not be looked into, and how to get it."""

from __future__ import annotations

import os
import re
from typing import Final

from socketkeep._commands import command_of
from socketkeep._inspect._processes import user_name

_YAMA: Final = "/proc/sys/kernel/yama/ptrace_scope"
_CAP_SYS_PTRACE: Final = 19
_AS_ROOT: Final = "run this as root (sudo), which has CAP_SYS_PTRACE"


def missing_right(pid: int, yama: str | os.PathLike[str] = _YAMA) -> str:
    """Return why this process may not trace `pid`, and what to do, as one line."""
    try:
        owner = os.stat(f"/proc/{pid}").st_uid
    except OSError:
        return f"there is no process {pid} any more"
    own = os.geteuid()
    subject = f"no right to trace process {pid} ({command_of(pid)}, user {user_name(owner)})"
    if own == 0 and not _has_capability():
        return (
            f"{subject}: this runs as root without CAP_SYS_PTRACE, as in a container: "
            "give it that capability (docker run --cap-add SYS_PTRACE)"
        )
    if owner != own:
        return f"{subject}: {_AS_ROOT}, or as user {user_name(owner)}"
    scope = _scope(yama)
    if scope == 1:
        return (
            f"{subject}: kernel.yama.ptrace_scope is 1, so that only ancestors may: {_AS_ROOT}, "
            "or allow it for a while: sysctl kernel.yama.ptrace_scope=0"
        )
    if scope == 2:
        return f"{subject}: kernel.yama.ptrace_scope is 2, so that only root may: {_AS_ROOT}"
    if scope == 3:
        return (
            f"{subject}: kernel.yama.ptrace_scope is 3, so that nobody may until the system is "
            "booted with another"
        )
    return (
        f"{subject}: it has changed its user or runs a program with rights of its own, "
        f"or a sandbox forbids it: {_AS_ROOT}"
    )


def _scope(yama: str | os.PathLike[str]) -> int:
    try:
        with open(yama, encoding="ascii") as file:
            return int(file.read())
    except (OSError, ValueError):
        return 0  # this kernel has no Yama


def _has_capability() -> bool:
    with open("/proc/self/status", encoding="utf-8", errors="replace") as file:
        found = re.search(r"^CapEff:\s*([0-9a-f]+)", file.read(), re.MULTILINE)
    return found is None or bool(int(found[1], 16) >> _CAP_SYS_PTRACE & 1)
