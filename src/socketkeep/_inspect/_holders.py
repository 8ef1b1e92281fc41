"""The holders of an address: processes with a descriptor of a socket that is bound to it."""

from __future__ import annotations

import os
import socket
from collections.abc import Collection
from dataclasses import dataclass

from socketkeep._base._address import BindAddress, FdAddress, InetAddress, UnixAddress
from socketkeep._base._commands import command_of
from socketkeep._base._handles import descriptors
from socketkeep._inspect._processes import user_name, user_of_process
from socketkeep._inspect._sock_diag import (
    LISTEN,
    InetSocket,
    tcp_sockets,
    unix_sockets,
)


@dataclass(frozen=True, slots=True)
class PortHolder:
    """One process that holds a socket, by one of its descriptors.

    pid, fd: None when the process cannot be seen (it is another user's, or in another container);
    `user` is known all the same, for a TCP socket.
    """

    pid: int | None
    command: str
    user: str
    fd: int | None

    def __str__(self) -> str:
        if self.pid is None:
            return (
                f"a process of user {self.user}" if self.user else "a process that is not visible"
            )
        return f"process {self.pid} ({self.command}, user {self.user})"


def holders_of_port(address: BindAddress) -> list[PortHolder]:
    """Return the processes because of which `address` cannot be bound, as far as they can be known.

    A process appears once, however many descriptors it has.  Listeners go before connections: the
    latter are only named when there is no listener.  Empty when nobody holds it or the kernel does
    not say; never raises OSError.
    """
    try:
        uids = _inodes(address)
    except OSError:
        return []
    found: dict[int, PortHolder] = {}
    seen: set[int] = set()
    for (pid, fd), inode in descriptors(uids.keys()):
        seen.add(inode)
        found.setdefault(pid, PortHolder(pid, command_of(pid), user_of_process(pid), fd))
    unseen = {
        PortHolder(None, "", "" if uid is None else user_name(uid), None)
        for inode, uid in uids.items()
        if inode not in seen
    }
    return [found[pid] for pid in sorted(found)] + sorted(unseen, key=str)


def describe_holders(holders: Collection[PortHolder]) -> str:
    """Return the holders as a clause for an error message: "held by process ...", or ""."""
    if not holders:
        return ""
    named = [str(holder) for holder in holders]
    more = f" and {len(named) - 3} others" if len(named) > 3 else ""
    return f"held by {', '.join(named[:3])}{more}"


def _inodes(address: BindAddress) -> dict[int, int | None]:
    """Return the inodes of the sockets in the way, with their user where the kernel says it."""
    if isinstance(address, FdAddress):
        return {}
    if isinstance(address, UnixAddress):
        # An abstract name has no directory to be relative to; a path is stored as it was bound.
        wanted = {address.path, address.path if address.abstract else os.path.abspath(address.path)}
        return {
            found.inode: None
            for found in unix_sockets()
            if found.name in wanted and found.state == LISTEN
        }
    in_the_way = [found for found in tcp_sockets(address.port) if _conflicts(address, found)]
    listening = [found for found in in_the_way if found.state == LISTEN]
    return {found.inode: found.uid for found in (listening or in_the_way) if found.inode}


def _conflicts(address: InetAddress, found: InetSocket) -> bool:
    if address.host in ("", "0.0.0.0", "::") or found.host in ("0.0.0.0", "::"):
        return True
    try:
        resolved = {
            info[4][0] for info in socket.getaddrinfo(address.host, None, type=socket.SOCK_STREAM)
        }
    except OSError:
        return True
    return found.host.removeprefix("::ffff:") in resolved
