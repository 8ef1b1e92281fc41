"""The processes and sockets of this machine, as /proc tells of them."""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class Process:
    """A process; `started` tells it from a later one with the same pid.

    It equals another reading of the same process, whatever became of its parent since.
    """

    pid: int
    started: int
    parent: int = field(compare=False)
    alive: bool = field(compare=False)

    @property
    def command(self) -> str:
        """The command line, or the name where it can no longer be read."""
        try:
            words = Path(f"/proc/{self.pid}/cmdline").read_bytes().split(b"\0")
        except OSError:
            return "?"
        return b" ".join(words).decode(errors="replace").strip() or "?"


def read_process(pid: int) -> Process | None:
    """Return the process with that pid, None when there is none."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except OSError:
        return None
    fields = stat.rpartition(")")[2].split()  # the name before it may hold blanks and brackets
    return Process(
        pid=pid, started=int(fields[19]), parent=int(fields[1]), alive=fields[0] not in "ZX"
    )


def all_processes() -> list[Process]:
    """Return every process that can be seen."""
    found = (read_process(int(name)) for name in os.listdir("/proc") if name.isdigit())
    return [process for process in found if process is not None]


def descendants(pid: int, processes: list[Process]) -> set[Process]:
    """Return those of `processes` that `pid` or one of its descendants is the parent of."""
    children: dict[int, list[Process]] = {}
    for process in processes:
        children.setdefault(process.parent, []).append(process)
    result: set[Process] = set()
    unseen = [pid]
    while unseen:
        for child in children.get(unseen.pop(), ()):
            if child not in result:
                result.add(child)
                unseen.append(child.pid)
    return result


def open_sockets() -> dict[str, int]:
    """Return this process's sockets, as ``socket:[inode]``, each with one of its descriptors."""
    result: dict[str, int] = {}
    for name in os.listdir("/proc/self/fd"):
        try:
            target = os.readlink(f"/proc/self/fd/{name}")
        except OSError:
            continue  # the descriptor that the listing itself used
        if target.startswith("socket:"):
            result.setdefault(target, int(name))
    return result


def describe_socket(fd: int) -> str:
    """Return family, type and addresses of the socket at `fd`, which stays open."""
    try:
        with socket.socket(fileno=os.dup(fd)) as sock:
            try:
                peer = f"peer {sock.getpeername()!r}"
            except OSError:
                peer = "no peer"
            return f"{sock.family.name} {sock.type.name} local {sock.getsockname()!r} {peer}"
    except OSError as error:
        return f"not readable: {error}"
