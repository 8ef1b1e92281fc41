"""Which processes of a test are alive."""

from __future__ import annotations

import contextlib
import os
import select
import time
from pathlib import Path


def session_processes(session: int, mark: str = "", timeout: float = 0.0) -> dict[int, str]:
    """Return the command lines, by pid, of the living processes of a session.

    With a `mark` (``NAME=VALUE``) also of those that left the session but have it in their
    environment.  Neither is enough alone: a process may start a session of its own, and
    setproctitle(3) overwrites what /proc shows of the environment.

    With a `timeout` (seconds), wait so long for them to end.  Zombies do not count: their parent
    has yet to reap them, but they hold nothing.
    """
    deadline = time.monotonic() + timeout
    while found := _find(session, mark.encode()):
        left = deadline - time.monotonic()
        if left <= 0:
            break
        wait_exit(next(iter(found)), left)
    return found


def wait_exit(pid: int, timeout: float) -> bool:
    """Wait until process `pid`, of whatever parent, has ended; return whether it has."""
    try:
        fd = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        readable, _, _ = select.select([fd], [], [], max(timeout, 0))
        return bool(readable)
    finally:
        os.close(fd)


def _find(session: int, mark: bytes) -> dict[int, str]:
    found = {}
    for directory in Path("/proc").iterdir():
        if not directory.name.isdigit():
            continue
        # A process may end, or not be ours, at any moment of the look at it.
        with contextlib.suppress(OSError):
            state, _, _, its_session, *_ = (
                (directory / "stat").read_text().rpartition(")")[2].split(maxsplit=4)
            )
            if state in "ZX":
                continue
            if int(its_session) != session:
                if not mark:
                    continue
                environment = (directory / "environ").read_bytes()
                if mark not in environment.split(b"\0"):
                    continue
            command = (directory / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            found[int(directory.name)] = command.strip()
    return found
