"""The meeting place of a keeper and the workers that it takes over from one that has died.

A directory beside the server's control socket, for the workers' user alone.  Where that is not the
keeper's (`--user`) it has no way there by the path, which leads through directories of root's: the
workers are given the directory itself (`HELD`).  A worker left alone listens there at a socket
named after its pid.  A keeper that takes over listens there too, for those that notice later, and
for processes that a `fork` worker has forked.  Each side first listens and then looks for the
other, so that whichever comes second finds the first.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
from collections.abc import Iterator
from typing import Final

from socketkeep._base._address import credentials_of
from socketkeep._base._creating import check_directory, made_with, make_private_directory
from socketkeep._base._originals import Socket, socket_of

KEEPER: Final = "keeper.sock"
#: The descriptor of a template and its workers that is the directory, and its path by that.
HELD_FD: Final = 4
HELD: Final = f"/proc/self/fd/{HELD_FD}/."

_BACKLOG: Final = 4096
_NO_LOW_NUMBER: Final = 16
_PATIENCE: Final = 5.0  # seconds that a connect waits for room in the other's queue


def directory_beside(control: str) -> str:
    """Return the directory of the server whose control socket is at `control`."""
    return control.removesuffix(".sock") + ".d"


def worker_sockets(directory: str) -> list[str]:
    """Return the names of the sockets at which workers listen, or did."""
    try:
        names = os.listdir(directory)
    except OSError:
        return []
    return sorted(name for name in names if name != KEEPER and name.endswith(".sock"))


def open_directory(directory: str, owner: int) -> int:
    """Return a descriptor of the directory for workers of the uid `owner`, made if it is missing.

    Its number is none of the lowest, which a process that is started gets others for.  Raises
    PermissionError when the directory is somebody else's, and OSError.
    """
    os.makedirs(os.path.dirname(directory), exist_ok=True)
    with contextlib.suppress(FileExistsError), made_with(0o700):
        os.mkdir(directory)
    fd = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        found = os.fstat(fd)
        if found.st_uid == os.geteuid() != owner:
            os.chown(f"/proc/self/fd/{fd}", owner, -1)
        else:
            check_directory(directory, found, owner)
        copy: int = fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, _NO_LOW_NUMBER)
        return copy
    finally:
        os.close(fd)


def listen(directory: str, name: str, owner: int | None = None) -> socket.socket:
    """Listen at `name`, in the place of one that is gone.

    The directory is made if it is missing.  owner: the uid of the workers, where this process is
    another user's.  Raises PermissionError when the directory is somebody else's, and OSError.
    """
    others = owner is not None and owner != os.geteuid()
    if owner is not None and others:
        os.close(open_directory(directory, owner))
    else:
        os.makedirs(os.path.dirname(directory), exist_ok=True)
        make_private_directory(directory)
    # Nobody else can enter the directory.
    mode = 0o666 if others else 0o600
    sock = Socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        with _path(directory, name, owner) as path:
            # Under its name only once it listens: who finds it then, and is refused, removes it.
            coming = f"{path}.{os.getpid()}"
            with contextlib.suppress(FileNotFoundError):
                os.unlink(coming)
            os.fchmod(sock.fileno(), mode)  # where the directory has a default ACL
            with made_with(mode):
                sock.bind(coming)
            sock.listen(_BACKLOG)
            os.rename(coming, path)
        sock.setblocking(False)
    except OSError:
        sock.close()
        raise
    return sock


def accept(listener: socket.socket, owner: int | None = None) -> socket.socket | None:
    """Return the next that has come, None when nobody has, or somebody else's process did.

    owner: as `listen` has it.
    """
    try:
        sock = socket_of(listener._accept()[0])  # type: ignore[attr-defined]
    except OSError:
        return None
    return _of_the_server(sock, owner)


def connect(directory: str, name: str, owner: int | None = None) -> socket.socket | None:
    """Return a connection to who listens at `name`; None when nobody does.

    owner: as `listen` has it.  Waits while the other's queue is full, for some seconds at most.
    """
    sock = Socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    sock.settimeout(_PATIENCE)
    try:
        with _path(directory, name, owner) as path:
            sock.connect(path)
    except OSError:
        sock.close()
        return None
    return _of_the_server(sock, owner)


def peer_pid(sock: socket.socket) -> int:
    """Return the pid of the process at the other end, as the kernel noted it."""
    return credentials_of(sock)[0]


def leave(directory: str, name: str) -> None:
    """Remove a socket's file, and the directory when that was the last."""
    with contextlib.suppress(OSError):
        os.unlink(os.path.join(directory, name))
    with contextlib.suppress(OSError):
        os.rmdir(directory)


@contextlib.contextmanager
def _path(directory: str, name: str, owner: int | None) -> Iterator[str]:
    """Yield a path of the socket, short enough for its address, wherever the directory is.

    Raises OSError, also when the directory is another user's: its names lead where that one likes.
    """
    fd = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        check_directory(directory, os.fstat(fd), owner)
        yield f"/proc/self/fd/{fd}/{name}"
    finally:
        os.close(fd)


def _of_the_server(sock: socket.socket, owner: int | None) -> socket.socket | None:
    if credentials_of(sock)[1] not in (0, os.geteuid(), owner):
        sock.close()
        return None
    sock.setblocking(False)
    return sock
