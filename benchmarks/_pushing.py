"""Work (o): pushes to connections by name, to a group, and to those that are parked."""

from __future__ import annotations

import contextlib
import random
import selectors
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from tests.harness.control import ask

from benchmarks._figures import Figures
from benchmarks._machine import cpus, find
from benchmarks._processes import busy_seconds, cpu_seconds, wait_until
from benchmarks._running import Running, running, start
from benchmarks._subjects import Subject, own
from socketkeep import Client

TITLE: Final = "pushes to connections by name"

_WORKERS: Final = 4
_NAMES: Final = 400
_EACH: Final = 4000  # pushes of each worker, a round; quick: fewer
_QUICK: Final = 1000
_SIZE: Final = 64
_MEMBERS: Final = 1000
_PARKED: Final = 100
_PATIENCE: Final = 60.0


def pushes(figures: Figures, rounds: int, _seconds: float, quick: bool) -> None:
    """Measure all three; Socketkeep and Redis by turns."""
    print(f"\n(o) {TITLE}", file=sys.stderr)
    each = _QUICK if quick else _EACH
    for number in range(rounds):
        with figures.attempt("Socketkeep push"):
            _rate(figures, _subject("own"), each, number, 0)
        with figures.attempt("Redis pub/sub"):
            if find("redis-server") is None:
                figures.missing["Redis pub/sub"] = "the command redis-server is not installed"
            else:
                with _redis() as (path, redis):
                    subject = _subject("redis", name="Redis pub/sub", environment=path)
                    _rate(figures, subject, each, number, redis.pid)
        with figures.attempt("Socketkeep publish"):
            _broadcast(figures)
        with figures.attempt("Socketkeep push, parked"):
            _parked(figures)


def _subject(handler: str, *options: str, name: str = "", environment: str = "") -> Subject:
    served = own("async", "", *options, name=name or "Socketkeep push")
    at = served.command.index("serve") + 1
    target = f"benchmarks.peers.bus:{handler}"
    modules = ("uvloop", "redis") if environment else ("uvloop",)
    return replace(
        served,
        command=(*served.command[:at], target, *served.command[at + 1 :]),
        modules=modules,
        environment={"BENCH_REDIS": environment} if environment else {},
    )


@contextlib.contextmanager
def _redis() -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """Run a Redis server, on the servers' processor, that stores nothing."""
    with tempfile.TemporaryDirectory(prefix="bench-") as directory:
        path = Path(directory) / "redis.sock"
        command = ["redis-server", "--port", "0", "--unixsocket", str(path), "--save", ""]
        process = start(command)
        try:
            wait_until(path.exists, "Redis listens")
            yield str(path), process
        finally:
            process.terminate()
            process.communicate()


class _Crowd:
    """Connections that are called by their numbers, and read."""

    def __init__(self, port: int, number: int) -> None:
        self._selector = selectors.DefaultSelector()
        self.socks = [socket.create_connection(("127.0.0.1", port)) for _ in range(number)]
        self.pids = [int(command(sock, f"name n{each}")) for each, sock in enumerate(self.socks)]
        for sock in self.socks:
            sock.setblocking(False)
            self._selector.register(sock, selectors.EVENT_READ)

    def read(self, size: int) -> int:
        """Read so many bytes of all of them together; return how many came."""
        came, deadline = 0, time.monotonic() + _PATIENCE
        while came < size and time.monotonic() < deadline:
            for key, _ in self._selector.select(1.0):
                assert isinstance(key.fileobj, socket.socket)
                came += len(key.fileobj.recv(1 << 20))
        return came

    def close(self) -> None:
        self._selector.close()
        for sock in self.socks:
            sock.close()


def command(sock: socket.socket, text: str) -> str:
    """Say a line; return the answer."""
    sock.settimeout(_PATIENCE)
    sock.sendall(text.encode() + b"\n")
    answer = b""
    while not answer.endswith(b"\n"):
        answer += sock.recv(4096)
    return answer.decode().strip()


