"""Judging by two looks whether a process has a socket only because it was forked."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Final, Literal

import msgspec
from msgspec import Struct

from socketkeep._base._errors import SystemFailure
from socketkeep._inspect._processes import Process, Processes, keeper_above
from socketkeep._inspect._programs import is_forked, is_python, survives_exec
from socketkeep._inspect._results import HeldSocket, SocketHolder
from socketkeep._inspect._survey import sockets_of
from socketkeep._inspect._waits import ProcessWaits
from socketkeep._inspect._what import ProcessSockets

Code = Literal["peer-closed", "parent-closed", "never-used"]

#: The kernel's clocks count in hundredths of a second.
_SLACK: Final = 0.02
_UNCLEAR: Final = "Whether this process uses it or only inherited it cannot be told from outside."
_SENTENCES: Final[dict[Code, str]] = {
    "peer-closed": "The peer has closed it, and what this process has keeps it from ending.",
    "parent-closed": "Those that it was inherited from have closed it, and this keeps it open.",
    "never-used": "It was inherited, and is another process's: this one does not use it.",
}


class Leak(Struct, frozen=True):
    """A socket that a process has only because it was forked.

    Attributes:
        code: "peer-closed", "parent-closed" (no ancestor has it any more), or "never-used".
        pid: The process.
        fd: Its descriptor.
        command: Its command line.
        parent: The ancestor that it was inherited from, or that forked the process.
        socket: The socket.
        sentence: The case in words.
        evidence: The things that show it.
        remedy: The line of Python that would have prevented it, and where.
    """

    code: Code
    pid: int
    fd: int
    command: str
    parent: int
    socket: HeldSocket
    sentence: str
    evidence: tuple[str, ...]
    remedy: str


class Seen(Struct, frozen=True):
    """The sight of a process at one moment.

    sockets: by inode.  began: seconds since the system's start, before the kernel told of them.
    times: of TCP connections, when the last byte passed at the latest, and when they were made at
    the latest, where that is known.
    """

    process: Process
    sockets: dict[int, HeldSocket]
    waits: ProcessWaits
    began: float
    times: dict[int, tuple[float, float | None]]


def judged(
    before: Seen,
    after: Seen,
    line: Sequence[Process],
    waited: dict[int, frozenset[int]],
    processes: Processes,
) -> tuple[list[Leak], list[Leak]]:
    """Return what a process leaks, and what may be a leak.  line: its ancestors, the nearest first.

    waited: the descriptors that each of them waits for.
    """
    verdicts: dict[int, tuple[Leak, bool]] = {}
    if not line:
        return [], []
    # What a connection's child of the server has is its own.
    served = keeper_above(after.process, processes) is not None
    copied = not served and is_forked(after.process.pid, line[0].pid)
    for inode, held in after.sockets.items():
        if inode not in before.sockets or _on_purpose(held, after.process, line[0], processes):
            continue
        verdict = _judge(held, before, after, line, waited, copied)
        if verdict is not None:
            verdicts[inode] = verdict
    # Who has got both ends of a pair, and one of them without use, has got the other alike.
    sure = {inode for inode, (_, certain) in verdicts.items() if certain}
    ends = {after.sockets[inode].peer for inode in sure}
    sure |= {inode for inode in verdicts if f"unix:inode={inode}" in ends}
    return (
        [_surely(leak) for inode, (leak, _) in verdicts.items() if inode in sure],
        [leak for inode, (leak, _) in verdicts.items() if inode not in sure],
    )


def _surely(leak: Leak) -> Leak:
    return msgspec.structs.replace(leak, sentence=_SENTENCES[leak.code])


def _on_purpose(held: HeldSocket, process: Process, parent: Process, processes: Processes) -> bool:
    """Return whether a Socketkeep server has the socket, or the program was started with it."""
    for holder in held.holders:
        known = processes(holder.pid)
        if holder.how in ("kept", "serves") or (known is not None and known.is_keeper):
            return True
    keeper = keeper_above(process, processes)
    if keeper is not None and held.peer in {f"unix:inode={n}" for n in _inodes(keeper.pid)}:
        return True  # a worker's channel, which the children that it forks for connections share
    if is_forked(process.pid, parent.pid):
        return False
    mine = [holder.fd for holder in held.holders if holder.pid == process.pid]
    return any(fd <= 2 for fd in mine) or not any(survives_exec(process.pid, fd) for fd in mine)


def _inodes(pid: int) -> Iterable[int]:
    try:
        return sockets_of(ProcessSockets(pid))
    except SystemFailure:
        return ()  # another user's: what its workers share with it cannot be told


def _judge(
    held: HeldSocket,
    before: Seen,
    after: Seen,
    line: Sequence[Process],
    waited: dict[int, frozenset[int]],
    copied: bool,
) -> tuple[Leak, bool] | None:
    """Return a possible leak, and whether it is one for sure; None when it is none.

    copied: the process is a fork that has executed no program, and may have anything from it.
    """
    process = after.process
    mine = {holder.fd for holder in held.holders if holder.pid == process.pid}
    if not mine or mine & (before.waits.descriptors | after.waits.descriptors):
        return None
    by_pid = {each.pid: each for each in line}
    above = [holder for holder in held.holders if holder.pid in by_pid]
    if held.age is not None and after.began - held.age > process.started + _SLACK:
        return None  # it is younger than the process: its own, or sent to it
    last, made = after.times.get(held.inode, (None, None))
    # The start is told in hundredths of a second, rounded down: what was before it was before.
    idle = last is not None and last <= process.started
    older = idle or (made is not None and made <= process.started)
    unused = idle or _never_used(held)
    if not above and (held.state not in ("ESTABLISHED", "CLOSE_WAIT") or held.tcp is None):
        return None  # nothing shows that it was inherited
    if not above and not older and not copied:
        return None
    waiting = [holder for holder in above if holder.fd in waited[holder.pid]]
    closed = held.state == "CLOSE_WAIT" and before.sockets[held.inode].state == "CLOSE_WAIT"
    code: Code = "peer-closed" if closed else "never-used" if above else "parent-closed"
    parent = above[0].pid if above else line[0].pid
    told = before.waits.told and after.waits.told
    listens = held.state == "LISTEN"
    certain = (
        told and bool(above or older) and bool(waiting or ((unused or closed) and not listens))
    )
    evidence = tuple(_evidence(held, above, older, idle, told, waiting, process))
    leak = Leak(
        code,
        process.pid,
        min(mine),
        process.command,
        parent,
        held,
        _UNCLEAR,
        evidence,
        _remedy(process, parent),
    )
    return leak, certain


def _never_used(held: HeldSocket) -> bool:
    return held.tcp is not None and not held.tcp.sent and not held.tcp.received


def _evidence(
    held: HeldSocket,
    above: Sequence[SocketHolder],
    older: bool,
    idle: bool,
    told: bool,
    waiting: Sequence[SocketHolder],
    process: Process,
) -> Iterator[str]:
    if held.state == "CLOSE_WAIT":
        yield "state CLOSE_WAIT: the peer's FIN has arrived"
    for holder in above:
        yield f"held by its ancestor {holder}{', which waits for it' if holder in waiting else ''}"
    if not above and older:
        yield "no ancestor of the process holds it, and it is older than the process"
    elif not above:
        yield "no ancestor of the process holds it; it may be the process's own"
    if idle and held.tcp is not None:
        quiet = min(held.tcp.since_sent, held.tcp.since_received)
        yield f"no byte has passed for {quiet:.1f} s, since before the process was forked"
    elif _never_used(held):
        yield "no byte has ever passed"
    elif held.tcp is not None:
        yield "bytes have passed since about when the process was forked; by whom cannot be told"
    if told:
        yield "the process's threads wait for other things"
    else:
        yield "what the process's threads wait for could not be told: it was running"
    known = {process.pid, *(holder.pid for holder in above)}
    others = sorted({holder.pid for holder in held.holders} - known)
    if others:
        yield f"held by {', '.join(map(str, others))} as well"


def _remedy(process: Process, parent: int) -> str:
    forked = is_forked(process.pid, parent)
    if not is_python(parent):
        how = "close it after fork(2)" if forked else "open it with SOCK_CLOEXEC"
        return f"in process {parent}: {how} (it is no Python program)"
    if forked:
        return f"socketkeep.guard_forks()   # in process {parent}, before it forks"
    return (
        f"subprocess.Popen(..., close_fds=True)   # in process {parent}, the socket not in pass_fds"
    )
