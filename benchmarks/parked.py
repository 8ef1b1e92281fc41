"""What a parked connection costs: the keeper's own memory, and the kernel's.

    python -m benchmarks.parked [--connections 5000]

Starts a server of four `prefork` workers, connects, has each client asked and answered once, waits
until all are parked, and compares with the same server with none.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

_LINE: Final = b"how are you\n"
_DEADLINE: Final = 120.0


def main() -> None:
    parser = argparse.ArgumentParser(description="What a parked connection costs")
    parser.add_argument("--connections", type=int, default=5000)
    count = parser.parse_args().connections
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    with tempfile.TemporaryDirectory() as directory:
        print(json.dumps(measure(count, Path(directory)), indent=2))


def measure(count: int, directory: Path) -> dict[str, float]:
    """Return the figures for `count` connections."""
    app = directory / "app.py"
    app.write_text(
        "from socketkeep import resumable\n"
        "@resumable\n"
        "def handle(conn):\n"
        "    for line in conn.lines():\n"
        "        conn.send(line + b'\\n')\n"
        "        conn.commit(1)\n"
    )
    environment = {**os.environ, "SOCKETKEEP_RUNTIME_DIR": str(directory)}
    command = [sys.executable, "-m", "socketkeep"]
    bind = ["-b", "127.0.0.1:0", "--name", "parked", "--log-level", "error"]
    server = subprocess.Popen(
        [*command, "serve", f"{app}:handle", "-k", "prefork", "-w", "4", *bind], env=environment
    )
    clients: list[socket.socket] = []
    try:
        status = _status(command, environment, lambda shown: shown["workers"]["ready"] == 4)
        host, port = status["listeners"][0]["address"].rsplit(":", 1)
        _ask(clients, 100, host, int(port))  # so that what the first ones cost is there already
        _status(command, environment, lambda shown: shown["connections"]["parked"] == 100)
        own, kernel = _own_bytes(server.pid), _slab_bytes()
        began = time.monotonic()
        _ask(clients, count, host, int(port))
        asked = time.monotonic() - began
        total = count + 100
        _status(command, environment, lambda shown: shown["connections"]["parked"] == total)
        own, kernel = _own_bytes(server.pid) - own, _slab_bytes() - kernel
        began = time.monotonic()
        for client in clients:
            client.sendall(_LINE)
        for client in clients:
            _hear(client)
        woken = time.monotonic() - began
        return {
            "connections": count,
            "keeper_bytes_each": round(own / count),
            "kernel_bytes_each_both_ends": round(kernel / count),
            "first_answers_seconds": round(asked, 3),
            "all_woken_at_once_seconds": round(woken, 3),
            "woken_a_second": round(total / woken),
        }
    finally:
        for client in clients:
            client.close()
        server.terminate()
        server.wait(30)


def _ask(clients: list[socket.socket], count: int, host: str, port: int) -> None:
    new = [socket.create_connection((host, port)) for _ in range(count)]
    clients.extend(new)
    for client in new:
        client.sendall(_LINE)
    for client in new:
        _hear(client)


def _hear(client: socket.socket) -> None:
    client.settimeout(_DEADLINE)
    heard = b""
    while not heard.endswith(b"\n"):
        data = client.recv(100)
        assert data, "the server ended the connection"
        heard += data
    assert heard == _LINE


def _status(
    command: list[str], environment: dict[str, str], reached: Callable[[dict[str, Any]], bool]
) -> dict[str, Any]:
    """Return the server's status once it is as wanted."""
    deadline = time.monotonic() + _DEADLINE
    while True:
        asked = subprocess.run(
            [*command, "status", "--name", "parked", "--json"],
            env=environment,
            capture_output=True,
            check=False,
        )
        if asked.returncode == 0:
            shown: dict[str, Any] = json.loads(asked.stdout)
            if reached(shown):
                return shown
        if time.monotonic() > deadline:
            raise SystemExit(f"not within {_DEADLINE:g} s: {asked.stdout + asked.stderr!r}")


def _own_bytes(pid: int) -> int:
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss_Anon:"):
            return int(line.split()[1]) * 1024
    raise SystemExit("this kernel does not show Pss_Anon")


def _slab_bytes() -> int:
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("Slab:"):
            return int(line.split()[1]) * 1024
    raise SystemExit("this kernel does not show its slabs")


if __name__ == "__main__":
    main()
