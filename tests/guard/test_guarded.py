"""What peers and users see of a server whose keeper, or whose every process, is killed."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Final

import pytest

from tests.guard.support import (
    HELLO,
    INSTALLED,
    IS_COMPILED,
    GuardedServer,
    Sidecar,
    given,
    kill_together,
    store_at,
    store_room,
)
from tests.guard.test_program import REPORTING, keeper, planned, report, start
from tests.harness import Capture, connect, read_reply, read_to_end, write_handler
from tests.harness.processes import wait_exit
from tests.server.support import seats

CLIENTS: Final = 4
KEEP: Final = ("--keep", "crash", "--keep-after", "0")


def ask(peer: socket.socket, line: bytes) -> bytes:
    """Return the reply to a line."""
    peer.sendall(line + b"\n")
    return read_reply(peer)


@contextmanager
def peers(server: GuardedServer, number: int) -> Iterator[list[socket.socket]]:
    """Yield so many connections; at the end nothing may have ended them."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(connect(server.address)) for _ in range(number)]
        if Capture.missing():
            yield sockets
            return
        capture = stack.enter_context(Capture(server.port))
        yield sockets
        assert capture.stop().to({sock.getsockname()[1] for sock in sockets}) == (0, 0)


def held(server: GuardedServer) -> int:
    """Return how many descriptors of connections the guard has."""
    stored = server.status()["guard"]["connections"]
    assert isinstance(stored, int)
    return stored


@pytest.mark.parametrize(("model", "park_after"), [("prefork", "0.1"), ("async", "off")])
@pytest.mark.timeout(120)
def test_peers_see_nothing_of_it(tmp_path: Path, model: str, park_after: str) -> None:
    """First the keeper is killed, then all but the guard, twice."""
    target = write_handler(tmp_path, "v0", is_async=model == "async")
    options = (*seats(model, CLIENTS + 1), *KEEP, "--park-after", park_after)
    with GuardedServer(tmp_path, target, *options) as server:
        assert server.keeper != server.pid
        with peers(server, CLIENTS) as clients:
            for client in clients:
                assert ask(client, b"x") == b"1 x v0"
            all_but_guard = server.kill_all_but_guard
            for number, kill in enumerate((server.kill_keeper, all_but_guard, all_but_guard), 2):
                settle(server, park_after)
                kill()
                for client in clients:
                    assert ask(client, b"x") == b"%d x v0" % number
            assert server.status()["totals"]["lost"] == 0
            assert server.status()["guard"]["starts"] == 3
            with connect(server.address) as late:
                assert ask(late, b"y") == b"1 y v0"
        server.signal(signal.SIGTERM)
        assert server.wait_exit() == 0


def settle(server: GuardedServer, park_after: str) -> None:
    """Wait until all are kept, and clean."""
    server.wait_clean()
    if park_after != "off":
        server.wait_until(lambda: server.status()["connections"]["parked"] in (0, CLIENTS), "rest")
    server.wait_until(lambda: held(server) == CLIENTS, "all to be stored")


def test_queued_while_there_is_no_keeper(tmp_path: Path) -> None:
    """Who connects when all is dead waits, and is served."""
    target = write_handler(tmp_path, "v0", is_async=False)
    with GuardedServer(tmp_path, target, *seats("prefork", 2)) as server:
        pids = [pid for pid in server.processes() if pid != server.pid]
        os.kill(server.pid, signal.SIGSTOP)
        try:
            for pid in pids:
                os.kill(pid, signal.SIGKILL)
            early = connect(server.address)
            early.sendall(b"x\n")
        finally:
            os.kill(server.pid, signal.SIGCONT)
        with early:
            assert read_reply(early) == b"1 x v0"


def test_in_the_middle_of_a_message(tmp_path: Path) -> None:
    """A connection that was not clean follows on_crash when its worker is killed, too."""
    target = write_handler(tmp_path, "v0", "asks back", is_async=True)
    with GuardedServer(tmp_path, target, *KEEP) as server, connect(server.address) as clean:
        assert ask(clean, b"r") == b"r? v0"
        clean.sendall(b"s\n")
        assert read_reply(clean)
        with connect(server.address) as dirty:
            assert ask(dirty, b"q") == b"q? v0"
            server.wait_until(lambda: held(server) == 2, "both to be stored")
            server.kill_all_but_guard()
            assert read_to_end(dirty) == b""
        assert ask(clean, b"t") == b"t? v0"


