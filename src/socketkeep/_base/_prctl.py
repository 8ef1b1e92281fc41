"""prctl(2), which the standard library does not have."""

from __future__ import annotations

import ctypes
import errno
import os
from collections.abc import Collection
from typing import Final

_PR_SET_PDEATHSIG: Final = 1
_PR_SET_DUMPABLE: Final = 4
_PR_CAPBSET_DROP: Final = 24
_PR_SET_CHILD_SUBREAPER: Final = 36


def set_child_subreaper() -> None:
    """Make this process adopt its orphaned descendants.  Raises OSError."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def die_with_parent(signal_number: int) -> None:
    """Have this process sent a signal when the thread that forked it has ended.  Raises OSError.

    Its own children do not inherit this.
    """
    _prctl(_PR_SET_PDEATHSIG, signal_number)


def set_dumpable(dumpable: bool) -> None:
    """Let its user look into this process (ptrace, /proc, core), or root alone.  Raises OSError.

    A program that it executes can be looked into by its user again.
    """
    _prctl(_PR_SET_DUMPABLE, int(dumpable))


def drop_bounding_set(kept: Collection[int]) -> None:
    """Let no program that this process executes have capabilities beside these.

    Without CAP_SETPCAP that cannot be, and changes nothing: such a container has few of them.
    Raises OSError.
    """
    for number in range(64):
        if number in kept:
            continue
        try:
            _prctl(_PR_CAPBSET_DROP, number)
        except OSError as error:
            if error.errno in (errno.EINVAL, errno.EPERM):  # there are no more; not allowed
                return
            raise


def _prctl(option: int, value: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(option, value, 0, 0, 0) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
