"""The servers that are measured, a process each: asyncio's streams, `serve`, an async worker."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Literal, get_args

from benchmarks import handlers

Side = Literal["streams", "serve", "worker", "resumable"]
Loop = Literal["asyncio", "uvloop"]
Work = Literal["echo", "lines", "batches"]

SIDES: Final[tuple[Side, ...]] = get_args(Side)
LOOPS: Final[tuple[Loop, ...]] = get_args(Loop)

_START: Final = 20.0
_HOST: Final = "127.0.0.1"


@dataclass(frozen=True)
class Running:
    """A server that runs: the port it listens on, and the process that serves."""

    port: int
    pid: int

    def cpu(self) -> float:
        """Return the seconds of CPU time that the process has used, in user and kernel mode."""
        # The clock's number is made as clock_getcpuclockid(3) makes it, which Python lacks.
        return time.clock_gettime((~self.pid << 3) | 2)


@contextlib.contextmanager
def running(side: Side, loop: Loop, work: Work, cpu: int | None) -> Iterator[Running]:
    """Start a server, on the given CPU only, and end it."""
    if side in ("streams", "serve"):
        with _alone(side, loop, work) as server:
            _pin(server.pid, cpu)
            yield server
    else:
        with _served(side, loop, work) as server:
            _pin(server.pid, cpu)
            yield server


def _pin(pid: int, cpu: int | None) -> None:
    if cpu is not None:
        os.sched_setaffinity(pid, {cpu})


@contextlib.contextmanager
def _alone(side: Side, loop: Loop, work: Work) -> Iterator[Running]:
    command = [sys.executable, "-m", "benchmarks._servers", side, loop, work]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        port = process.stdout.readline()
        if not port:
            raise SystemExit(f"the {side} server did not start: exit status {process.wait()}")
        try:
            yield Running(int(port), process.pid)
        finally:
            process.stdin.close()


@contextlib.contextmanager
def _served(side: Side, loop: Loop, work: Work) -> Iterator[Running]:
    name = work if side == "worker" else f"{work}_resumable"
    with tempfile.TemporaryDirectory() as directory:
        control = os.path.join(directory, "control")
        with socket.create_server((_HOST, 0)) as listener:
            os.set_inheritable(listener.fileno(), True)
            port: int = listener.getsockname()[1]
            process = subprocess.Popen(
                [
                    *(sys.executable, "-m", "socketkeep", "serve", f"benchmarks.handlers:{name}"),
                    *("--bind", f"fd://{listener.fileno()}", "--workers", "1", "--loop", loop),
                    *("--control", control, "--log-level", "error"),
                ],
                pass_fds=[listener.fileno()],
            )
        try:
            yield Running(port, _worker_of(process, control))
        finally:
            process.terminate()
            process.wait()


def _worker_of(server: subprocess.Popen[bytes], control: str) -> int:
    command = [sys.executable, "-m", "socketkeep", "workers", "--control", control, "--json"]
    until = time.monotonic() + _START
    while time.monotonic() < until and server.poll() is None:
        told = subprocess.run(command, capture_output=True, check=False)
        workers = json.loads(told.stdout) if told.returncode == 0 else []
        if workers and workers[0]["state"] == "ready":
            pid: int = workers[0]["pid"]
            return pid
    raise SystemExit(f"the server was not ready after {_START:g} s")


async def _serve(side: Side, work: Work) -> None:
    # The C library gets large blocks from the system anew each time until one has been given back,
    # which a program that has run for a while has done; asyncio's transport asks for such ones.
    bytes(1 << 20)
    ended = asyncio.Event()
    asyncio.get_running_loop().add_reader(sys.stdin.fileno(), ended.set)
    if side == "streams":
        told = {
            "echo": handlers.echo_streams,
            "lines": handlers.lines_streams,
            "batches": handlers.batches_streams,
        }
        async with await asyncio.start_server(told[work], _HOST, 0, backlog=1024) as streams:
            print(streams.sockets[0].getsockname()[1], flush=True)
            await ended.wait()
    else:
        from socketkeep import serve

        verbs = {"echo": handlers.echo, "lines": handlers.lines, "batches": handlers.batches}
        async with serve(verbs[work], f"{_HOST}:0", graceful_timeout=0) as server:
            print(server.address.rpartition(":")[2], flush=True)
            await ended.wait()


def _main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("side", choices=("streams", "serve"))
    parser.add_argument("loop", choices=LOOPS)
    parser.add_argument("work", choices=get_args(Work))
    asked = parser.parse_args()
    factory = None
    if asked.loop == "uvloop":
        import uvloop

        factory = uvloop.new_event_loop
    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(_serve(asked.side, asked.work))


if __name__ == "__main__":
    _main()
