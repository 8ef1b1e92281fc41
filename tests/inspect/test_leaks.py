"""Sockets that a child holds only because it was forked: real children, of each kind."""

from __future__ import annotations

import json
import os
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from socketkeep import SystemFailure
from socketkeep._inspect._waits import waits_of
from socketkeep.inspect import Leaks, holders, leaks
from tests.harness import Server, connect, read_reply, write_handler
from tests.harness.command import main
from tests.inspect.support import HOST, Actor, acting, wait_for

_INTERVAL = 0.05


@pytest.fixture
def parent() -> Iterator[Actor]:
    with acting() as actor:
        actor.do("import multiprocessing, select, subprocess, threading, time")
        yield actor


@pytest.fixture
def client(parent: Actor) -> Iterator[socket.socket]:
    """A client of `parent`, which has accepted it as `conn`, a moment ago."""
    # From HOST, where nothing that others have left has the same port.
    address = (HOST, parent.listen())
    with socket.create_connection(address, timeout=10, source_address=(HOST, 0)) as sock:
        parent.do("conn, _ = listener.accept()\nlistener.close()")
        handle = f"{os.getpid()}:{sock.fileno()}"
        wait_for(lambda: (holders(handle).sockets[0].age or 0) > 0.2, "an age")
        yield sock


def child_of(parent: Actor, code: str) -> int:
    """Have `parent` fork a child that does `code`, by multiprocessing; return its pid.

    When it waits for a descriptor.
    """
    pid: int = parent.do(
        f"def run():\n    exec({code!r}, globals())\n"
        "child = multiprocessing.get_context('fork').Process(target=run, daemon=True)\n"
        "child.start()\nout = child.pid"
    )
    wait_for(lambda: bool(waits_of(pid).descriptors), "the child to wait")
    return pid


def codes(found: Leaks) -> list[tuple[str, int]]:
    return [(leak.code, leak.pid) for leak in found.leaks]


def test_never_used(parent: Actor, client: socket.socket) -> None:
    """A child of multiprocessing that has to do with other things has its parent's connection."""
    child = child_of(parent, "os.read(end_read, 1)")
    found = leaks(parent.pid, interval=_INTERVAL)
    (leak,) = found.leaks
    assert (leak.code, leak.pid, leak.parent) == ("never-used", child, parent.pid)
    assert leak.fd == parent.do("out = conn.fileno()")
    assert leak.socket.peer == "{}:{}".format(*client.getsockname())
    assert "since before the process was forked" in "".join(leak.evidence)
    assert leak.remedy.startswith(f"socketkeep.guard_forks()   # in process {parent.pid}, before")
    assert codes(leaks(child, interval=_INTERVAL)) == codes(found)


def test_bytes_that_the_parent_waits_for(parent: Actor, client: socket.socket) -> None:
    """They have passed since the fork; that the parent waits for more shows whose they are."""
    child = child_of(parent, "os.read(end_read, 1)")
    parent.do("threading.Thread(target=conn.recv, args=(1000,), daemon=True).start()")
    assert codes(leaks(parent.pid, interval=_INTERVAL)) == [("never-used", child)]
    # Now it does not wait, and somebody has received something.
    client.sendall(b"x")
    client.sendall(b"y")
    parent.do("conn.settimeout(0)")
    wait_for(lambda: not leaks(parent.pid, interval=0).leaks, "the parent to have received")
    found = leaks(parent.pid, interval=_INTERVAL)
    assert codes(found) == []
    assert [(leak.code, leak.pid) for leak in found.unclear] == [("never-used", child)]
    assert "cannot be told" in found.unclear[0].sentence


def test_the_parent_and_the_peer_have_closed(parent: Actor, client: socket.socket) -> None:
    """The child alone keeps the connection, whose peer gets no FIN, and no answer to its own."""
    child = child_of(parent, "os.read(end_read, 1)")
    parent.do("conn.close()")
    assert codes(leaks(parent.pid, interval=_INTERVAL)) == [("parent-closed", child)]
    client.shutdown(socket.SHUT_WR)
    (leak,) = leaks(child, interval=_INTERVAL).leaks
    assert (leak.code, leak.pid, leak.parent) == ("peer-closed", child, parent.pid)
    assert leak.evidence[0] == "state CLOSE_WAIT: the peer's FIN has arrived"


def test_used_after_the_fork_and_closed(parent: Actor, client: socket.socket) -> None:
    """A forked child alone has it, and bytes have passed: it may serve it, or not know of it."""
    child = child_of(parent, "os.read(end_read, 1)")
    parent.do("conn.sendall(b'x'); conn.close()")
    client.sendall(b"y")
    found = leaks(parent.pid, interval=_INTERVAL)
    assert codes(found) == []
    (leak,) = found.unclear
    assert (leak.code, leak.pid) == ("parent-closed", child)
    assert "it may be the process's own" in leak.evidence[0]


