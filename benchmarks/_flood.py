"""Work (l): connections from one address, while another one floods the server with its own.

``python -m benchmarks._flood PORT COUNT`` is the flood.
"""

from __future__ import annotations

import contextlib
import os
import resource
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import IO, Final

from tests.harness.control import ask

from benchmarks._figures import Figures
from benchmarks._generator import generator
from benchmarks._machine import ROOT, cpus
from benchmarks._processes import cpu_seconds
from benchmarks._running import Running, running
from benchmarks._subjects import own

TITLE: Final = "short connections while 10,000 come from another address"

_CONNECTS: Final = 10_000
_RATE: Final = 5_000  # a second
_LIMIT: Final = 8
_ADDRESS: Final = "127.0.0.2"
_IP_BIND_ADDRESS_NO_PORT: Final = 24
_RESET_ON_CLOSE: Final = struct.pack("ii", 1, 0)
_FIRST: Final = 0.2  # seconds of the flood before it is looked what becomes of others
_SUBJECTS: Final = (
    own("async", "echo", "--max-per-address", str(_LIMIT), name="Socketkeep, --max-per-address"),
    own("async", "echo", name="Socketkeep, without a limit"),
)


def flood(figures: Figures, rounds: int, seconds: float, _quick: bool) -> None:
    """Measure by turns: the flood alone, the other's connections alone, and both."""
    print(f"\n(l) {TITLE}", file=sys.stderr)
    with contextlib.ExitStack() as stack:
        servers = {each.name: stack.enter_context(running(each)) for each in _SUBJECTS}
        for _ in range(rounds):
            for name, server in servers.items():
                figures.add(("l", "5,000 a second", name), **_measure(server, seconds))
    for name in servers:
        series = figures.series["l", "5,000 a second", name]
        shown = "  ".join(f"{metric} {values}" for metric, values in series.items())
        print(f"  {name}: {shown}", file=sys.stderr)


def _measure(server: Running, seconds: float) -> dict[str, float]:
    used, refused = cpu_seconds(server.pid), _refused(server)
    with _flooding(server.port) as told:
        told.readline()
    _wait_served(server.port)
    cost = (cpu_seconds(server.pid) - used) / _CONNECTS
    refused = _refused(server) - refused
    used = cpu_seconds(server.pid)
    alone = _short(server, seconds)
    used = cpu_seconds(server.pid) - used
    with _flooding(server.port) as told:
        time.sleep(_FIRST)
        used_then, refused_then = cpu_seconds(server.pid), _refused(server)
        meanwhile = _short(server, seconds)
        used_then = cpu_seconds(server.pid) - used_then
        refused_then = _refused(server) - refused_then
        reached = float(told.readline())
    _wait_served(server.port)
    answered = meanwhile["answered"]
    return {
        "refused": refused,
        "flood_cpu_us": round(cost * 1e6, 1),
        "flood_share": round(cost * reached, 3),
        "alone": round(alone["per_second"]),
        "meanwhile": round(meanwhile["per_second"]),
        "left": round(meanwhile["per_second"] / alone["per_second"], 3),
        "cpu_alone_us": round(used / alone["answered"] * 1e6, 1),
        "cpu_meanwhile_us": round(used_then / answered * 1e6, 1),
        "cpu_own_us": round((used_then - refused_then * cost) / answered * 1e6, 1),
        "p99_alone_ms": round(alone["p99"] * 1e3, 3),
        "p99_meanwhile_ms": round(meanwhile["p99"] * 1e3, 3),
    }


def _refused(server: Running) -> int:
    totals = ask(server.directory / "control", "status")["totals"]
    count: int = totals["over_limit"]["max_per_address"]
    return count


def _wait_served(port: int) -> None:
    """Wait until who comes now is answered: what the flood has left in the queue is gone then."""
    with socket.create_connection(("127.0.0.1", port), timeout=30) as client:
        client.sendall(b"?")
        if client.recv(1) != b"?":
            raise RuntimeError("nobody is served after the flood")


def _short(server: Running, seconds: float) -> dict[str, float]:
    with generator("short", server.port, connections=1, seconds=seconds, size=64) as load:
        load.expect("begin")
        load.expect("end")
        told: dict[str, float] = load.result()
    return told


@contextlib.contextmanager
def _flooding(port: int) -> Iterator[IO[str]]:
    """Run a flood; yield what it says at its end, and wait for that."""
    command = [sys.executable, "-m", "benchmarks._flood", str(port), str(_CONNECTS)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
        os.sched_setaffinity(process.pid, {cpus()[1]})
        assert process.stdout is not None
        try:
            process.stdout.readline()  # it has begun
            yield process.stdout
        finally:
            process.terminate()


def main(port: int, count: int) -> None:
    """Connect, hold all to the end, and say how fast it was."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    print("begins", flush=True)
    held = []
    began = time.monotonic()
    for number in range(count):
        early = began + number / _RATE - time.monotonic()
        if early > 0.001:
            time.sleep(early)
        sock = socket.socket()
        # The port is chosen at the connect: to look for one that no other connection at all has
        # takes longer than all else, and they run out.
        sock.setsockopt(socket.IPPROTO_IP, _IP_BIND_ADDRESS_NO_PORT, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)  # no TIME_WAIT
        sock.bind((_ADDRESS, 0))
        sock.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            sock.connect(("127.0.0.1", port))
        held.append(sock)
    print(count / (time.monotonic() - began), flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
