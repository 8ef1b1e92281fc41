"""Children to test with, and real pairs of sockets for them."""

from __future__ import annotations

import os
import select
import signal
import socket
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

#: Seconds within which everything here happens; reached only by what failed.
PATIENCE = 10.0

PROGRAMS = Path(__file__).parent / "programs"


def tcp_pair() -> tuple[socket.socket, socket.socket]:
    """Return an accepted socket, and its client as the peer, with a timeout."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        peer = socket.create_connection(server.getsockname())
        accepted, _ = server.accept()
    peer.settimeout(PATIENCE)
    return accepted, peer


def unix_pair() -> tuple[socket.socket, socket.socket]:
    """Return two ends of a Unix stream, the second with a timeout."""
    ours, peer = socket.socketpair()
    peer.settimeout(PATIENCE)
    return ours, peer


class Child:
    """A forked process that runs a function and exits; its failure is the test's."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self._pidfd = os.pidfd_open(pid)
        self._reaped = False

    def wait(self) -> None:
        """Wait until it has ended, and has ended well.  May be called again."""
        if self._reaped:
            return
        assert select.select([self._pidfd], [], [], PATIENCE)[0], "the child does not end"
        ended = os.waitid(os.P_PIDFD, self._pidfd, os.WEXITED)
        self._reaped = True
        assert ended is not None
        assert (ended.si_code, ended.si_status) == (os.CLD_EXITED, 0), "the child failed"

    def close(self) -> None:
        if not self._reaped:
            signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)
            os.waitid(os.P_PIDFD, self._pidfd, os.WEXITED)
        os.close(self._pidfd)


def run_in_child(body: Callable[[], object]) -> None:
    """Run `body` and end this process, which is a forked one."""
    status = 1
    try:
        body()
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)


@contextmanager
def child(body: Callable[[], object], fork: Callable[[], int] = os.fork) -> Iterator[Child]:
    """Fork a child for `body`; at the end it is waited for, or killed when the test failed."""
    pid = fork()
    if pid == 0:
        run_in_child(body)
    made = Child(pid)
    try:
        yield made
        made.wait()
    finally:
        made.close()


class Gate:
    """Lets a child wait for a word from the test, and the test for one from the child."""

    def __init__(self) -> None:
        self._read, self._write = os.pipe()

    def open(self) -> None:
        os.write(self._write, b"x")

    def wait(self) -> None:
        assert select.select([self._read], [], [], PATIENCE)[0], "no word"
        os.read(self._read, 1)

    def close(self) -> None:
        os.close(self._read)
        os.close(self._write)


@contextmanager
def program(name: str, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """Run one of the programs beside this file; it is killed if it does not end by itself."""
    with subprocess.Popen(
        [sys.executable, str(PROGRAMS / f"{name}.py"), *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def finished(process: subprocess.Popen[str]) -> tuple[str, str]:
    """Return what the program wrote to its outputs, after it ended with exit code 0."""
    output, errors = process.communicate(timeout=PATIENCE * 2)
    assert process.returncode == 0, errors
    return output, errors
