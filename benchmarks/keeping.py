"""What keeping costs: CPU time of a worker a request, with --keep none, reload and crash.

    python -m benchmarks.keeping [--rounds 5] [--requests 20000]

One `async` (asyncio) and one `thread` server for each level, the same handler (a line in, a line
out, a commit with a state), one connection in a request loop, the levels in turn in each round.
CPU time of the worker process is told, not of the client, so that other work on the machine
matters less.
"""

from __future__ import annotations

import argparse
import json
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_LEVELS: Final = ("none", "reload", "crash")
_LINE: Final = b"x" * 63 + b"\n"
_DEADLINE: Final = 60.0

_SYNC: Final = """
from socketkeep import resumable
@resumable
def handle(conn):
    count = conn.state or 0
    for line in conn.lines():
        count += 1
        conn.send(line + b"\\n")
        conn.commit(count)
"""
_ASYNC: Final = (
    _SYNC.replace("def ", "async def ")
    .replace("for line", "async for line")
    .replace("conn.send", "await conn.send")
)


@dataclass(frozen=True)
class Subject:
    """One server, and a connection to it."""

    worker: int
    client: socket.socket

    def cpu_seconds(self) -> float:
        """Return the worker's CPU time so far."""
        return time.clock_gettime(~self.worker << 3 | 2)  # clock_getcpuclockid(3)

    def run(self, requests: int) -> float:
        """Return the CPU time of a request, in microseconds."""
        before = self.cpu_seconds()
        for _ in range(requests):
            self.client.sendall(_LINE)
            heard = self.client.recv(100)
            assert heard == _LINE
        return (self.cpu_seconds() - before) / requests * 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description="What keeping costs a request")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--requests", type=int, default=20000)
    arguments = parser.parse_args()
    for model in ("async", "thread"):
        print(json.dumps(measure(model, arguments.rounds, arguments.requests)))


def measure(model: str, rounds: int, requests: int) -> dict[str, object]:
    """Return medians in microseconds a request, and their ratios to --keep none."""
    with ExitStack() as stack:
        subjects = {level: stack.enter_context(_subject(model, level)) for level in _LEVELS}
        figures: dict[str, list[float]] = {level: [] for level in _LEVELS}
        for subject in subjects.values():
            subject.run(requests // 10)
        for _ in range(rounds):
            for level, subject in subjects.items():
                figures[level].append(subject.run(requests))
    medians = {level: statistics.median(each) for level, each in figures.items()}
    return {
        "model": model,
        "microseconds": {level: round(value, 2) for level, value in medians.items()},
        "speed against none": {
            level: round(medians["none"] / value, 3) for level, value in medians.items()
        },
    }


@contextmanager
def _subject(model: str, level: str) -> Iterator[Subject]:
    with tempfile.TemporaryDirectory() as directory:
        app = Path(directory) / "app.py"
        app.write_text(_ASYNC if model == "async" else _SYNC)
        path = f"{directory}/server.sock"
        command = [sys.executable, "-m", "socketkeep", "serve", f"{app}:handle", "-w", "1"]
        command += ["-b", f"unix:{path}", "-k", model, "--keep", level, "--log-level", "error"]
        command += ["--loop", "asyncio", "--control", f"{directory}/control.sock"]
        server = subprocess.Popen(command)
        try:
            client = _connect(path)
            with client:
                client.sendall(_LINE)
                client.recv(100)
                yield Subject(_worker(f"{directory}/control.sock"), client)
        finally:
            server.terminate()
            server.wait(30)


def _connect(path: str) -> socket.socket:
    deadline = time.monotonic() + _DEADLINE
    while True:
        client = socket.socket(socket.AF_UNIX)
        try:
            client.connect(path)
        except OSError:
            client.close()
            if time.monotonic() > deadline:
                raise
            time.sleep(0.02)
        else:
            return client


def _worker(control: str) -> int:
    """Return the pid of the server's only worker."""
    command = [sys.executable, "-m", "socketkeep", "workers", "--control", control, "--json"]
    shown = subprocess.run(command, check=True, capture_output=True).stdout
    return int(json.loads(shown)[0]["pid"])


if __name__ == "__main__":
    main()