def test_what_the_remedy_prevents(parent: Actor, client: socket.socket) -> None:
    """With the line that it names the child has nothing."""
    sys_path = [path for path in sys.path if path]
    parent.do(f"sys.path[:] = {sys_path!r}\nimport socketkeep\nsocketkeep.guard_forks()")
    child = child_of(parent, "os.read(end_read, 1)")
    found = leaks(parent.pid, interval=_INTERVAL)
    assert (found.leaks, found.unclear) == ((), ())
    assert found.looked_at == (parent.pid, child)


@pytest.mark.parametrize(
    "waiting",
    [
        "conn.recv(1)",
        "select.select([conn], [], [])",
        "poll = select.poll(); poll.register(conn, select.POLLIN); poll.poll()",
        "epoll = select.epoll(); epoll.register(conn, select.EPOLLIN); epoll.poll()",
    ],
)
def test_a_child_that_serves_the_connection(
    parent: Actor, client: socket.socket, waiting: str
) -> None:
    """The loop of accept and fork: a silent client's connection is the child's, and it waits."""
    child_of(parent, waiting)
    parent.do("conn.close()")

    def is_told() -> bool:
        found = leaks(parent.pid, interval=_INTERVAL)
        return (found.leaks, found.unclear) == ((), ())

    wait_for(is_told, "the child to wait for its connection")


def test_a_program_that_was_passed_it(parent: Actor, client: socket.socket) -> None:
    """By pass_fds, and it does nothing with it; what is its standard input is its own."""
    program = "[sys.executable, '-c', 'import sys; sys.stdin.read()']"
    parent.do(f"idle = subprocess.Popen({program}, stdin=subprocess.PIPE)")
    assert codes(leaks(parent.pid, interval=_INTERVAL)) == []
    passed: int = parent.do(
        f"given = subprocess.Popen({program}, stdin=subprocess.PIPE, pass_fds=[conn.fileno()])\n"
        "out = given.pid"
    )

    def found() -> Leaks:
        return leaks(parent.pid, interval=_INTERVAL)

    wait_for(lambda: codes(found()) == [("never-used", passed)], "the program to wait")
    assert (
        found().leaks[0].remedy.startswith("subprocess.Popen(..., close_fds=True)   # in process")
    )
    parent.do(
        "given.stdin.close(); given.wait(); idle.stdin.close(); idle.wait()\n"
        "serving = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(100)'],"
        " stdin=conn)"
    )
    parent.do("conn.close()")
    assert (found().leaks, found().unclear) == ((), ())
    parent.do("serving.kill(); serving.wait()")


def test_both_ends_of_a_pair(parent: Actor) -> None:
    """The parent's end of a channel to a child, in another child: the first one gets no EOF."""
    parent.do("ours, theirs = socket.socketpair()")
    child_of(parent, "theirs.recv(1)")
    parent.do("theirs.close()")
    second = child_of(parent, "os.read(end_read, 1)")
    parent.do("threading.Thread(target=ours.recv, args=(1,), daemon=True).start()")

    def seen() -> bool:
        return ("never-used", second) in codes(leaks(parent.pid, interval=_INTERVAL))

    wait_for(seen, "the second child to be seen with it")


@pytest.mark.parametrize("model", ["fork", "prefork"])
def test_a_server_leaks_nothing(tmp_path: Path, model: str) -> None:
    """What a keeper keeps it has on purpose, and its workers their listeners."""
    target = write_handler(tmp_path, "v0", "counter", is_async=False)
    options = ("-k", model, "-w", "2", "--keep", "crash", "--keep-after", "0")
    with Server(tmp_path, target, *options) as server, connect(server.address) as client:
        client.sendall(b"x\n")
        assert read_reply(client)
        found = leaks(server.pid, interval=_INTERVAL)
        assert len(found.looked_at) >= 4
        assert [(leak.pid, leak.evidence) for leak in (*found.leaks, *found.unclear)] == []


def test_the_command(
    parent: Actor, client: socket.socket, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit code 0 without leaks and 1 with; the same as JSON."""
    assert main(["leaks", str(parent.pid), "--interval", "0"]) == 0
    assert capsys.readouterr().out == "no leak in 1 process\n"
    child = child_of(parent, "os.read(end_read, 1)")
    fd = parent.do("out = conn.fileno()")
    assert main(["leaks", str(parent.pid), "--interval", "0"]) == 1
    told = capsys.readouterr().out.splitlines()
    assert told[0].startswith(f"{child}:{fd} ")
    assert told[1] == "  It was inherited, and is another process's: this one does not use it."
    assert told[-1].startswith("  => socketkeep.guard_forks()")
    assert main(["leaks", str(parent.pid), "--interval", "0", "--json"]) == 1
    (leak,) = json.loads(capsys.readouterr().out)["leaks"]
    assert msgspec.convert(leak, dict[str, object])["code"] == "never-used"


def test_what_cannot_be_looked_at() -> None:
    with pytest.raises(SystemFailure, match="there is no process 4194303"):
        leaks(4194303)
