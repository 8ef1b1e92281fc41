"""`holders`: the sockets of an address or a process, and every descriptor of them."""

from __future__ import annotations

import errno
import os
import socket
import time
from typing import Final

from msgspec import Struct, field

from socketkeep._base._address import InetAddress, UnixAddress
from socketkeep._base._errors import SystemFailure
from socketkeep._base._visibility import exists, hidden_processes
from socketkeep._inspect._descriptors import Descriptors, look_everywhere, look_into
from socketkeep._inspect._origins import How, origin_of
from socketkeep._inspect._processes import Process, Processes, reader, user_of_process
from socketkeep._inspect._results import HeldSocket, HeldSockets, SocketHolder
from socketkeep._inspect._rights import cannot_be_seen, missing_right, why_unreadable
from socketkeep._inspect._rows import UNSEEN, inet_row, other_row, tcp_facts, unix_row
from socketkeep._inspect._sock_diag import (
    LISTEN,
    InetSocket,
    UnixSocket,
    inet_sockets,
    unix_sockets,
)
from socketkeep._inspect._what import ProcessSockets, hosts_of, parse_what

_OPERATION: Final = "holders"
_WILDCARDS: Final = frozenset({"0.0.0.0", "::"})
_ELSEWHERE: Final = "in another network namespace (a container): look from there, nsenter -n -t {}"
_NOT_IN_THE_TABLE: Final = "not in the kernel's tables: not bound, or of a kind they do not show"


class _FoundSockets(Struct):
    """The sockets in question, of each kind; `others` by inode, with what is known of them."""

    inet: list[InetSocket] = []
    unix: list[UnixSocket] = []
    unix_names: dict[int, str] = {}
    others: dict[int, tuple[str, str]] = {}
    #: What the process `looked_at` has, which need not be looked for again.
    descriptors: Descriptors = field(default_factory=Descriptors)
    looked_at: int = 0

    @property
    def inodes(self) -> set[int]:
        known = {found.inode for found in self.inet} | {found.inode for found in self.unix}
        return (known | set(self.others)) - {0}


def holders(what: str) -> HeldSockets:
    """Return the sockets that `what` names, and every process and descriptor that holds them.

    An address is that of either end, so that of a port it returns the listener, the accepted
    connections, and the clients that are on this machine.  The listeners of every interface serve
    each address, and are among them.

    It looks at one moment after the other: a socket that is opened or closed meanwhile may be
    missing, or without a holder.  It sees this network namespace; of the processes, those that this
    one has the right to look into (root: all of this pid namespace), and
    `HeldSockets.unreadable` counts the rest.

    Args:
        what: An address (``127.0.0.1:7000``, ``:7000`` on any interface, ``[::1]:7000``,
            ``unix:/path``, ``unix:@name``), a pid, or ``pid:fd``.

    Raises:
        AddressError: `what` is none of these.
        SystemFailure: There is no such process or descriptor, no right to look into the process, no
            /proc, or netlink is forbidden here.
    """
    if not os.path.isdir("/proc/self/fd"):
        raise _failure("needs Linux and a mounted /proc", errno.ENOSYS)
    wanted = parse_what(what)
    # Before the kernel tells ages: however long what follows takes, nothing looks younger by it.
    asked = time.clock_gettime(time.CLOCK_BOOTTIME)
    try:
        if isinstance(wanted, ProcessSockets):
            found = _of_process(wanted)
        elif isinstance(wanted, InetAddress):
            found = _of_address(wanted)
        else:
            found = _of_path(wanted)
    except SystemFailure:
        raise
    except OSError as error:
        reason = f"cannot ask the kernel for its sockets (netlink): {error.strerror or error}"
        raise _failure(reason, error.errno or 0) from error
    return _Survey(found, asked).result(str(wanted))


def _failure(reason: str, code: int) -> SystemFailure:
    return SystemFailure(reason, code=code, operation=_OPERATION)


def _of_address(wanted: InetAddress) -> _FoundSockets:
    port, hosts = wanted.port, hosts_of(wanted)
    sockets = inet_sockets(either_port=port, info=True)
    if hosts is None:
        return _FoundSockets(inet=list(sockets))

    def is_meant(found: InetSocket) -> bool:
        if found.port == port:
            if found.host.removeprefix("::ffff:") in hosts:
                return True
            if found.state == LISTEN and found.host in _WILDCARDS:
                return True
        return found.peer_port == port and found.peer_host.removeprefix("::ffff:") in hosts

    return _FoundSockets(inet=list(filter(is_meant, sockets)))


def _of_path(wanted: UnixAddress) -> _FoundSockets:
    # An abstract name has no directory to be relative to; a path is stored as it was bound.
    absolute = wanted.path if wanted.abstract else os.path.abspath(wanted.path)
    everything = list(unix_sockets())
    named = {found.inode for found in everything if found.name in (wanted.path, absolute)}
    chosen = [found for found in everything if found.inode in named or found.peer in named]
    return _FoundSockets(unix=chosen, unix_names=_names(everything))


def _of_process(wanted: ProcessSockets) -> _FoundSockets:
    descriptors = _descriptors_in(wanted)
    inodes = _first_of(descriptors)
    found = _FoundSockets()
    if wanted.fd is None:
        found.descriptors, found.looked_at = descriptors, wanted.pid
    for protocol in (socket.IPPROTO_TCP, socket.IPPROTO_UDP):
        found.inet += inet_sockets(protocol, inodes=inodes, info=True)
    everything = list(unix_sockets())
    found.unix = [each for each in everything if each.inode in inodes]
    found.unix_names = _names(everything)
    for inode in set(inodes) - found.inodes:
        found.others[inode] = _protocol(wanted.pid, inodes[inode])
    return found


