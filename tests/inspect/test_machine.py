"""What of a machine matters to a server, by files that a test has written."""

from __future__ import annotations

import os
import resource
from collections.abc import Callable
from pathlib import Path

import pytest

from socketkeep._inspect import _machine

Make = Callable[..., _machine.Machine]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """Return a machine with these settings, by names or paths under /proc and the cgroups."""

    def made(descriptors: int = 65536, **files: str) -> _machine.Machine:
        proc, cgroups = tmp_path / "proc", tmp_path / "cgroup"
        (proc / "self/ns").mkdir(parents=True, exist_ok=True)
        for name, text in files.items():
            root, path = (
                (cgroups, name.removeprefix("cgroup/"))
                if name.startswith("cgroup/")
                else (proc, f"sys/{name.replace('.', '/')}" if "." in name else name)
            )
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            (root / path).write_text(f"{text}\n")
        limits = {resource.RLIMIT_NOFILE: descriptors}
        infinite = resource.RLIM_INFINITY
        return _machine.Machine(proc, cgroups, lambda each: (limits.get(each, infinite),) * 2)

    return made


def found(machine: _machine.Machine, connections: int = 0) -> dict[str, _machine.MachineFinding]:
    return {each.name: each for each in _machine.examine(machine, connections, 2048)}


@pytest.mark.parametrize(
    ("settings", "connections", "name", "level", "said", "remedy"),
    [
        ({}, 65_000, "descriptors", "good", "room for 65472", ""),
        ({}, 66_000, "descriptors", "bad", "66000 connections need 66064", "ulimit -Hn 66064"),
        ({"descriptors": 256}, 0, "descriptors", "note", "room for 192", "ulimit -Hn 65536"),
        (
            {"descriptors": resource.RLIM_INFINITY, "fs.nr_open": "1048576"},
            1_048_513,
            "descriptors",
            "bad",
            "may have 1048576",
            "ulimit",
        ),
        (
            {"fs.file-nr": "900 0 1000"},
            60,
            "open files",
            "bad",
            "100 more files, and 60 kept connections need 120",
            "fs.file-max=1140",
        ),
        (
            {"kernel.pid_max": "32768", "kernel.threads-max": "500"},
            1000,
            "processes",
            "note",
            "500 more processes, by kernel.threads-max",
            "-k prefork",
        ),
        ({"kernel.pid_max": "32768"}, 1000, "processes", "good", "by kernel.pid_max", ""),
        (
            {"fs.epoll.max_user_watches": "1999"},
            1000,
            "epoll",
            "bad",
            "1000 connections need 2000",
            "max_user_watches=4000",
        ),
        ({"net.core.somaxconn": "128"}, 0, "accept queue", "note", "queues 128", "somaxconn=2048"),
        ({"net.core.somaxconn": "4096"}, 0, "accept queue", "good", "up to 4096", ""),
        (
            {"net.ipv4.tcp_syncookies": "0", "net.ipv4.tcp_max_syn_backlog": "512"},
            0,
            "SYN queue",
            "note",
            "512 half-open",
            "tcp_syncookies=1",
        ),
        ({"net.ipv4.tcp_abort_on_overflow": "1"}, 0, "full queue", "note", "is reset", "=0"),
        (
            {"net/netstat": "TcpExt: A ListenOverflows B\nTcpExt: 1 7 2\nIpExt: A\nIpExt: 1"},
            0,
            "overflows",
            "note",
            "were full 7 times",
            "socketkeep why",
        ),
        (
            {"net.ipv4.ip_local_port_range": "32768\t60999"},
            30_000,
            "local ports",
            "note",
            "has 28232 ports",
            "ip_local_port_range",
        ),
        (
            {"net.ipv4.tcp_max_orphans": "8192"},
            10_000,
            "closing connections",
            "note",
            "finishes 8192 connections",
            "tcp_max_orphans=10000",
        ),
        ({"vm.overcommit_memory": "2"}, 0, "forks", "note", "the fork of a worker", "=0"),
        (
            {"net.netfilter.nf_conntrack_max": "1000", "net.netfilter.nf_conntrack_count": "10"},
            991,
            "tracked connections",
            "bad",
            "tracks 10 of at most 1000",
            "nf_conntrack_max=3982",
        ),
        (
            {"net.netfilter.nf_conntrack_max": "1000", "net.netfilter.nf_conntrack_count": "950"},
            0,
            "tracked connections",
            "note",
            "tracks 950",
            "nf_conntrack_max",
        ),
        (
            {
                "self/cgroup": "0::/a/b",
                "cgroup/a/memory.max": str(300 << 20),
                "cgroup/a/memory.current": str(100 << 20),
                "cgroup/a/b/memory.max": "max",
                "cgroup/a/b/memory.current": "1",
            },
            0,
            "memory",
            "good",
            "allows 200 MiB more",
            "",
        ),
        (
            {"self/cgroup": "0::/", "cgroup/pids.max": "90", "cgroup/pids.current": "20"},
            71,
            "processes",
            "note",
            "70 more processes, by pids.max of its cgroup",
            "raise pids.max",
        ),
    ],
)
def test_findings(
    make: Make,
    settings: dict[str, str],
    connections: int,
    name: str,
    level: str,
    said: str,
    remedy: str,
) -> None:
    finding = found(make(**settings), connections)[name]
    assert finding.level == level
    assert said in finding.sentence
    assert remedy in finding.remedy
    assert bool(finding.remedy) == (level != "good")


def test_a_quota_of_cpus(make: Make) -> None:
    machine = make(**{"self/cgroup": "0::/a", "cgroup/a/cpu.max": "50000 100000"})
    assert machine.cpus() == 0.5
    assert "0.5 CPUs: -w 1" in found(machine)["CPUs"].sentence
    unbounded = make(**{"cgroup/a/cpu.max": "max 100000"})
    assert unbounded.cpus() == len(os.sched_getaffinity(0))


def test_what_cannot_be_read_is_left_out(make: Make) -> None:
    """Nor is anything raised: a sandbox shows less."""
    assert set(found(make(), 100)) == {"descriptors", "CPUs", "other processes"}


def test_ports_that_are_roots(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    machine = make(**{"net.ipv4.ip_unprivileged_port_start": "1024"})
    monkeypatch.setattr(_machine, "has_capability", lambda _number=0: False)
    assert "a port below 1024" in found(machine)["low ports"].sentence
    monkeypatch.setattr(_machine, "has_capability", lambda _number=0: True)
    assert "low ports" not in found(machine)
