"""Sinks for log lines, which are written without waiting, whoever reads them or does not.

A process that waits for the reader of its log is stopped by whoever stops reading: a full pipe, a
terminal at Ctrl-S, a socket of a collector that hangs.  O_NONBLOCK would help, but it is a property
of the open file description, which is shared with whoever gave it (a shell, a parent, the prints of
the user's code): setting it there makes *their* writes fail.  So each kind has its own way:

- a pipe or a terminal is opened anew by /proc/self/fd, which gives this process a description of
  its own, without waiting, of the same pipe;
- where that may not be (a pipe of another user's after rights were dropped, no /proc), the write
  asks for itself alone not to wait (RWF_NOWAIT), or, on kernels without that for this kind, is
  preceded by poll(2) and no longer than what poll promises room for.  Another writer may take that
  room in between: this last way may wait, and is the last for that;
- a socket is sent to with MSG_DONTWAIT;
- a file is written to as it is: the kernel takes it into its memory.  Of a disk that is dead, or a
  network file system whose server is gone, nobody can be told beforehand; a thread would only move
  the wait to the end of the process.
"""

from __future__ import annotations

import _socket
import contextlib
import errno
import fcntl
import os
import select
import signal
import socket
import stat
from collections.abc import Callable
from typing import Final

#: What poll(2) promises room for in a pipe, pipe(7).
_PIPE_BUF: Final = select.PIPE_BUF
_USUAL_PIPE: Final = 65536
_ROOMY_PIPE: Final = 1 << 20  # fs.pipe-max-size, as it is mostly
_PTMX: Final = (5, 2)
_SET_ASIDE: Final = (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS)

#: The device and the inode: by them a number that was closed and given away is told.
Identity = tuple[int, int]
#: Writes as much as there is room for, and returns how much; raises BlockingIOError for nothing.
_Write = Callable[[int, bytes], int]


class NoRoom(Exception):
    """Nothing of a line was written: there is no room for it now."""


class Sink:
    """A descriptor of this process's own.

    What is left of a line of which a part was written goes out before the next one.
    """

    def __init__(self, fd: int, write: _Write, *, owned: bool = True) -> None:
        """owned: it takes the descriptor, and closes it."""
        self._fd = fd
        self._owned = owned
        self._write = write
        self.identity = identity_of(fd)
        self._rest = b""
        self._pid = os.getpid()

    @property
    def lives(self) -> bool:
        """Return whether the number is still this sink's: the user's code may close what it likes.

        It may then be a connection's, which must not be sent a log.
        """
        try:
            return identity_of(self._fd) == self.identity
        except OSError:
            return False

    def write(self, line: bytes) -> None:
        """Write a line.  Raises NoRoom when nothing was written, and OSError."""
        if self._rest:
            if self._pid != os.getpid():
                self._rest = b""  # the process that this one was forked from writes it
            else:
                self._rest = self._rest[self._some(self._rest) :]
                if self._rest:
                    raise NoRoom
        self._pid = os.getpid()
        self._rest = line[self._some(line) :]
        if self._rest == line:
            self._rest = b""
            raise NoRoom

    def _some(self, data: bytes) -> int:
        """Write as much of it as there is room for; return how much."""
        done = 0
        while done < len(data):
            try:
                written = self._write(self._fd, data[done:])
            except BlockingIOError:
                break
            except OSError:
                if done:  # told by the next write
                    break
                raise
            if not written:
                break
            done += written
        return done

    def close(self) -> None:
        """Close the descriptor, if it is still this sink's."""
        if self._owned and self.lives:
            os.close(self._fd)
        self._fd = -1


def identity_of(fd: int) -> Identity:
    """Return what tells the file of a descriptor from others.  Raises OSError when it is closed."""
    found = os.fstat(fd)
    return found.st_dev, found.st_ino


def descriptor_sink(fd: int) -> Sink:
    """Return a sink that writes to where `fd` goes, which stays the caller's.  Raises OSError."""
    found = os.fstat(fd)
    if stat.S_ISSOCK(found.st_mode):
        return Sink(_copy(fd), _send)
    terminal = os.isatty(fd)
    if not terminal and not stat.S_ISFIFO(found.st_mode):
        return Sink(_copy(fd), os.write)
    device = os.major(found.st_rdev), os.minor(found.st_rdev)
    if not (terminal and device == _PTMX):  # which would be another terminal each time it is opened
        try:
            own = os.open(f"/proc/self/fd/{fd}", _FLAGS)
        except OSError:
            pass
        else:
            if not terminal:
                _make_roomy(own)
            return Sink(own, _write_to_terminal if terminal else os.write)
    return Sink(_copy(fd), _write_where_there_is_room)


def borrowed_sink(fd: int) -> Sink:
    """Return a sink that writes to `fd` itself, where there is no descriptor for another.

    Raises OSError.
    """
    mode = os.fstat(fd).st_mode
    if stat.S_ISSOCK(mode):
        return Sink(fd, _send, owned=False)
    waits = stat.S_ISFIFO(mode) or os.isatty(fd)
    return Sink(fd, _write_where_there_is_room if waits else os.write, owned=False)


_FLAGS: Final = os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC


def file_sink(path: str) -> Sink:
    """Return a sink that appends to a file, made if it is missing.  Raises OSError.

    It may be a named pipe, which has no room while nobody reads it.
    """
    fd = os.open(path, _FLAGS | os.O_APPEND | os.O_CREAT, 0o666)
    return Sink(fd, _write_to_terminal if os.isatty(fd) else os.write)


def _make_roomy(pipe: int) -> None:
    """Let a pipe take a burst that its reader is not fast enough for, in place of dropping lines.

    Only one of the size that all have: another one was chosen by somebody.
    """
    with contextlib.suppress(OSError):  # more than this user may have: it stays as it is
        if fcntl.fcntl(pipe, fcntl.F_GETPIPE_SZ) == _USUAL_PIPE:
            fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, _ROOMY_PIPE)


def _copy(fd: int) -> int:
    copy: int = fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 3)
    return copy


def _send(fd: int, data: bytes) -> int:
    # The bare type, and for the moment: a guard of forks closes sockets that it has seen made.
    sock = _socket.socket(fileno=fd)
    try:
        return sock.send(data, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
    finally:
        sock.detach()


def _write_to_terminal(fd: int, data: bytes) -> int:
    # A job in the background of a terminal with `stty tostop` would be stopped by its own log.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTTOU})
    try:
        return os.write(fd, data)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _write_where_there_is_room(fd: int, data: bytes) -> int:
    try:
        return os.pwritev(fd, [data], -1, os.RWF_NOWAIT)
    except OSError as error:
        if error.errno not in _SET_ASIDE:
            raise
    poller = select.poll()
    poller.register(fd, select.POLLOUT)
    if not poller.poll(0):
        return 0
    return _write_to_terminal(fd, data[:_PIPE_BUF])
