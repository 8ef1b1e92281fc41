"""The machine's terms for a server: limits, rights and the kernel's settings that matter."""

from __future__ import annotations

import os
import resource
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final, Literal

from msgspec import Struct

from socketkeep._base._visibility import has_capability, hidden_processes

Level = Literal["bad", "note", "good"]
#: The worst first.
LEVELS: Final[tuple[Level, ...]] = ("bad", "note", "good")
#: Returns the soft and the hard limit of a resource, RLIM_INFINITY where there is none.
Limits = Callable[[int], tuple[int, int]]

#: Beside connections a process holds listeners, channels, a log, the scoreboard, an event loop.
OTHER_DESCRIPTORS: Final = 64
#: A connection that is kept has a handle in its worker and one in the keeper.
_HANDLES: Final = 2
_CAP_NET_BIND_SERVICE: Final = 10
_STRICT: Final = 2  # of vm.overcommit_memory, proc_sys_vm(5)


class MachineFinding(Struct, frozen=True):
    """One thing that was looked at.

    Attributes:
        name: A stable name of it.
        level: "good"; "note": the server runs, but will not do under some load; "bad": it cannot
            run, or not with the connections that were asked for.
        sentence: What is the case.
        remedy: What to do, "" where there is nothing.
    """

    name: str
    level: Level
    sentence: str
    remedy: str = ""


class Machine:
    """The machine as its files show it; a test gives other files.

    proc: where proc(5) is.  cgroups: where the hierarchy of cgroups(7), version 2, is.
    """

    def __init__(
        self,
        proc: str | os.PathLike[str] = "/proc",
        cgroups: str | os.PathLike[str] = "/sys/fs/cgroup",
        limits: Limits = resource.getrlimit,
    ) -> None:
        self.proc = Path(proc)
        self._cgroups = Path(cgroups)
        self.limits = limits

    def numbers(self, name: str) -> tuple[int, ...]:
        """Return the numbers in a setting of the kernel, such as ``net.core.somaxconn``.

        It is () where this kernel, or this namespace, does not have it.
        """
        return _numbers(self.proc / "sys" / name.replace(".", "/"))

    def number(self, name: str) -> int | None:
        """Return the first of `numbers`, None where there is none."""
        return next(iter(self.numbers(name)), None)

    def cgroup_room(self, what: str) -> int | None:
        """Return how much more the cgroups of this process allow, None for no limit.

        what: ``pids`` or ``memory`` (bytes).
        """
        rooms = []
        for group in self._own_cgroups():
            most = _numbers(group / f"{what}.max")  # "max" is no number
            used = _numbers(group / f"{what}.current")
            if most and used:
                rooms.append(max(most[0] - used[0], 0))
        return min(rooms, default=None)

    def cpus(self) -> float:
        """Return how many CPUs this process may use, by its affinity and its cgroups."""
        allowed = float(len(os.sched_getaffinity(0)))
        for group in self._own_cgroups():
            quota = _numbers(group / "cpu.max")  # "max 100000" has one number, and no quota
            if len(quota) == 2 and quota[1]:
                allowed = min(allowed, quota[0] / quota[1])
        return allowed

    def queue_overflows(self) -> int:
        """Return how often a queue of this network namespace was full when a client came."""
        lines = _text(self.proc / "net/netstat").splitlines()
        for names, values in zip(lines[::2], lines[1::2], strict=False):
            counters = dict(zip(names.split(), values.split(), strict=False))
            if "ListenOverflows" in counters:
                return int(counters["ListenOverflows"])
        return 0

    def _own_cgroups(self) -> Iterator[Path]:
        """Yield the cgroup of this process and those above it, as far as they are seen here."""
        for line in _text(self.proc / "self/cgroup").splitlines():
            if line.startswith("0::/"):
                group = self._cgroups / line.removeprefix("0::/")
                yield group
                yield from (each for each in group.parents if each.is_relative_to(self._cgroups))


def examine(machine: Machine, connections: int, backlog: int) -> list[MachineFinding]:
    """Return what of this machine matters to a server.

    connections: how many it is to hold at a time, 0 where that is not known.  backlog: the length
    of a listener's queue that it asks for.  Raises nothing: what cannot be read is left out.
    """
    return [
        *_descriptors(machine, connections),
        *_processes(machine, connections),
        *_watches(machine, connections),
        *_queues(machine, backlog),
        *_ports(machine, connections),
        *_tracked(machine, connections),
        *_memory(machine),
        _cpus(machine),
        _looking(machine),
    ]


