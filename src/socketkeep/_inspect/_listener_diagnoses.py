"""Diagnoses of an address that refuses, hangs or drops connections: a function a condition."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from typing import Final

from socketkeep._inspect._connection_diagnoses import in_flight
from socketkeep._inspect._diagnosis import Diagnosis, Facts, subject_of, who
from socketkeep._inspect._results import HeldSocket

#: A connection that has waited so many seconds is not about to be accepted.
ACCEPTED_WITHIN: Final = 0.5


def nobody_listens(facts: Facts) -> Diagnosis | None:
    if not facts.address or any(held.state == "LISTEN" for held in facts.sockets):
        return None
    if facts.address.startswith("unix:"):
        return _no_unix_listener(facts)
    having = [held for held in facts.sockets if held.inode]
    if having and any(held.state != "CLOSED" for held in having):
        return None  # it is a connection's address; what was asked about is that
    if having:
        return Diagnosis(
            "port-held",
            facts.address,
            "Nothing listens there, so connections are refused; yet a process has the port and "
            "does not listen, so that no other can bind it.",
            tuple(line for held in having for line in who(held)),
            f"end it, or wait until it listens: kill {having[0].holders[0].pid}"
            if having[0].holders
            else "",
        )
    if any(held.state != "TIME_WAIT" for held in (*facts.sockets, *facts.others)):
        return None
    return Diagnosis(
        "no-listener",
        facts.address,
        "Nothing listens there: this system refuses connections with RST (ECONNREFUSED).",
        ("no socket in state LISTEN has this address",),
        "start the server, or look whether it listens elsewhere: ss -ltnp",
    )


def _no_unix_listener(facts: Facts) -> Diagnosis | None:
    if facts.sockets:
        return None
    path = facts.address.removeprefix("unix:")
    if facts.is_file:
        return Diagnosis(
            "stale-file",
            facts.address,
            "The socket's file is there, and no process listens on it: connections are refused, "
            "and a bind fails while it is there.",
            (f"{path} exists; no Unix socket of that name is in the kernel's table",),
            f"rm {shlex.quote(path)}",
        )
    return Diagnosis(
        "no-listener",
        facts.address,
        "Nothing listens there, and no socket's file is there: connections fail.",
        ("no Unix socket of that name is in the kernel's table",),
        "start the server, or look whether it listens elsewhere: ss -lxp",
    )


def reuseport_member_stopped(held: HeldSocket, facts: Facts) -> Diagnosis | None:
    members = [
        each
        for each in facts.sockets
        if each.state == "LISTEN" and each.local == held.local and each.inode != held.inode
    ]
    if not members or not _all_stopped(held, facts):
        return None
    share = f"1 of {len(members) + 1}"
    return Diagnosis(
        "reuseport-member-stopped",
        subject_of(held),
        f"{share} listeners that share the port (SO_REUSEPORT) belongs to a stopped process: the "
        f"kernel goes on giving it {share} connections, and nobody accepts them.",
        (f"{held.receive_queue} connections wait there", *who(held), *_states(held, facts)),
        f"kill -CONT {facts.stopped(held)[0]}, or end it: its queue is reset then",
    )


def holder_stopped(held: HeldSocket, facts: Facts) -> Diagnosis | None:
    if not _all_stopped(held, facts) or reuseport_member_stopped(held, facts) is not None:
        return None
    return Diagnosis(
        "listener-stopped",
        subject_of(held),
        "It listens, and every process that could accept is stopped: connections are made by the "
        "kernel, and hang.",
        (f"{held.receive_queue} of {held.send_queue} wait", *who(held), *_states(held, facts)),
        f"kill -CONT {' '.join(str(pid) for pid in facts.stopped(held))}",
    )


def queue_full(held: HeldSocket, facts: Facts) -> Diagnosis | None:
    if held.receive_queue is None or held.send_queue is None:
        return None
    # A queue takes one more than its bound (sk_acceptq_is_full in the kernel).
    if held.receive_queue <= held.send_queue:
        return None
    unix = held.kind == "unix"
    counted = f"ListenOverflows {facts.overflows}, ListenDrops {facts.drops} (all ports, so far)"
    return Diagnosis(
        "queue-full",
        subject_of(held),
        "Its queue is full: "
        + (
            "connect waits, or fails with EAGAIN."
            if unix
            else "the kernel drops new connections' SYNs, so that clients hang and try again."
        ),
        (
            f"{held.receive_queue} wait, the bound is {held.send_queue}",
            *(() if unix else (counted,)),
            *who(held),
            *_states(held, facts),
        ),
        "accept faster (more workers), and listen with a larger backlog; "
        "its upper bound: sysctl net.core.somaxconn",
    )


def nobody_accepts(held: HeldSocket, facts: Facts) -> Diagnosis | None:
    if _all_stopped(held, facts) or not held.receive_queue:
        return None
    waiting = [
        each.age
        for each in facts.sockets
        if not each.inode and each.local.rpartition(":")[2] == held.local.rpartition(":")[2]
        if each.state in ("ESTABLISHED", "CLOSE_WAIT") and each.age is not None
    ]
    if not waiting or max(waiting) < ACCEPTED_WITHIN:
        return None
    pids = sorted({holder.pid for holder in held.holders})
    return Diagnosis(
        "nobody-accepts",
        subject_of(held),
        "It listens, and nobody accepts: the process is busy with something else, or waits for "
        "something else.",
        (
            f"{held.receive_queue} connections wait, the longest for {max(waiting):.1f} s",
            *who(held),
            *_states(held, facts),
        ),
        f"py-spy dump --pid {pids[0]}   (what it does)" if pids else "",
    )


LISTENER_DIAGNOSES: Final[tuple[Callable[[HeldSocket, Facts], Diagnosis | None], ...]] = (
    reuseport_member_stopped,
    holder_stopped,
    queue_full,
    nobody_accepts,
    in_flight,
)


def _all_stopped(held: HeldSocket, facts: Facts) -> bool:
    pids = {holder.pid for holder in held.holders}
    return bool(pids) and len(facts.stopped(held)) == len(pids)


def _states(held: HeldSocket, facts: Facts) -> tuple[str, ...]:
    words = {"R": "running", "S": "waiting", "D": "waiting for a disk", "T": "stopped"}
    lines = []
    for pid in sorted({holder.pid for holder in held.holders})[:5]:
        process = facts.processes.get(pid)
        if process is not None:
            word = words.get(process.state.upper(), "not running")
            lines.append(f"process {pid} is {word} (state {process.state})")
    return tuple(lines)