def _names(everything: list[UnixSocket]) -> dict[int, str]:
    return {found.inode: found.name for found in everything}


def sockets_of(wanted: ProcessSockets) -> dict[int, int]:
    """Return the inodes of a process's sockets, each with a descriptor of it.

    Raises SystemFailure, as `holders`.
    """
    return _first_of(_descriptors_in(wanted))


def _first_of(descriptors: Descriptors) -> dict[int, int]:
    return {inode: several[0][1] for inode, several in descriptors.of.items()}


def _descriptors_in(wanted: ProcessSockets) -> Descriptors:
    pid, fd = wanted.pid, wanted.fd
    found = Descriptors()
    try:
        if fd is None:
            look_into(pid, None, found)
            return found
        link = os.readlink(f"/proc/{pid}/fd/{fd}")
    except PermissionError:
        raise _failure(missing_right(pid), errno.EPERM) from None
    except (FileNotFoundError, ProcessLookupError):
        if os.path.isdir(f"/proc/{pid}"):
            raise _failure(f"process {pid} has no descriptor {fd}", errno.EBADF) from None
        if exists(pid):
            raise _failure(cannot_be_seen(pid), errno.EPERM) from None
        reason = f"there is no process {pid} (a port is written :{pid})"
        raise _failure(reason, errno.ESRCH) from None
    if not link.startswith("socket:["):
        raise _failure(f"{wanted} is no socket, it is {link}", errno.ENOTSOCK)
    found.of[int(link[8:-1])] = [(pid, fd)]
    return found


def _protocol(pid: int, fd: int) -> tuple[str, str]:
    """Return the kind of a socket that is not in this namespace's tables, and why it is not."""
    try:
        name = os.getxattr(f"/proc/{pid}/fd/{fd}", "system.sockprotoname").rstrip(b"\0").decode()
        same = os.readlink(f"/proc/{pid}/ns/net") == os.readlink("/proc/self/ns/net")
    except OSError:
        return "", _NOT_IN_THE_TABLE
    return name.lower(), _NOT_IN_THE_TABLE if same else _ELSEWHERE.format(pid)


class _Survey:
    """One pass over the descriptors of all processes, for the sockets that were found.

    asked: seconds since the system's start, when the kernel was asked for them.
    """

    def __init__(self, found: _FoundSockets, asked: float) -> None:
        self._found = found
        self._processes: Processes = reader()
        self._asked = asked
        self._alone: dict[tuple[int, bool], tuple[str, str, How, int]] = {}
        self._descriptors = found.descriptors
        look_everywhere(found.inodes, self._descriptors, besides=(found.looked_at,))
        self._unreadable: dict[str, int] = {}
        for pid in self._descriptors.unreadable:
            user = user_of_process(pid)
            self._unreadable[user] = self._unreadable.get(user, 0) + 1

    def result(self, what: str) -> HeldSockets:
        hidden = hidden_processes()
        unseen = bool(self._unreadable or hidden)
        mode_of = self._descriptors.nonblocking.get
        rows: list[HeldSocket] = []
        for inet in self._found.inet:
            inode = inet.inode
            facts, age = tcp_facts(inet)
            made = None if age is None else self._asked - age
            kept = inet.state != LISTEN and inet.protocol == socket.IPPROTO_TCP
            held = self._holders(inode, kept, made) if inode else ()
            rows.append(inet_row(inet, held, mode_of(inode), facts, age, unseen))
        for unix in self._found.unix:
            kept = (
                unix.kind == socket.SOCK_STREAM
                and unix.state != LISTEN
                and len(self._descriptors.of.get(unix.inode, ())) > 1
            )
            held = self._holders(unix.inode, kept, None)
            names = self._found.unix_names
            rows.append(unix_row(unix, names, held, mode_of(unix.inode), unseen))
        for inode, (kind, note) in self._found.others.items():
            held = self._holders(inode, False, None)
            note = note if held else UNSEEN
            rows.append(other_row(kind, inode, held, mode_of(inode), note))
        # One string is compared faster than a tuple of three; no address begins with NUL.
        rows.sort(
            key=lambda row: f"\0{row.local}" if row.state == "LISTEN" else f"{row.local} {row.peer}"
        )
        why = why_unreadable(self._descriptors.unreadable) if self._unreadable else ""
        return HeldSockets(what, tuple(rows), self._unreadable, why, hidden)

    def _holders(self, inode: int, kept: bool, made: float | None) -> tuple[SocketHolder, ...]:
        several = self._descriptors.of.get(inode, ())
        if len(several) == 1:  # of most sockets; and no other process tells how it was come by
            ((pid, fd),) = several
            alone = self._alone.get((pid, kept))
            if alone is None:
                process = self._processes(pid)
                if process is None:
                    return ()
                how = origin_of(process, (process,), self._processes, kept=kept, made=None)
                alone = self._alone[pid, kept] = (process.command, process.user, *how)
            return (SocketHolder(pid, fd, *alone),)
        several = sorted(several)
        found: dict[int, Process] = {}
        for pid in {pid for pid, _ in several}:
            process = self._processes(pid)
            if process is not None:
                found[pid] = process
        among = found.values()
        return tuple(
            SocketHolder(
                *descriptor,
                process.command,
                process.user,
                *origin_of(process, among, self._processes, kept=kept, made=made),
            )
            for descriptor in several
            if (process := found.get(descriptor[0])) is not None
        )
