"""The processes that hold sockets, as /proc tells of them."""

from __future__ import annotations

import os
import pwd
import re
from collections.abc import Callable, Iterable
from functools import cache
from typing import Final

from msgspec import Struct

from socketkeep._base._commands import command_line, cut
from socketkeep._base._process_stat import PARENT, START, STATE, stat_fields

#: The command lines of keepers: with their title set, without, and after an upgrade.
_KEEPER: Final = (
    r"socketkeep: keeper"
    r"|(\S*/)?(python\S* (.* )?(-m |\S*/))?socketkeep( serve|\._admin\._successor)\b"
)
_ANCESTORS: Final = 8


class Process(Struct, frozen=True, gc=False):
    """A process.  started: seconds since the system's start.  state: as ps(1) has it.

    is_keeper: its command line is that of a Socketkeep keeper.
    """

    pid: int
    parent: int
    state: str
    started: float
    command: str
    user: str
    is_keeper: bool


Processes = Callable[[int], Process | None]


def reader() -> Processes:
    """Return a function that tells of a process, None when it has ended.

    It looks at each once.
    """
    ticks = os.sysconf("SC_CLK_TCK")

    @cache
    def read(pid: int) -> Process | None:
        try:
            fields = stat_fields(pid)
            uid = os.stat(f"/proc/{pid}").st_uid
        except OSError:
            return None
        command = command_line(pid)
        return Process(
            pid,
            int(fields[PARENT]),
            fields[STATE].decode(),
            int(fields[START]) / ticks,
            cut(command),
            user_name(uid),
            is_keeper(command),
        )

    return read


def is_keeper(command: str) -> bool:
    """Return whether a command line is that of a Socketkeep keeper."""
    # The expression takes 3 ms to compile, and mostly there is no keeper.
    return "socketkeep" in command and re.match(_KEEPER, command) is not None


def user_of_process(pid: int) -> str:
    """Return the user of a process, "?" when it has ended."""
    try:
        return user_name(os.stat(f"/proc/{pid}").st_uid)
    except OSError:
        return "?"


@cache
def user_name(uid: int) -> str:
    """Return a user's name, its number when it has none."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def keeper_above(process: Process, processes: Processes) -> Process | None:
    """Return the keeper that a process descends from."""
    for _ in range(_ANCESTORS):
        parent = processes(process.parent)
        if parent is None or parent.is_keeper:
            return parent
        process = parent
    return None


def ancestors(process: Process, processes: Processes) -> list[Process]:
    """Return a process's parent, the parent's parent and so on, without the first of the system."""
    found: list[Process] = []
    while process.parent > 1 and len(found) < _ANCESTORS:
        above = processes(process.parent)
        if above is None:
            break
        found.append(above)
        process = above
    return found


def descendants(pids: Iterable[int]) -> list[int]:
    """Return the processes that these are the parents of, and their children in turn."""
    children: dict[int, list[int]] = {}
    for entry in os.listdir("/proc"):
        if entry.isdecimal():
            try:
                parent = int(stat_fields(int(entry))[PARENT])
            except OSError:
                continue  # it has ended
            children.setdefault(parent, []).append(int(entry))
    found: list[int] = []
    unseen = list(pids)
    while unseen:
        mine = children.pop(unseen.pop(), [])
        found += mine
        unseen += mine
    return sorted(found)
