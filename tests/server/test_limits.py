"""Limits on connections: how many at a time, and for how long without a byte."""

from __future__ import annotations

import socket
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

import pytest

from tests.edge.support import begin, issue
from tests.harness import (
    Load,
    Server,
    connect,
    read_reply,
    read_to_end,
    write_handler,
    write_source,
)
from tests.server.support import PrefixedServer, seats

MAX: Final = 3
WAITING: Final = 5
IDLE: Final = 1.5
SINK: Final = """
def handle(conn):
    count = 0
    while not (data := conn.recv()).endswith(b"!"):
        count += len(data)
    conn.send(b"%d\\n" % (count + len(data) - 1))
"""
LOGIN: Final = """
from socketkeep import AsyncConnection, Connection, resumable

@resumable
def handle(conn: Connection) -> None:
    for line in conn.lines():
        if line == b"login":
            conn.deadline = None
        conn.send(line + b" VERSION\\n")
        conn.commit()
"""


def _listener(server: Server) -> Any:
    return server.status()["listeners"][0]


def test_connections_beyond_the_limit_wait(tmp_path: Path, model: str) -> None:
    """They wait in the kernel's queue, in order, are served as others leave, and none is reset."""
    target = write_handler(tmp_path, "v0", "drained counter", is_async=model == "async")
    workers = "5" if model == "prefork" else "2"
    options = ("-k", model, "-w", workers, "--max-connections", str(MAX))
    with Server(tmp_path, target, *options) as server, ExitStack() as stack:
        peers: list[socket.socket] = []
        for _ in range(MAX):
            peers.append(stack.enter_context(connect(server.address)))
            peers[-1].sendall(b"1\n")
            assert read_reply(peers[-1]) == b"1 1 v0"
        for _ in range(WAITING):
            peers.append(stack.enter_context(connect(server.address)))
            peers[-1].sendall(b"1\n")
        server.wait_until(lambda: _listener(server)["queued"] == WAITING, "all others queued")
        for _ in range(WAITING):
            assert server.status()["connections"]["open"] == MAX
            peers.pop(0).close()
            assert read_reply(peers[MAX - 1]) == b"1 1 v0"
        assert server.wait_event("server is full: others wait in the accept queue")["most"] == MAX
        for peer in peers:
            peer.sendall(b"2\n")
            assert read_reply(peer) == b"2 2 v0"
        totals = server.status()["totals"]
        assert (totals["accepted"], totals["reset"]) == (MAX + WAITING, 0)


def test_limit_through_reloads(tmp_path: Path, model: str) -> None:
    """What moves keeps its place: those who wait are served only once others have left."""
    target = write_handler(tmp_path, "v0", is_async=model == "async")
    clients = 6
    workers = str(clients) if model == "prefork" else "2"
    options = ("-k", model, "-w", workers, "--max-connections", str(clients))
    with Server(tmp_path, target, *options) as server, ExitStack() as stack:
        with Load(server.address, clients, pause=0.02) as load:
            load.wait_version("v0")
            peers = [stack.enter_context(connect(server.address)) for _ in range(WAITING)]
            for peer in peers:
                peer.sendall(b"1\n")
            for number in range(1, 3):
                write_handler(tmp_path, f"v{number}", is_async=model == "async")
                server.reload()
                load.wait_version(f"v{number}")
                server.wait_until(
                    lambda: len(server.workers()) == int(workers), "the earlier workers gone"
                )
                assert server.status()["connections"]["open"] == clients
                assert _listener(server)["queued"] == WAITING
            tally = load.finish()
            assert tally.clean, tally.summary()
        for peer in peers:
            assert read_reply(peer) == b"1 1 v2"
        assert server.status()["totals"]["lost"] == 0


def test_backlog_bounds_the_queue(tmp_path: Path) -> None:
    """The kernel is told it, and says so."""
    target = write_handler(tmp_path, "v0", is_async=False)
    with Server(tmp_path, target, "--backlog", "7") as server:
        assert _listener(server) == {
            "address": server.address,
            "backlog": 7,
            "queued": 0,
            "proxy": "off",
            "tls": False,
            "dropped": 0,
        }


def test_soft_limit_is_raised(tmp_path: Path) -> None:
    """The soft limit of descriptors is raised to what --max-connections needs."""
    target = write_handler(tmp_path, "v0", is_async=True)
    prefix = ["prlimit", "--nofile=256:6000"]
    with PrefixedServer(prefix, tmp_path, target, "--max-connections", "5000") as server:
        for pid in (server.pid, server.workers()[0]["pid"]):
            text = Path(f"/proc/{pid}/limits").read_text()
            soft = next(line for line in text.splitlines() if line.startswith("Max open files"))
            assert int(soft.split()[3]) >= 5000


