"""A handle of a socket that another process holds, borrowed from it (pidfd_getfd(2))."""

from __future__ import annotations

import ctypes
import errno
import os
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from socketkeep._inspect._results import HeldSocket

_SYS_PIDFD_GETFD: Final = 438  # on every architecture
_SO_COOKIE: Final = 57
_COOKIE: Final = struct.Struct("=Q")


@contextmanager
def borrowed(held: HeldSocket) -> Iterator[socket.socket]:
    """Yield a socket that is the very one of `held`; it need not be closed, and may be.

    Raises OSError: PermissionError without the right, ProcessLookupError when nobody has it now.
    """
    refused: OSError = ProcessLookupError(errno.ESRCH, "no process holds it any more")
    for holder in held.holders:
        try:
            fd = _get(holder.pid, holder.fd)
        except OSError as error:
            refused = error
            continue
        with _as_socket(fd) as sock:
            # The number may have been given to another file since it was looked at.
            if sock is not None and _is(sock, held):
                yield sock
                return
    raise refused


def _get(pid: int, fd: int) -> int:
    pidfd = os.pidfd_open(pid)
    try:
        libc = ctypes.CDLL(None, use_errno=True)
        got: int = libc.syscall(
            ctypes.c_long(_SYS_PIDFD_GETFD), ctypes.c_int(pidfd), ctypes.c_int(fd), ctypes.c_uint(0)
        )
        if got < 0:
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code))
        return got  # close-on-exec, as the kernel makes it
    finally:
        os.close(pidfd)


@contextmanager
def _as_socket(fd: int) -> Iterator[socket.socket | None]:
    blocking = os.get_blocking(fd)
    try:
        sock = socket.socket(fileno=fd)
    except OSError:
        os.close(fd)  # it is no socket now
        yield None
        return
    # socket.setdefaulttimeout() has just been applied to it, and the flag is the holders' too.
    os.set_blocking(fd, blocking)
    with sock:
        yield sock


def _is(sock: socket.socket, held: HeldSocket) -> bool:
    cookie: int = _COOKIE.unpack(sock.getsockopt(socket.SOL_SOCKET, _SO_COOKIE, _COOKIE.size))[0]
    return cookie == held.cookie
