"""What a handler does in the process that the `fork` model has forked for its connection.

The worker forks it in another way than `os.fork` where it can; nothing may be different in it.
"""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path
from typing import Any

import pytest

from tests.forking.support import PATIENCE
from tests.harness import Server, connect
from tests.native.cores import compiled

HANDLER = """
import atexit, gc, json, logging, os, random, signal, ssl, subprocess, sys, threading, warnings
from contextlib import contextmanager
from socketkeep import Service

order = []
os.register_at_fork(
    before=lambda: order.append("before"),
    after_in_parent=lambda: order.append("parent"),
    after_in_child=lambda: order.append("child"),
)
class Own(logging.Handler):
    def __init__(self):
        super().__init__()
        self.lines = []
    def emit(self, record):
        self.lines.append(record.getMessage())
own = Own()
logging.getLogger("app").addHandler(own)
sys.stdout = open(os.environ["PRINTED"], "a")
atexit.register(lambda: print("atexit in", os.getpid(), flush=True))
ended = threading.Event()

@contextmanager
def lifespan():
    if os.environ.get("THREADED"):
        threading.Thread(target=ended.wait, daemon=True).start()
    yield

def threads():
    ran = []
    started = [threading.Thread(target=ran.append, args=(n,)) for n in range(4)]
    for each in started: each.start()
    for each in started: each.join()
    return sorted(ran)

def timer():
    rang = []
    signal.signal(signal.SIGALRM, lambda *_: rang.append(1))
    signal.setitimer(signal.ITIMER_REAL, 0.01)
    signal.pause()
    return rang

def nested():
    pid = os.fork()
    if pid == 0:
        os._exit(7 if threading.active_count() == 1 else 8)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

def log():
    logging.getLogger("app").warning("told")
    return own.lines

class Cycle:
    pass

def collected():
    one = Cycle()
    one.itself = one
    del one
    return gc.collect() > 0

def handle(conn):
    conn.recv_until(b"\\n")
    conn.send(json.dumps({
        "pid": os.getpid(),
        "id": conn.id,
        "peer": conn.peer,
        "listener": conn.listener,
        "parent": os.getppid(),
        "order": list(order),
        "main": threading.current_thread() is threading.main_thread(),
        "count": threading.active_count(),
        "threads": threads(),
        "blocked": len(signal.pthread_sigmask(signal.SIG_BLOCK, [])),
        "timer": timer(),
        "subprocess": subprocess.run(["true"]).returncode,
        "nested": nested(),
        "log": log(),
        "collected": collected(),
        "random": random.random(),
        "ssl": ssl.RAND_bytes(8).hex(),
        "tls": type(ssl.create_default_context()).__name__,
        "descriptors": len(os.listdir("/proc/self/fd")),
    }).encode() + b"\\n")
    print("printed by", os.getpid(), end="")

serve = Service(handle, lifespan=lifespan)
"""


def ask(address: str) -> dict[str, Any]:
    """Have the handler tell what it sees; its connection is known by the name it is given."""
    with connect(address) as peer:
        peer.settimeout(PATIENCE)
        peer.sendall(b"go\n")
        line = peer.makefile("rb").readline()
        assert peer.recv(1) == b"", "the handler has returned"
        told: dict[str, Any] = json.loads(line)
        name = peer.getsockname()
        assert told["peer"] == f"{name[0]}:{name[1]}" if name else f"unix:pid={os.getpid()}"
    assert told["listener"] == address
    return told


@pytest.mark.parametrize(
    ("threaded", "alone", "snapshot"),
    [
        *(("", False, False), ("", True, False), ("1", False, False), ("1", True, False)),
        *(("", False, True), ("", True, True)),
    ],
)
def test_all_is_as_in_a_process_forked_by_the_standard_library(
    tmp_path: Path, threaded: str, alone: bool, snapshot: bool
) -> None:
    """alone: C calls the handler, since there is one listener, and nothing to tell of an end."""
    path = tmp_path / "app.py"
    path.write_text(HANDLER)
    printed = tmp_path / "printed"
    environment = {"THREADED": threaded, "PRINTED": str(printed)}
    server = Server(
        tmp_path,
        f"{path}:serve",
        *("-k", "fork", "-w", "1", *([] if alone else ["--access-log"])),
        *(["--fork-snapshot"] if snapshot else []),
        bind=["127.0.0.1:0", *([] if alone else [f"unix:{tmp_path}/listener"])],
        environment=environment,
    )
    with server:
        if snapshot:
            for _ in range(20):
                ask(server.address)
            server.wait_event("fork snapshot" if compiled else "no fork snapshot")
        first, second, third = (ask(server.addresses[n]) for n in (0, 0, 0 if alone else 1))
        for told in first, second, third:
            if not alone:
                server.wait_event("connection", id=told["id"], peer=told["peer"], bytes_in=3)
            assert told["order"][-2:] == ["before", "child"], "the program's hooks run"
            assert told["main"]
            assert told["count"] == 1
            assert told["threads"] == [0, 1, 2, 3]
            assert told["blocked"] == 0
            assert told["timer"] == [1]
            assert told["subprocess"] == 0
            assert told["nested"] == 7
            assert told["log"] == ["told"]
            assert told["collected"]
            assert told["tls"] == "SSLContext"
        assert second["order"].count("parent") > first["order"].count("parent")
        assert first["parent"] == second["parent"]
        assert len({told["pid"] for told in (first, second, third)}) == 3
        assert len({told["id"] for told in (first, second, third)}) == 3
        assert first["random"] != second["random"]
        assert first["ssl"] != second["ssl"]
        assert first["descriptors"] == second["descriptors"], "nothing of its siblings is left"
        count = 3 + 20 * snapshot
        server.wait_until(lambda: server.status()["totals"]["closed"] == count, "all are counted")
    out = printed.read_text()
    for told in first, second:
        assert out.count(f"printed by {told['pid']}") == 1
        assert f"atexit in {told['pid']}" not in out


UNTIL_THE_END = """
import os
def handle(conn):
    while data := conn.recv():
        conn.send(data)
    print("served by", os.getpid(), end=";")
"""


def test_a_peer_that_ends_first(tmp_path: Path) -> None:
    """The plain end: the peer gets FIN, what was printed is written, the connection is counted."""
    path = tmp_path / "app.py"
    path.write_text(UNTIL_THE_END)
    with Server(tmp_path, f"{path}:handle", "-k", "fork", "-w", "1") as server:
        for _ in range(3):
            with connect(server.address) as peer:
                peer.sendall(b"1")
                assert peer.recv(1) == b"1"
                peer.shutdown(socket.SHUT_WR)
                assert peer.recv(1) == b""
        server.wait_until(lambda: server.status()["totals"]["closed"] == 3, "all are counted")
    served = [each["event"] for each in server.events if each.get("stream") == "stdout"]
    assert len(set(served)) == len(served) == 3