def test_idle_connection_is_ended(tmp_path: Path, model: str) -> None:
    """One over which nothing passes gets an orderly end, at its time; one that is used goes on."""
    target = write_handler(tmp_path, "v0", "drained counter", is_async=model == "async")
    options = (*seats(model, 2), "--idle-timeout", str(IDLE))
    with Server(tmp_path, target, *options) as server:
        began = time.monotonic()
        with connect(server.address) as idle, connect(server.address) as active:
            ended_after = 0.0
            idle.settimeout(0.1)
            number = 0
            while not ended_after or time.monotonic() - began < 1.3 * IDLE:
                number += 1
                active.sendall(b"%d\n" % number)
                assert read_reply(active) == b"%d %d v0" % (number, number)
                try:
                    assert idle.recv(1) == b""  # and no ConnectionResetError
                except TimeoutError:
                    assert time.monotonic() - began < IDLE + 10, "the idle connection is still open"
                else:
                    ended_after = ended_after or time.monotonic() - began
            assert ended_after >= IDLE
            assert number > 5
            assert server.status()["totals"]["handler_errors"] == 0


def test_bytes_count_as_activity_without_a_whole_message(tmp_path: Path) -> None:
    """A message that comes in pieces over a longer time than the limit is received."""
    target = write_handler(tmp_path, "v0", is_async=False)
    with (
        Server(tmp_path, target, "--idle-timeout", str(IDLE)) as server,
        connect(server.address) as peer,
    ):
        began = time.monotonic()
        sent = 0
        peer.settimeout(IDLE / 5)
        while time.monotonic() - began < 1.3 * IDLE:
            peer.sendall(b"x")
            sent += 1
            with pytest.raises(TimeoutError):
                peer.recv(1)
        peer.settimeout(10.0)
        peer.sendall(b"\n")
        assert read_reply(peer) == b"1 %s v0" % (b"x" * sent)


def test_peer_that_does_not_read_is_idle(tmp_path: Path, model: str) -> None:
    """A handler that cannot send on is ended too; what was sent arrives, and then the end."""
    target = write_handler(tmp_path, "v0", "large", is_async=model == "async")
    options = (*seats(model, 2), "--idle-timeout", "0.5")
    with Server(tmp_path, target, *options) as server, connect(server.address) as peer:
        peer.sendall(b"%d\n" % (64 << 20))
        assert peer.recv(1) == b"x"
        server.wait_until(
            lambda: server.status()["connections"]["open"] == 0, "the connection given up"
        )
        assert set(read_to_end(peer)) == set(b"x")
        assert server.status()["totals"]["handler_errors"] == 0


def _login(directory: Path, version: str, *, is_async: bool) -> str:
    source = LOGIN.replace("VERSION", version)
    if is_async:
        source = source.replace("def handle(conn: ", "async def handle(conn: Async")
        source = source.replace("for line", "async for line").replace(
            "conn.send", "await conn.send"
        )
    return write_source(directory, source)


def test_time_for_the_first_bytes_and_for_a_login(tmp_path: Path, model: str) -> None:
    """Silence ends at the first, a byte now and then at the second; who has logged in goes on.

    In `prefork` and `thread` the silent one is parked by then.  A reload changes nothing.
    """
    is_async = model == "async"
    target = _login(tmp_path, "v0", is_async=is_async)
    options = (*seats(model, 4), "--first-bytes-timeout", "1", "--login-timeout", "3")
    with Server(tmp_path, target, *options) as server, ExitStack() as stack:
        began = time.monotonic()
        silent, slow, user = (stack.enter_context(connect(server.address)) for _ in range(3))
        user.sendall(b"login\n")
        assert read_reply(user) == b"login v0"
        slow.sendall(b"x")
        assert silent.recv(1) == b""
        assert time.monotonic() - began >= 1
        assert server.wait_event("connection timed out")["why"] == "it sent nothing for 1 s"
        _login(tmp_path, "v1", is_async=is_async)
        server.reload()
        server.wait_until(
            lambda: {worker["generation"] for worker in server.workers()} == {2}, "all moved"
        )
        user.sendall(b"moved\n")
        assert read_reply(user) == b"moved v1"
        slow.sendall(b"x")
        assert slow.recv(1) == b""
        assert time.monotonic() - began >= 3
        server.wait_event("connection timed out", why="its deadline has passed")
        user.sendall(b"on\n")
        assert read_reply(user) == b"on v1"
        totals = server.status()["totals"]
        assert (totals["overdue"], totals["handler_errors"]) == (2, 0)


@pytest.mark.parametrize("model", ["thread", "async"])
def test_bytes_a_second(tmp_path: Path, model: str) -> None:
    """What is beyond a second's worth waits, with TLS in the edge too; nothing is lost."""
    rate, beyond = 100_000, 60_000
    source = SINK
    if model == "async":
        source = source.replace("def handle", "async def handle").replace("conn.", "await conn.")
    target = write_source(tmp_path, source)
    limit = f"receive-rate={rate}"
    bind = [f"127.0.0.1:0,{limit}", f"127.0.0.2:0,{limit},{issue(tmp_path).text}", "127.0.0.3:0"]
    sent = bytes(rate + beyond)

    def took(peer: socket.socket) -> float:
        with peer:
            began = time.monotonic()
            peer.sendall(sent + b"!")
            assert read_reply(peer) == b"%d" % len(sent)
            return time.monotonic() - began

    with Server(tmp_path, target, *seats(model, 4), bind=bind) as server:
        plain, tls, free = server.addresses
        limited = [took(connect(plain)), took(begin(tls))]
        assert min(limited) >= beyond / rate - 0.1
        assert took(connect(free)) < min(limited)
