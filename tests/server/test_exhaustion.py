"""Running out of descriptors, processes and threads: one line, and serving goes on."""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final

import pytest

from tests.harness import Load, Server, connect, read_reply, write_handler
from tests.server.support import (
    PrefixedServer,
    as_plain_user,
    at_its_descriptor_limit,
    plain_users_directory,
    processor_time,
    seats,
    soft_limit,
)

_NEW: Final = 4
# Long enough for ten attempts, were they not spaced.
_SPELL: Final = 1.0


def _ask(peer: socket.socket, number: int) -> None:
    peer.sendall(b"%d\n" % number)
    assert read_reply(peer) == b"%d %d v0" % (number, number)


def _serve_for_a_while(peer: socket.socket, first: int, pids: list[int]) -> None:
    """Have `peer` served while nothing new can be; the workers must not spin meanwhile."""
    began, before = time.monotonic(), sum(map(processor_time, pids))
    number = first
    peer.settimeout(10.0)
    while time.monotonic() - began < _SPELL:
        number += 1
        _ask(peer, number)
        # Waits for what must not come: a byte too many, or the end.
        peer.settimeout(_SPELL / 10)
        with pytest.raises(TimeoutError):
            peer.recv(1)
        peer.settimeout(10.0)
    spent = sum(map(processor_time, pids)) - before
    assert spent < 0.5 * (time.monotonic() - began), f"the workers computed for {spent} s"


def test_accept_at_the_descriptor_limit(tmp_path: Path, model: str) -> None:
    """One line; what is served goes on; those who connect wait, and are served afterwards."""
    target = write_handler(tmp_path, "v0", "drained counter", is_async=model == "async")
    with (
        Server(tmp_path, target, *seats(model, 1 + _NEW)) as server,
        connect(server.address) as served,
        ExitStack() as stack,
    ):
        _ask(served, 1)
        pids = [worker["pid"] for worker in server.workers()]
        with ExitStack() as limits:
            for pid in pids:
                limits.enter_context(at_its_descriptor_limit(pid))
            peers = [stack.enter_context(connect(server.address)) for _ in range(_NEW)]
            for peer in peers:
                peer.sendall(b"1\n")
            event = server.wait_event("out of file descriptors")
            assert event["level"] == "warning"
            assert event["process"] == "worker"
            _serve_for_a_while(served, 1, pids)
        for peer in peers:
            assert read_reply(peer) == b"1 1 v0"
        said = server.find("out of file descriptors")
        assert len(said) <= len(pids), said
        status = server.status()
        assert (status["connections"]["open"], status["totals"]["lost"]) == (1 + _NEW, 0)
        assert status["totals"]["worker_deaths"] == 0


def test_server_with_few_descriptors(tmp_path: Path, model: str) -> None:
    """Twice as many clients as it has room for: all are served, none is reset."""
    clients = 64
    target = write_handler(tmp_path, "v0", "drained counter", is_async=model == "async")
    prefix = ["prlimit", "--nofile=40:40"]
    room = 5 if model == "prefork" else clients
    with (
        PrefixedServer(prefix, tmp_path, target, *seats(model, room)) as server,
        ExitStack() as stack,
    ):
        peers = [stack.enter_context(connect(server.address, 20.0)) for _ in range(clients)]
        for peer in peers:
            peer.sendall(b"1\n")
        for peer in peers:
            assert read_reply(peer) == b"1 1 v0"
            peer.close()
        server.wait_until(
            lambda: server.status()["totals"]["closed"] == clients, "all connections closed"
        )
        assert server.status()["totals"]["worker_deaths"] == 0


