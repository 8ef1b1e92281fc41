"""The listening sockets of a running server, borrowed from it, for another that is to serve."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from socketkeep._base._address import (
    BindAddress,
    FdAddress,
    InetAddress,
    format_address,
    parse_bind,
)
from socketkeep._base._errors import AddressError, SystemFailure
from socketkeep._inspect._borrowing import borrow
from socketkeep._inspect._holders import describe_holders, holders_of_port
from socketkeep._inspect._processes import descendants
from socketkeep._inspect._rights import missing_right
from socketkeep._inspect._survey import holders, sockets_of
from socketkeep._inspect._waits import waits_of
from socketkeep._inspect._what import ProcessSockets, hosts_of

_OPERATION: Final = "adopt"
_NAMED: Final = 8
_WILDCARDS: Final = {socket.AF_INET: "0.0.0.0", socket.AF_INET6: "::"}


@dataclass(frozen=True, slots=True)
class BorrowedListener:
    """One more handle of a listening socket of a process.

    Attributes:
        pid: The process.
        fd: Its descriptor.
        address: The address as people write it; of a Unix socket its absolute path.
        nonblocking: The socket's O_NONBLOCK flag, which all its holders share.
        accepting: The processes that wait in accept(2) on it, of those that were looked into.
        sock: The handle, which is the caller's to close.
    """

    pid: int
    fd: int
    address: str
    nonblocking: bool
    accepting: tuple[int, ...]
    sock: socket.socket = field(repr=False)

    def close(self) -> None:
        """Give up the handle; the others that have the socket keep theirs."""
        self.sock.close()


def borrow_listeners(address: str, pids: Sequence[int]) -> tuple[BorrowedListener, ...]:
    """Return the listening sockets for `address` of these processes and of their descendants.

    A listener of every interface is taken for a numeric address, when there is none of its own.
    Several that share an address (SO_REUSEPORT) are all returned.

    Nothing changes in the processes.  The sockets go on listening until the last handle is closed.
    It needs the right to trace the processes (pidfd_getfd(2)).  They may be in another network
    namespace.

    Args:
        address: ``127.0.0.1:8000``, ``:8000`` (all on that port), ``[::1]:8000``, ``unix:/path``,
            ``unix:@name``.
        pids: The processes.

    Raises:
        AddressError: It is no address.
        SystemFailure: There is no such process, no right to look into it, it does not listen there,
            or another process has a listener of its own there too.
    """
    wanted = parse_bind(address)
    if isinstance(wanted, FdAddress) or (isinstance(wanted, InetAddress) and not wanted.port):
        raise AddressError(f"{address!r} is not an address that a server listens on")
    hosts = hosts_of(wanted) if isinstance(wanted, InetAddress) else None
    found = _Search(pids).listeners()
    chosen = [each for each in found if _is_at(each, wanted, hosts, exactly=True)]
    if not chosen:
        chosen = [each for each in found if _is_at(each, wanted, hosts, exactly=False)]
    try:
        if not chosen:
            raise _failure(_not_there(wanted, pids, found), errno.ENOENT)
        _check_complete(address, chosen)
    except SystemFailure:
        for each in found:
            each.close()
        raise
    for each in found:
        if each not in chosen:
            each.close()
    return tuple(chosen)


class _Search:
    """The listening sockets of processes and their descendants, each once."""

    def __init__(self, pids: Sequence[int]) -> None:
        self._named = list(dict.fromkeys(pids))
        self._seen: set[int] = set()

    def listeners(self) -> list[BorrowedListener]:
        found: list[BorrowedListener] = []
        family = list(dict.fromkeys([*self._named, *descendants(self._named)]))
        accepting = {pid: waits_of(pid).accepting for pid in family}
        handles: dict[int, list[tuple[int, int]]] = {}
        try:
            for pid in family:
                for inode, fd in self._sockets(pid).items():
                    handles.setdefault(inode, []).append((pid, fd))
            for owners in handles.values():
                sock = self._borrow(*owners[0])
                if sock is None:
                    continue
                pid, fd = owners[0]
                inside = tuple(p for p, number in owners if number in accepting[p])
                nonblocking = not os.get_blocking(sock.fileno())
                text = _address_of(sock, pid)
                found.append(BorrowedListener(pid, fd, text, nonblocking, inside, sock))
        except SystemFailure:
            for each in found:
                each.close()
            raise
        return found

    def _sockets(self, pid: int) -> dict[int, int]:
        try:
            return sockets_of(ProcessSockets(pid))
        except SystemFailure:
            if pid in self._named:
                raise
            return {}  # a descendant that has ended, or another user's: what it has its parent has

    def _borrow(self, pid: int, fd: int) -> socket.socket | None:
        """Return a handle of a listening stream socket, None when it is another kind of socket."""
        try:
            sock = borrow(pid, fd)
        except PermissionError:
            if pid not in self._named:
                return None
            raise _failure(missing_right(pid), errno.EPERM) from None
        except OSError as error:
            if error.errno in (errno.EBADF, errno.ESRCH):
                return None  # closed, or ended, since it was listed
            raise _failure(f"pidfd_getfd: {error.strerror}", error.errno or 0) from error
        if sock is None:
            return None
        if sock.type == socket.SOCK_STREAM and sock.getsockopt(
            socket.SOL_SOCKET, socket.SO_ACCEPTCONN
        ):
            return sock
        sock.close()
        return None


def _address_of(sock: socket.socket, pid: int) -> str:
    name = sock.getsockname()
    if isinstance(name, str) and name:
        # It is relative to where its process is.
        return f"unix:{os.path.join(os.readlink(f'/proc/{pid}/cwd'), name)}"
    return format_address(name)


def _is_at(
    found: BorrowedListener, wanted: BindAddress, hosts: frozenset[str] | None, *, exactly: bool
) -> bool:
    if not isinstance(wanted, InetAddress):
        absolute = parse_bind(f"unix:{os.path.abspath(str(wanted)[5:])}")
        return found.address in (str(wanted), str(absolute))
    if found.sock.family not in _WILDCARDS:
        return False
    host, port = found.sock.getsockname()[:2]
    if port != wanted.port:
        return False
    if hosts is None or host.removeprefix("::ffff:") in hosts:
        return True
    return not exactly and any(_covers(found.sock, host, each) for each in hosts)


def _covers(sock: socket.socket, host: str, numeric: str) -> bool:
    """Return whether a listener of every interface serves a numeric address."""
    if host != _WILDCARDS[sock.family]:
        return False
    if sock.family == socket.AF_INET:
        return ":" not in numeric
    return ":" in numeric or not sock.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY)


def _not_there(wanted: BindAddress, pids: Sequence[int], found: list[BorrowedListener]) -> str:
    named = " and ".join(f"process {pid}" for pid in pids)
    addresses = list(dict.fromkeys(each.address for each in found))
    more = f" and {len(addresses) - _NAMED} more" if len(addresses) > _NAMED else ""
    those = f"{', '.join(addresses[:_NAMED])}{more}" if addresses else "nothing"
    text = f"{named} does not listen on {wanted}, but on {those}"
    held = describe_holders(holders_of_port(wanted))
    return f"{text}; {wanted} is {held}" if held else text


def _check_complete(address: str, chosen: list[BorrowedListener]) -> None:
    """Refuse when others have listeners of their own there: what waits in theirs would be lost."""
    inodes = {os.fstat(each.sock.fileno()).st_ino for each in chosen}
    locals_ = {format_address(each.sock.getsockname()) for each in chosen}
    try:
        there = holders(address)
    except SystemFailure:
        return  # netlink is forbidden here, so that nobody tells of the others
    for held in there:
        if held.state == "LISTEN" and held.local in locals_ and held.inode not in inodes:
            pids = list(dict.fromkeys(holder.pid for holder in held.holders))
            whose = f"process {pids[0]} ({held.holders[0].command})" if pids else "another process"
            remedy = (
                f"add --from {pids[0]}"
                if pids
                else "run this as root, outside of containers, to see which"
            )
            raise _failure(
                f"{whose} has a listener of its own on {held.local} too (SO_REUSEPORT), and what "
                f"waits in its queue would be lost when it stops: {remedy}",
                errno.EADDRINUSE,
            )


def _failure(reason: str, code: int) -> SystemFailure:
    return SystemFailure(reason, code=code, operation=_OPERATION)
