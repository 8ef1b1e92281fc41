"""`leaks`: sockets that a process holds only because it, or its program, was started by another.

Nothing in the kernel says what a descriptor is for.  What can be seen: who else has the socket,
whether bytes have passed since the process was forked (TCP counts the time since), and what each
thread waits for.  Two looks, a moment apart, are compared; what they do not settle is said to be
unclear, and is not counted as a leak.
"""

from __future__ import annotations

import time
from collections.abc import Container, Iterable, Sequence

from msgspec import Struct

from socketkeep._base._errors import SystemFailure
from socketkeep._base._visibility import hidden_processes
from socketkeep._inspect._judging import Leak, Seen, judged
from socketkeep._inspect._processes import Processes, ancestors, descendants, reader
from socketkeep._inspect._rows import tcp_facts
from socketkeep._inspect._sock_diag import inet_sockets
from socketkeep._inspect._survey import holders
from socketkeep._inspect._waits import ProcessWaits, waits_of


class Leaks(Struct, frozen=True):
    """The findings of `leaks`.

    Attributes:
        looked_at: The processes.
        leaks: The leaks.
        unclear: Sockets that may be leaks, or be used now and then: what was seen does not tell.
        unreadable: Descendants that this process may not look into.
        hidden: The thing that hides processes, descendants maybe among them; "": nothing.
    """

    looked_at: tuple[int, ...]
    leaks: tuple[Leak, ...]
    unclear: tuple[Leak, ...]
    unreadable: tuple[int, ...]
    hidden: str = ""


def leaks(*pids: int, interval: float = 0.5) -> Leaks:
    """Return the sockets that processes hold only because they, or their parents, were forked.

    A socket is a leak when the process waits for it at neither of two looks, and (1) an ancestor
    does, or (2) no byte has passed since the process was forked, or (3) its peer has closed it.
    What a Socketkeep keeper has is kept on purpose, and what an executed program has as its
    standard streams was given to it: neither is a leak.  Not promised: a process that uses a socket
    rarely and for a moment, having got it at the fork on purpose, is not told from one that leaks
    it.

    Args:
        pids: The processes; all their descendants are looked at too, each against its own
            ancestors.
        interval: Seconds between the two looks: what a process waits for at either of them it uses.

    Raises:
        SystemFailure: There is no such process, or no right to trace it; it needs Linux and its
            /proc.
    """
    processes = reader()
    named = tuple(dict.fromkeys(pids))
    family = list(dict.fromkeys([*named, *descendants(named)]))
    unreadable: list[int] = []
    first = _look(family, named, processes, unreadable)
    time.sleep(interval)  # the length of the observation
    second = _look([pid for pid in family if pid in first], (), processes, [])
    found: list[Leak] = []
    unclear: list[Leak] = []
    ancestors_waits: dict[int, ProcessWaits] = {}
    for pid, after in second.items():
        line = ancestors(after.process, processes)
        for ancestor in line:
            if ancestor.pid not in ancestors_waits:
                seen = second.get(ancestor.pid)
                waits = waits_of(ancestor.pid) if seen is None else seen.waits
                ancestors_waits[ancestor.pid] = waits
        waited = {each.pid: ancestors_waits[each.pid].descriptors for each in line}
        sure, unsure = judged(first[pid], after, line, waited, processes)
        found += sure
        unclear += unsure
    return Leaks(tuple(second), tuple(found), tuple(unclear), tuple(unreadable), hidden_processes())


def _look(
    pids: Iterable[int], named: Sequence[int], processes: Processes, unreadable: list[int]
) -> dict[int, Seen]:
    found = {}
    for pid in pids:
        began = time.clock_gettime(time.CLOCK_BOOTTIME)
        try:
            sockets = {held.inode: held for held in holders(str(pid)) if held.inode}
        except SystemFailure:
            if pid in named:
                raise
            if processes(pid) is not None:
                unreadable.append(pid)
            continue
        process = processes(pid)
        if process is not None:
            found[pid] = Seen(process, sockets, waits_of(pid), began, _times(sockets))
    return found


def _times(sockets: Container[int]) -> dict[int, tuple[float, float | None]]:
    # By a look of its own, since each moment between the kernel's word and the clock's counts.
    times = {}
    for found in inet_sockets(inodes=sockets, info=True):
        now = time.clock_gettime(time.CLOCK_BOOTTIME)
        facts, age = tcp_facts(found)
        if facts is not None:
            last = now - min(facts.since_sent, facts.since_received)
            times[found.inode] = (last, None if age is None else now - age)
    return times