def test_reload_at_the_descriptor_limit(tmp_path: Path, model: str) -> None:
    """Workers that have no descriptor to spare, and a keeper that has few: all connections move."""
    clients, workers = (4, 4) if model == "prefork" else (24, 1)
    target = write_handler(tmp_path, "v0", is_async=model == "async")
    with (
        Server(tmp_path, target, *seats(model, clients)) as server,
        Load(server.address, clients, pause=0.05) as load,
        ExitStack() as limits,
    ):
        load.wait_version("v0")
        pids = {worker["pid"] for worker in server.workers()}
        for pid in pids:
            limits.enter_context(at_its_descriptor_limit(pid))
        # Enough to start the next generation, too few for its connections at once.
        limits.enter_context(at_its_descriptor_limit(server.pid, spare=6 + 6 * workers))
        write_handler(tmp_path, "v1", is_async=model == "async")
        server.reload()
        load.wait_version("v1")
        for pid in pids:
            server.wait_event("worker exited", pid=pid, status="exit code 0")
        tally = load.finish()
        assert tally.clean, tally.summary()
        assert server.status()["totals"]["lost"] == 0


def test_reload_without_a_descriptor(tmp_path: Path) -> None:
    """A keeper that cannot start the next generation says so, and the present one serves on."""
    target = write_handler(tmp_path, "v0", is_async=False)
    with Server(tmp_path, target) as server, connect(server.address) as peer:
        _ask(peer, 1)
        with at_its_descriptor_limit(server.pid, spare=1):  # for the command's own connection
            done = server.cli("reload")
        assert done.exit_code in (3, 4), done
        assert "Too many open files" in done.stderr
        _ask(peer, 2)
        server.reload()
        _ask(peer, 3)


@contextmanager
def _plain_server(model: str) -> Iterator[Server]:
    with plain_users_directory() as directory:
        target = write_handler(directory, "v0", "drained counter", is_async=model == "async")
        options = ("--graceful-timeout", "5")
        with PrefixedServer(as_plain_user(), directory, target, "-k", model, *options) as server:
            yield server


@pytest.mark.parametrize(
    ("model", "said"), [("fork", "cannot fork"), ("thread", "cannot start a thread")]
)
def test_no_process_for_a_connection(model: str, said: str) -> None:
    """One line; the connections wait for a process, or a thread, and are then served."""
    with _plain_server(model) as server, connect(server.address) as served, ExitStack() as stack:
        _ask(served, 1)
        pid = server.workers()[0]["pid"]
        with soft_limit(pid, "nproc", 1, as_plain_user()):
            peers = [stack.enter_context(connect(server.address)) for _ in range(_NEW)]
            for peer in peers:
                peer.sendall(b"1\n")
            server.wait_event(said)
            _serve_for_a_while(served, 1, [pid])
        for peer in peers:
            assert read_reply(peer) == b"1 1 v0"
        assert len(server.find(said)) == 1
        assert server.status()["totals"]["lost"] == 0
        assert server.workers()[0]["pid"] == pid


def test_no_process_for_a_worker() -> None:
    """One line; the server lives on, and has its worker as soon as it can."""
    with _plain_server("prefork") as server:
        workers = {worker["pid"] for worker in server.workers()}
        children = Path(f"/proc/{server.pid}/task/{server.pid}/children").read_text().split()
        (template,) = {int(pid) for pid in children} - workers
        with soft_limit(template, "nproc", 1, as_plain_user()):
            os.kill(min(workers), signal.SIGKILL)
            event = server.wait_event("cannot fork")
            assert event["process"] == "template"
            with connect(server.address) as peer:
                _ask(peer, 1)
        server.wait_until(
            lambda: server.status()["workers"]["ready"] == len(workers), "all workers again"
        )
        assert len(server.find("cannot fork")) == 1


def test_no_process_for_a_reload() -> None:
    """The reload fails and says why; the server serves on with the code that it has."""
    with _plain_server("thread") as server:
        with soft_limit(server.pid, "nproc", 1, as_plain_user()):
            done = server.cli("reload")
        assert done.exit_code in (3, 4), done
        assert "cannot start the process that loads the code: too many processes" in done.stderr
        with connect(server.address) as peer:
            _ask(peer, 1)
        server.reload()