def test_a_worker_that_hangs_with_what_it_was_sent(tmp_path: Path) -> None:
    """It would go on with it some time, while the next keeper's worker serves the connection."""
    target = write_handler(tmp_path, "v0", is_async=True)
    options = (*KEEP, "-k", "async", "-w", "1", "--park-after", "0.1", "--worker-timeout", "60")
    with GuardedServer(tmp_path, target, *options) as server, peers(server, 1) as (client,):
        assert ask(client, b"a") == b"1 a v0"
        server.wait_until(lambda: server.status()["connections"]["parked"] == 1, "parked")
        (worker,) = server.workers()
        os.kill(worker["pid"], signal.SIGSTOP)
        try:
            client.sendall(b"b\n")
            server.wait_until(lambda: server.status()["connections"]["parked"] == 0, "sent")
            server.kill_keeper()
            assert read_reply(client) == b"2 b v0"
        finally:
            with suppress(ProcessLookupError):
                os.kill(worker["pid"], signal.SIGCONT)
        assert [ask(client, b"c"), ask(client, b"d")] == [b"3 c v0", b"4 d v0"]
        killed = server.wait_event("worker killed: it did not come to be taken over")
        assert killed["pid"] == worker["pid"]


def test_an_upgrade(tmp_path: Path) -> None:
    """Keeper and guard become what is installed, with their pids, and hold what they held."""
    target = write_handler(tmp_path, "v0", is_async=True)
    with GuardedServer(tmp_path, target, *KEEP) as server:
        with peers(server, 2) as clients:
            for client in clients:
                assert ask(client, b"a") == b"1 a v0"
            keeper, guard = server.keeper, started(server.pid)
            plan = Path(f"/proc/{server.pid}/cmdline").read_bytes()
            done = server.cli("upgrade")
            assert done.exit_code == 0, done
            assert server.keeper == keeper
            assert started(server.pid) == guard
            server.wait_until(
                lambda: Path(f"/proc/{server.pid}/cmdline").read_bytes() != plan, "another guard"
            )
            server.wait_until(lambda: held(server) == 2, "both to be stored")
            server.wait_clean()
            server.kill_all_but_guard()
            for client in clients:
                assert ask(client, b"b") == b"2 b v0"
        server.signal(signal.SIGTERM)
        assert server.wait_exit() == 0


def started(pid: int) -> bytes:
    return Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[19]


def test_the_settings_file_is_wrong_by_then(tmp_path: Path) -> None:
    """The next keeper goes by the settings of the dead one, until the file is mended."""
    target = write_handler(tmp_path, "v0", is_async=True)
    settings = tmp_path / "server.toml"
    settings.write_text("workers = 1\n")
    with GuardedServer(tmp_path, target, *KEEP, "-c", "server.toml") as server:
        with connect(server.address) as client:
            assert ask(client, b"a") == b"1 a v0"
            server.wait_clean()
            server.wait_until(lambda: held(server) == 1, "it to be stored")
            settings.write_text("workers = 1\nwokers = 2\n")
            server.kill_keeper()
            (told,) = server.find("settings not read: those before stay")
            assert told["level"] == "error"
            assert "server.toml, line 2: unknown key wokers" in told["error"]
            assert ask(client, b"b") == b"2 b v0"
            done = server.cli("reload")
            assert (done.exit_code, "line 2: unknown key" in done.stderr) == (2, True)

            settings.write_text("workers = 2\n")
            done = server.reload()
            assert "workers is 2 now, and was 1" in done.stdout
            server.wait_clean()
            server.wait_until(lambda: held(server) == 1, "it to be stored")
            settings.unlink()
            server.kill_all_but_guard()
            assert ask(client, b"c") == b"3 c v0"
            assert server.status()["workers"]["ready"] == 2
            settings.write_text("workers = 1\n")
            assert "workers is 1 now, and was 2" in server.reload().stdout
        server.signal(signal.SIGTERM)
        assert server.wait_exit() == 0


