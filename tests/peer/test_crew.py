"""Processes of the `fork` model that serve more than one connection, or wait for one."""

from __future__ import annotations

import os
import select
import signal
import socket
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from tests.harness import Server, connect, read_reply
from tests.harness.processes import wait_exit
from tests.native.cores import compiled

HANDLER = """
import os
from socketkeep import resumable

@resumable
def handle(conn):
    count = conn.state or 0
    for line in conn.lines():
        count += 1
        conn.send(b"%d %d\\n" % (count, os.getpid()))
        conn.commit(count)
"""
#: A thread that the worker has beside its own.
THREADED = """
import threading
from contextlib import contextmanager
from socketkeep import Service

@contextmanager
def lifespan():
    threading.Thread(target=threading.Event().wait, daemon=True).start()
    yield

serve = Service(handle, lifespan=lifespan)
"""
PATIENCE = 10.0


@contextmanager
def serving(directory: Path, *options: str) -> Iterator[Server]:
    path = directory / "app.py"
    path.write_text(HANDLER)
    with Server(directory, f"{path}:handle", "-k", "fork", "-w", "1", *options) as server:
        yield server


@contextmanager
def a_peer(server: Server) -> Iterator[socket.socket]:
    with closing(connect(server.address)) as peer:
        peer.settimeout(PATIENCE)
        yield peer


def ask(peer: socket.socket) -> tuple[int, int]:
    """Return the count of the connection's lines, and the process that serves it."""
    peer.sendall(b"line\n")
    count, pid = read_reply(peer).split()
    return int(count), int(pid)


def served_by(server: Server) -> int:
    """Have a connection served to its end; return by which process."""
    with a_peer(server) as peer:
        count, pid = ask(peer)
        assert count == 1
        peer.shutdown(socket.SHUT_WR)
        assert peer.recv(1) == b""
    server.wait_until(lambda: not server.connections(), "the connection is settled")
    return pid


def children(pid: int) -> set[int]:
    return set(map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split()))


def spares(server: Server, number: int, but: int = 0) -> set[int]:
    """Wait until so many children wait, and the process `but` is none of them."""
    (worker,) = (each["pid"] for each in server.workers() if each["state"] == "ready")

    def waiting() -> set[int]:
        return children(worker) - {each["owner"] for each in server.connections()}

    server.wait_until(lambda: len(waiting()) == number and but not in waiting(), "they wait")
    return waiting()


def test_a_process_serves_as_many_connections_as_it_may(tmp_path: Path) -> None:
    """One after another; those that are open at a time have processes of their own."""
    with serving(tmp_path, "--child-requests", "2") as server:
        first, second, third = (served_by(server) for _ in range(3))
        assert first == second
        assert third != first
        with a_peer(server) as one, a_peer(server) as other:
            assert ask(one)[1] != ask(other)[1]
            assert ask(one)[0] == 2
        assert "2 connections a process" in server.cli("status").stdout


def test_a_process_that_dies_takes_its_own_connection_alone(tmp_path: Path) -> None:
    with serving(tmp_path, "--child-requests", "16") as server:
        before = served_by(server)
        with a_peer(server) as victim, a_peer(server) as other:
            _, pid = ask(victim)
            assert pid == before, "it has served before"
            ask(other)
            os.kill(pid, signal.SIGKILL)
            with_reset = False
            try:
                assert victim.recv(1) == b""
            except ConnectionResetError:
                with_reset = True
            assert not with_reset, "all that it was sent it had read"
            server.wait_event("process of a connection died", pid=pid)
            assert ask(other)[0] == 2
        assert served_by(server) != pid


def test_processes_wait_and_are_replaced(tmp_path: Path) -> None:
    """Also by one that does not see its connection: nothing of that is lost."""
    with serving(tmp_path, "--spare", "2") as server:
        waiting = spares(server, 2)
        with a_peer(server) as peer:
            _, pid = ask(peer)
            assert pid in waiting, "it was forked before the client came"
            waiting = spares(server, 2)
            victim = waiting.pop()
            os.kill(victim, signal.SIGKILL)
            server.wait_event("waiting process died", pid=victim)
            stuck = spares(server, 2, but=victim)
            for each in stuck:
                os.kill(each, signal.SIGSTOP)
            with a_peer(server) as late:
                late.sendall(b"line\n")
                server.wait_until(
                    lambda: {each["owner"] for each in server.connections()} & stuck != set(),
                    "one that stands still was given it",
                )
                for each in stuck:
                    os.kill(each, signal.SIGKILL)
                count, pid = map(int, read_reply(late).split())
                assert count == 1
                assert pid not in stuck
            assert ask(peer)[0] == 2


