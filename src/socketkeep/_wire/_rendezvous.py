"""Where the workers of a keeper that has died, and a keeper that takes them over, find each other.

A directory beside the server's control socket, for this user alone.  A worker left alone listens
there at a socket named after its pid.  A keeper that takes over listens there too, for those that
notice later, and for processes that a `fork` worker has forked.  Each side first listens and then
looks for the other, so that whichever comes second finds the first.
"""

from __future__ import annotations

import contextlib
import os
import socket
import struct
from collections.abc import Iterator
from typing import Final

from socketkeep._base._creating import check_directory, make_private_directory
from socketkeep._base._originals import Socket, socket_of

KEEPER: Final = "keeper.sock"

_BACKLOG: Final = 4096
_PATIENCE: Final = 5.0  # seconds that a connect waits for room in the other's queue
_CREDENTIALS: Final = struct.Struct("3i")  # struct ucred, unix(7): pid, uid, gid


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


def listen(directory: str, name: str) -> socket.socket:
    """Listen at `name`, in the place of one that is gone.

    The directory is made if it is missing.  Raises PermissionError when it is another user's, and
    OSError.
    """
    os.makedirs(os.path.dirname(directory), exist_ok=True)
    make_private_directory(directory)
    sock = Socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        with _path(directory, name) as path:
            # Under its name only once it listens: who finds it then, and is refused, removes it.
            coming = f"{path}.{os.getpid()}"
            with contextlib.suppress(FileNotFoundError):
                os.unlink(coming)
            sock.bind(coming)
            os.chmod(coming, 0o600)
            sock.listen(_BACKLOG)
            os.rename(coming, path)
        sock.setblocking(False)
    except OSError:
        sock.close()
        raise
    return sock


def accept(listener: socket.socket) -> socket.socket | None:
    """Return the next that has come, None when nobody has, or somebody else's process did."""
    try:
        sock = socket_of(listener._accept()[0])  # type: ignore[attr-defined]
    except OSError:
        return None
    return _of_this_user(sock)


def connect(directory: str, name: str) -> socket.socket | None:
    """Return a connection to who listens at `name`; None when nobody does.

    Waits while the other's queue is full, for some seconds at most.
    """
    sock = Socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    sock.settimeout(_PATIENCE)
    try:
        with _path(directory, name) as path:
            sock.connect(path)
    except OSError:
        sock.close()
        return None
    return _of_this_user(sock)


def peer_pid(sock: socket.socket) -> int:
    """Return the pid of the process at the other end, as the kernel noted it."""
    return _credentials(sock)[0]


def leave(directory: str, name: str) -> None:
    """Remove a socket's file, and the directory when that was the last."""
    with contextlib.suppress(OSError):
        os.unlink(os.path.join(directory, name))
    with contextlib.suppress(OSError):
        os.rmdir(directory)


@contextlib.contextmanager
def _path(directory: str, name: str) -> Iterator[str]:
    """Yield a path of the socket, short enough for its address, wherever the directory is.

    Raises OSError, also when the directory is another user's: its names lead where that one likes.
    """
    fd = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        check_directory(directory, os.fstat(fd))
        yield f"/proc/self/fd/{fd}/{name}"
    finally:
        os.close(fd)


def _of_this_user(sock: socket.socket) -> socket.socket | None:
    if _credentials(sock)[1] != os.geteuid():
        sock.close()
        return None
    sock.setblocking(False)
    return sock


def _credentials(sock: socket.socket) -> tuple[int, int]:
    data = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    pid, uid, _ = _CREDENTIALS.unpack(data)
    return pid, uid
