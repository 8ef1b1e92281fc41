"""Files made with exactly the rights that are meant, in directories that others may write to.

By the umask, while they are made, and never by chmod(2) of a path afterwards: by then the path may
be somebody's symbolic link to a file that is none of ours.
"""

from __future__ import annotations

import _thread
import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

_one_at_a_time: Final = _thread.allocate_lock()


@contextmanager
def made_with(mode: int) -> Iterator[None]:
    """Have what asks for all rights get `mode`, whatever the umask is.

    The umask is the process's: what another thread makes in that moment gets it, too.
    """
    with _one_at_a_time:
        before = os.umask(~mode & 0o777)
        try:
            yield
        finally:
            os.umask(before)


def give_socket(path: str, uid: int, gid: int) -> None:
    """Give the file of a Unix socket that this user has just made another owner; -1: as it is.

    By a descriptor of what is there: where others may write to the directory the path may by now be
    a link to a file that is none of ours.  Raises OSError.
    """
    fd = os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        found = os.fstat(fd)
        if not stat.S_ISSOCK(found.st_mode) or found.st_uid != os.geteuid():
            raise PermissionError(errno.EPERM, f"{path} is another file by now")
        os.chown(f"/proc/self/fd/{fd}", uid, gid)
    finally:
        os.close(fd)


def make_private_directory(path: str) -> bool:
    """Make a directory for this user alone; return whether there was none.

    Raises OSError, and PermissionError or NotADirectoryError, with a line that says whose it is,
    when something else has the name: anybody can make it in /tmp first, and would own what is put
    into it.
    """
    try:
        with made_with(0o700):
            os.mkdir(path)
    except FileExistsError:
        check_directory(path, os.lstat(path))
        return False
    return True


def check_directory(path: str, found: os.stat_result, owner: int | None = None) -> None:
    """Raise OSError unless what was found at `path` is a directory, and this user's.

    owner: the uid of another one whose it is to be.
    """
    if not stat.S_ISDIR(found.st_mode):
        raise NotADirectoryError(f"{path} is in the way: it is not a directory")
    if found.st_uid != (os.geteuid() if owner is None else owner):
        raise PermissionError(f"{path} belongs to uid {found.st_uid}")
