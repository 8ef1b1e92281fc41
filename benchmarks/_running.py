"""A subject that runs: start it, on its processor, and end it."""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Final

from benchmarks._generator import generator
from benchmarks._machine import ROOT, cpus, find
from benchmarks._processes import busy_seconds, cpu_seconds, tree, wait_quiet, wait_until
from benchmarks._subjects import Subject

_START: Final = 60.0
_SPARE: Final = 8  # processes that a server may keep ready after a load


@dataclass(frozen=True)
class Running:
    """A server that runs: its port, its first process, and a directory of its own."""

    port: int
    process: subprocess.Popen[str]
    directory: Path
    processes: int  # so many when nothing is asked of it

    @property
    def pid(self) -> int:
        """The first of its processes."""
        return self.process.pid

    def load(self, mode: str, **options: object) -> dict[str, Any]:
        """Put load on it; return what the generator told, and the CPU time of the server.

        server_cpu: seconds for what was "answered", in the whole "span".  elsewhere: the part of
        the server's processor that others had meanwhile.  What the server has used is looked at
        while nothing is asked of it: that takes long where the processes are many.
        """
        own, _ = cpus()
        most = self.processes + _SPARE
        with generator(mode, self.port, wait=True, hold=True, **options) as load:
            load.expect("opened")
            used, busy, began = cpu_seconds(self.pid), busy_seconds(own), time.monotonic()
            load.go()
            load.expect("begin")
            load.expect("end")
            told = load.result()
            busy, passed = busy_seconds(own) - busy, time.monotonic() - began
            after = cpu_seconds(self.pid)
        quiet = wait_quiet(self.pid, most)
        # To close what is short belongs to it.
        told["server_cpu"] = (quiet if mode == "short" else after) - used
        told["elsewhere"] = max(0.0, busy - (after - used)) / passed
        return told


@contextlib.contextmanager
def running(subject: Subject) -> Iterator[Running]:
    """Start a server on its processor, and end it with all its processes."""
    with tempfile.TemporaryDirectory(prefix="bench-") as name, contextlib.ExitStack() as stack:
        directory = Path(name)
        directory.chmod(0o755)  # for servers whose workers are of another user
        errors = stack.enter_context(open(directory / "stderr", "w+"))
        with socket.create_server(("127.0.0.1", 0), backlog=2048) as listener:
            port: int = listener.getsockname()[1]
            if subject.listens != "fd":
                listener.close()
            filled = {"port": str(port), "fd": str(listener.fileno()), "directory": name}
            command = [_fill(word, filled) for word in subject.command]
            fds = [listener.fileno()] if subject.listens == "fd" else []
            process = start(command, errors, fds, subject.environment)
        stack.callback(_end, process)
        try:
            if subject.listens == "port":
                port = _announced(process, subject)
            _greet(port, subject)
        except (OSError, RuntimeError):
            errors.seek(0)
            sys.stderr.write(errors.read()[-4000:])
            raise
        yield Running(port, process, directory, len(tree(process.pid)))


def _fill(word: str, filled: dict[str, str]) -> str:
    """Return a word of a command, and what it is to know put in; a file is copied for it."""
    for name, value in filled.items():
        word = word.replace(f"{{{name}}}", value)
    if word.endswith((".conf", ".cfg")):
        text = Path(word).read_text()
        copy = Path(filled["directory"], Path(word).name)
        for name, value in filled.items():
            text = text.replace(f"{{{name}}}", value)
        copy.write_text(text)
        return str(copy)
    return word


def start(
    command: list[str],
    errors: IO[str] | None = None,
    fds: Sequence[int] = (),
    environment: Mapping[str, str] | None = None,
) -> subprocess.Popen[str]:
    """Start a server's first process, on the servers' processor, in a session of its own."""
    command[0] = find(command[0]) or command[0]
    own, clients = cpus()
    os.sched_setaffinity(0, {own})  # inherited by the child, from its first instruction on
    try:
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            cwd=ROOT,
            pass_fds=fds,
            env={**os.environ, **(environment or {})},
            start_new_session=True,
        )
    finally:
        os.sched_setaffinity(0, {own, clients})


def _announced(process: subprocess.Popen[str], subject: Subject) -> int:
    assert process.stdout is not None
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        line = process.stdout.readline() if selector.select(_START) else ""
    if not line.strip().isdigit():
        raise RuntimeError(f"{subject.name} did not start: it printed {line!r} instead of its port")
    return int(line)


def _greet(port: int, subject: Subject) -> None:
    """Wait until the server answers."""
    if subject.listens == "given":
        wait_until(lambda: _listens(port), f"{subject.name} listens", _START)
    if subject.http:
        said, expected = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n", b"HTTP/1.1 200"
    else:
        said = expected = b"hello\n"
    with socket.create_connection(("127.0.0.1", port), timeout=_START) as plain:
        client = _unverified().wrap_socket(plain) if subject.tls else plain
        client.sendall(said)
        heard = client.recv(1000)
        if not heard.startswith(expected):
            raise RuntimeError(f"{subject.name} answers {heard!r}")


def _unverified() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def _listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port)).close()
    except ConnectionRefusedError:
        return False
    return True


def _end(process: subprocess.Popen[str]) -> None:
    with contextlib.suppress(ProcessLookupError):
        process.terminate()
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)  # children that the first process has left behind
    if process.stdout is not None:
        process.stdout.close()
