"""Servers with a guard, and the processes below it."""

from __future__ import annotations

import contextlib
import os
import signal
from pathlib import Path

from tests.harness import Server
from tests.harness.processes import wait_exit


class GuardedServer(Server):
    """A server whose `process` is the guard."""

    def __init__(self, directory: Path, target: str, *options: str) -> None:
        super().__init__(directory, target, *options, environment={"SOCKETKEEP_GUARD": "on"})

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
        self._kill_and_wait([pid for pid in self.processes() if pid != self.pid])

    def _kill_and_wait(self, pids: list[int]) -> None:
        since = self.mark()
        for pid in pids:  # none of them may act on another's end
            os.kill(pid, signal.SIGSTOP)
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        for pid in pids:
            assert wait_exit(pid, 10.0)
        self.wait_event("ready", since=since)
