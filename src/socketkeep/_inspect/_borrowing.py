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
            sock = borrow(holder.pid, holder.fd)
        except OSError as error:
            refused = error
            continue
        if sock is None:
            continue
        with sock:
            # The number may have been given to another file since it was looked at.
            if _is(sock, held):
                yield sock
                return
    raise refused


def borrow(pid: int, fd: int) -> socket.socket | None:
    """Return one more handle of the socket that is descriptor `fd` of process `pid`.

    None when that is no socket.  The caller closes it, which closes no other.  Raises OSError:
    PermissionError without the right to trace the process, ProcessLookupError, EBADF.
    """
    got = _get(pid, fd)
    blocking = os.get_blocking(got)
    try:
        sock = socket.socket(fileno=got)
    except OSError:
        os.close(got)
        return None
    # socket.setdefaulttimeout() has just been applied to it, and the flag is the holders' too.
    os.set_blocking(got, blocking)
    return sock


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


def _is(sock: socket.socket, held: HeldSocket) -> bool:
    cookie: int = _COOKIE.unpack(sock.getsockopt(socket.SOL_SOCKET, _SO_COOKIE, _COOKIE.size))[0]
    return cookie == held.cookie
