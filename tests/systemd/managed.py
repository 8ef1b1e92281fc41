"""A server under the stand-in manager: started as a unit is, killed as a control group is."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Final

from tests.harness import Server
from tests.harness.processes import wait_exit
from tests.systemd.manager import Manager

_LAUNCH: Final = """
import fcntl, os, sys
count = int(sys.argv[1])
high = [fcntl.fcntl(int(fd), fcntl.F_DUPFD, 1000) for fd in sys.argv[2:2 + count]]
for number, fd in enumerate(high, 3):
    os.dup2(fd, number)
    os.close(fd)
if count:
    os.environ["LISTEN_PID"] = str(os.getpid())
    os.environ["LISTEN_FDS"] = str(count)
command = sys.argv[2 + count:]
os.execv(command[0], command)
"""


class ManagedServer(Server):
    """A server that is given what `manager` stores, and a store of `store` places."""

    def __init__(
        self, manager: Manager, directory: Path, target: str, *options: str, store: int = 1000
    ) -> None:
        kept = dict(manager.store)
        super().__init__(
            directory,
            target,
            *options,
            environment={
                "NOTIFY_SOCKET": manager.address,
                "FDSTORE": str(store),
                "LISTEN_FDNAMES": ":".join(kept),
            },
        )
        self._descriptors = tuple(kept.values())
        numbers = [str(fd) for fd in self._descriptors]
        launch = [sys.executable, "-c", _LAUNCH, str(len(numbers)), *numbers]
        self._command = [*launch, *self._command]

    def kill_all(self) -> None:
        """Kill the keeper, then all else of it, as the manager does with what is left of a unit."""
        self.signal(signal.SIGKILL)
        self.process.wait(10.0)
        while left := self.processes():
            for pid in left:
                os.kill(pid, signal.SIGKILL)
                wait_exit(pid, 5.0)
