"""More clients than workers: those that wait are parked, and the peers notice nothing."""

from __future__ import annotations

import os
import resource
import signal
import socket
import struct
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Final

import pytest

from tests.harness import Server, connect, read_reply, read_to_end
from tests.peer.conftest import Site
from tests.peer.told import name_of, told, write

SOON: Final = ("--park-after", "0.05")
#: Clients of four `prefork` workers.
MANY: Final = 500


def wait_parked(server: Server, number: int) -> None:
    server.wait_until(
        lambda: server.status()["connections"]["parked"] == number, f"{number} parked", 20.0
    )


def reset(sock: socket.socket) -> None:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


def test_more_clients_than_workers(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Four workers, one connection each at a time; then all clients speak at one moment."""
    site = Site("prefork", "ipv4", tmp_path_factory.mktemp("many"))
    target = write(site, "v0")
    with site.serve(target, "--park-after", "0.01", clients=3, spare=1) as server:
        socks = [connect(server.address, 20.0) for _ in range(MANY)]
        try:
            for turn in (b"1", b"2", b"3"):
                for sock in socks:
                    sock.sendall(turn + b"\n")
                answers = {read_reply(sock).replace(b"accepted", b"parked") for sock in socks}
                assert answers == {b"%s %s v0 parked 0" % (turn, turn)}
                wait_parked(server, MANY)
            status = server.status()
            assert status["totals"]["accepted"] == status["connections"]["open"] == MANY
            assert status["workers"]["ready"] == 4
            assert status["totals"]["lost"] == 0
        finally:
            for sock in socks:
                sock.close()
        wait_parked(server, 0)
        server.wait_until(lambda: not server.connections(), "the end of all", 20.0)


def test_what_wakes_one(tcp_site: Site) -> None:
    """Its handler meets what it would have met in a worker that waited for it."""
    with told(tcp_site, 6, *SOON, room=2) as peers:
        server = peers.server
        wait_parked(server, 6)
        spoken, half, partial, closed, gone, told_to = peers.socks
        listed = {each["peer"]: each for each in server.connections()}
        row = listed[name_of(spoken)]
        assert (row["state"], row["owner"], row["busy"]) == ("parked", None, False)
        assert row["bytes_in"] == 6
        assert row["bytes_out"] in (len(b"1 hello v0 accepted 0\n"), len(b"1 hello v0 parked 0\n"))
        assert 0.0 < row["idle"] <= row["age"] < 60.0
        if tcp_site.model == "fork":
            # The keeper, the template and its workers: no process waits for a parked client.
            server.wait_until(lambda: len(server.processes()) == 4, "no process of a client")

        assert peers.ask(0, "again") == ("parked", False)
        peers.tell(1, "last")
        half.shutdown(socket.SHUT_WR)
        assert peers.hear(1, "last") == ("parked", False)
        assert read_to_end(half) == b""
        partial.sendall(b"in two ")
        wait_parked(server, 5)
        partial.sendall(b"pieces\n")
        assert read_reply(partial).startswith(b"2 in two pieces v0 parked")
        closed.close()
        reset(gone)
        wait_parked(server, 3)
        assert server.status()["totals"]["handler_errors"] == 0

        write(tcp_site, "v1")
        server.reload()
        wait_parked(server, 3)
        assert peers.ask(0, "new") == ("parked", False)
        assert peers.version == "v1"
        assert peers.ask(5, "old") == ("parked", False)
        wait_parked(server, 3)
        server.signal(signal.SIGTERM)
        for sock in (spoken, partial, told_to):
            assert read_to_end(sock) == b""
            sock.close()
        half.close()
        assert server.wait_exit() == 0


@pytest.mark.parametrize("model", ["fork", "async"])
def test_parked_by_its_handler(model: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    """At once, where waiting alone does not park; what came already is not lost."""
    site = Site(model, "ipv4", tmp_path_factory.mktemp(model))
    with told(site, 2) as peers:
        peers.socks[0].sendall(b"park\n")
        wait_parked(peers.server, 1)
        if model == "fork":
            peers.server.wait_until(lambda: len(peers.server.processes()) == 5, "one client's")
        peers.asked[0] += 1
        assert peers.ask(0, "again") == ("parked", False)
        peers.socks[1].sendall(b"park\nand on\n")
        assert read_reply(peers.socks[1]) == b"2 park v0 accepted 0", "nothing to wait for"
        assert read_reply(peers.socks[1]) == b"3 and on v0 accepted 0"


def test_idle_too_long(some_site: Site) -> None:
    """The idle timeout goes on while it is parked."""
    began = time.monotonic()
    with told(some_site, 2, *SOON, "--idle-timeout", "1.5") as peers:
        wait_parked(peers.server, 2)
        assert peers.ask(1, "still") == ("parked", False)
        assert peers.end(0) == "FIN"
        assert time.monotonic() - began >= 1.5
        assert peers.end(1) == "FIN"
        totals = peers.server.status()["totals"]
        assert (totals["lost"], totals["closed"]) == (0, 2)


def test_without_a_descriptor_for_it(some_site: Site) -> None:
    """Neither the worker's limit nor the keeper's loses a connection: it waits until there is."""
    with told(some_site, 3, *SOON, "-w", "1", room=1) as peers:
        server = peers.server
        wait_parked(server, 3)
        ((worker,),) = ([each["pid"] for each in server.workers()],)
        with limited(worker):
            for index in range(3):
                peers.tell(index, "again")
            server.wait_until(lambda: waiting(server) == 3, "all refused")
        for index in range(3):
            assert peers.hear(index, "again") == ("parked", False)
        wait_parked(server, 3)
        with ExitStack() as stack:
            with limited(server.pid):
                # Of those that were parked it has a handle: they come and go as ever.
                for index in range(3):
                    assert peers.ask(index, "go") == ("parked", False)
                # Who has not been parked yet cannot be: a place or two may have become free since.
                late = [stack.enter_context(connect(server.address)) for _ in range(4)]
                for sock in late:
                    sock.sendall(b"on\n")
                server.wait_event("out of file descriptors", process="keeper")
            for sock in late:
                assert read_reply(sock).split()[:2] == [b"1", b"on"]
            wait_parked(server, 7)
        wait_parked(server, 3)
        assert peers.ask(0, "on") == ("parked", False)
        assert server.status()["totals"]["lost"] == 0


def waiting(server: Server) -> int:
    """Return how many connections wait for a worker, or are on their way to one."""
    moving = server.status()["connections"]["moving"]
    assert isinstance(moving, int)
    return moving


@contextmanager
def limited(pid: int) -> Iterator[None]:
    """Let a process open no descriptor, for as long as a block runs."""
    before = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    free = next(n for n in range(10**6) if not os.path.lexists(f"/proc/{pid}/fd/{n}"))
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (free, before[1]))
    try:
        yield
    finally:
        resource.prlimit(pid, resource.RLIMIT_NOFILE, before)
