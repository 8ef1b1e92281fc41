"""A keeper that is killed while the code on disk is broken: the next one holds what there is."""

from __future__ import annotations

import signal
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final

import pytest

from tests.guard.support import GuardedServer, Sidecar, kill_together
from tests.guard.test_guarded import CLIENTS, KEEP, ask, held, peers, settle
from tests.harness import connect, read_to_end, write_handler
from tests.server.support import seats

HOLDS: Final = "no code to serve by: what is held waits"


@contextmanager
def broken(directory: Path, then: str = "v0") -> Iterator[None]:
    """Have the code be none that loads; then have it be of another version."""
    file = directory / "handlers.py"
    whole = file.read_text()
    file.write_text("def half_of_a_deploy(:\n")
    yield
    file.write_text(whole.replace('"v0"', f'"{then}"'))


def test_all_but_the_guard_is_killed(tmp_path: Path) -> None:
    """The peers see a pause, whoever mends the code; who connects meanwhile is served, too."""
    target = write_handler(tmp_path, "v0", is_async=False)
    options = (*seats("prefork", CLIENTS + 1), *KEEP)
    with GuardedServer(tmp_path, target, *options) as server:
        with peers(server, CLIENTS) as clients, ExitStack() as stack:
            for client in clients:
                assert ask(client, b"a") == b"1 a v0"
            settle(server, "off")
            with broken(tmp_path):
                server.kill_all_but_guard(until=HOLDS)
                for client in clients:
                    client.sendall(b"b\n")
                late = stack.enter_context(connect(server.address))
                late.sendall(b"c\n")
                server.wait_until(lambda: len(server.find(HOLDS)) >= 2, "it to try by itself")
                status = server.status()
                assert (status["state"], status["accepting"]) == ("holding", False)
                assert "SyntaxError" in status["holding"]
                assert "holding: " in server.cli("status").stdout
                assert held(server) == CLIENTS
                done = server.cli("upgrade")
                assert (done.exit_code, "mend it, and reload" in done.stderr) == (1, True)
                done = server.cli("reload")
                assert (done.exit_code, "SyntaxError" in done.stderr) == (4, True)
            assert server.cli("reload").exit_code == 0
            for client in clients:
                assert client.recv(100) == b"2 b v0\n"
            assert late.recv(100) == b"1 c v0\n"
            assert (server.status()["state"], server.status()["holding"]) == ("running", "")
            assert server.status()["totals"]["lost"] == 0
        server.signal(signal.SIGTERM)
        assert server.wait_exit() == 0


@pytest.mark.parametrize("model", ["prefork", "async"])
def test_its_workers_serve_on(tmp_path: Path, model: str) -> None:
    """The keeper alone is killed: by the old code, until the new one loads, by itself at last."""
    target = write_handler(tmp_path, "v0", is_async=model == "async")
    options = (*seats(model, CLIENTS + 1), *KEEP, "--park-after", "off")
    with GuardedServer(tmp_path, target, *options) as server, peers(server, CLIENTS) as clients:
        for client in clients:
            assert ask(client, b"a") == b"1 a v0"
        settle(server, "off")
        with broken(tmp_path, then="v1"):
            server.kill_keeper(until=HOLDS)
            for client in clients:
                assert ask(client, b"b") == b"2 b v0"
        server.wait_event("earlier code gone")
        for client in clients:
            assert ask(client, b"c") == b"3 c v1"
        assert server.status()["totals"]["lost"] == 0


def test_it_ends_in_order(tmp_path: Path) -> None:
    """TERM reaches a keeper that holds, and each peer is told of the end by FIN."""
    target = write_handler(tmp_path, "v0", is_async=True)
    with GuardedServer(tmp_path, target, *KEEP) as server, connect(server.address) as client:
        assert ask(client, b"a") == b"1 a v0"
        server.wait_until(lambda: held(server) == 1, "it to be stored")
        with broken(tmp_path):
            server.kill_all_but_guard(until=HOLDS)
            server.signal(signal.SIGTERM)
            assert read_to_end(client) == b""
            assert server.wait_exit() == 0


def test_a_container_of_broken_code(tmp_path: Path) -> None:
    """A rollout to an image whose code does not load: the one before it goes on with them all."""
    target = write_handler(tmp_path, "v0", is_async=True)
    port = free_port()
    bind = (f"127.0.0.1:{port}",)
    with Sidecar(tmp_path) as sidecar, connect_later(port) as client:
        with GuardedServer(tmp_path, target, *KEEP, guard=sidecar.address, bind=bind) as first:
            client.connect(("127.0.0.1", port))
            assert ask(client, b"a") == b"1 a v0"
            first.wait_until(lambda: held(first) == 1, "it to be stored")
            first.signal(signal.SIGTERM)
            assert first.wait_exit() == 0
        with broken(tmp_path):
            second = GuardedServer(tmp_path, target, *KEEP, guard=sidecar.address, bind=bind)
            second._wait_ready = False
            with second:
                second.wait_event(HOLDS)
                client.sendall(b"b\n")
                second.signal(signal.SIGTERM)
                assert second.wait_exit() == 0
        with GuardedServer(tmp_path, target, *KEEP, guard=sidecar.address, bind=bind) as third:
            assert client.recv(100) == b"2 b v0\n"
            third.signal(signal.SIGTERM)
            assert third.wait_exit() == 0


def test_a_keeper_that_cannot_begin(tmp_path: Path) -> None:
    """A file that it reads before all else has gone: it is started again, until that is back."""
    target = write_handler(tmp_path, "v0", is_async=True)
    allowed = tmp_path / "allowed"
    allowed.write_text("127.0.0.0/8\n")
    options = (*KEEP, "--allow-file", str(allowed))
    with GuardedServer(tmp_path, target, *options) as server, peers(server, 1) as (client,):
        assert ask(client, b"a") == b"1 a v0"
        server.wait_until(lambda: held(server) == 1, "it to be stored")
        allowed.unlink()
        kill_together([pid for pid in server.processes() if pid != server.pid])
        server.wait_until(lambda: told(server, str(allowed)) >= 2, "two to have failed")
        allowed.write_text("127.0.0.0/8\n")
        assert ask(client, b"b") == b"2 b v0"


def told(server: GuardedServer, text: str) -> int:
    """Return how many lines of its log have that."""
    return sum(text in line for line in server.stderr)


def free_port() -> int:
    """Return a port that nobody has."""
    with socket.create_server(("127.0.0.1", 0)) as found:
        port = found.getsockname()[1]
        assert isinstance(port, int)
        return port


@contextmanager
def connect_later(port: int) -> Iterator[socket.socket]:
    with socket.socket() as sock:
        sock.settimeout(10.0)
        yield sock
