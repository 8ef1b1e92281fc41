"""`why`: look once, and explain."""

from __future__ import annotations

import os
import stat

from msgspec import Struct

from socketkeep._base._address import InetAddress, UnixAddress
from socketkeep._inspect._connection_diagnoses import CONNECTION_DIAGNOSES
from socketkeep._inspect._diagnosis import Diagnosis, Facts, subject_of, who
from socketkeep._inspect._listener_diagnoses import LISTENER_DIAGNOSES, nobody_listens
from socketkeep._inspect._processes import Process, Processes, keeper_above, reader
from socketkeep._inspect._programs import is_forked
from socketkeep._inspect._results import HeldSocket
from socketkeep._inspect._survey import holders
from socketkeep._inspect._waits import waits_of
from socketkeep._inspect._what import own_ends, parse_what

_NETSTAT = "/proc/net/netstat"


class Explanation(Struct, frozen=True):
    """The explanation of the sockets that were asked about.

    Attributes:
        what: The words that were asked for, as they were understood.
        diagnoses: At least one; the one that nothing is wrong stands alone, and has the code
            "nothing-wrong".
        incomplete: The things that could not be looked into for want of rights, "" for nothing.
    """

    what: str
    diagnoses: tuple[Diagnosis, ...]
    incomplete: str


def why(what: str) -> Explanation:
    """Explain why the sockets that `what` names do not close, refuse, hang or drop.

    Of an address the sockets are explained that have it as theirs; if there are none, those whose
    peer has it.  It looks at one moment.  The deeds of a firewall, the network or a peer on another
    machine are not seen, and only guessed at from this side's state.

    Args:
        what: As `holders` takes it.

    Raises:
        SocketkeepError: What `holders` raises.
    """
    facts, named, incomplete = _observe(what)
    return Explanation(named, diagnose(facts, named), incomplete)


def diagnose(facts: Facts, named: str) -> tuple[Diagnosis, ...]:
    """Return what the facts amount to; `named` is what was asked about."""
    found = [diagnosis] if (diagnosis := nobody_listens(facts)) is not None else []
    for held in facts.sockets:
        listens = held.state == "LISTEN"
        for condition in LISTENER_DIAGNOSES if listens else CONNECTION_DIAGNOSES:
            diagnosis = condition(held, facts)
            if diagnosis is not None:
                found.append(diagnosis)
    return tuple(found) or (_nothing_wrong(facts, named),)


def _nothing_wrong(facts: Facts, named: str) -> Diagnosis:
    first = facts.sockets[0] if facts.sockets else None
    seen = "Nothing wrong can be seen from here" if facts.incomplete else "Nothing is wrong"
    sentence = f"{seen} with {named}: "
    if first is None:
        return Diagnosis("nothing-wrong", named, f"{sentence}it has no sockets.")
    if first.state == "LISTEN":
        sentence += "it is listened on, and no connection waits long to be accepted."
        taken = ("while it is, another bind of the address fails (EADDRINUSE)",)
        return Diagnosis("nothing-wrong", subject_of(first), sentence, (*who(first), *taken))
    sentence += "it is open, nothing is stuck, and neither side has ended it."
    if len(facts.sockets) > 1:
        sentence += f" So are {len(facts.sockets) - 1} more sockets."
    return Diagnosis("nothing-wrong", subject_of(first), sentence, who(first))


def _observe(what: str) -> tuple[Facts, str, str]:
    """Return the facts, what was asked for in words, and what could not be looked into."""
    wanted = parse_what(what)
    found = holders(what)
    chosen = everything = found.sockets
    address, is_file = "", False
    if isinstance(wanted, InetAddress):
        address = str(wanted)
        chosen = own_ends(wanted, chosen)
    elif isinstance(wanted, UnixAddress):
        address = str(wanted)
        is_file = not wanted.abstract and _is_socket_file(wanted.path)
    elif len(chosen) == 1 and chosen[0].kind == "tcp" and chosen[0].peer:
        everything = holders(chosen[0].local).sockets  # with the other end, if it is here
    mine = {held.cookie for held in chosen}
    others = tuple(held for held in everything if held.cookie not in mine)
    read = reader()
    processes = {
        holder.pid: process
        for held in (*chosen, *others)
        for holder in held.holders
        if (process := read(holder.pid)) is not None
    }
    overflows, drops = listen_counters()
    by_ends = {(held.local, held.peer): held for held in (*chosen, *others) if held.kind == "tcp"}
    forked = _forked((*chosen, *others), processes, read)
    facts = Facts(
        *(address, chosen, others, processes, overflows, drops, by_ends, is_file),
        forked=forked,
        incomplete=found.incomplete,
    )
    return facts, found.what, found.incomplete


def _forked(
    sockets: tuple[HeldSocket, ...], processes: dict[int, Process], read: Processes
) -> dict[tuple[int, int], Process]:
    """Return the parents of the holders that have a connection which their parents have not.

    What a Socketkeep server has is its own, and is left out.
    """
    found: dict[tuple[int, int], Process] = {}
    copies: dict[int, tuple[Process, frozenset[int]] | None] = {}

    def copy(pid: int) -> tuple[Process, frozenset[int]] | None:
        process = processes.get(pid)
        if process is None or process.parent <= 1 or keeper_above(process, read) is not None:
            return None
        parent = read(process.parent)
        if parent is None or not is_forked(pid, parent.pid):
            return None
        return parent, waits_of(pid).descriptors

    for held in sockets:
        if held.state != "ESTABLISHED":
            continue
        pids = {holder.pid for holder in held.holders}
        for holder in held.holders:
            if holder.pid not in copies:
                copies[holder.pid] = copy(holder.pid)
            copied = copies[holder.pid]
            if copied is not None and copied[0].pid not in pids and holder.fd not in copied[1]:
                found[holder.pid, holder.fd] = copied[0]
    return found


def _is_socket_file(path: str) -> bool:
    try:
        return stat.S_ISSOCK(os.stat(path).st_mode)
    except OSError:
        return False


def listen_counters() -> tuple[int, int]:
    """Return ListenOverflows and ListenDrops of this network namespace, 0 where not known."""
    try:
        with open(_NETSTAT) as file:
            lines = [line.split() for line in file if line.startswith("TcpExt:")]
    except OSError:
        return 0, 0
    counters = dict(zip(*lines[:2], strict=True))
    return int(counters.get("ListenOverflows", 0)), int(counters.get("ListenDrops", 0))