def _descriptors(machine: Machine, connections: int) -> Iterator[MachineFinding]:
    hard = machine.limits(resource.RLIMIT_NOFILE)[1]
    most = hard if hard != resource.RLIM_INFINITY else machine.number("fs.nr_open") or hard
    room = most - OTHER_DESCRIPTORS
    if connections > room:
        yield MachineFinding(
            "descriptors",
            "bad",
            f"A process may have {most} descriptors, and {connections} connections need"
            f" {connections + OTHER_DESCRIPTORS} in the keeper.",
            f"ulimit -Hn {connections + OTHER_DESCRIPTORS}, or LimitNOFILE= of the unit",
        )
    elif room < 1024 and not connections:
        yield MachineFinding(
            "descriptors",
            "note",
            f"A process may have {most} descriptors: room for {max(room, 0)} connections.",
            "ulimit -Hn 65536, or LimitNOFILE= of the unit",
        )
    else:
        yield MachineFinding(
            "descriptors",
            "good",
            f"A process may have {most} descriptors: room for {room} connections.",
        )
    open_files = machine.numbers("fs.file-nr")
    if len(open_files) == 3:
        left = open_files[2] - open_files[0]
        if _HANDLES * connections > left:
            yield MachineFinding(
                "open files",
                "bad",
                f"This system may open {left} more files, and {connections} kept connections need"
                f" {_HANDLES * connections}.",
                f"sysctl -w fs.file-max={open_files[0] + 2 * _HANDLES * connections}",
            )


def _processes(machine: Machine, connections: int) -> Iterator[MachineFinding]:
    """Of the model `fork`, which has a process for each connection."""
    bounds = {
        "pids.max of its cgroup": machine.cgroup_room("pids"),
        "kernel.threads-max": machine.number("kernel.threads-max"),
        "kernel.pid_max": machine.number("kernel.pid_max"),
    }
    soft = machine.limits(resource.RLIMIT_NPROC)[0]
    if soft != resource.RLIM_INFINITY and os.geteuid() != 0:  # setrlimit(2): root is exempt
        bounds["the limit of processes (ulimit -u)"] = soft
    known = {name: bound for name, bound in bounds.items() if bound is not None}
    if not known:
        return
    name = min(known, key=known.__getitem__)
    if connections > known[name]:
        yield MachineFinding(
            "processes",
            "note",
            f"There may be {known[name]} more processes, by {name}: too few for {connections}"
            " connections in the model fork.",
            f"raise {name}, or serve with -k prefork, thread or async",
        )
    else:
        yield MachineFinding(
            "processes", "good", f"There may be {known[name]} more processes, by {name}."
        )


def _watches(machine: Machine, connections: int) -> Iterator[MachineFinding]:
    most = machine.number("fs.epoll.max_user_watches")
    if most is not None and _HANDLES * connections > most:
        yield MachineFinding(
            "epoll",
            "bad",
            f"A user may watch {most} descriptors by epoll, and {connections} connections need"
            f" {_HANDLES * connections}.",
            f"sysctl -w fs.epoll.max_user_watches={2 * _HANDLES * connections}",
        )


def _queues(machine: Machine, backlog: int) -> Iterator[MachineFinding]:
    most = machine.number("net.core.somaxconn")
    if most is not None:
        if most < backlog:
            yield MachineFinding(
                "accept queue",
                "note",
                f"The kernel queues {most} connections for a listener, fewer than --backlog"
                f" {backlog}: in a burst the others wait for a second or longer.",
                f"sysctl -w net.core.somaxconn={backlog}",
            )
        else:
            yield MachineFinding(
                "accept queue",
                "good",
                f"The kernel queues up to {most} connections for a listener (--backlog {backlog}).",
            )
    half_open = machine.number("net.ipv4.tcp_max_syn_backlog")
    if machine.number("net.ipv4.tcp_syncookies") == 0 and half_open is not None:
        yield MachineFinding(
            "SYN queue",
            "note",
            f"SYN cookies are off: {half_open} half-open connections keep all others out.",
            "sysctl -w net.ipv4.tcp_syncookies=1",
        )
    if machine.number("net.ipv4.tcp_abort_on_overflow"):
        yield MachineFinding(
            "full queue",
            "note",
            "Who comes when a queue is full is reset; otherwise that client would try again.",
            "sysctl -w net.ipv4.tcp_abort_on_overflow=0",
        )
    overflows = machine.queue_overflows()
    if overflows:
        yield MachineFinding(
            "overflows",
            "note",
            f"Queues of this network namespace were full {overflows} times since it began"
            " (ListenOverflows).",
            "socketkeep why :PORT tells of one listener",
        )


