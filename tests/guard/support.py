"""Servers with a guard, and the processes below it."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Self

from tests.harness import Server
from tests.harness.processes import wait_exit


class GuardedServer(Server):
    """A server whose `process` is the guard."""

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
    def keeper(self) -> int:
        """The pid of the keeper that runs now."""
        pid = self.status()["guard"]["keeper"]
        assert isinstance(pid, int)
        return pid

    def kill_keeper(self) -> None:
        """Kill the keeper alone, and wait until the next one serves."""
        self._kill_and_wait([self.keeper])

    def kill_all_but_guard(self) -> None:
        """Kill all of its processes at one instant but the guard; wait until it serves again."""
        self.kill_all_but()

    def kill_all_but(self, *spared: int) -> None:
        """Kill all of its processes at one instant but the guard and these; wait as above."""
        spare = {self.pid, *spared}
        self._kill_and_wait([pid for pid in self.processes() if pid not in spare])

    def kill_all(self) -> None:
        """Kill all of it at one instant, as the end of a container does."""
        kill_together([*self.processes(), self.pid])
        self.process.wait(10.0)

    def _kill_and_wait(self, pids: list[int]) -> None:
        since = self.mark()
        kill_together(pids)
        self.wait_event("ready", since=since)


def kill_together(pids: list[int]) -> None:
    for number in (signal.SIGSTOP, signal.SIGKILL):  # none of them may act on another's end
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)
    for pid in pids:
        assert wait_exit(pid, 10.0)


class Sidecar:
    """``socketkeep guard`` at a path in `directory`, as a context manager."""

    def __init__(self, directory: Path) -> None:
        self.address = f"unix:{directory}/guard.sock"
        self._log = directory / "guard.log"

    def __enter__(self) -> Self:
        with self._log.open("a") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "socketkeep", "guard", "--listen", self.address], stderr=log
            )
        before = self._log.read_text().count("guarding")
        deadline = time.monotonic() + 20.0
        while self._log.read_text().count("guarding") == before:
            assert self.process.poll() is None, self._log.read_text()
            assert time.monotonic() < deadline
            time.sleep(0.02)
        return self

    def __exit__(self, *_: object) -> None:
        self.process.terminate()
        assert self.process.wait(10.0) in (0, -signal.SIGKILL), self._log.read_text()