def test_the_guard_is_killed(tmp_path: Path) -> None:
    """The keeper goes on, says so once, and starts another, which is given all anew."""
    target = write_handler(tmp_path, "v0", is_async=True)
    with GuardedServer(tmp_path, target, *KEEP) as server:
        with peers(server, 2) as clients:
            for client in clients:
                assert ask(client, b"a") == b"1 a v0"
            keeper = server.keeper
            server.signal(signal.SIGKILL)
            server.wait_event("the guard has ended: another is started, and holds all anew")
            server.wait_event("guarded again")
            assert server.keeper == keeper
            guard = server.status()["guard"]["pid"]
            assert parent(guard) == keeper
            server.wait_until(lambda: held(server) == 2, "both to be stored")
            for client in clients:
                assert ask(client, b"b") == b"2 b v0"
            assert server.cli("upgrade").exit_code == 0
            assert server.status()["guard"]["pid"] == guard
            server.wait_clean()
            server.wait_until(lambda: held(server) == 2, "both to be stored")
            since = server.mark()
            kill_together([pid for pid in server.processes() if pid != guard])
            server.wait_event("ready", since=since)
            assert parent(server.keeper) == guard
            for client in clients:
                assert ask(client, b"c") == b"3 c v0"
            assert (
                len(server.find("the guard has ended: another is started, and holds all anew")) == 1
            )
            assert not server.find("cannot notify the service manager")
        keeper = server.keeper
        os.kill(guard, signal.SIGTERM)
        assert wait_exit(keeper, 10.0)
        assert wait_exit(guard, 10.0)


def test_a_guard_of_the_keepers_ends_with_it(tmp_path: Path) -> None:
    target = write_handler(tmp_path, "v0", is_async=True)
    with GuardedServer(tmp_path, target) as server:
        keeper = server.keeper
        server.signal(signal.SIGKILL)
        server.wait_event("guarded again")
        guard = server.status()["guard"]["pid"]
        assert server.cli("stop").exit_code == 0
        assert wait_exit(keeper, 10.0)
        assert wait_exit(guard, 10.0)
        assert not server.find("keeper started again")


def parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[1])


def test_signals_reach_the_keeper(tmp_path: Path) -> None:
    """Each that is sent to the pid that the user sees; a terminal's reach the guard alone."""
    target = write_handler(tmp_path, "v0", is_async=False)
    with GuardedServer(tmp_path, target, "--workers", "1") as server:
        assert os.getpgid(server.keeper) == server.keeper != os.getpgid(server.pid)
        for number, event in (
            (signal.SIGUSR1, "log reopened"),
            (signal.SIGTTIN, "scaled"),
            (signal.SIGTTOU, "scaled"),
            (signal.SIGWINCH, "accepting paused until the next reload"),
            (signal.SIGHUP, "reload done"),
            (signal.SIGUSR2, "upgraded"),
        ):
            since = server.mark()
            server.signal(number)
            server.wait_event(event, since=since)
        server.wait_event("reload done", count=2)
        server.signal(signal.SIGINT)
        assert server.wait_exit() == 0


def test_it_is_small(tmp_path: Path) -> None:
    """Compiled it has less than 1 MiB resident, in Python as much as an interpreter takes."""
    command, told = keeper(tmp_path, REPORTING + "signal.pause()\n")
    with planned() as plan:
        guard = start(INSTALLED, plan, command)
    report(told)
    pages = int(Path(f"/proc/{guard.pid}/statm").read_text().split()[1])
    guard.terminate()
    guard.communicate(timeout=10)
    resident = pages * os.sysconf("SC_PAGE_SIZE")
    assert resident < (1 << 20 if IS_COMPILED else 16 << 20)


def test_the_sidecar_is_small(tmp_path: Path) -> None:
    """Compiled it has less than 1 MiB resident, however many it holds."""
    with Sidecar(tmp_path) as sidecar, sidecar.connect(HELLO) as app:
        assert given(app) == {}
        for number in range(1000):
            store_at(app, b"FDSTORE=1\nFDNAME=socketkeep.connection.%d.1" % number, b"")
        app.send(b"HELLO=1")
        with sidecar.connect(b"HELLO=1\nSERVER=last") as last:
            assert given(last) == {}
        pages = int(Path(f"/proc/{sidecar.process.pid}/statm").read_text().split()[1])
    resident = pages * os.sysconf("SC_PAGE_SIZE")
    assert resident < (1 << 20 if IS_COMPILED else 32 << 20)


