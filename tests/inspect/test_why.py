"""`why`: each condition is made for real, in another process, and the sentence is checked."""

from __future__ import annotations

import os
import re
import signal
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from socketkeep.inspect import Diagnosis, why
from tests.harness import Server, connect
from tests.harness.handlers import write_handler
from tests.inspect.support import HOST, Actor, acting, wait_for

#: Send until the kernel takes no more: our buffer is full, and the peer's.
FILL = """
conn.setblocking(False)
out = 0
try:
    while True:
        out += conn.send(bytes(65536))
except BlockingIOError:
    pass
"""


@pytest.fixture
def actor() -> Iterator[Actor]:
    with acting() as made:
        yield made


@pytest.fixture
def client(actor: Actor) -> Iterator[socket.socket]:
    """A connection to the actor, whose end of it is `conn`; it listens no more."""
    port = actor.listen()
    with socket.create_connection((HOST, port), source_address=(HOST, 0)) as made:
        actor.do("conn, _ = listener.accept()\nlistener.close()")
        yield made


def its_end(actor: Actor, name: str = "conn") -> str:
    return f"{actor.pid}:{actor.do(f'out = {name}.fileno()')}"


def told(what: str, code: str) -> Diagnosis:
    """Return the diagnosis of that code, as soon as the kernel has come so far."""
    seen: list[Diagnosis] = []

    def reached() -> bool:
        seen[:] = [each for each in why(what).diagnoses if each.code == code]
        return bool(seen)

    wait_for(reached, f"{code} of {what}")
    return seen[0]


def codes(what: str) -> set[str]:
    return {each.code for each in why(what).diagnoses}


@contextmanager
def stopped(actor: Actor) -> Iterator[None]:
    os.kill(actor.pid, signal.SIGSTOP)
    os.waitid(os.P_PID, actor.pid, os.WSTOPPED)
    try:
        yield
    finally:
        os.kill(actor.pid, signal.SIGCONT)


def test_every_condition_is_documented_and_made_here() -> None:
    """Each code of the diagnoses stands in the documentation's table and in a test."""
    root = Path(__file__).parents[2]
    sources = (root / "src/socketkeep/_inspect").glob("*.py")
    found = {
        code
        for path in sources
        for code in re.findall(r'Diagnosis\(\s*"([a-z-]+)"', path.read_text())
    }
    assert len(found) >= 20
    page = (root / "docs/how-to/inspect.md").read_text()
    tests = Path(__file__).read_text()
    for code in found:
        assert f"| `{code}` |" in page
        assert f'"{code}"' in tests


# Connections.


def test_nothing_is_wrong_with_a_connection(actor: Actor, client: socket.socket) -> None:
    (diagnosis,) = why(its_end(actor)).diagnoses
    assert diagnosis.code == "nothing-wrong"
    assert "nothing is stuck, and neither side has ended it" in diagnosis.sentence
    assert any(f"held by {its_end(actor)} " in line for line in diagnosis.evidence)


def test_our_side_has_not_closed(actor: Actor, client: socket.socket) -> None:
    client.sendall(b"unread")
    client.close()
    diagnosis = told(its_end(actor), "not-closed-here")
    assert diagnosis.sentence == (
        "The peer has closed, and this side has not: its descriptors are still open (1 process)."
    )
    assert "6 bytes that came before the FIN are unread" in diagnosis.evidence
    assert any(f"held by {its_end(actor)} " in line for line in diagnosis.evidence)
    assert "close it when recv returns b''" in diagnosis.remedy
    assert f"socketkeep fin {its_end(actor)}" in diagnosis.remedy


def test_the_peer_has_not_closed(actor: Actor, client: socket.socket) -> None:
    actor.do("conn.shutdown(socket.SHUT_WR)")
    diagnosis = told(its_end(actor), "peer-not-closed")
    assert "the peer knows it; the peer has not closed" in diagnosis.sentence
    assert "the other end is CLOSE_WAIT" in diagnosis.evidence
    assert any(f"held by {os.getpid()}:{client.fileno()} " in line for line in diagnosis.evidence)


def test_our_fin_is_not_acknowledged(actor: Actor, client: socket.socket) -> None:
    actor.do(FILL)
    actor.do("conn.shutdown(socket.SHUT_WR)")
    diagnosis = told(its_end(actor), "fin-not-acknowledged")
    assert "the peer has not acknowledged it: the FIN waits behind " in diagnosis.sentence
    assert "state FIN_WAIT1" in diagnosis.evidence
    assert any("bytes are unread" in line for line in diagnosis.evidence)
    assert diagnosis.remedy == f"socketkeep abort {its_end(actor)}"


