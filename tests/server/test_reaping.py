"""What the user's code leaves behind, and who dies between a fork and its word of it."""

from __future__ import annotations

import os
import re
import signal
import socket
from pathlib import Path

import pytest

from tests.harness import Server, connect, read_reply, write_source
from tests.harness.processes import wait_exit
from tests.server.support import seats

_LEAVES = """
import os, subprocess, time
from socketkeep import resumable

@resumable
def handle(conn):
    for line in conn.lines():
        if line == b"background":
            subprocess.run("sleep 0.01 &", shell=True)
        elif line == b"daemon":
            if os.fork() == 0:
                if os.fork() == 0:
                    time.sleep(0.01)
                os._exit(0)
            os.wait()
        elif line == b"stay":
            child = subprocess.run(
                "sleep 60 >/dev/null 2>&1 & echo $!", shell=True, capture_output=True
            )
            line = child.stdout.strip()
        conn.send(line + b"\\n")
        conn.commit()
"""


def zombies(pid: int) -> list[str]:
    """Return the names of a process's children that have ended and were not reaped."""
    found = []
    for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        try:
            text = Path(f"/proc/{child}/stat").read_text()
        except (FileNotFoundError, ProcessLookupError):  # it has gone, before or in the read
            continue
        if text.rpartition(")")[2].split()[0] == "Z":
            found.append(text)
    return found


def test_what_handlers_leave_behind(tmp_path: Path, model: str) -> None:
    """No zombie stays; what still runs at the stop is left running, and the port is free."""
    source = _LEAVES
    if model == "async":
        source = re.sub(r"conn\.send", "await conn.send", source)
        source = source.replace("def handle", "async def handle").replace(
            "for line", "async for line"
        )
    target = write_source(tmp_path, source)
    with Server(tmp_path, target, *seats(model, 2), "--keep", "crash") as server:
        with connect(server.address) as peer:
            for _ in range(3):
                for what in (b"background", b"daemon"):
                    peer.sendall(what + b"\n")
                    assert read_reply(peer) == what
            peer.sendall(b"stay\n")
            daemon = int(read_reply(peer))
            server.wait_until(lambda: not zombies(server.pid), "all reaped", 5.0)
            server.reload()
            peer.sendall(b"x\n")
            assert read_reply(peer) == b"x"
        port = server.port
        server.signal(signal.SIGTERM)
        assert server.process.wait(15) == 0
        assert not wait_exit(daemon, 0)
        os.kill(daemon, signal.SIGKILL)
        assert wait_exit(daemon, 5)
        with socket.socket() as other:
            other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            other.bind(("127.0.0.1", port))
            other.listen()
    assert not server.find("worker exited", level="warning")


#: The process between a template and its worker runs `after_in_parent` of the second fork: there
#: it, or the template, or both are killed, once the file says so.
_KILLED = """
import os, signal
TEMPLATE = os.getpid()

def forked():
    try:
        with open("kill") as file:
            whom = file.read().split()
    except FileNotFoundError:
        return
    if os.getppid() == TEMPLATE and os.getpid() != TEMPLATE:
        os.unlink("kill")
        if "template" in whom:
            os.kill(TEMPLATE, signal.SIGKILL)
        if "between" in whom:
            os.kill(os.getpid(), signal.SIGKILL)

os.register_at_fork(after_in_parent=forked)

def handle(conn):
    for line in conn.lines():
        conn.send(line + b"\\n")
"""


@pytest.mark.parametrize("killed", ["between", "template", "template between"])
def test_killed_between_a_fork_and_its_word(tmp_path: Path, killed: str) -> None:
    """Every worker is known and serves, no zombie stays, and nothing is left after the stop."""
    target = write_source(tmp_path, _KILLED)
    with Server(tmp_path, target, "-k", "prefork", "-w", "2") as server:
        (tmp_path / "kill").write_text(killed)
        victim, other = (worker["pid"] for worker in server.workers())
        os.kill(victim, signal.SIGKILL)

        def replaced() -> bool:
            workers = server.workers()
            return len(workers) == 2 and all(each["state"] == "ready" for each in workers)

        server.wait_event("worker exited", pid=victim)
        server.wait_until(replaced, "another in its place")
        # The worker may be ready before the process that forked it has come so far.
        server.wait_until(lambda: not (tmp_path / "kill").exists(), "somebody was killed")
        server.wait_until(lambda: not zombies(server.pid), "all reaped", 5.0)
        known = {worker["pid"] for worker in server.workers()} | {server.pid}
        server.wait_until(
            lambda: len(server.processes().keys() - known) == 1, "a template and nobody else", 5.0
        )
        assert other in known
        with connect(server.address) as peer:
            peer.sendall(b"x\n")
            assert read_reply(peer) == b"x"
        server.signal(signal.SIGTERM)
        assert server.wait_exit() == 0


_BARE_FORK = """
import ctypes, signal
if ctypes.PyDLL(None).fork() == 0:
    while True:
        signal.pause()

def handle(conn):
    conn.send(conn.recv())
"""


def test_whoever_has_the_port_ends_with_the_server(tmp_path: Path) -> None:
    """A fork that Python does not know of takes the listeners along, and outlives its parent."""
    target = write_source(tmp_path, _BARE_FORK)
    with Server(tmp_path, target, "-k", "thread") as server:
        server.signal(signal.SIGTERM)
        assert server.wait_exit(15) == 0
    assert server.find("process killed: it was nobody's, and had a listener", level="warning")