def test_told_to_end_while_there_is_no_keeper(tmp_path: Path) -> None:
    """Another one is started, which takes over what the dead one has left, and ends it."""
    target = write_handler(tmp_path, "v0", is_async=True)
    with GuardedServer(tmp_path, target, *KEEP) as server, connect(server.address) as client:
        assert ask(client, b"a") == b"1 a v0"
        keeper = server.keeper
        os.kill(server.pid, signal.SIGSTOP)
        os.kill(keeper, signal.SIGKILL)
        assert wait_exit(keeper, 5.0)
        os.kill(server.pid, signal.SIGCONT)
        server.wait_until(lambda: not os.path.exists(f"/proc/{keeper}"), "the keeper to be reaped")
        server.signal(signal.SIGTERM)
        assert read_to_end(client) == b""
        assert server.wait_exit() == 0


@pytest.mark.parametrize(
    ("text", "options", "code"),
    [
        ("raise SystemExit(9)", (), 4),
        ("def handle(conn): pass", ("--workers", "-1"), 2),
        ("def handle(conn): pass", ("--bind", "192.0.2.1:1"), 1),
    ],
)
def test_exit_codes_are_passed_on(
    tmp_path: Path, text: str, options: tuple[str, ...], code: int
) -> None:
    (tmp_path / "app.py").write_text(f"{text}\n")
    server = GuardedServer(tmp_path, "app.py:handle", *options)
    server._wait_ready = False
    with server:
        assert server.wait_exit() == code
    assert not server.find("keeper started again")


def test_a_keeper_that_never_served_is_not_started_again(tmp_path: Path) -> None:
    """Its death is the server's, as its parent sees it."""
    (tmp_path / "app.py").write_text("import time; time.sleep(60)\n")
    server = GuardedServer(tmp_path, "app.py:handle")
    server._wait_ready = False
    with server:
        server.wait_event("starting")
        os.kill(server.keeper, signal.SIGKILL)
        assert server.process.wait(10.0) == -signal.SIGKILL
        for pid in server.processes():  # a template that still reads the code
            os.kill(pid, signal.SIGKILL)
            assert wait_exit(pid, 5.0)


def test_a_store_has_room_for_what_may_be_open() -> None:
    assert store_room(5) == 5
    assert 0 < store_room(0) < 1 << 20 or store_room(0) == 1 << 20


def test_a_store_that_is_too_small(tmp_path: Path) -> None:
    """Is told, and serving goes on; who leaves makes room; what it has no room for is not kept."""
    target = write_handler(tmp_path, "v0", is_async=True)
    with ExitStack() as stack:
        server = stack.enter_context(
            GuardedServer(tmp_path, target, *KEEP, "--guard-store", "3")  # one with its listener
        )
        clients = [stack.enter_context(connect(server.address)) for _ in range(3)]
        for client in clients:
            assert ask(client, b"a") == b"1 a v0"
        server.wait_event("the guard's store is full")
        server.wait_until(lambda: store(server) == (3, 3, 1, 2), "one to be stored, two not")
        assert "1 of connections, 2 connections without room" in server.cli("status").stdout
        (kept,) = [each["peer"] for each in server.connections() if each["stored"]]
        clients.sort(key=lambda each: each.getsockname()[1] != int(kept.rpartition(":")[2]))
        clients.pop(0).close()
        server.wait_until(lambda: store(server) == (3, 3, 1, 1), "another to be stored")
        (kept,) = [each["peer"] for each in server.connections() if each["stored"]]
        clients.sort(key=lambda each: each.getsockname()[1] != int(kept.rpartition(":")[2]))
        server.wait_clean()
        server.kill_all_but_guard()
        assert read_to_end(clients[1]) == b""
        assert ask(clients[0], b"b") == b"2 b v0"


def store(server: GuardedServer) -> tuple[int, int, int, int]:
    guard = server.status()["guard"]
    return guard["most"], guard["stored"], guard["connections"], guard["unheld"]
