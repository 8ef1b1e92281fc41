"""Compare the async verbs with asyncio's streams: ``python -m benchmarks.streams``.

Each server is a process; the load is made by this one.  What is measured is the server's CPU time
for each operation, user and kernel together, which other load on the machine disturbs less than it
does the wall clock.  All servers of a comparison run at once and take turns, some operations at a
time, so that what disturbs one disturbs the others too; the order turns with each round.  A ratio
is that of one round, streams to Socketkeep, and above 1 where Socketkeep takes less.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import socket
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from statistics import median, quantiles
from typing import Any, Final

from benchmarks._servers import LOOPS, SIDES, Loop, Running, Side, Work, running
from benchmarks.handlers import BATCH

RESULTS: Final = Path(__file__).parent / "results"

_LINE: Final = b"x" * 63 + b"\n"


@dataclass(frozen=True)
class Load:
    """What the clients do: `connections` of them send `message` and wait for `reply` bytes.

    operations: how many such exchanges count as one round; each: what one of them counts for.
    """

    name: str
    work: Work
    message: bytes
    reply: int
    connections: int
    each: int = 1


def loads() -> list[Load]:
    """Return all that is measured."""
    return [
        load
        for count in (1, 64)
        for load in (
            Load("echo 64 B", "echo", b"x" * 64, 64, count),
            Load("echo 16 KiB", "echo", b"x" * 16384, 16384, count),
            Load("line of 64 B, answered", "lines", _LINE, 64, count),
            Load(f"line of 64 B, of {BATCH} at once", "batches", _LINE * BATCH, 64, count, BATCH),
        )
    ]


@dataclass(frozen=True)
class Measured:
    """What one side took for one load: microseconds of CPU time an operation, in each round."""

    load: str
    connections: int
    loop: Loop
    side: Side
    microseconds: list[float]
    ratios: list[float]  # what streams took in the same round, by what this took


class Clients:
    """The clients of one server."""

    def __init__(self, load: Load, server: Running) -> None:
        self._load = load
        self._server = server
        self._sockets: list[socket.socket] = []
        for _ in range(load.connections):
            sock = socket.create_connection(("127.0.0.1", server.port))
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.settimeout(30)
            self._sockets.append(sock)

    def exchange(self, operations: int) -> float:
        """Do that many operations at least; return the server's CPU time for one, in seconds."""
        load = self._load
        times = max(1, operations // (load.connections * load.each))
        begun = self._server.cpu()
        for _ in range(times):
            for sock in self._sockets:
                sock.sendall(load.message)
            for sock in self._sockets:
                left = load.reply
                while left:
                    came = len(sock.recv(left))
                    if not came:
                        raise SystemExit(f"{load.name}: the server has closed a connection")
                    left -= came
        return (self._server.cpu() - begun) / (times * load.connections * load.each)

    def close(self) -> None:
        """Close all connections."""
        for sock in self._sockets:
            sock.close()


def compare(
    load: Load, loop: Loop, sides: Sequence[Side], rounds: int, operations: int, cpu: int | None
) -> Iterator[Measured]:
    """Measure the sides, which include "streams", by turns."""
    taken: dict[Side, list[float]] = {side: [] for side in sides}
    with contextlib.ExitStack() as stack:
        clients: dict[Side, Clients] = {}
        for side in sides:
            server = stack.enter_context(running(side, loop, load.work, cpu))
            clients[side] = Clients(load, server)
            stack.callback(clients[side].close)
            clients[side].exchange(operations // 4)
        for number in range(rounds):
            turn = number % len(sides)
            for side in (*sides[turn:], *sides[:turn]):
                taken[side].append(clients[side].exchange(operations) * 1e6)
    for side in sides:
        ratios = [
            streams / mine for streams, mine in zip(taken["streams"], taken[side], strict=True)
        ]
        yield Measured(load.name, load.connections, loop, side, taken[side], ratios)


def table(results: Sequence[Measured]) -> str:
    """Return the results as a table, for people and for the documentation."""
    lines = [
        "| load | connections | loop | side | µs, median | quartiles | ratio |",
        "|---|---|---|---|---|---|---|",
    ]
    for result in results:
        low, middle, high = _quartiles(result.microseconds)
        ratio = "" if result.side == "streams" else f"{median(result.ratios):.2f}"
        lines.append(
            f"| {result.load} | {result.connections} | {result.loop} | {result.side} "
            f"| {middle:.2f} | {low:.2f} to {high:.2f} | {ratio} |"
        )
    return "\n".join(lines)


def _quartiles(values: list[float]) -> list[float]:
    return quantiles(values, n=4, method="inclusive") if len(values) > 1 else values * 3


def environment() -> dict[str, Any]:
    """Return what the figures depend on."""
    versions = {}
    for package in ("socketkeep", "uvloop"):
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions[package] = metadata.version(package)
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        **versions,
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "processor": _processor(),
        "processors": os.cpu_count(),
        "load": os.getloadavg(),
    }


def _processor() -> str:
    with contextlib.suppress(OSError), open("/proc/cpuinfo") as file:
        for line in file:
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return "unknown"


def _cpus() -> tuple[int | None, int | None]:
    """Return the CPUs for the servers and for the clients; None where there is no choice."""
    cpus = sorted(os.sched_getaffinity(0))
    return (cpus[0], cpus[1]) if len(cpus) > 1 else (None, None)


def main(arguments: Sequence[str] | None = None, *, servers_cpu: int | None = None) -> None:
    """Run what was asked for, print the table, and write the figures to a file."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.streams", description=__doc__)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--operations", type=int, default=20_000, help="of a round, for each side")
    parser.add_argument("--loop", choices=LOOPS, action="append", help="default: all there are")
    parser.add_argument("--side", choices=SIDES[1:], action="append", help="default: all")
    parser.add_argument("--load", default="", help="only those whose name contains this")
    parser.add_argument("--connections", type=int, help="only those with so many")
    parser.add_argument("--output", type=Path, help="a JSON file; default: results/streams-DATE")
    asked = parser.parse_args(arguments)
    wanted = [
        load
        for load in loads()
        if asked.load in load.name and asked.connections in (None, load.connections)
    ]
    told = environment()
    results: list[Measured] = []
    for loop in asked.loop or LOOPS:
        if loop == "uvloop" and "uvloop" not in told:
            print("uvloop is not installed", file=sys.stderr)
            continue
        for load in wanted:
            sides = ("streams", *(asked.side or SIDES[1:]))
            found = list(compare(load, loop, sides, asked.rounds, asked.operations, servers_cpu))
            results += found
            for result in found:
                print(
                    f"{loop}, {load.connections} connections, {load.name}, {result.side}: "
                    f"{median(result.microseconds):.2f} µs, ratio {median(result.ratios):.2f}",
                    file=sys.stderr,
                )
    print(table(results))
    output = asked.output or RESULTS / f"streams-{told['date'][:10]}.json"
    output.parent.mkdir(parents=True, exist_ok=True)
    figures = {
        "environment": told,
        "rounds": asked.rounds,
        "operations": asked.operations,
        "results": [asdict(result) for result in results],
    }
    output.write_text(json.dumps(figures, indent=1) + "\n")
    print(f"\nwritten to {output}", file=sys.stderr)


if __name__ == "__main__":
    _servers, _clients = _cpus()
    if _clients is not None:
        os.sched_setaffinity(0, {_clients})
    main(servers_cpu=_servers)