@pytest.mark.parametrize(
    "options",
    [
        pytest.param(["--access-log"], id="logged"),
        pytest.param(["--keep", "crash"], id="kept"),
        pytest.param(["--max-per-address", "4"], id="counted by address"),
        pytest.param(["--bind", "127.0.0.2:0"], id="of two listeners"),
    ],
)
def test_one_that_waits_serves_connections_of_each_kind(tmp_path: Path, options: list[str]) -> None:
    with serving(tmp_path, "--spare", "1", *options) as server:
        for _ in range(2):
            waiting = spares(server, 1)
            assert {served_by(server)} == waiting


def test_those_that_wait_take_no_more_than_is_permitted(tmp_path: Path) -> None:
    with serving(tmp_path, "--spare", "2", "--max-connections", "1") as server:
        waiting = spares(server, 2)
        with a_peer(server) as first, a_peer(server) as second:
            assert ask(first)[1] in waiting
            second.sendall(b"line\n")
            assert ask(first)[0] == 2
            (served,) = server.connections()
            assert select.select([second], [], [], 0)[0] == [], "it is in the queue"
            first.shutdown(socket.SHUT_WR)
            assert first.recv(1) == b""
            count, pid = map(int, read_reply(second).split())
            assert (count, pid != served["owner"]) == (1, True)


def test_with_the_worker_those_that_wait_are_gone(tmp_path: Path) -> None:
    """A connection that one of them serves goes on."""
    with serving(tmp_path, "--spare", "1") as server:
        (first,) = spares(server, 1)
        with a_peer(server) as peer:
            assert ask(peer) == (1, first)
            (left,) = spares(server, 1)
            pidfd = os.pidfd_open(left)
            try:
                (worker,) = server.workers()
                os.kill(worker["pid"], signal.SIGKILL)
                server.wait_event("worker exited", pid=worker["pid"])
                assert select.select([pidfd], [], [], PATIENCE)[0], "it has left"
            finally:
                os.close(pidfd)
            assert ask(peer) == (2, first)
            server.wait_until(
                lambda: any(each["state"] == "ready" for each in server.workers()), "it is replaced"
            )
            assert spares(server, 1) - {left}


def test_a_reload_and_a_stop_end_those_that_wait(tmp_path: Path) -> None:
    """A kept connection goes on in the new generation, which has the options, too."""
    with serving(tmp_path, "--spare", "1", "--child-requests", "4") as server:
        old = spares(server, 1)
        with a_peer(server) as peer:
            _, before = ask(peer)
            assert before in old
            (left,) = spares(server, 1)
            pidfd = os.pidfd_open(left)
            try:
                assert server.reload().exit_code == 0
                count, after = ask(peer)
                assert (count, after != before) == (2, True)
                assert select.select([pidfd], [], [], PATIENCE)[0], "what waited has left"
            finally:
                os.close(pidfd)
            assert spares(server, 1) - old
            server.signal(signal.SIGTERM)
            wait_exit(server.pid, PATIENCE)


def worker_pids(server: Server) -> list[int]:
    return [each["pid"] for each in server.workers() if each["state"] == "ready"]


def settle(server: Server) -> None:
    """Have the workers fork as often as they do before they take a snapshot."""
    for _ in range(20):
        with a_peer(server) as peer:
            ask(peer)


def snapshots(worker: int) -> int:
    return Path(f"/proc/{worker}/maps").read_text().count("socketkeep fork snapshot")


@pytest.mark.skipif(compiled is None, reason="a snapshot is taken in C")
@pytest.mark.parametrize(
    "options", [(), ("--spare", "2"), ("--child-requests", "4")], ids=["one", "spare", "several"]
)
def test_workers_that_fork_from_a_snapshot_give_connections_on(
    tmp_path: Path, options: tuple[str, ...]
) -> None:
    with serving(tmp_path, "--fork-snapshot", "--keep", "crash", *options) as server:
        with a_peer(server) as peer:
            assert ask(peer)[0] == 1
            settle(server)
            server.wait_event("fork snapshot")
            (worker,) = worker_pids(server)
            assert snapshots(worker) > 0
            server.wait_until(lambda: server.status()["connections"]["kept"] == 1, "it is kept")
            os.kill(worker, signal.SIGKILL)
            assert ask(peer)[0] == 2
            server.reload()
            assert ask(peer)[0] == 3
            server.wait_until(lambda: worker not in worker_pids(server), "another one serves")
            settle(server)
            (worker,) = worker_pids(server)
            server.wait_event("fork snapshot", pid=worker)
            assert ask(peer)[0] == 4
        served_by(server)


def test_a_worker_that_has_threads_goes_without_a_snapshot(tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(HANDLER + THREADED)
    options = ("-k", "fork", "--fork-snapshot", "-w", "1")
    with Server(tmp_path, f"{tmp_path}/app.py:serve", *options) as server:
        settle(server)
        line = server.wait_event("no fork snapshot")
        assert line["why"] in ("the process has 2 threads", "it needs the compiled core")
        served_by(server)
