"""The program of a process: its parent's, as a copy of that, or one of its own."""

from __future__ import annotations

import os
import re
from typing import Final

from socketkeep._base._process_stat import STACK, stat_fields

_PYTHON: Final = re.compile(r"(python|pypy)[0-9.]*( \(deleted\))?")


def is_forked(pid: int, parent: int) -> bool:
    """Return whether a process is a copy of its parent: no program was executed since the fork.

    The memory of a program begins where it was executed: where the stack of a copy begins, too.
    """
    own = _start_of_stack(pid)
    return own is not None and own == _start_of_stack(parent)


def is_python(pid: int) -> bool:
    """Return whether a process runs an interpreter of Python."""
    try:
        return bool(_PYTHON.fullmatch(os.path.basename(os.readlink(f"/proc/{pid}/exe"))))
    except OSError:
        return False


def survives_exec(pid: int, fd: int) -> bool:
    """Return whether a program can be given a descriptor: it has not the flag close-on-exec."""
    try:
        with open(f"/proc/{pid}/fdinfo/{fd}", encoding="ascii") as file:
            flags = next(line for line in file if line.startswith("flags:"))
    except (OSError, StopIteration):
        return False
    return not int(flags.split()[1], 8) & os.O_CLOEXEC


def _start_of_stack(pid: int) -> tuple[str, bytes] | None:
    """Return the program and the start of its stack, which execve(2) draws by lot."""
    try:
        return os.readlink(f"/proc/{pid}/exe"), stat_fields(pid)[STACK]
    except OSError:
        return None
