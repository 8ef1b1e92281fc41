"""A network of its own: two namespaces and a cable between them, which can be cut."""

from __future__ import annotations

import ctypes
import os
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, TypeVar

import pytest

T = TypeVar("T")

SERVER: Final = "10.99.0.1"
CLIENT: Final = "10.99.0.2"
_CLONE_NEWNET: Final = 0x40000000


class Namespace:
    """A network namespace, alive as long as this is open.  `path` is what nsenter(1) enters."""

    def __init__(self) -> None:
        self._holder = subprocess.Popen(["unshare", "--net", "cat"], stdin=subprocess.PIPE)
        self.pid = self._holder.pid
        self.path = Path(f"/proc/{self.pid}/ns/net")
        ours = os.stat("/proc/self/ns/net").st_ino
        deadline = time.monotonic() + 10
        while os.stat(self.path).st_ino == ours:
            if time.monotonic() > deadline or self._holder.poll() is not None:
                self.close()
                pytest.fail("a network namespace cannot be made here: unshare(1) has said why")
            time.sleep(0.01)
        self.prefix = ["nsenter", f"--net={self.path}", "--"]
        self.run("ip", "link", "set", "lo", "up")

    def close(self) -> None:
        assert self._holder.stdin is not None
        self._holder.stdin.close()
        self._holder.wait(10)

    def run(self, *command: str) -> None:
        """Run a command in it."""
        subprocess.run([*self.prefix, *command], check=True, capture_output=True)

    def counter(self, name: str) -> int:
        """Return a counter of its, as /proc/net/netstat has it."""
        names, values = Path(f"/proc/{self.pid}/net/netstat").read_text().splitlines()[:2]
        return int(dict(zip(names.split(), values.split(), strict=True))[name])

    def call(self, made: Callable[[], T]) -> T:
        """Call in a thread that is in it: a socket that is made there is in it for good."""
        results: list[T] = []

        def enter() -> None:
            with self.path.open() as file:
                if ctypes.CDLL(None, use_errno=True).setns(file.fileno(), _CLONE_NEWNET):
                    raise OSError(ctypes.get_errno(), "setns")
            results.append(made())

        thread = threading.Thread(target=enter)
        thread.start()
        thread.join(30)
        return results[0]

    def connect(self, address: tuple[str, int]) -> socket.socket:
        """Connect from it."""
        return self.call(lambda: socket.create_connection(address, timeout=10))


@contextmanager
def namespace() -> Iterator[Namespace]:
    """Make a namespace with a loopback alone."""
    if os.geteuid() != 0 or not all(map(shutil.which, ("unshare", "nsenter", "ip"))):
        pytest.fail("a network namespace takes root, util-linux and iproute2")
    made = Namespace()
    try:
        yield made
    finally:
        made.close()


@contextmanager
def cable() -> Iterator[tuple[Namespace, Namespace]]:
    """Make a server's namespace, with the address SERVER, and a client's, with CLIENT."""
    with namespace() as server, namespace() as client:
        server.run(*f"ip link add cable type veth peer name cable netns {client.pid}".split())
        for end, address in ((server, SERVER), (client, CLIENT)):
            end.run("ip", "addr", "add", f"{address}/24", "dev", "cable")
            end.run("ip", "link", "set", "cable", "up")
        yield server, client