@pytest.mark.parametrize("state", ["LAST_ACK", "CLOSING"])
def test_lingering(actor: Actor, client: socket.socket, state: str) -> None:
    """Both have closed; this side's FIN waits behind what the peer does not read."""
    actor.do(FILL)
    if state == "LAST_ACK":
        client.shutdown(socket.SHUT_WR)
        told(its_end(actor), "not-closed-here")
        actor.do("conn.shutdown(socket.SHUT_WR)")
    else:
        actor.do("conn.shutdown(socket.SHUT_WR)")
        told(its_end(actor), "fin-not-acknowledged")
        client.shutdown(socket.SHUT_WR)
    diagnosis = told(its_end(actor), "lingering")
    assert diagnosis.sentence.startswith("Both sides have closed")
    assert "the FIN waits behind " in diagnosis.sentence
    assert f"state {state}" in diagnosis.evidence


def test_time_wait(actor: Actor, client: socket.socket) -> None:
    address = "{}:{}".format(*client.getpeername())
    actor.do("conn.close()")
    assert client.recv(1) == b""
    client.close()
    diagnosis = told(address, "time-wait")
    assert diagnosis.sentence.startswith("The connection is over. ")
    assert " s." in diagnosis.sentence
    assert "SO_REUSEADDR" in diagnosis.remedy


def test_the_peer_does_not_read(actor: Actor, client: socket.socket) -> None:
    sent = actor.do(FILL)
    diagnosis = told(its_end(actor), "peer-does-not-read")
    assert diagnosis.sentence.endswith(
        "bytes wait to be sent: the peer's window is zero, for its program does not read."
    )
    assert 0 < int(diagnosis.sentence.split()[0]) <= sent
    assert any("bytes are unread" in line for line in diagnosis.evidence)
    assert any(f"held by {os.getpid()}:{client.fileno()} " in line for line in diagnosis.evidence)


def test_the_handler_does_not_read(actor: Actor, client: socket.socket) -> None:
    client.sendall(b"x" * 77)
    diagnosis = told(its_end(actor), "unread")
    assert diagnosis.sentence == "77 bytes have arrived and its program does not read them."
    assert diagnosis.remedy.startswith(f"py-spy dump --pid {actor.pid}")
    end = its_end(actor)
    with stopped(actor):
        diagnosis = told(end, "unread")
        assert f"process {actor.pid} is stopped (state T)" in diagnosis.evidence
        assert diagnosis.remedy == f"kill -CONT {actor.pid}"


def test_handles_left(actor: Actor, client: socket.socket) -> None:
    """The child has a handle: that of the parent alone does not end the connection."""
    child = actor.do("out = fork_holder()")
    diagnosis = told(its_end(actor), "several-handles")
    assert diagnosis.sentence == (
        "2 handles in 2 processes hold it: a close in one of them sends no FIN, the last one does."
    )
    assert any(
        line.startswith(f"held by {child}:") and line.endswith(f"from {actor.pid}")
        for line in diagnosis.evidence
    )


def test_kept_on_purpose(tmp_path: Path) -> None:
    target = write_handler(tmp_path, "v0", "counter", is_async=False)
    options = ("-k", "prefork", "-w", "1", "--keep", "crash", "--keep-after", "0")
    with Server(tmp_path / "server", target, *options) as server, connect(server.address) as sock:
        sock.sendall(b"x\n")
        assert sock.recv(100)
        diagnosis = told(server.address, "kept")
        assert diagnosis.sentence.startswith(
            f"The Socketkeep keeper {server.pid} keeps it on purpose: "
        )
        assert "conn.close()" in diagnosis.remedy


def test_no_process_holds_it(actor: Actor, client: socket.socket) -> None:
    """Its descriptor is in flight; to one who may not look into all it may be a process's."""
    address = "{}:{}".format(*client.getpeername())
    actor.do("left, right = socket.socketpair()\nsocket.send_fds(left, [b'x'], [conn.fileno()])")
    actor.do("conn.close()")
    (diagnosis,) = why(address).diagnoses
    assert diagnosis.code in ("in-flight", "unseen")
    assert "on its way from one process to another (SCM_RIGHTS)" in diagnosis.sentence


