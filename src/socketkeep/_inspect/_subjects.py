"""The subjects that an inspection may have now: what a shell proposes for WHAT."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Final

from socketkeep._base._address import format_address
from socketkeep._base._commands import command_line, cut
from socketkeep._base._errors import SystemFailure
from socketkeep._inspect._sock_diag import LISTEN, inet_sockets, unix_sockets
from socketkeep._inspect._survey import holders

_WILDCARDS: Final = ("0.0.0.0", "::")
_UNREADABLE: Final = "?"  # the command line of a kernel's thread, among others


def subjects(beginning: str) -> Iterator[tuple[str, str]]:
    """Yield what WHAT may be that begins so, each with what it is.

    These are the addresses that are listened on, processes once a digit is typed, and the sockets
    of a process behind its ``pid:``.  What cannot be seen is left out.
    """
    pid, colon, _ = beginning.partition(":")
    found: Iterator[tuple[str, str]] = iter(())
    if pid.isascii() and pid.isdecimal():
        found = _descriptors(pid) if colon else processes(pid)
    yield from ((word, about) for word, about in found if word.startswith(beginning))
    for word, about in addresses():
        # A port of any interface says it in fewest letters; hosts are for who begins with one.
        if word.startswith(beginning) and (beginning or word[0] == ":" or word.startswith("unix:")):
            yield word, about


def addresses() -> Iterator[tuple[str, str]]:
    """Yield the addresses that are listened on, as ``:port``, ``host:port`` and ``unix:path``."""
    seen: set[str] = set()
    try:
        for found in inet_sockets(listening=True):
            local = format_address((found.host, found.port))
            seen.add(f":{found.port}")
            if found.host not in _WILDCARDS:
                seen.add(local)
        seen |= {
            f"unix:{found.name}" for found in unix_sockets() if found.state == LISTEN and found.name
        }
    except OSError:
        return  # a sandbox forbids it
    for word in sorted(seen):
        yield word, "listened on"


def processes(beginning: str) -> Iterator[tuple[str, str]]:
    """Yield the processes whose number begins so, each with its command line."""
    try:
        pids = [entry for entry in os.listdir("/proc") if entry.isdecimal()]
    except OSError:
        return
    for pid in sorted(pids, key=int):
        if pid.startswith(beginning):
            command = command_line(int(pid))
            if command != _UNREADABLE:
                yield pid, cut(command)


def _descriptors(pid: str) -> Iterator[tuple[str, str]]:
    """Yield the sockets of a process as ``pid:fd``, each with its ends."""
    try:
        sockets = holders(pid).sockets
    except (SystemFailure, ValueError):
        return
    of_process = (
        (holder.fd, held) for held in sockets for holder in held.holders if str(holder.pid) == pid
    )
    for fd, held in sorted(of_process, key=lambda each: each[0]):
        yield f"{pid}:{fd}", " ".join(filter(None, (held.kind, held.state, held.local, held.peer)))
