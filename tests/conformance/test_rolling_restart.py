"""Three nodes behind HAProxy, by contrib's configuration, restarted one after another.

No client's connect is refused, and none is cut without the protocol's goodbye.
"""

from __future__ import annotations

import shutil
import socket
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final

from tests.harness import Server

CONFIGURATION: Final = Path(__file__).parents[2] / "contrib" / "haproxy" / "nodes.cfg"
CLIENTS: Final = 60
PACE: Final = 40
PATIENCE: Final = 20.0

_SERVICE: Final = """
from socketkeep import *

@resumable
async def handle(conn):
    async for line in conn.lines(commit=True):
        await conn.send(b"{node} " + line + b"\\n")

async def bye(conn, why, deadline):
    await conn.send(b"bye\\n")

service = Service(handle, on_leaving=bye)
"""


class Clients:
    """Clients that ask now and then, and come back when they are told goodbye."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._ends = threading.Event()
        self.seen: Counter[str] = Counter()
        self.nodes: Counter[str] = Counter()
        self._lock = threading.Lock()
        self._threads = [threading.Thread(target=self._run) for _ in range(CLIENTS)]
        for each in self._threads:
            each.start()

    def note(self, what: str) -> None:
        with self._lock:
            self.seen[what] += 1

    def stop(self) -> None:
        self._ends.set()
        for each in self._threads:
            each.join()

    def _run(self) -> None:
        while not self._ends.is_set():
            try:
                sock = socket.create_connection(("127.0.0.1", self._port), PATIENCE)
            except OSError as error:
                self.note(f"connect: {type(error).__name__}")
                return
            with sock, sock.makefile("rb") as lines:
                self.note("connected")
                try:
                    self.note(self._talk(sock, lines))
                except OSError as error:
                    self.note(f"cut: {type(error).__name__}")

    def _talk(self, sock: socket.socket, lines: object) -> str:
        number = 0
        while not self._ends.wait(0.05):
            number += 1
            sock.sendall(b"%d\n" % number)
            line = lines.readline()  # type: ignore[attr-defined]
            if line == b"bye\n":
                return "goodbye"
            node, _, told = line.decode().partition(" ")
            if told != f"{number}\n":
                return f"cut: {line!r} in place of {number}"
            with self._lock:
                self.nodes[node] += 1
        return "stayed"


def free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        socks = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [sock.getsockname()[1] for sock in socks]


@contextmanager
def haproxy(directory: Path, port: int, nodes: list[tuple[int, int]]) -> Iterator[Path]:
    """Run HAProxy by contrib's configuration: other addresses, and a socket to ask it by."""
    text = CONFIGURATION.read_text()
    asked = directory / "haproxy.sock"
    replaced = {"127.0.0.1:7080": f"127.0.0.1:{port}", "/run/haproxy/admin.sock": str(asked)}
    for number, (bound, agent) in enumerate(nodes, 1):
        replaced[f"server node{number} 10.0.0.{number}:7000 "] = (
            f"server node{number} 127.0.0.1:{bound} "
        )
        replaced[f"agent-addr 10.0.0.{number} agent-port 900{number}"] = (
            f"agent-addr 127.0.0.1 agent-port {agent}"
        )
    for old, new in replaced.items():
        assert old in text, old
        text = text.replace(old, new, 1)
    path = directory / "nodes.cfg"
    path.write_text(text)
    program = shutil.which("haproxy", path="/usr/sbin:/usr/bin:/usr/local/sbin")
    assert program is not None, "haproxy is not installed"
    with subprocess.Popen([program, "-db", "-f", str(path)]) as process:
        try:
            yield asked
        finally:
            process.terminate()
            process.wait(10)


def states(asked: Path) -> dict[str, str]:
    """Return what HAProxy says of each node: UP, DRAIN, DOWN, …"""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(PATIENCE)
        sock.connect(str(asked))
        sock.sendall(b"show stat nodes 4 -1\n")
        data = b""
        while piece := sock.recv(65536):
            data += piece
    names, *rows = (line.split(",") for line in data.decode().split("\n") if line)
    place = names.index("status")
    return {row[1]: row[place].split()[0] for row in rows}


def wait_for(asked: Path, wanted: dict[str, str]) -> None:
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            found = states(asked)
        except OSError:
            found = {}  # it is still starting
        if wanted.items() <= found.items():
            return
        assert time.monotonic() < deadline, found
        time.sleep(0.05)  # nothing tells of it


def test_no_connect_is_refused_and_none_is_cut_without_its_goodbye(tmp_path: Path) -> None:
    port, *ports = free_ports(7)
    nodes = list(zip(ports[:3], ports[3:], strict=True))

    def node(number: int) -> Server:
        directory = tmp_path / f"node{number}"
        directory.mkdir(exist_ok=True)
        (directory / "app.py").write_text(_SERVICE.replace("{node}", f"node{number}"))
        bound, agent = nodes[number - 1]
        return Server(
            *(directory, "app:service", "-k", "async", "-w", "2"),
            *("--agent-check", f"127.0.0.1:{agent}"),
            bind=[f"127.0.0.1:{bound}"],
        )

    names = [f"node{number}" for number in (1, 2, 3)]
    with ExitStack() as stack, haproxy(tmp_path, port, nodes) as asked:
        servers = [stack.enter_context(node(number)) for number in (1, 2, 3)]
        wait_for(asked, dict.fromkeys(names, "UP"))
        clients = Clients(port)
        try:
            for number in (1, 2, 3):
                leaving = servers[number - 1]
                command = threading.Thread(
                    target=leaving.cli, args=("drain", "--pace", f"{PACE}/s")
                )
                command.start()
                wait_for(asked, {f"node{number}": "DRAIN"})
                command.join()
                assert leaving.wait_exit() == 0
                clients.nodes.clear()
                servers[number - 1] = stack.enter_context(node(number))
                wait_for(asked, dict.fromkeys(names, "UP"))
                deadline = time.monotonic() + PATIENCE
                while len(clients.nodes) < 2:
                    assert time.monotonic() < deadline, clients.nodes
                    time.sleep(0.05)
        finally:
            clients.stop()
        assert set(clients.seen) == {"connected", "goodbye", "stayed"}, clients.seen
        assert clients.seen["stayed"] == CLIENTS
        assert clients.seen["goodbye"] >= CLIENTS // 2
