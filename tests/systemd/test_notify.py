"""What a server tells the service manager: readiness, reloads, its end, its figures, its life."""

from __future__ import annotations

import os
import socket
import time
from pathlib import Path

import pytest

from tests.harness import Server, connect, read_reply, write_handler, write_source
from tests.systemd.manager import Manager

_TELLS_ENVIRONMENT = """
import os
from socketkeep import resumable

@resumable
def handle(conn):
    names = [n for n in os.environ if n.startswith(("NOTIFY", "WATCHDOG", "LISTEN", "FDSTORE"))]
    conn.send(f"{sorted(names)}\\n".encode())
"""


def _environment(manager: Manager, **more: str) -> dict[str, str]:
    return {"NOTIFY_SOCKET": manager.address, **more}


@pytest.mark.parametrize("abstract", [False, True], ids=["path", "abstract"])
def test_from_start_to_stop(tmp_path: Path, abstract: bool) -> None:
    """READY once it serves, RELOADING and READY around a reload, STOPPING before it ends."""
    target = write_handler(tmp_path, "v0", is_async=True)
    with (
        Manager(tmp_path, abstract=abstract) as manager,
        Server(tmp_path, target, environment=_environment(manager)) as server,
    ):
        ready = manager.wait(READY="1")
        assert ready.pid == server.pid
        assert ready.words["MAINPID"] == str(server.pid)
        with connect(server.address) as peer:
            peer.sendall(b"x\n")
            assert read_reply(peer) == b"1 x v0"
        since = manager.mark()
        before = time.monotonic_ns() // 1000
        server.reload()
        manager.wait(since=since, READY="1")
        told = [n for n in manager.notices[since:] if {"READY", "RELOADING"} & n.words.keys()]
        assert ["RELOADING" in notice.words for notice in told] == [True, False]
        assert before <= int(told[0].words["MONOTONIC_USEC"]) <= time.monotonic_ns() // 1000
        assert server.cli("stop").exit_code == 0
        manager.wait(STOPPING="1")
        assert server.wait_exit() == 0
    assert all(notice.pid == server.pid for notice in manager.notices)


def test_a_reload_that_fails(tmp_path: Path) -> None:
    """Is over for the manager too: the server is ready again, with the code it had."""
    target = write_handler(tmp_path, "v0", is_async=True)
    with (
        Manager(tmp_path) as manager,
        Server(tmp_path, target, environment=_environment(manager)) as server,
    ):
        manager.wait(READY="1")
        since = manager.mark()
        write_source(tmp_path, "this is no code")
        assert server.cli("reload").exit_code == 4
        manager.wait(since=since, RELOADING="1")
        ready = manager.wait(since=since, READY="1")
        assert ready.words["STATUS"].startswith("running: generation 1, ")


def test_a_server_that_cannot_start(tmp_path: Path) -> None:
    """Never says that it is ready."""
    target = write_source(tmp_path, "this is no code")
    with (
        Manager(tmp_path) as manager,
        Server(tmp_path, target, environment=_environment(manager), wait_ready=False) as server,
    ):
        assert server.wait_exit() == 4
        manager.wait(STOPPING="1")
        assert not manager.find(READY="1")


def test_status(tmp_path: Path) -> None:
    """One line, kept up to date while connections come."""
    target = write_handler(tmp_path, "v0", is_async=True)
    with (
        Manager(tmp_path) as manager,
        Server(tmp_path, target, "-w", "2", environment=_environment(manager)) as server,
        connect(server.address),
    ):
        manager.wait(STATUS="running: generation 1, 2 workers, 1 connections")


def test_watchdog(tmp_path: Path) -> None:
    """It is told at half the time that the manager waits, for this process alone."""
    target = write_handler(tmp_path, "v0", is_async=True)
    with (
        Manager(tmp_path) as manager,
        Server(tmp_path, target, environment=_environment(manager, WATCHDOG_USEC="200000")),
    ):
        manager.wait(READY="1")
        since, began = manager.mark(), time.monotonic()
        manager.wait(since=since, count=10, WATCHDOG="1")
        assert time.monotonic() - began >= 0.8


def test_another_process_watchdog(tmp_path: Path) -> None:
    """A watchdog of another process is not patted."""
    target = write_handler(tmp_path, "v0", is_async=True)
    terms = {"WATCHDOG_USEC": "20000", "WATCHDOG_PID": str(os.getpid())}
    with (
        Manager(tmp_path) as manager,
        Server(tmp_path, target, environment=_environment(manager, **terms)) as server,
    ):
        manager.wait(READY="1")
        server.reload()
        manager.wait(count=2, READY="1")
        assert not manager.find(WATCHDOG="1")


def test_the_users_code_hears_nothing_of_it(tmp_path: Path) -> None:
    """A library there that found NOTIFY_SOCKET would speak for the server."""
    target = write_source(tmp_path, _TELLS_ENVIRONMENT)
    terms = {"WATCHDOG_USEC": "20000000", "FDSTORE": "0", "LISTEN_PIDFDID": "1"}
    with (
        Manager(tmp_path) as manager,
        Server(tmp_path, target, environment=_environment(manager, **terms)) as server,
        connect(server.address) as peer,
    ):
        assert read_reply(peer) == b"[]"


def test_a_manager_that_has_gone(tmp_path: Path) -> None:
    """Costs a line in the log, now and then, and nothing else."""
    target = write_handler(tmp_path, "v0", is_async=True)
    terms = {"NOTIFY_SOCKET": str(tmp_path / "nobody.sock"), "WATCHDOG_USEC": "20000"}
    with Server(tmp_path, target, environment=terms) as server, connect(server.address) as peer:
        server.wait_event("cannot notify the service manager")
        peer.sendall(b"x\n")
        assert read_reply(peer) == b"1 x v0"
        server.reload()
        assert len(server.find("cannot notify the service manager")) == 1


def test_a_manager_that_does_not_read(tmp_path: Path) -> None:
    """Its full socket does not hold up the keeper, and what it missed is told again."""
    target = write_handler(tmp_path, "v0", is_async=True)
    path = str(tmp_path / "notify.sock")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(path)
        manager.settimeout(20.0)
        terms = {"NOTIFY_SOCKET": path, "WATCHDOG_USEC": "2000"}
        with Server(tmp_path, target, environment=terms) as server:
            server.wait_event("cannot notify the service manager")
            server.reload()
            while b"READY=1" not in manager.recv(4096):
                pass


def test_an_address_that_is_none(tmp_path: Path) -> None:
    """Is named in the log."""
    target = write_handler(tmp_path, "v0", is_async=True)
    with Server(tmp_path, target, environment={"NOTIFY_SOCKET": "vsock:2:1234"}) as server:
        event = server.wait_event("cannot notify the service manager")
        assert event["address"] == "vsock:2:1234"
