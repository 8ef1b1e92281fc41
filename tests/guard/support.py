"""Servers with a guard, and the processes below it."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final, Self

from socketkeep._guard import _becoming
from tests.harness import Server
from tests.harness.output import Output
from tests.harness.processes import wait_exit

#: The command of the guard, in each language, by its program.  The installed one is the first;
#: where nothing is compiled it is the one in Python.
PROGRAMS: Final = {
    program[0]: program for program in (_becoming.guard_installed(), _becoming.guard_in_python())
}
#: The command of the installed one.
INSTALLED: Final = _becoming.guard_installed()
IS_COMPILED: Final = INSTALLED == [_becoming.COMPILED]
#: The first word of a server's guard to a sidecar.
HELLO: Final = b"HELLO=1\nSERVER=app"
#: How many descriptors a guard has room for, of --guard-store.
store_room: Final = _becoming.store_room


class GuardedServer(Server):
    """A server whose `process` is the guard, as long as that has not been killed."""

    _second: int | None = None  # the guard that the keeper has started in place of the first

    def __init__(
        self,
        directory: Path,
        target: str,
        *options: str,
        guard: str = "on",
        bind: Sequence[str] = ("127.0.0.1:0",),
    ) -> None:
        super().__init__(
            directory, target, *options, bind=bind, environment={"SOCKETKEEP_GUARD": guard}
        )

    @property
    def guard(self) -> int:
        """The pid of the guard that runs now."""
        return self.pid if self._second is None else self._second

    @property
    def keeper(self) -> int:
        """The pid of the keeper that runs now."""
        pid = self.status()["guard"]["keeper"]
        assert isinstance(pid, int)
        return pid

    def kill_guard(self) -> None:
        """Kill the guard alone, and wait until there is another."""
        since = self.mark()
        kill_together([self.guard])
        self.wait_event("guarded again", since=since)
        self._second = self.status()["pid"]

    def kill_keeper(self, until: str = "ready") -> None:
        """Kill the keeper alone, and wait for an event of the next one's: that it serves."""
        self._kill_and_wait([self.keeper], until)

    def kill_all_but_guard(self, until: str = "ready") -> None:
        """Kill all of its processes at one instant but the guard; wait as above."""
        self.kill_all_but(until=until)

    def kill_all_but(self, *spared: int, until: str = "ready") -> None:
        """Kill all of its processes at one instant but the guard and these; wait as above."""
        spare = {self.guard, *spared}
        self._kill_and_wait([pid for pid in self.processes() if pid not in spare], until)

    def kill_all(self) -> None:
        """Kill all of it at one instant, as the end of a container does."""
        kill_together([*self.processes(), self.guard])
        self.process.wait(10.0)

    def _kill_and_wait(self, pids: list[int], until: str) -> None:
        since = self.mark()
        kill_together(pids)
        self.wait_event(until, since=since)

    def _end(self) -> list[str]:
        faults = []
        if self._second is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._second, signal.SIGTERM)
            if not wait_exit(self._second, 30.0):
                faults.append("the second guard did not end at SIGTERM")
        return faults + super()._end()


def kill_together(pids: list[int]) -> None:
    """Kill processes of which none may act on another's end.

    The youngest go first: the kernel continues whoever is stopped when the last parent outside of
    its process group ends (setpgid(2)).
    """
    pids = sorted(pids, reverse=True)
    for number in (signal.SIGSTOP, signal.SIGKILL):
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)
    for pid in pids:
        assert wait_exit(pid, 10.0)


class Sidecar:
    """``socketkeep guard`` at a path in `directory`, as a context manager.

    pure: in Python, also where it is compiled.  options: more of it.
    """

    def __init__(self, directory: Path, *options: str, pure: bool = False) -> None:
        self.address = f"unix:{directory}/guard.sock"
        self._options = options
        self._environment = {**os.environ, "SOCKETKEEP_PURE": "1"} if pure else None

    def wait_said(self, word: str) -> None:
        """Wait until it has logged that."""
        self._output.wait_for(word)

    def connect(self, hello: bytes | None) -> socket.socket:
        """Connect as a server's guard does, and say that, or nothing yet."""
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        sock.settimeout(10.0)
        sock.connect(self.address.removeprefix("unix:"))
        if hello is not None:
            sock.send(hello)
        return sock

    def __enter__(self) -> Self:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "socketkeep", "guard", "--listen", self.address, *self._options],
            stderr=subprocess.PIPE,
            env=self._environment,
        )
        assert self.process.stderr is not None
        self._output = Output(self.process.stderr)
        self._output.wait_for("guarding")
        return self

    def __exit__(self, *_: object) -> None:
        self.process.terminate()
        assert self.process.wait(10.0) in (0, -signal.SIGKILL), self._output.text
        self._output.close()


def given(sock: socket.socket) -> dict[bytes, bytes]:
    """Return the contents of what a sidecar gives, by names."""
    found = {}
    while (words := socket.recv_fds(sock, 1000, 1))[0] != b"END=1":
        (fd,) = words[1]
        found[words[0].removeprefix(b"FDNAME=")] = os.pread(fd, 100, 0)
        os.close(fd)
    return found


def store_at(sock: socket.socket, words: bytes, *contents: bytes) -> None:
    """Say words, with memory of these contents."""
    fds = [os.memfd_create("stored") for _ in contents]
    for fd, content in zip(fds, contents, strict=True):
        os.write(fd, content)
    socket.send_fds(sock, [words], fds)
    for fd in fds:
        os.close(fd)