def test_being_connected(actor: Actor) -> None:
    """The listener's queue is full, so the SYN is dropped."""
    port = actor.listen(backlog=0)
    with acting() as other, socket.create_connection((HOST, port)):
        other.do(
            "conn = socket.socket()\nconn.setblocking(False)\n"
            f"out = conn.connect_ex(('{HOST}', {port}))"
        )
        diagnosis = told(its_end(other), "syn-sent")
        assert f"It is being connected, and {HOST}:{port} does not answer" in diagnosis.sentence
        assert diagnosis.remedy == f"on that machine: socketkeep why {HOST}:{port}"
        assert any(line.startswith("timer: retransmission in ") for line in diagnosis.evidence)


def test_half_open(actor: Actor) -> None:
    """The listener waits for the first bytes, which do not come."""
    port = actor.listen()
    actor.do("listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_DEFER_ACCEPT, 30)")
    with socket.create_connection((HOST, port)):
        diagnosis = told(f"{HOST}:{port}", "syn-received")
        assert diagnosis.sentence.startswith("The handshake is not done: ")


# Listeners.


def test_nothing_is_wrong_with_a_listener(actor: Actor) -> None:
    """It is said who has the port, for whoever cannot bind it."""
    address = f"{HOST}:{actor.listen()}"
    (diagnosis,) = why(address).diagnoses
    assert diagnosis.code == "nothing-wrong"
    # A sandbox may hide a process from root, too: then nothing wrong can be *seen*.
    seen = re.fullmatch(r"Nothing .* with (.*): (.*)", diagnosis.sentence)
    assert seen is not None
    assert seen[1] == address
    assert seen[2] == "it is listened on, and no connection waits long to be accepted."
    assert diagnosis.evidence[0].startswith(f"held by {its_end(actor, 'listener')} ")
    assert "another bind of the address fails (EADDRINUSE)" in diagnosis.evidence[1]


def test_nobody_listens(actor: Actor, tmp_path: Path) -> None:
    address = f"{HOST}:{actor.listen()}"
    actor.do("listener.close()")
    (diagnosis,) = why(address).diagnoses
    assert diagnosis.code == "no-listener"
    assert diagnosis.sentence == (
        "Nothing listens there: this system refuses connections with RST (ECONNREFUSED)."
    )
    (diagnosis,) = why(f"unix:{tmp_path}/none").diagnoses
    assert diagnosis.code == "no-listener"


def test_another_process_has_the_port(actor: Actor) -> None:
    """It is bound and does not listen: refused, and taken all the same."""
    port = actor.do(
        f"sock = socket.socket()\nsock.bind(('{HOST}', 0))\nout = sock.getsockname()[1]"
    )
    (diagnosis,) = why(f"{HOST}:{port}").diagnoses
    assert diagnosis.code == "port-held"
    assert "connections are refused; yet a process has the port" in diagnosis.sentence
    assert any(f"held by {its_end(actor, 'sock')} " in line for line in diagnosis.evidence)
    assert diagnosis.remedy.endswith(f"kill {actor.pid}")


def test_a_dead_servers_file(actor: Actor, tmp_path: Path) -> None:
    path = tmp_path / "s"
    actor.do(f"s = socket.socket(socket.AF_UNIX)\ns.bind({str(path)!r})\ns.listen()\ns.close()")
    (diagnosis,) = why(f"unix:{path}").diagnoses
    assert diagnosis.code == "stale-file"
    assert "no process listens on it" in diagnosis.sentence
    assert diagnosis.remedy == f"rm {path}"
    (tmp_path / "file").touch()
    assert codes(f"unix:{tmp_path}/file") == {"no-listener"}


def test_nobody_accepts(actor: Actor) -> None:
    """The listener, and the connection that waits for it, are both explained."""
    address = f"{HOST}:{actor.listen()}"
    with socket.create_connection((HOST, int(address.rpartition(":")[2]))) as client:
        diagnosis = told(address, "nobody-accepts")
        assert diagnosis.sentence.startswith("It listens, and nobody accepts: ")
        assert any(line.startswith("1 connections wait") for line in diagnosis.evidence)
        assert f"process {actor.pid} is waiting (state S)" in diagnosis.evidence
        waits = told(address, "not-accepted")
        assert waits.subject == "{} with {}:{}".format(address, *client.getsockname())
        assert "No process has accepted the connection" in waits.sentence