def _rate(figures: Figures, subject: Subject, each: int, round_: int, beside: int) -> None:
    """Have each worker push to random names of all; beside: a process whose time counts, too."""
    reason = subject.missing()
    if reason is not None:
        figures.missing[subject.name] = reason
        return
    subject = replace(subject, command=(*subject.command, "--workers", str(_WORKERS)))
    with (
        running(subject) as server,
        _drivers(server) as drivers,
        contextlib.closing(_Crowd(server.port, _NAMES)) as crowd,
    ):
        size = each * _WORKERS * _SIZE
        _go(drivers, each // 10, round_)  # all that is made once is there
        assert crowd.read(each // 10 * _WORKERS * _SIZE) == each // 10 * _WORKERS * _SIZE
        _told(drivers)
        cpu, _ = cpus()
        used, busy, mine = _used(server, beside), busy_seconds(cpu), time.process_time()
        began = time.monotonic()
        _go(drivers, each, round_)
        came = crowd.read(size)
        took = time.monotonic() - began
        mine = time.process_time() - mine
        _told(drivers)
        used, busy = _used(server, beside) - used, busy_seconds(cpu) - busy
        if came != size:
            raise RuntimeError(f"{size - came} of {size} bytes did not come")
        count = each * _WORKERS
        told = {"per_second": count / took, "cpu_us": used / count * 1e6}
        told |= {"elsewhere": max(0.0, busy - used) / took, "generator_share": mine / took}
        figures.add(("o", f"{_WORKERS} workers, {_NAMES} names", subject.name), **told)
        print(f"  {subject.name:26} {count / took:8.0f} a second", file=sys.stderr)


def _used(server: Running, beside: int) -> float:
    return cpu_seconds(server.pid) + (cpu_seconds(beside) if beside else 0.0)


@contextlib.contextmanager
def _drivers(server: Running) -> Iterator[dict[int, socket.socket]]:
    """Yield a connection to each worker, that is called something nobody pushes to."""
    found: dict[int, socket.socket] = {}
    with contextlib.ExitStack() as stack:
        for number in range(40 * _WORKERS):  # who has the fewest gets the next
            sock = stack.enter_context(socket.create_connection(("127.0.0.1", server.port)))
            found.setdefault(int(command(sock, f"name driver{number}")), sock)
            if len(found) == _WORKERS:
                yield found
                return
    raise RuntimeError(f"only {len(found)} of {_WORKERS} workers have accepted")


def _go(drivers: dict[int, socket.socket], number: int, seed: int) -> None:
    for each, sock in enumerate(drivers.values()):
        sock.sendall(b"drive %d %d %d\n" % (number, _NAMES, 1000 * seed + each))


def _told(drivers: dict[int, socket.socket]) -> None:
    for sock in drivers.values():
        assert sock.recv(4096)


def _broadcast(figures: Figures) -> None:
    """Compare a message to 1,000 of a group with as many sends, in one worker."""
    subject = replace(_subject("own", "--workers", "1"), name="Socketkeep publish")
    with running(subject) as server, contextlib.closing(_Crowd(server.port, _MEMBERS)):
        with socket.create_connection(("127.0.0.1", server.port)) as sock:
            by_group, by_send = map(float, command(sock, f"broadcast {_MEMBERS}").split())
        told = {"seconds": by_group, "in_sends": by_group / by_send}
        figures.add(("o", f"{_MEMBERS} members, 1 worker", subject.name), **told)
        print(f"  {subject.name:26} {told['in_sends']:8.2f} times the sends", file=sys.stderr)


def _parked(figures: Figures) -> None:
    """Push to parked connections, and count how many were given to a worker."""
    options = ("--park-after", "0.1", "--keep", "reload", "--workers", "1")
    subject = replace(_subject("parked", *options), name="Socketkeep push, parked")
    with running(subject) as server, contextlib.closing(_Crowd(server.port, _PARKED)) as crowd:
        control = server.directory / "control"

        def status() -> Any:
            return ask(control, "status")

        wait_until(lambda: status()["connections"]["parked"] == _PARKED, "all are parked")
        before = status()["totals"]["attached"]["parked"]
        client, rng = Client(control), random.Random(7)
        for _ in range(10 * _PARKED):
            pushed = client.push(f"n{rng.randrange(_PARKED)}", b"m" * (_SIZE - 1) + b"\n")
            assert pushed.delivered
        assert crowd.read(10 * _PARKED * _SIZE) == 10 * _PARKED * _SIZE
        woken = status()["totals"]["attached"]["parked"] - before
        figures.add(("o", f"{_PARKED} parked", subject.name), woken=woken)
        print(f"  {subject.name:26} {woken:8d} woken", file=sys.stderr)
