"""The right that is missing when a process may not be looked into, and how to get it."""

from __future__ import annotations

import os
from collections.abc import Collection
from typing import Final

from socketkeep._base._commands import command_of
from socketkeep._base._visibility import exists, has_capability, hidden_processes
from socketkeep._inspect._processes import user_name

_YAMA: Final = "/proc/sys/kernel/yama/ptrace_scope"
_NAMED: Final = 3
_AS_ROOT: Final = "run this as root (sudo), which has CAP_SYS_PTRACE"


def missing_right(pid: int, yama: str | os.PathLike[str] = _YAMA) -> str:
    """Return why this process may not trace `pid`, and what to do, as one line."""
    try:
        owner = os.stat(f"/proc/{pid}").st_uid
    except OSError:
        return cannot_be_seen(pid) if exists(pid) else f"there is no process {pid} any more"
    own = os.geteuid()
    subject = f"no right to trace process {pid} ({command_of(pid)}, user {user_name(owner)})"
    if own == 0 and not has_capability():
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


def cannot_be_seen(pid: int) -> str:
    """Return that a process exists which /proc does not show, and why, as one line."""
    why = hidden_processes() or "/proc does not show it"
    return f"process {pid} cannot be seen from here: {why}; look as root, from outside"


def why_unreadable(pids: Collection[int]) -> str:
    """Return which processes these are, and for each why it may not be looked into, as one line."""
    reasons: dict[str, list[int]] = {}
    for pid in sorted(pids):
        reasons.setdefault(_why_unreadable(pid), []).append(pid)
    return "; ".join(f"{_named(group)}: {reason}" for reason, group in reasons.items())


def _why_unreadable(pid: int) -> str:
    # proc_pid_fd(5) wants PTRACE_MODE_READ_FSCREDS: the same user, and dumpable; or the capability.
    own = os.geteuid()
    try:
        owner = os.stat(f"/proc/{pid}").st_uid
    except OSError:
        return "it has ended, or /proc does not show it any more"
    if has_capability():
        if _in_user_namespace():
            return (
                "the CAP_SYS_PTRACE of this user namespace (a container) does not reach it: look "
                "from outside"
            )
        return (
            "refused though this has CAP_SYS_PTRACE: a security module (AppArmor, SELinux, "
            "Landlock) or a sandbox forbids it"
        )
    if own == 0:
        return (
            "this is root without CAP_SYS_PTRACE, as in a container: give it that capability "
            "(docker run --cap-add SYS_PTRACE)"
        )
    if owner != own:
        return f"it is of user {user_name(owner)}: run this as that user, or as root (sudo)"
    return (
        "it may not be looked into by its own user, for it has changed its user, has capabilities "
        "or is not dumpable (prctl(2)): run this as root (sudo)"
    )


def _named(pids: list[int]) -> str:
    named = ", ".join(f"{pid} ({command_of(pid)})" for pid in pids[:_NAMED])
    more = f" and {len(pids) - _NAMED} more" if len(pids) > _NAMED else ""
    return f"process{'es' if len(pids) > 1 else ''} {named}{more}"


def _in_user_namespace() -> bool:
    try:
        with open("/proc/self/uid_map", encoding="ascii") as file:
            return file.read().split() != ["0", "0", "4294967295"]
    except OSError:
        return False


def _scope(yama: str | os.PathLike[str]) -> int:
    try:
        with open(yama, encoding="ascii") as file:
            return int(file.read())
    except (OSError, ValueError):
        return 0  # this kernel has no Yama
