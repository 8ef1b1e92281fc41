"""The socket of each descriptor of a process, and its mode; made for very many of them."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Collection, Container, Sequence
from functools import cache
from typing import Final, TypeAlias

from msgspec import Struct

from socketkeep._native import compiled_or

#: A process's pid, and a descriptor of it.
Descriptor: TypeAlias = tuple[int, int]

_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY
_FORBIDDEN: Final = (errno.EACCES, errno.EPERM)


class Descriptors(Struct):
    """The findings of looks into processes.

    of: the descriptors of each socket, by inode.  nonblocking: whether O_NONBLOCK is set, by inode.
    A socket has one file description, whose flags all of its descriptors show.
    unreadable: the pids of the processes that may not be seen.
    """

    of: dict[int, list[Descriptor]] = {}
    nonblocking: dict[int, bool] = {}
    unreadable: set[int] = set()


def look_everywhere(
    inodes: Collection[int], found: Descriptors, *, besides: Container[int] = ()
) -> None:
    """Add the descriptors of the sockets of these inodes, in all processes that may be seen.

    besides: the pids of processes that are left out.
    Inodes of sockets are one series for all network namespaces.
    """
    if not inodes:
        return
    pids = [int(entry) for entry in os.listdir("/proc") if entry.isdecimal()]
    pids = [pid for pid in pids if pid not in besides]
    hindered = look(pids, inodes, mount_of_sockets(), found.of, found.nonblocking)
    # Others have ended.
    found.unreadable.update(pid for pid, code in hindered.items() if code in _FORBIDDEN)


def look_into(pid: int, inodes: Collection[int] | None, found: Descriptors) -> None:
    """Add the process's descriptors of the sockets of these inodes; None: of all its sockets.

    Raises PermissionError when it may not be seen, and OSError when there is no such process.
    """
    hindered = look((pid,), inodes, mount_of_sockets(), found.of, found.nonblocking)
    for code in hindered.values():
        raise OSError(code, os.strerror(code), f"/proc/{pid}/fd")


def look_in_python(
    pids: Sequence[int],
    inodes: Collection[int] | None,
    mount: int,
    of: dict[int, list[Descriptor]],
    nonblocking: dict[int, bool],
    /,
) -> dict[int, int]:
    """Add what the processes have of these inodes to `of`, and the modes to `nonblocking`.

    mount: as `mount_of_sockets` returns it.  Returns the errno of what hindered it, by pid.
    """
    hindered = {}
    for pid in pids:
        try:
            _look_into(pid, inodes, b"mnt_id:\t%d" % mount if mount else b"", of, nonblocking)
        except OSError as error:
            hindered[pid] = error.errno or 0
    return hindered


#: The one that runs.
look: Final = compiled_or(look_in_python, "look")


def _look_into(
    pid: int,
    inodes: Container[int] | None,
    mount: bytes,
    of: dict[int, list[Descriptor]],
    nonblocking: dict[int, bool],
) -> None:
    path = f"/proc/{pid}/fd"
    numbers = os.listdir(path)
    # Relative to its directory, a file is opened and a link is read in half the time.
    links = os.open(path, _DIRECTORY)
    try:
        texts = os.open(f"/proc/{pid}/fdinfo", _DIRECTORY)
        try:
            _look(pid, numbers, links, texts, inodes, mount, of, nonblocking)
        finally:
            os.close(texts)
    finally:
        os.close(links)


def _look(
    pid: int,
    numbers: list[str],
    links: int,
    texts: int,
    inodes: Container[int] | None,
    mount: bytes,
    of: dict[int, list[Descriptor]],
    nonblocking: dict[int, bool],
) -> None:
    # The link tells of what the descriptor is, fdinfo its mode and, on most kernels, the inode as
    # well: one of the two is enough.  Descriptors of a kind stand together, so what the last one
    # was is what the next is taken for.
    wanted = False
    for number in numbers:
        info: list[bytes] = []
        if wanted and mount:
            info = _info(texts, number)
        if info:
            wanted = info[2] == mount
            inode = int(info[3][5:]) if wanted else 0
        else:
            try:
                link = os.readlink(number, dir_fd=links)
            except FileNotFoundError:
                continue  # closed since it was listed
            wanted = link.startswith("socket:[")
            inode = int(link[8:-1]) if wanted else 0
        wanted = wanted and (inodes is None or inode in inodes)
        if not wanted:
            continue
        if inode in of:
            of[inode].append((pid, int(number)))
        else:
            of[inode] = [(pid, int(number))]
        if inode in nonblocking:
            wanted = False  # another process has it too, and probably those that follow
            continue
        info = info or _info(texts, number)
        if info:
            nonblocking[inode] = _is_nonblocking(info[1])


def _info(directory: int, number: str) -> list[bytes]:
    """Return the lines of fdinfo, none when it cannot be read.

    They are position, flags and mount, since Linux 5.14 the inode, and what else there is.
    """
    try:
        opened = os.open(number, os.O_RDONLY, dir_fd=directory)
    except OSError:
        return []  # closed meanwhile
    try:
        return os.read(opened, 256).split(b"\n", 4)
    except OSError:
        return []
    finally:
        os.close(opened)


@cache
def _is_nonblocking(flags: bytes) -> bool:
    return int(flags.removeprefix(b"flags:"), 8) & os.O_NONBLOCK != 0


@cache
def mount_of_sockets() -> int:
    """Return the number that fdinfo tells of all sockets alike and of nothing else: their mount.

    0 where fdinfo does not tell inodes.
    """
    with socket.socket(socket.AF_UNIX) as own:
        inode = os.fstat(own.fileno()).st_ino
        try:
            with open(f"/proc/self/fdinfo/{own.fileno()}", "rb") as file:
                _position, _flags, mount, number, *_ = file.read().split(b"\n")
        except (OSError, ValueError):
            return 0
    tells = mount.startswith(b"mnt_id:\t") and number == b"ino:\t%d" % inode
    return int(mount[8:]) if tells else 0
