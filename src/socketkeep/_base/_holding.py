"""The holders of a socket, for connections and listeners, with what could not be seen."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from dataclasses import dataclass

from socketkeep._base._commands import command_of
from socketkeep._base._errors import Closed, SystemFailure
from socketkeep._base._handles import descriptors
from socketkeep._base._visibility import hidden_processes


@dataclass(frozen=True, slots=True, order=True)
class Holder:
    """A process's descriptor of a socket.

    Attributes:
        pid: The process.
        fd: Its descriptor.
        command: Its command line, cut to 60 characters; "?" when the process ended meanwhile.
    """

    pid: int
    fd: int
    command: str

    def __str__(self) -> str:
        return f"process {self.pid} ({self.command}) by descriptor {self.fd}"


@dataclass(frozen=True, slots=True)
class Holders:
    """The holders of a socket, by pid and descriptor; iterating and len() go over them.

    Attributes:
        holders: The holders.
        unreadable: The number of processes of this system that this one has no right to look into
            (other users', or protected ones); each may hold the socket too.  0: all that are listed
            were seen.
        hidden: The thing that hides processes, which then cannot even be counted; "": nothing.
    """

    holders: tuple[Holder, ...]
    unreadable: int
    hidden: str = ""

    def __iter__(self) -> Iterator[Holder]:
        return iter(self.holders)

    def __len__(self) -> int:
        return len(self.holders)

    def __str__(self) -> str:
        lines = [str(holder) for holder in self.holders]
        if self.unreadable:
            lines.append(
                f"{self.unreadable} processes could not be looked into: that takes CAP_SYS_PTRACE, "
                "which root has outside of containers and sandboxes"
            )
        if self.hidden:
            lines.append(self.hidden)
        return "\n".join(lines)


def holders_of(fd: int) -> Holders:
    """Return who holds the socket of that descriptor, as `Held.holders` does; -1: it is closed."""
    if fd < 0:
        raise Closed(operation="holders")
    if not os.path.isdir("/proc/self/fd"):
        reason = "needs Linux and a mounted /proc, where the descriptors of a process are listed"
        raise SystemFailure(reason, code=errno.ENOSYS, operation="holders")
    unreadable: set[int] = set()
    found = descriptors({os.fstat(fd).st_ino}, unreadable)
    rows = sorted(Holder(handle.pid, handle.fd, command_of(handle.pid)) for handle, _ in found)
    return Holders(tuple(rows), len(unreadable), hidden_processes())


class Held:
    """A socket that can say who holds it."""

    __slots__ = ()

    def fileno(self) -> int:
        """Return the descriptor's number, -1 once it is closed."""
        raise NotImplementedError

    def holders(self) -> Holders:
        """Return every process and descriptor that holds this socket, this one among them.

        The connection ends, and a listener stops listening, when the last of them is closed.  It
        reads the descriptors of all processes in /proc: milliseconds, not microseconds.  Not seen
        are processes that `Holders.unreadable` counts, those of another container (pid namespace),
        and a descriptor that is on its way to a process.

        Raises:
            Closed: This process does not hold it any more.
            SystemFailure: There is no /proc (ENOSYS).
        """
        return holders_of(self.fileno())

    @property
    def handles(self) -> int:
        """Return how many descriptors of this socket `holders` finds; each look counts anew."""
        return len(self.holders())
