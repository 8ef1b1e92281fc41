"""`socketkeep.inspect.holders`, asked about real sockets in other processes."""

from __future__ import annotations

import errno
import os
import pwd
import socket
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from socketkeep import AddressError, SystemFailure
from socketkeep._inspect import _descriptors
from socketkeep.inspect import HeldSocket, HeldSockets, holders
from tests._processes import read_process
from tests.harness import Server, connect
from tests.harness.handlers import write_handler
from tests.inspect.support import HOST, Actor, acting, wait_for, without_netlink


def me() -> str:
    return pwd.getpwuid(os.getuid()).pw_name


def accepted(actor: Actor) -> socket.socket:
    """Connect to the actor's listener, which accepts; return this end."""
    port = actor.do("out = listener.getsockname()[1]")
    client = socket.create_connection((HOST, port), source_address=(HOST, 0))
    actor.do("conn, _ = listener.accept()")
    return client


def row(found: HeldSockets, local: str, state: str = "ESTABLISHED") -> HeldSocket:
    (only,) = (held for held in found if held.local == local and held.state == state)
    return only


def listeners(address: str) -> list[HeldSocket]:
    return [held for held in holders(address) if held.state == "LISTEN"]


def age_of(pid: int) -> float:
    process = read_process(pid)
    assert process is not None
    started = process.started / os.sysconf("SC_CLK_TCK")
    return time.clock_gettime(time.CLOCK_BOOTTIME) - started


def test_a_port_has_a_listener_connections_and_clients() -> None:
    """Each is a row of its own, with its queue and its holder; both ends are on this machine."""
    with acting() as actor:
        port = actor.listen(backlog=9)
        address = f"{HOST}:{port}"
        with accepted(actor) as client, socket.create_connection(client.getpeername()):
            found = holders(address)
            assert found.what == address
            assert len(found) == 5
            listener = found.sockets[0]
            assert (listener.kind, listener.state, listener.local, listener.peer) == (
                *("tcp", "LISTEN", address),
                "",
            )
            assert (listener.receive_queue, listener.send_queue) == (1, 9)
            (holder,) = listener.holders
            fd = actor.do("out = listener.fileno()")
            assert (holder.pid, holder.fd, holder.user, holder.how) == (actor.pid, fd, me(), "")
            assert "python" in holder.command
            ours = "{}:{}".format(*client.getsockname())
            here = row(found, ours)
            assert [(each.pid, each.fd) for each in here.holders] == [
                (os.getpid(), client.fileno())
            ]
            there = {held.peer: held for held in found if held.local == address}[ours]
            assert there.user == me()
            assert there.inode == actor.do("out = os.fstat(conn.fileno()).st_ino")
            assert there.cookie != here.cookie
            assert [each.pid for each in there.holders] == [actor.pid]
            waiting = [held for held in found if not held.holders]
            assert ["no process has accepted it" in held.note for held in waiting] == [True]


@pytest.mark.parametrize("host", ["", "localhost", "127.0.0.1"])
def test_a_listener_of_every_interface_serves_each(host: str) -> None:
    with socket.create_server(("0.0.0.0", 0)) as listener:
        port = listener.getsockname()[1]
        for address in (f"{host}:{port}", f"127.0.0.9:{port}"):
            assert [held.holders[0].fd for held in listeners(address)] == [listener.fileno()]
    assert not listeners(f"{host}:{port}")


def test_another_interface_of_the_port_is_not_meant() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        assert not listeners(f"127.0.0.9:{listener.getsockname()[1]}")


def test_ipv6() -> None:
    with socket.create_server(("::1", 0), family=socket.AF_INET6) as listener:
        (held,) = listeners(f"[::1]:{listener.getsockname()[1]}")
        assert held.local == f"[::1]:{listener.getsockname()[1]}"


def test_queues_counts_and_age() -> None:
    """What the peer sent and nobody read; the age, until data has passed both ways."""
    with acting() as actor:
        actor.listen()
        with accepted(actor) as client:
            before = time.monotonic()
            client.sendall(b"x" * 300)
            conn = f"{actor.pid}:{actor.do('out = conn.fileno()')}"
            (held,) = holders(conn)
            assert (held.receive_queue, held.send_queue, held.shut) == (300, 0, "")
            assert held.tcp is not None
            assert (held.tcp.received, held.tcp.sent) == (300, 0)
            assert held.tcp.window > 0
            assert held.age is not None
            assert held.age <= time.monotonic() - before + 5
            actor.do("conn.recv(300)\nconn.sendall(b'reply')\nconn.shutdown(socket.SHUT_WR)")
            client.recv(5)
            wait_for(lambda: holders(conn).sockets[0].state == "FIN_WAIT2", "our FIN acknowledged")
            (held,) = holders(conn)
            assert (held.receive_queue, held.state, held.shut) == (0, "FIN_WAIT2", "send")
            assert held.age is None
            (mine,) = holders(f"{os.getpid()}:{client.fileno()}")
            assert mine.state == "CLOSE_WAIT"