def test_the_listeners_process_is_stopped(actor: Actor) -> None:
    address = f"{HOST}:{actor.listen()}"
    with stopped(actor):
        diagnosis = told(address, "listener-stopped")
        assert "every process that could accept is stopped" in diagnosis.sentence
        assert f"process {actor.pid} is stopped (state T)" in diagnosis.evidence
        assert diagnosis.remedy == f"kill -CONT {actor.pid}"
    told(address, "nothing-wrong")


def test_a_full_queue(actor: Actor) -> None:
    """With the kernel's counters, which a connection that is dropped moves."""
    port = actor.listen(backlog=1)
    address = f"{HOST}:{port}"
    with ExitStack() as stack:
        for _ in range(2):
            stack.enter_context(socket.create_connection((HOST, port)))

        def overflows() -> int:
            (line,) = (each for each in told(address, "queue-full").evidence if "Overflows" in each)
            return int(line.split()[1].rstrip(","))

        before = overflows()
        dropped = stack.enter_context(socket.socket())
        dropped.setblocking(False)
        dropped.connect_ex((HOST, port))
        wait_for(lambda: overflows() > before, "a connection dropped")
        diagnosis = told(address, "queue-full")
        assert "Its queue is full: the kernel drops new connections' SYNs" in diagnosis.sentence
        assert diagnosis.evidence[0] == "2 wait, the bound is 1"
        assert "net.core.somaxconn" in diagnosis.remedy


def test_a_full_queue_of_a_unix_socket(actor: Actor, tmp_path: Path) -> None:
    path = str(tmp_path / "s")
    actor.do(f"s = socket.socket(socket.AF_UNIX)\ns.bind({path!r})\ns.listen(0)")
    with socket.socket(socket.AF_UNIX) as waiting:
        waiting.connect(path)
        diagnosis = told(f"unix:{path}", "queue-full")
        assert diagnosis.sentence == "Its queue is full: connect waits, or fails with EAGAIN."


def test_a_member_of_a_shared_port_is_stopped(actor: Actor) -> None:
    """One of two processes that listen with SO_REUSEPORT; the other goes on."""
    listen = (
        "listener = socket.socket()\n"
        "listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)\n"
        f"listener.bind(('{HOST}', %d))\nlistener.listen(8)\nout = listener.getsockname()[1]"
    )
    port = actor.do(listen % 0)
    with acting() as other:
        other.do(listen % port)
        with stopped(other):
            diagnosis = told(f"{HOST}:{port}", "reuseport-member-stopped")
            assert diagnosis.sentence.startswith("1 of 2 listeners that share the port")
            assert f"process {other.pid} is stopped (state T)" in diagnosis.evidence
            assert diagnosis.remedy.startswith(f"kill -CONT {other.pid}")
            assert codes(f"{HOST}:{port}") == {"reuseport-member-stopped"}


def test_what_a_forked_child_alone_holds(actor: Actor, client: socket.socket) -> None:
    """The parent has closed it: no FIN goes out, and one look cannot tell whether that is meant."""
    actor.do("fork_holder()")
    listening = actor.do(
        f"again = socket.create_server(('{HOST}', conn.getsockname()[1]), reuse_port=False)\n"
        "out = again.getsockname()[1]"
    )
    actor.do("conn.close()")
    for what in (f"{HOST}:{listening}", "{}:{}".format(*client.getsockname())):
        diagnosis = told(what, "held-by-a-child")
        assert f"forked by process {actor.pid}, and does not wait for it now" in diagnosis.sentence
        assert "cannot be known from one look" in diagnosis.sentence
        assert f"its parent {actor.pid} (" in diagnosis.evidence[-1]
        assert f"socketkeep leaks {actor.pid}" in diagnosis.remedy
        assert "nothing-wrong" not in codes(what)


def test_a_child_that_serves_is_not_suspected(actor: Actor, client: socket.socket) -> None:
    """It waits for its connection, as a server that forks for each does."""
    actor.do(
        "pid = os.fork()\n"
        "if pid == 0:\n"
        "    os.close(end_write)\n"
        "    conn.recv(1)\n"
        "    os._exit(0)\n"
        "conn.close()"
    )
    local = "{}:{}".format(*client.getpeername())
    wait_for(lambda: "held-by-a-child" not in codes(local), "the child waits for it")
    client.sendall(b"x")  # so that it ends
