"""The server's needs of the system, each tried: a sandbox or a limit may deny them."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import mmap
import os
import re
import select
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from typing import Final, NamedTuple

from socketkeep._base import _prctl

OLDEST: Final = (5, 10)
#: Bytes of shared memory that the smallest server maps for a worker, or more.
_SCOREBOARD: Final = 1 << 20


class Missing(NamedTuple):
    """Something that fails here: its name, why, and what may mend it."""

    what: str
    reason: str
    hint: str

    def __str__(self) -> str:
        hint = f" ({self.hint})" if self.hint else ""
        return f"the server needs {self.what}, which fails here: {self.reason}{hint}"


def wrong_system() -> str:
    """Return why this is no system that the server runs on, "" where it is one."""
    if sys.platform != "linux":
        return (
            "the server needs Linux 5.10 or newer (pidfd, memfd, EPOLLEXCLUSIVE), this is"
            f" {sys.platform}; the library works here"
        )
    found = re.match(r"(\d+)\.(\d+)", os.uname().release)
    if found is not None and (int(found[1]), int(found[2])) < OLDEST:
        return f"the server needs Linux 5.10 or newer, this is {os.uname().release}"
    return ""


def missing() -> Iterator[Missing]:
    """Try all that the server cannot do without, and yield what fails.

    Later it would be missing in the middle: a server that cannot watch its workers serves, and
    cannot be stopped.
    """
    for what, attempt in NEEDED.items():
        try:
            attempt()
        except OSError as error:
            hint = _HINTS.get(error.errno or 0, "a sandbox (seccomp) may forbid it")
            yield Missing(what, error.strerror or str(error), hint)


def _watch_and_kill() -> None:
    """Do with this process what the keeper does with its children."""
    pidfd = os.pidfd_open(os.getpid())
    try:
        select.select([pidfd], [], [], 0)
        signal.pidfd_send_signal(pidfd, 0)
        with contextlib.suppress(ChildProcessError):  # it is no child of its own
            os.waitid(os.P_PIDFD, pidfd, os.WEXITED | os.WNOHANG)
    finally:
        os.close(pidfd)


def _map_a_scoreboard() -> None:
    memfd = os.memfd_create("socketkeep-try", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        os.ftruncate(memfd, _SCOREBOARD)
        mmap.mmap(memfd, _SCOREBOARD).close()
        fcntl.fcntl(memfd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK)
    finally:
        os.close(memfd)


def _make_a_channel() -> None:
    for each in socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET):
        each.close()


def _poll() -> None:
    select.epoll().close()


def _list_descriptors() -> None:
    os.listdir("/proc/self/fd")


NEEDED: Final[dict[str, Callable[[], None]]] = {
    "pidfd_open, pidfd_send_signal and waitid of a pidfd": _watch_and_kill,
    "memfd_create and shared memory": _map_a_scoreboard,
    "Unix sockets": _make_a_channel,
    "epoll": _poll,
    "prctl(PR_SET_CHILD_SUBREAPER)": _prctl.set_child_subreaper,
    "/proc": _list_descriptors,
}
_HINTS: Final = {
    errno.EFBIG: "files may not be that large: raise ulimit -f, or LimitFSIZE= of the unit",
    errno.ENOMEM: "memory is limited: raise ulimit -v, or LimitAS= of the unit",
    errno.EMFILE: "raise the limit of open files: ulimit -n, or LimitNOFILE= of the unit",
    errno.ENOENT: "mount it: mount -t proc proc /proc",
}
