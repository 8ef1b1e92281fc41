"""A process that does with sockets what a test tells it, so that there is something to look at."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

import pytest


def own_host() -> str:
    """Return the address of the loopback interface that is this process's, by its pid."""
    pid = os.getpid()  # of 22 bits, pid_max(5)
    return f"127.{64 + (pid >> 16) % 64}.{(pid >> 8) % 256}.{pid % 256}"


#: Nothing else uses it, so that what others' connections have left (TIME_WAIT) is never met at a
#: port: to be connected from as well as to, and to be asked for with the port.
HOST: Final = own_host()

_PROGRAM = """
import json, os, signal, socket, struct, sys

end_read, end_write = os.pipe()

def fork_holder():
    "Fork a child that holds all that is open here, until this process ends."
    pid = os.fork()
    if pid == 0:
        os.close(end_write)
        os.read(end_read, 1)
        os._exit(0)
    return pid

names = globals()
for line in sys.stdin:
    names["out"] = None
    exec(json.loads(line), names)
    print(json.dumps(names["out"]), flush=True)
"""


def wait_for(reached: Callable[[], bool], what: str, timeout: float = 10.0) -> None:
    """Ask again and again until `reached()`: the kernel does not announce what it does.

    Raises TimeoutError, naming `what`, after `timeout` seconds.
    """
    deadline = time.monotonic() + timeout
    while not reached():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what}: not within {timeout} s")
        time.sleep(0.01)


class Actor:
    """The process; `do` runs Python in it."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self.pid = process.pid

    def do(self, code: str) -> Any:
        """Run `code`, whose names last from one call to the next; return what it set `out` to."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(code) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        assert line, f"the process has ended at: {code}"
        return json.loads(line)

    def listen(self, backlog: int = 8) -> int:
        """Have it listen on HOST with `listener`; return the port."""
        port: int = self.do(
            f"listener = socket.create_server(('{HOST}', 0), backlog={backlog})\n"
            "out = listener.getsockname()[1]"
        )
        return port


@contextmanager
def acting(*prefix: str, pass_fds: tuple[int, ...] = ()) -> Iterator[Actor]:
    """Run an actor; it ends with the context, by itself.  prefix: a command that runs it."""
    with subprocess.Popen(
        [*prefix, sys.executable, "-c", _PROGRAM],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        pass_fds=pass_fds,
    ) as process:
        try:
            yield Actor(process)
            assert process.stdin is not None
            process.stdin.close()
            assert process.wait(10) == 0
        finally:
            process.kill()


def without_netlink(patch: pytest.MonkeyPatch) -> None:
    """Have the kernel refuse netlink sockets, as in a sandbox."""
    make = socket.socket

    def refused(family: int = -1, *rest: Any, **more: Any) -> socket.socket:
        if family == socket.AF_NETLINK:
            raise PermissionError(1, "Operation not permitted")
        return make(family, *rest, **more)

    patch.setattr(socket, "socket", refused)
