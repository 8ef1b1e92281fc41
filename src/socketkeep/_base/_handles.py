"""The handles of a socket: the descriptors of it that the processes of this system have open.

A descriptor that is on its way to another process (SCM_RIGHTS) holds its socket open too, and
stands in no process's table: neither here nor anywhere else can it be seen.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Collection, Iterator
from typing import NamedTuple

from socketkeep._base._errors import SystemFailure


class Handle(NamedTuple):
    """One descriptor of a socket.

    Attributes:
        pid: The process.
        fd: Its descriptor.
    """

    pid: int
    fd: int


def handles_of(fd: int) -> list[Handle]:
    """Return the handles of the socket that is this process's descriptor `fd`, by pid and fd.

    Of other users' processes only root sees the descriptors.  Raises OSError when `fd` is not open,
    and SystemFailure where there is no /proc to ask.
    """
    inode = os.fstat(fd).st_ino
    if not os.path.isdir("/proc/self/fd"):
        reason = "needs Linux and a mounted /proc, where the descriptors of a process are listed"
        raise SystemFailure(reason, code=errno.ENOSYS, operation="handles")
    return sorted(handle for handle, _ in descriptors({inode}))


def descriptors(
    inodes: Collection[int], unreadable: set[int] | None = None, *, besides: int = 0
) -> Iterator[tuple[Handle, int]]:
    """Yield each descriptor of the sockets of these inodes, in processes that may be seen.

    With it goes the inode.  unreadable: the pids of the processes that may not be seen are added.
    besides: the pid of a process that is left out.
    Inodes of sockets are one series for all network namespaces.
    """
    wanted = {f"socket:[{inode}]": inode for inode in inodes}
    if not wanted:
        return
    for entry in os.listdir("/proc"):
        if not entry.isdecimal() or int(entry) == besides:
            continue
        directory = f"/proc/{entry}/fd"
        try:
            numbers = os.listdir(directory)
        except PermissionError:
            if unreadable is not None:
                unreadable.add(int(entry))
            continue
        except OSError:
            continue  # it has ended
        yield from _matching(int(entry), directory, numbers, wanted, unreadable)


def _matching(
    pid: int,
    directory: str,
    numbers: list[str],
    wanted: dict[str, int],
    unreadable: set[int] | None,
) -> Iterator[tuple[Handle, int]]:
    try:
        # Relative to the directory a link is read in half the time.
        opened = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    except OSError:
        return  # it has ended since it was listed
    try:
        for number in numbers:
            try:
                link = os.readlink(number, dir_fd=opened)
            except PermissionError:
                if unreadable is not None:
                    unreadable.add(pid)
                return
            except OSError:
                continue  # closed since it was listed
            if link in wanted:
                yield Handle(pid, int(number)), wanted[link]
    finally:
        os.close(opened)