def test_the_mode_is_the_sockets() -> None:
    """O_NONBLOCK as the kernel has it, whoever set it."""
    with acting() as actor:
        actor.listen()
        descriptor = f"{actor.pid}:{actor.do('out = listener.fileno()')}"
        for blocking in (True, False, True):
            actor.do(f"listener.setblocking({blocking})")
            (held,) = holders(descriptor)
            assert held.nonblocking is not blocking


def test_timers() -> None:
    """A keepalive that runs in another process's socket."""
    with acting() as actor:
        actor.listen()
        with accepted(actor):
            actor.do("conn.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)")
            (held,) = holders(f"{actor.pid}:{actor.do('out = conn.fileno()')}")
            assert held.timer is not None
            assert (held.timer.kind, held.timer.fired) == ("keepalive", 0)
            assert 0 < held.timer.left <= 7200


def test_inherited_at_a_fork() -> None:
    """A child has its parent's sockets; when the parent has closed its own, siblings still tell."""
    with acting() as actor:
        actor.listen()
        with accepted(actor) as client:
            first = actor.do("out = fork_holder()")
            fd = actor.do("out = conn.fileno()")
            (held,) = holders(f"{first}:{fd}")
            assert [(each.pid, each.how, each.of) for each in held.holders] == sorted(
                [(actor.pid, "", 0), (first, "inherited", actor.pid)]
            )
            second = actor.do("out = fork_holder()\nconn.close()")
            (held,) = holders(f"{first}:{fd}")
            assert [(each.pid, each.how, each.of) for each in held.holders] == sorted(
                [(first, "inherited", actor.pid), (second, "inherited", actor.pid)]
            )
            assert client.send(b"still open") == 10


def test_a_process_that_is_older_has_not_inherited_it() -> None:
    """Parent and child hold a connection that was made after the fork: it was sent."""
    with acting() as actor:
        actor.listen()
        child = actor.do(
            "here, there = socket.socketpair()\n"
            "out = pid = os.fork()\n"
            "if not pid:\n"
            "    os.close(end_write)\n"
            "    _, fds, _, _ = socket.recv_fds(there, 1, 1)\n"
            "    there.send(b'y')\n"
            "    os.read(end_read, 1)\n"
            "    os._exit(0)\n"
        )
        wait_for(lambda: age_of(child) > 0.6, "a process older than the connection")
        with accepted(actor):
            actor.do("socket.send_fds(here, [b'x'], [conn.fileno()])\nhere.recv(1)")
            (held,) = holders(f"{actor.pid}:{actor.do('out = conn.fileno()')}")
            assert [(each.pid, each.how) for each in held.holders] == sorted(
                [(actor.pid, ""), (child, "")]
            )


def test_in_flight() -> None:
    """A socket whose only handle is on its way is held by no process, and that is said."""
    left, right = socket.socketpair()
    with left, right, socket.create_server((HOST, 0)) as listener:
        port = listener.getsockname()[1]
        client = socket.create_connection((HOST, port), source_address=(HOST, 0))
        conn, _ = listener.accept()
        with client:
            socket.send_fds(left, [b"x"], [conn.fileno()])
            conn.close()
            there = {held.peer: held for held in holders(f":{port}")}
            held = there["{}:{}".format(*client.getsockname())]
            assert (held.holders, held.state, held.nonblocking) == ((), "ESTABLISHED", None)
            assert held.inode
            assert "SCM_RIGHTS" in held.note
            _, (arrived,), _, _ = socket.recv_fds(right, 1, 1)
            os.close(arrived)


def test_what_its_process_has_closed() -> None:
    """The kernel ends what was closed; no process holds it, and that is said."""
    with acting() as actor:
        port = actor.listen()
        with accepted(actor) as client:
            actor.do("conn.close()")
            ours = "{}:{}".format(*client.getsockname())

            found: list[HeldSocket] = []

            def is_acknowledged() -> bool:
                # For a moment, while the kernel puts a smaller socket in its place, there is none.
                found[:] = [held for held in holders(ours) if held.peer == ours]
                return [held.state for held in found] == ["FIN_WAIT2"]

            wait_for(is_acknowledged, "our FIN acknowledged")
            (held,) = found
            assert held.local == f"{HOST}:{port}"
            assert (held.inode, held.user, held.holders) == (0, "", ())
            assert "closed by its process" in held.note


