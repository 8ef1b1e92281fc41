"""Making listening sockets: bound to an address, internet or Unix, or passed to the process."""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

from socketkeep._base._address import BindAddress, FdAddress, InetAddress, UnixAddress
from socketkeep._base._creating import give_socket, made_with
from socketkeep._base._errors import ListenError

_REASONS: Final = {
    errno.EADDRINUSE: "the address is in use",
    errno.EADDRNOTAVAIL: "no interface of this machine has that address",
    errno.EAFNOSUPPORT: "this machine has no addresses of that family",
}
#: Seconds that a lock on a directory is waited for, and how often it is looked at.
_PATIENCE: Final = 2.0
_LOOK_AGAIN: Final = 0.01
_HOW_TO_BIND_LOW: Final = "ports below 1024 need root or CAP_NET_BIND_SERVICE"


def inherited_socket(fd: int) -> socket.socket:
    address = str(FdAddress(fd))
    try:
        is_socket = stat.S_ISSOCK(os.fstat(fd).st_mode)
    except OSError as error:
        raise _refusal(address, "no such descriptor is open in this process", error) from None
    if not is_socket:
        raise _refusal(address, "the descriptor is not a socket")
    sock = socket.socket(fileno=fd)
    if sock.type != socket.SOCK_STREAM or not sock.getsockopt(
        socket.SOL_SOCKET, socket.SO_ACCEPTCONN
    ):
        sock.detach()  # it is not ours to close
        raise _refusal(address, "the socket does not listen for streams (call listen() on it)")
    return sock


def bind_inet(address: InetAddress, backlog: int, *, ipv6_only: bool = False) -> socket.socket:
    failure: ListenError | None = None
    for family, raw in _resolve(address):
        sock = None
        try:
            sock = socket.socket(family, socket.SOCK_STREAM)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                # Said, not left to net.ipv6.bindv6only, which differs from machine to machine.
                sock.setsockopt(
                    socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, ipv6_only or raw[0] != "::"
                )
            sock.bind(raw)
            sock.listen(backlog)
        except OSError as error:
            if sock is not None:
                sock.close()
            failure = _refusal(str(address), _reason(address, error), error)
            if error.errno not in (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL):
                break
            continue
        return sock
    assert failure is not None
    raise failure from None


def _resolve(address: InetAddress) -> list[tuple[socket.AddressFamily, Any]]:
    """Return the addresses to try; the next one only where the machine lacks the family."""
    if address.host in ("", "*"):
        anywhere = [(socket.AF_INET6, ("::", address.port)), (socket.AF_INET, ("", address.port))]
        return anywhere if socket.has_ipv6 else anywhere[1:]
    try:
        found = socket.getaddrinfo(
            address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
    except (OSError, UnicodeError) as error:
        text = getattr(error, "strerror", None) or str(error)
        raise _refusal(str(address), f"the host name cannot be resolved: {text}") from None
    return [(family, raw) for family, _, _, _, raw in found]


def _reason(address: BindAddress, error: OSError) -> str:
    if error.errno in (errno.EACCES, errno.EPERM):
        if isinstance(address, InetAddress):
            return f"not permitted: {_HOW_TO_BIND_LOW}"
        return "not permitted to create the socket's file there"
    if error.errno == errno.ENOENT and isinstance(address, UnixAddress):
        return f"the directory {os.path.dirname(address.path) or '.'} does not exist"
    return _REASONS.get(error.errno or 0) or error.strerror or str(error)


def _refusal(address: str, reason: str, error: OSError | None = None) -> ListenError:
    code = None if error is None else error.errno
    return ListenError(f"cannot listen on {address}: {reason}", address=address, code=code)


def bind_unix(
    address: UnixAddress, backlog: int, mode: int, owner: tuple[int, int] = (-1, -1)
) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        if address.abstract:
            sock.bind(address.raw)
            sock.listen(backlog)
        else:
            with _locked(os.path.dirname(os.path.abspath(address.path))):
                _make_way(address)
                # Where the directory has a default ACL the umask does not count, and the file gets
                # no more than the socket has.
                os.fchmod(sock.fileno(), mode)
                with made_with(mode):
                    sock.bind(address.path)
                if owner != (-1, -1):
                    _give(address, owner)
                sock.listen(backlog)
    except OSError as error:
        sock.close()
        if isinstance(error, ListenError):
            raise
        raise _refusal(str(address), _reason(address, error), error) from None
    return sock


def _give(address: UnixAddress, owner: tuple[int, int]) -> None:
    try:
        give_socket(address.path, *owner)
    except OSError as error:
        os.unlink(address.path)
        who = ", ".join(
            f"{kind} {number}"
            for kind, number in zip(("uid", "gid"), owner, strict=True)
            if number >= 0
        )
        hint = (
            " (root can, and its owner to a group of its own)" if error.errno == errno.EPERM else ""
        )
        raise _refusal(
            str(address),
            f"the socket's file cannot be given to {who}: {error.strerror}{hint}",
            error,
        ) from None


@contextmanager
def _locked(directory: str) -> Iterator[None]:
    """Keep two servers from finding the same dead socket, and the second the first one's new one.

    The lock is on the directory (flock(2)), so that no lock file is left behind.  Whoever may read
    the directory may hold it: it is not waited for beyond the moment that a server needs it.
    """
    try:
        fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except PermissionError:  # it may be written to, and not read
        yield
        return
    try:
        if not _lock(fd):
            import logging  # in a library for those that bind nothing

            logging.getLogger("socketkeep").warning(
                "the directory %s is locked (flock) by %s for more than %g s: the socket is made"
                " without waiting for it longer",
                *(directory, _who_locks(fd), _PATIENCE),
            )
        yield
    finally:
        os.close(fd)


def _lock(fd: int) -> bool:
    """Lock a directory; return whether that could be done in time."""
    deadline = time.monotonic() + _PATIENCE
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                return False
            time.sleep(_LOOK_AGAIN)  # flock(2) has no timeout, and nothing tells of its end
        else:
            return True


def _who_locks(fd: int) -> str:
    """Return the process that has locked a directory, as well as that can be seen."""
    status = os.fstat(fd)
    try:
        with open("/proc/locks", encoding="ascii") as file:
            for line in file:
                fields = line.split()
                if fields[1] == "FLOCK" and fields[5].endswith(f":{status.st_ino}"):
                    return f"process {fields[4]}"
    except (OSError, IndexError, UnicodeDecodeError):
        pass
    return "another process"


def _make_way(address: UnixAddress) -> None:
    """Remove the file of a server that is gone; raise ListenError when anything else is there."""
    try:
        status = os.lstat(address.path)
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(status.st_mode):
        raise _refusal(
            str(address), "a file that is not a socket is in the way", OSError(errno.EEXIST, "")
        )
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)  # a server whose queue is full would make it wait
        try:
            probe.connect(address.path)
        except ConnectionRefusedError:
            os.unlink(address.path)
            return
        except PermissionError as error:
            raise _refusal(str(address), "another user's socket is in the way", error) from None
        except BlockingIOError:
            pass  # its queue is full: it lives
    raise _refusal(str(address), "a server is listening there", OSError(errno.EADDRINUSE, ""))


def identity_of(path: str) -> tuple[int, int] | None:
    """Return device and inode of what is there, None for nothing.  Raises PermissionError."""
    try:
        status = os.lstat(path)
    except PermissionError:
        raise
    except OSError:
        return None
    return status.st_dev, status.st_ino
