"""Work (i) and (j): how long `serve` takes to start, an import, and `holders` of very many."""

from __future__ import annotations

import contextlib
import os
import resource
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Final

from benchmarks._figures import Figures, Key
from benchmarks._machine import cpus, find
from benchmarks._processes import cpu_seconds
from benchmarks._running import running
from benchmarks._subjects import Subject, own

START_TITLE: Final = "from the start of `serve` to the first reply, and import"
_FIRST_REPLY: Final = "serve to the first reply"
HOLDERS_TITLE: Final = "who holds 10,000 sockets"

_GUNICORN: Final = Subject(
    "gunicorn (sync)",
    (
        *(sys.executable, "-m", "gunicorn", "benchmarks.peers.web:wsgi", "--bind", "fd://{fd}"),
        *("--worker-class", "sync", "--log-level", "error"),
    ),
    modules=("gunicorn",),
    listens="fd",
    http=True,
)
#: With as many workers as gunicorn starts: each is a fork before the first reply.
_LIKE_GUNICORN: Final = own(
    "prefork", "lines", "--workers", "1", name="Socketkeep prefork, 1 worker"
)
_STARTED: Final = (
    *(own(model, "lines") for model in ("fork", "prefork", "async")),
    _LIKE_GUNICORN,
    _GUNICORN,
)

_SOCKETS: Final = 10_000
_HOLDERS_ROUNDS: Final = 5
#: Prints how long its statement takes, and how much of the processor.
_TIMED: Final = """
import time
began, used = time.perf_counter(), time.process_time()
{}
print(time.perf_counter() - began, time.process_time() - used)
"""
_IMPORTS: Final = {
    "import socketkeep": "import socketkeep",
    "import of Connection": "from socketkeep import Connection, resumable",
    "import of AsyncConnection": "from socketkeep import AsyncConnection, resumable",
    "import asyncio": "import asyncio",
    "import socket": "import socket",
}


def starting(figures: Figures, rounds: int, _seconds: float, _quick: bool) -> None:
    """Measure both; the standard library's imports stand beside."""
    print(f"\n(i) {START_TITLE}", file=sys.stderr)
    for _ in range(rounds):
        for subject in _STARTED:
            reason = subject.missing()
            if reason is not None:
                figures.missing[subject.name] = reason
                continue
            began = time.monotonic()
            with running(subject) as server:  # which begins with a reply
                took, used = time.monotonic() - began, cpu_seconds(server.pid)
            _add(figures, ("i", _FIRST_REPLY, subject.name), took, used)
        for name, statement in _IMPORTS.items():
            _add(figures, ("i", name, "Socketkeep"), *_timed(statement))


def _timed(statement: str) -> tuple[float, float]:
    own_cpu, _ = cpus()
    command = [sys.executable, "-c", _TIMED.format(statement)]
    done = subprocess.run(
        ["taskset", "-c", str(own_cpu), *command], stdout=subprocess.PIPE, text=True, check=True
    )
    took, used = map(float, done.stdout.split())
    return took, used


def holders(figures: Figures, rounds: int, _seconds: float, _quick: bool) -> None:
    """Ask of the holder of 5,000 connections, both ends, by its port."""
    import socketkeep.inspect

    print(f"\n(j) {HOLDERS_TITLE}", file=sys.stderr)
    with _held() as port:

        def run(*command: str) -> Callable[[], None]:
            return lambda: _run(command)

        ways: dict[str, Callable[[], object]] = {
            "socketkeep.inspect.holders": lambda: socketkeep.inspect.holders(f":{port}"),
            "socketkeep holders": run(
                sys.executable, "-m", "socketkeep", "holders", f":{port}", "--json"
            ),
        }
        for name, command in {
            "lsof -i": ("lsof", "-nP", "-i", f":{port}"),
            "ss -p": ("ss", "-tanp", f"( sport = :{port} or dport = :{port} )"),
        }.items():
            if find(command[0]) is None:
                figures.missing[name] = f"the command {command[0]} is not installed"
            else:
                ways[name] = run(*command)
        for _ in range(min(rounds, _HOLDERS_ROUNDS)):
            for name, ask in ways.items():
                began, used = time.perf_counter(), _used()
                ask()
                took, used = time.perf_counter() - began, _used() - used
                _add(figures, ("j", "10,000 sockets", name), took, used)


def _run(command: Sequence[str]) -> None:
    path = find(command[0]) or command[0]
    subprocess.run([path, *command[1:]], stdout=subprocess.DEVNULL, check=True)


@contextlib.contextmanager
def _held() -> Iterator[int]:
    """Let a child hold both ends of many connections; yield their port."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    ready, say_ready = os.pipe()
    wait, end = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.close(end)
            with socket.create_server(("127.0.0.1", 0)) as listener:
                held = []
                for _ in range(_SOCKETS // 2):
                    client = socket.create_connection(listener.getsockname())
                    held += [client, listener.accept()[0]]
                os.write(say_ready, str(listener.getsockname()[1]).encode())
                os.read(wait, 1)
        finally:
            os._exit(0)
    try:
        os.close(say_ready)
        port = os.read(ready, 8)
        if not port:
            raise RuntimeError(f"no process could hold {_SOCKETS} sockets: raise `ulimit -n`")
        yield int(port)
    finally:
        for fd in (end, ready, wait):
            os.close(fd)
        os.waitpid(child, 0)


def _used() -> float:
    return sum(os.times()[:4])  # its own and that of the commands it ran


def _add(figures: Figures, key: Key, seconds: float, cpu: float) -> None:
    figures.add(key, seconds=round(seconds, 5), cpu_seconds=round(cpu, 5))
    _, case, subject = key
    shown = f"{seconds * 1e3:.1f} ms, {cpu * 1e3:.1f} ms of CPU time"
    print(f"  {case}: {subject}: {shown}", file=sys.stderr)
