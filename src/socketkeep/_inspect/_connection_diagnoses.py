"""Diagnoses of a connection that does not close, or does not move: a function a condition."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from socketkeep._inspect._diagnosis import (
    Diagnosis,
    Facts,
    handle_of,
    reset_command,
    subject_of,
    who,
)
from socketkeep._inspect._processes import Process
from socketkeep._inspect._results import HeldSocket
from socketkeep._inspect._rows import UNSEEN

#: What has not been read after so many seconds is not about to be.
UNREAD_AFTER: Final = 1.0

_OPEN: Final = frozenset({"ESTABLISHED", "CLOSE_WAIT"})


def not_accepted(held: HeldSocket, _facts: Facts) -> Diagnosis | None:
    if held.kind != "tcp" or held.inode or held.state not in _OPEN:
        return None
    gone = " The client has closed already." if held.state == "CLOSE_WAIT" else ""
    return Diagnosis(
        "not-accepted",
        subject_of(held),
        f"No process has accepted the connection: it waits in its listener's queue.{gone}",
        _age(held),
        f"socketkeep why {held.local}",
    )


def in_flight(held: HeldSocket, _facts: Facts) -> Diagnosis | None:
    if held.holders or not held.inode:
        return None
    evidence = (f"inode {held.inode} stands in no process's table that can be read",)
    if held.note == UNSEEN:
        return Diagnosis(
            "unseen",
            subject_of(held),
            "Who holds it cannot be seen from here: a process that may not be looked into, or none."
            " Then its descriptor is on its way from one process to another (SCM_RIGHTS).",
            evidence,
            "look from where all processes can be seen; what is missing here stands below",
        )
    return Diagnosis(
        "in-flight",
        subject_of(held),
        "No process holds it: it goes on until its descriptor, which is on its way from one "
        "process to another (SCM_RIGHTS), has been received and closed.",
        evidence,
        "the process that it was sent to must receive it, or close what it would receive it from",
    )


def kept(held: HeldSocket, _facts: Facts) -> Diagnosis | None:
    keepers = [holder for holder in held.holders if holder.how == "kept"]
    if not keepers:
        return None
    return Diagnosis(
        "kept",
        subject_of(held),
        f"The Socketkeep keeper {keepers[0].pid} keeps it on purpose: neither a worker's death nor "
        "conn.release() ends it.",
        who(held),
        "conn.close() or conn.abort() in the handler end it for all holders",
    )


def several_handles(held: HeldSocket, _facts: Facts) -> Diagnosis | None:
    pids = sorted({holder.pid for holder in held.holders})
    if len(pids) < 2 or held.state == "LISTEN" or held.kind not in ("tcp", "unix"):
        return None
    if any(holder.how in ("kept", "serves") for holder in held.holders):
        return None
    return Diagnosis(
        "several-handles",
        subject_of(held),
        f"{len(held.holders)} handles in {len(pids)} processes hold it: a close in one of them "
        "sends no FIN, the last one does.",
        who(held),
        "close it in each process that does not use it, or end it whoever holds it: "
        f"socketkeep fin {handle_of(held)}",
    )


def held_by_a_child(held: HeldSocket, facts: Facts) -> Diagnosis | None:
    """A forked child's, and not its parent's: its own work, or what is left of its parent's.

    Told of the end that was asked about, or else of the other one, which keeps it open as well.
    """
    parent = _forked_from(held, facts)
    other = facts.other_end(held)
    if parent is None and other is not None and other not in facts.sockets:
        held, parent = other, _forked_from(other, facts)
    if parent is None:
        return None
    pids = sorted({holder.pid for holder in held.holders})
    child = f"Process {pids[0]} alone holds it" if len(pids) == 1 else f"{len(pids)} children do"
    return Diagnosis(
        "held-by-a-child",
        subject_of(held),
        f"{child}, forked by process {parent.pid}, and does not wait for it now. If it came by a "
        f"fork and {parent.pid} has closed it since, that sent no FIN, and none goes out while the "
        "child lives. Whether the child uses it cannot be known from one look.",
        (*who(held), f"its parent {parent.pid} ({parent.command}) does not hold it"),
        f"socketkeep leaks {parent.pid}   (looks twice); to end it: "
        f"socketkeep fin {handle_of(held)}",
    )


def _forked_from(held: HeldSocket, facts: Facts) -> Process | None:
    """Return the parent that has not the connection which its children alone have."""
    if held.state != "ESTABLISHED" or not held.holders:
        return None
    parents = [facts.forked.get((holder.pid, holder.fd)) for holder in held.holders]
    return None if None in parents else parents[0]


def fin_not_acknowledged(held: HeldSocket, facts: Facts) -> Diagnosis | None:
    if held.state != "FIN_WAIT1":
        return None
    return Diagnosis(
        "fin-not-acknowledged",
        subject_of(held),
        f"This side has ended the connection, and the peer has not acknowledged it{_behind(held)}.",
        (f"state {held.state}", *_stuck(held), *_peer_reader(held, facts), *who(held)),
        reset_command(held),
    )


def last_ack(held: HeldSocket, facts: Facts) -> Diagnosis | None:
    if held.state not in ("LAST_ACK", "CLOSING"):
        return None
    order = "the peer first" if held.state == "LAST_ACK" else "at the same time"
    return Diagnosis(
        "lingering",
        subject_of(held),
        f"Both sides have closed ({order}), and the peer has not acknowledged this side's FIN"
        f"{_behind(held)}. The kernel lingers until it has, or gives up.",
        (f"state {held.state}", *_stuck(held), *_peer_reader(held, facts)),
        reset_command(held),
    )


def peer_not_closed(held: HeldSocket, facts: Facts) -> Diagnosis | None:
    if held.state != "FIN_WAIT2":
        return None
    other = facts.other_end(held)
    remedy = reset_command(held)
    evidence = ["state FIN_WAIT2: our FIN has been acknowledged"]
    if other is not None:
        evidence += [f"the other end is {other.state}", *who(other)]
        remedy = f"close it there; or {remedy}"
    if not held.inode and held.timer is not None:
        evidence.append(f"no process holds it: the kernel forgets it in {held.timer.left:.0f} s")
    return Diagnosis(
        "peer-not-closed",
        subject_of(held),
        "This side has ended the connection, and the peer knows it; the peer has not closed.",
        tuple(evidence),
        remedy,
    )


def not_closed_here(held: HeldSocket, facts: Facts) -> Diagnosis | None:
    if held.state != "CLOSE_WAIT" or not held.inode:
        return None
    pids = {holder.pid for holder in held.holders}
    count = f"{len(held.holders)} in {len(pids)} processes" if len(pids) > 1 else "1 process"
    outside = f"socketkeep fin {handle_of(held)}, or abort"
    if not pids:
        count, outside = "by whom cannot be seen", reset_command(held)
    unread = (held.receive_queue or 1) - 1  # the FIN counts as one
    waiting = (f"{unread} bytes that came before the FIN are unread",) if unread > 0 else ()
    return Diagnosis(
        "not-closed-here",
        subject_of(held),
        f"The peer has closed, and this side has not: its descriptors are still open ({count}).",
        ("state CLOSE_WAIT: the peer's FIN has arrived", *waiting, *who(held), *_stop(held, facts)),
        f"the program must close it when recv returns b''; from outside: {outside}",
    )


def time_wait(held: HeldSocket, _facts: Facts) -> Diagnosis | None:
    if held.state != "TIME_WAIT":
        return None
    left = f" in {held.timer.left:.0f} s" if held.timer is not None else " soon"
    return Diagnosis(
        "time-wait",
        subject_of(held),
        "The connection is over. The kernel remembers its addresses for packets that come late, "
        f"and forgets them{left}.",
        ("state TIME_WAIT: both FINs have been acknowledged",),
        "nothing; a server that must bind meanwhile sets SO_REUSEADDR",
    )


def peer_does_not_read(held: HeldSocket, facts: Facts) -> Diagnosis | None:
    if held.state not in _OPEN or not held.send_queue or held.kind != "tcp" or not held.inode:
        return None
    probing = held.timer is not None and held.timer.kind == "zero-window probe"
    if not probing and (held.tcp is None or held.tcp.window):
        return None
    return Diagnosis(
        "peer-does-not-read",
        subject_of(held),
        f"{held.send_queue} bytes wait to be sent: the peer's window is zero, for its program does "
        "not read.",
        (*_stuck(held), *_peer_reader(held, facts)),
        f"look at the peer's program; to give up: {reset_command(held)}",
    )


def unread(held: HeldSocket, facts: Facts) -> Diagnosis | None:
    if held.kind != "tcp" or held.state != "ESTABLISHED" or not held.inode:
        return None
    if not held.receive_queue or held.tcp is None or held.tcp.since_received < UNREAD_AFTER:
        return None
    stop = _stop(held, facts)
    pids = sorted({holder.pid for holder in held.holders})
    running = f"py-spy dump --pid {pids[0]}   (what it does)" if pids else ""
    return Diagnosis(
        "unread",
        subject_of(held),
        f"{held.receive_queue} bytes have arrived and its program does not read them.",
        (f"the last came {held.tcp.since_received:.1f} s ago", *who(held), *stop),
        f"kill -CONT {facts.stopped(held)[0]}" if stop else running,
    )


def syn_sent(held: HeldSocket, _facts: Facts) -> Diagnosis | None:
    if held.state != "SYN_SENT":
        return None
    return Diagnosis(
        "syn-sent",
        subject_of(held),
        f"It is being connected, and {held.peer} does not answer: it is not reached, a firewall "
        "drops the SYN, or its listener's queue is full.",
        (*_stuck(held), *who(held)),
        f"on that machine: socketkeep why {held.peer}",
    )


def syn_received(held: HeldSocket, _facts: Facts) -> Diagnosis | None:
    if held.state != "SYN_RECV":
        return None
    return Diagnosis(
        "syn-received",
        subject_of(held),
        "The handshake is not done: the client's last packet of it has not come, nor its first "
        "bytes if the listener waits for them (TCP_DEFER_ACCEPT).",
        _stuck(held),
        "nothing here: the client must answer; the kernel gives up by itself",
    )


CONNECTION_DIAGNOSES: Final[tuple[Callable[[HeldSocket, Facts], Diagnosis | None], ...]] = (
    syn_sent,
    syn_received,
    not_accepted,
    in_flight,
    not_closed_here,
    fin_not_acknowledged,
    peer_not_closed,
    last_ack,
    time_wait,
    peer_does_not_read,
    unread,
    kept,
    several_handles,
    held_by_a_child,
)


def _age(held: HeldSocket) -> tuple[str, ...]:
    return () if held.age is None else (f"it was made {held.age:.1f} s ago",)


def _behind(held: HeldSocket) -> str:
    waiting = (held.send_queue or 0) - 1  # the FIN counts as one
    return f": the FIN waits behind {waiting} bytes" if waiting > 0 else ""


def _stuck(held: HeldSocket) -> tuple[str, ...]:
    """Return what the timer and the window show."""
    lines = []
    if held.timer is not None:
        tries = f", {held.timer.fired} times in vain" if held.timer.fired else ""
        lines.append(f"timer: {held.timer.kind} in {held.timer.left:.1f} s{tries}")
    if held.tcp is not None and not held.tcp.window:
        lines.append("the peer's window is 0")
    return tuple(lines)


def _peer_reader(held: HeldSocket, facts: Facts) -> tuple[str, ...]:
    """Return who does not read at the other end, when it is on this machine."""
    other = facts.other_end(held)
    if other is None:
        return ()
    first = f"at the other end {other.receive_queue} bytes are unread"
    return (first, *who(other), *_stop(other, facts))


def _stop(held: HeldSocket, facts: Facts) -> tuple[str, ...]:
    return tuple(f"process {pid} is stopped (state T)" for pid in facts.stopped(held))
