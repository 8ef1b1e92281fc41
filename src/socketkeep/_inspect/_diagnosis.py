"""The parts of `why`: observed facts, and diagnoses."""

from __future__ import annotations

from msgspec import Struct

from socketkeep._inspect._processes import Process
from socketkeep._inspect._results import HeldSocket


class Diagnosis(Struct, frozen=True):
    """One thing that explains how a socket behaves.

    Attributes:
        code: A stable name of the condition; the documentation lists them.
        subject: The socket.
        sentence: The condition in words.
        evidence: The things that show it.
        remedy: The thing to do, as a command where there is one; "" when there is nothing to do.
    """

    code: str
    subject: str
    sentence: str
    evidence: tuple[str, ...] = ()
    remedy: str = ""


class Facts(Struct, frozen=True):
    """The observations of one moment; the diagnoses are functions of them alone.

    address: what was asked for, as text, when it is an address; "" otherwise.
    sockets: the sockets in question.  others: the rest of what has that address, such as the other
    ends on this machine.  processes: those that hold any of them, by pid.
    overflows, drops: the counters ListenOverflows and ListenDrops of this network namespace, since
    its start.  is_file: whether a socket's file stands at the path of a Unix address.
    forked: by pid and descriptor the parent of a holder that has executed no program since it was
    forked, where that parent lives and does not hold the socket, and the holder does not wait for
    it.  incomplete: what could not be looked into, "" for nothing.
    """

    address: str
    sockets: tuple[HeldSocket, ...]
    others: tuple[HeldSocket, ...]
    processes: dict[int, Process]
    overflows: int
    drops: int
    by_ends: dict[tuple[str, str], HeldSocket]
    is_file: bool = False
    forked: dict[tuple[int, int], Process] = {}
    incomplete: str = ""

    def other_end(self, held: HeldSocket) -> HeldSocket | None:
        """Return the other end of a TCP connection, when it is on this machine."""
        return self.by_ends.get((held.peer, held.local)) if held.peer else None

    def stopped(self, held: HeldSocket) -> list[int]:
        """Return the holders of a socket that are stopped (SIGSTOP, a debugger)."""
        pids = {holder.pid for holder in held.holders}
        return sorted(
            pid for pid in pids if pid in self.processes and self.processes[pid].state in "Tt"
        )


def subject_of(held: HeldSocket) -> str:
    """Return how a socket is named: its addresses, or the descriptor of one that has none."""
    named = held.local if held.local not in ("", "unix:") else ""
    if not named and held.holders:
        named = handle_of(held)
    return f"{named} with {held.peer}" if held.peer else named


def who(held: HeldSocket) -> tuple[str, ...]:
    """Return who holds a socket, a line each; the first few of many."""
    lines = [f"held by {holder}" for holder in held.holders[:5]]
    if len(held.holders) > 5:
        lines.append(f"and by {len(held.holders) - 5} more descriptors")
    return (*lines, held.note) if held.note else tuple(lines)


def handle_of(held: HeldSocket) -> str:
    """Return a descriptor of the socket, as commands take it, "" when there is none."""
    return f"{held.holders[0].pid}:{held.holders[0].fd}" if held.holders else ""


def reset_command(held: HeldSocket) -> str:
    """Return the command that ends a connection from outside."""
    if held.holders:
        return f"socketkeep abort {handle_of(held)}"
    return f"ss -K src {held.local} dst {held.peer}   (as root)"