def _ports(machine: Machine, connections: int) -> Iterator[MachineFinding]:
    ports = machine.numbers("net.ipv4.ip_local_port_range")
    if len(ports) == 2 and connections > ports[1] - ports[0] + 1:
        yield MachineFinding(
            "local ports",
            "note",
            f"A client with one address, such as a proxy on this machine, has"
            f" {ports[1] - ports[0] + 1} ports to connect from to one listener.",
            "sysctl -w net.ipv4.ip_local_port_range='1024 65535', or listen on several addresses",
        )
    orphans = machine.number("net.ipv4.tcp_max_orphans")
    if orphans is not None and connections > orphans:
        yield MachineFinding(
            "closing connections",
            "note",
            f"The kernel finishes {orphans} connections at a time that no process has any more; it"
            " resets the others, and peers lose what was under way.",
            f"sysctl -w net.ipv4.tcp_max_orphans={connections}",
        )
    lowest = machine.number("net.ipv4.ip_unprivileged_port_start")
    if lowest and not has_capability(_CAP_NET_BIND_SERVICE):
        yield MachineFinding(
            "low ports",
            "note",
            f"This user may not listen on a port below {lowest}.",
            "start as root with --user, let systemd pass the socket, or"
            " AmbientCapabilities=CAP_NET_BIND_SERVICE of the unit",
        )


def _tracked(machine: Machine, connections: int) -> Iterator[MachineFinding]:
    most = machine.number("net.netfilter.nf_conntrack_max")
    used = machine.number("net.netfilter.nf_conntrack_count")
    if most is None or not used:  # where nothing is tracked, no rule asks for it
        return
    if used + connections > most or used > 0.9 * most:
        yield MachineFinding(
            "tracked connections",
            "bad" if used + connections > most else "note",
            f"The firewall tracks {used} of at most {most} connections: packets of those beyond"
            " are dropped.",
            f"sysctl -w net.netfilter.nf_conntrack_max={2 * (most + connections)}",
        )


def _memory(machine: Machine) -> Iterator[MachineFinding]:
    room = machine.cgroup_room("memory")
    if room is not None:
        yield MachineFinding(
            "memory",
            "good",
            f"The cgroup allows {room >> 20} MiB more; what the kernel buffers for connections"
            " counts, too.",
        )
    if machine.number("vm.overcommit_memory") == _STRICT:
        yield MachineFinding(
            "forks",
            "note",
            "The kernel counts memory before it is used (vm.overcommit_memory is 2): it may refuse"
            " the fork of a worker whose template is large.",
            "sysctl -w vm.overcommit_memory=0",
        )


def _cpus(machine: Machine) -> MachineFinding:
    cpus = machine.cpus()
    return MachineFinding(
        "CPUs", "good", f"This process may use {cpus:g} CPUs: -w {max(1, round(cpus))}."
    )


def _looking(machine: Machine) -> MachineFinding:
    hidden = hidden_processes(str(machine.proc))
    if hidden:
        return MachineFinding(
            "other processes", "note", f"holders and why do not see all: {hidden}."
        )
    if not has_capability():
        return MachineFinding(
            "other processes",
            "note",
            "holders and why see what processes of this user hold, and not those of others.",
            "run these commands as root",
        )
    return MachineFinding("other processes", "good", "holders and why see what any process holds.")


def _numbers(path: Path) -> tuple[int, ...]:
    return tuple(int(word) for word in _text(path).split() if word.lstrip("-").isdigit())


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii", errors="replace")
    except OSError:
        return ""