@pytest.mark.parametrize("abstract", [False, True])
def test_unix_sockets(tmp_path: Path, abstract: bool) -> None:
    """The listener, what it accepted, and the client, whose end has no name."""
    name = f"@socketkeep-test-{os.getpid()}" if abstract else str(tmp_path / "s")
    bound = "\0" + name[1:] if abstract else name
    with acting() as actor:
        actor.do(
            f"listener = socket.socket(socket.AF_UNIX)\nlistener.bind({bound!r})\n"
            "listener.listen(5)"
        )
        with socket.socket(socket.AF_UNIX) as client, socket.socket(socket.AF_UNIX) as waiting:
            client.connect(bound)
            actor.do("conn, _ = listener.accept()")
            waiting.connect(bound)
            client.sendall(b"12345")
            found = holders(f"unix:{name}")
            first, *others = found
            assert (first.state, first.local) == ("LISTEN", f"unix:{name}")
            assert (first.receive_queue, first.send_queue) == (1, 5)
            assert [each.pid for each in first.holders] == [actor.pid]
            conn, end = sorted(others, key=lambda held: held.local == "unix:")
            assert (conn.state, conn.local, conn.receive_queue) == (
                *("ESTABLISHED", f"unix:{name}"),
                5,
            )
            assert conn.peer == f"unix:inode={os.fstat(client.fileno()).st_ino}"
            assert (end.local, end.peer) == ("unix:", f"unix:{name}")
            assert [(each.pid, each.fd) for each in end.holders] == [(os.getpid(), client.fileno())]
    assert not len(holders(f"unix:{name}"))


def test_all_sockets_of_a_process() -> None:
    """Of each kind, bound or not; a socket that has two descriptors is one row."""
    with acting() as actor:
        actor.listen()
        actor.do(
            "again = listener.dup()\nfresh = socket.socket()\nleft, right = socket.socketpair()\n"
            f"datagram = socket.socket(type=socket.SOCK_DGRAM)\ndatagram.bind(('{HOST}', 0))\n"
            "netlink = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0)"
        )
        found = holders(str(actor.pid))
        assert sorted(held.kind for held in found) == [
            *("netlink", "tcp", "tcp", "udp", "unix", "unix"),
        ]
        assert found.sockets[0].state == "LISTEN"
        assert [each.fd for each in found.sockets[0].holders] == [
            actor.do("out = listener.fileno()"),
            actor.do("out = again.fileno()"),
        ]
        (fresh,) = (held for held in found if held.kind == "tcp" and held.state != "LISTEN")
        assert [each.fd for each in fresh.holders] == [actor.do("out = fresh.fileno()")]
        assert "not bound" in fresh.note


def test_what_a_keeper_keeps(tmp_path: Path) -> None:
    """The keeper's handle is told as kept, its worker's as serving; the listener is neither."""
    target = write_handler(tmp_path, "v0", "counter", is_async=False)
    options = (
        *("-k", "prefork", "-w", "1"),
        *("--keep", "crash", "--keep-after", "0", "--park-after", "off"),
    )
    with Server(tmp_path / "server", target, *options) as server, connect(server.address) as client:
        client.sendall(b"x\n")
        assert client.recv(100)
        ours = "{}:{}".format(*client.getsockname())

        def rows() -> dict[str, HeldSocket]:
            return {held.peer: held for held in holders(server.address)}

        server.wait_until(lambda: len(rows()[ours].holders) == 2, "the keeper keeps it")
        worker = server.workers()[0]["pid"]
        how = {each.pid: (each.how, each.of) for each in rows()[ours].holders}
        assert how == {server.pid: ("kept", 0), worker: ("serves", server.pid)}
        listener = {each.pid: each.how for each in rows()[""].holders}
        assert listener[server.pid] == ""
        assert listener[worker] == "serves"


def test_what_may_not_be_looked_into_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of another user's process: counted with its user, and named where no holder is seen."""
    with acting() as actor:
        port = actor.listen()

        def protected(pids: Sequence[int], *rest: Any) -> dict[int, int]:
            seen = [pid for pid in pids if pid != actor.pid]
            return {**_descriptors.look_in_python(seen, *rest), actor.pid: errno.EACCES}

        monkeypatch.setattr(_descriptors, "look", protected)
        found = holders(f"{HOST}:{port}")
        assert found.unreadable.get(me(), 0) >= 1
        assert f"of user {me()}" in found.incomplete
        assert f" {actor.pid} (" in found.incomplete
        (held,) = found
        assert (held.holders, held.user) == ((), me())
        assert "could not be looked into" in held.note
        with pytest.raises(SystemFailure, match=f"no right to trace process {actor.pid}") as caught:
            holders(str(actor.pid))
        assert caught.value.errno == errno.EPERM
        monkeypatch.undo()


def test_what_cannot_be_answered(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Each is one clear error: no process, no descriptor, no socket, no netlink."""
    with pytest.raises(SystemFailure, match=r"there is no process 4194303 \(a port is written"):
        holders("4194303")
    with pytest.raises(SystemFailure, match="has no descriptor 9999"):
        holders(f"{os.getpid()}:9999")
    with (tmp_path / "file").open("w") as file:
        with pytest.raises(SystemFailure, match=r"is no socket, it is .*/file") as caught:
            holders(f"{os.getpid()}:{file.fileno()}")
        assert caught.value.errno == errno.ENOTSOCK
    with pytest.raises(AddressError):
        holders("nonsense")

    without_netlink(monkeypatch)
    with pytest.raises(SystemFailure, match=r"netlink\): Operation not permitted"):
        holders(":7000")
