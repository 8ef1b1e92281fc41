"""The service manager keeps what must outlive the keeper, and gives it to the next one."""

from __future__ import annotations

import random
import signal
import socket
from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final

import pytest

from tests.harness import Capture, connect, read_reply, read_to_end, write_handler
from tests.harness.tellers import write_teller
from tests.proxied.support import CLIENT, RICH, TELLS
from tests.proxied.support import ask as told
from tests.server.support import MODELS, seats
from tests.systemd.managed import ManagedServer
from tests.systemd.manager import Manager

CLIENTS: Final = 6
KEEP: Final = ("--keep", "crash", "--keep-after", "0")


def of(kind: str, names: Collection[str]) -> list[str]:
    """Return the names of one kind."""
    return [name for name in names if name.startswith(f"socketkeep.{kind}.")]


@contextmanager
def peers(address: str, number: int) -> Iterator[list[socket.socket]]:
    """Yield so many connections."""
    with ExitStack() as stack:
        yield [stack.enter_context(connect(address)) for _ in range(number)]


def ask(peer: socket.socket, line: bytes) -> bytes:
    """Return the reply to a line."""
    peer.sendall(line + b"\n")
    return read_reply(peer)


@contextmanager
def witness(server: ManagedServer, sockets: list[socket.socket]) -> Iterator[Callable[[], None]]:
    """Yield a check that nothing has ended what the peers have, by a capture where that may be."""
    if Capture.missing():
        yield lambda: None
        return
    ports = {sock.getsockname()[1] for sock in sockets}
    with Capture(server.port) as capture:

        def check() -> None:
            assert capture.stop().to(ports) == (0, 0)

        yield check


def test_a_settings_file_that_is_wrong_by_then(tmp_path: Path) -> None:
    """The next keeper goes by the settings of the dead one."""
    target = write_handler(tmp_path, "v0", is_async=True)
    settings = tmp_path / "server.toml"
    settings.write_text("workers = 1\n")
    options = (*KEEP, "-c", "server.toml")
    with (
        Manager(tmp_path) as manager,
        ManagedServer(manager, tmp_path, target, *options) as first,
        connect(first.address) as client,
    ):
        assert ask(client, b"a") == b"1 a v0"
        manager.wait_stored(lambda names: len(of("connection", names)) == 1, "kept")
        first.wait_clean()
        settings.write_text("workers\n")
        first.kill_all()
        with ManagedServer(manager, tmp_path, target, *options) as second:
            second.wait_event("settings not read: those before stay")
            assert ask(client, b"b") == b"2 b v0"
            assert len(of("settings", manager.store)) == 1
            assert second.cli("reload").exit_code == 2


@pytest.mark.parametrize("model", MODELS)
def test_peers_see_nothing_of_it(tmp_path: Path, model: str) -> None:
    """Keeper and workers killed: the next keeper has the listener and every connection."""
    is_async = model == "async"
    target = write_handler(tmp_path, "v0", is_async=is_async)
    options = (*seats(model, CLIENTS + 1), *KEEP, "--park-after", "off")
    with Manager(tmp_path) as manager:
        with (
            ManagedServer(manager, tmp_path, target, *options) as first,
            peers(first.address, CLIENTS) as clients,
            witness(first, clients) as check,
        ):
            for client in clients:
                assert ask(client, b"a") == b"1 a v0"
            manager.wait_stored(lambda names: len(of("connection", names)) == CLIENTS, "all kept")
            first.wait_clean()
            before = {each["id"] for each in first.connections()}
            first.kill_all()
            for client in clients[::2]:
                client.sendall(b"b\n")  # to nobody, for now
            write_handler(tmp_path, "v1", is_async=is_async)
            with (
                connect(first.address) as early,
                ManagedServer(manager, tmp_path, target, *options) as second,
            ):
                assert second.address == first.address
                for client in clients[::2]:
                    assert read_reply(client) == b"2 b v1"
                for client in clients[1::2]:
                    assert ask(client, b"b") == b"2 b v1"
                assert ask(early, b"x") == b"1 x v1"
                reports = second.connections()
                assert before < {each["id"] for each in reports}
                assert len(reports) == CLIENTS + 1
                assert all(each["epoch"] > 1 for each in reports if each["id"] in before)
                assert {each["listener"] for each in reports} == {second.address}
                totals = second.status()["totals"]
                assert totals["attached"]["crash"] == CLIENTS
                assert totals["lost"] == 0
                check()
        assert manager.store == {}, "after an orderly end"


@pytest.mark.parametrize("park_after", ["off", "0.1"])
def test_behind_a_proxy(tmp_path: Path, park_after: str) -> None:
    """The client stays the client, whether a worker had it or it was parked."""
    target = write_teller(tmp_path, TELLS, "prefork")
    options = (*seats("prefork", 3), *KEEP, "--park-after", park_after, "--proxy-protocol", "on")
    with Manager(tmp_path) as manager:
        with (
            ManagedServer(manager, tmp_path, target, *options) as first,
            peers(first.address, 2) as clients,
        ):
            before = []
            for client in clients:
                client.sendall(RICH.encode())
                before.append(told(client))
            if park_after != "off":
                first.wait_until(lambda: first.status()["connections"]["parked"] == 2, "parked")
            manager.wait_stored(lambda names: len(of("header", names)) == 2, "headers")
            manager.wait_stored(lambda names: len(of("connection", names)) == 2, "connections")
            first.kill_all()
            with ManagedServer(manager, tmp_path, target, *options) as second:
                for client, was in zip(clients, before, strict=True):
                    now = told(client)
                    for what in ("peer", "local", "proxy"):
                        assert now[what] == was[what]
                assert now["peer"] == str(CLIENT)
                assert second.status()["totals"]["lost"] == 0
        assert manager.store == {}, "after an orderly end"


def test_parked(tmp_path: Path) -> None:
    """What was parked is parked again, at whatever level of --keep."""
    target = write_handler(tmp_path, "v0", is_async=False)
    options = (*seats("prefork", 2), "--park-after", "0.1")
    with Manager(tmp_path) as manager:
        with (
            ManagedServer(manager, tmp_path, target, *options) as first,
            peers(first.address, 4) as clients,
        ):
            for client in clients:
                assert ask(client, b"a") == b"1 a v0"
            first.wait_until(lambda: first.status()["connections"]["parked"] == 4, "all parked")
            # One that was parked before it asked has another parcel now.
            parcels = {f"socketkeep.parcel.{c['id']}.{c['epoch']}" for c in first.connections()}
            manager.wait_stored(lambda names: set(of("parcel", names)) == parcels, "the parcels")
            first.kill_all()
            with ManagedServer(manager, tmp_path, target, *options) as second:
                reports = second.connections()
                assert [each["state"] for each in reports] == ["parked"] * 4
                for client in clients:
                    assert ask(client, b"b") == b"2 b v0"
                manager.wait_stored(lambda names: len(of("parcel", names)) == 4, "parked again")
                totals = second.status()["totals"]
                assert totals["attached"]["parked"] == 4
                assert totals["lost"] == 0
        assert manager.store == {}


def test_in_the_middle_of_a_message(tmp_path: Path) -> None:
    """A connection that was not clean follows on_crash, as after a worker's death."""
    target = write_handler(tmp_path, "v0", "asks back", is_async=True)
    with Manager(tmp_path) as manager:
        with (
            ManagedServer(manager, tmp_path, target, *KEEP) as first,
            peers(first.address, 2) as (clean, dirty),
        ):
            assert ask(dirty, b"q") == b"q? v0"
            manager.wait_stored(lambda names: len(of("connection", names)) == 2, "both kept")
            first.kill_all()
            with ManagedServer(manager, tmp_path, target, *KEEP) as second:
                assert read_to_end(dirty) == b""
                assert ask(clean, b"r") == b"r? v0"
                assert second.status()["totals"]["lost"] == 1
        assert manager.store == {}


def test_again_and_again_and_through_reloads(tmp_path: Path) -> None:
    """Names follow the connections, and what has ended is taken out."""
    target = write_handler(tmp_path, "v0", is_async=True)
    with Manager(tmp_path) as manager, ExitStack() as stack:
        server = stack.enter_context(ManagedServer(manager, tmp_path, target, *KEEP))
        address = server.address
        clients = stack.enter_context(peers(address, 3))
        for number in range(1, 4):
            for client in clients:
                assert ask(client, b"a").split()[0] == b"%d" % number
            manager.wait_stored(lambda names: len(of("connection", names)) == 3, "all kept")
            server.reload()
            manager.wait_stored(
                lambda names: not of("parcel", names) and len(of("board", names)) == 1,
                "all in the one worker",
            )
            server.kill_all()
            server = stack.enter_context(ManagedServer(manager, tmp_path, target, *KEEP))
        clients.pop().close()
        manager.wait_stored(lambda names: len(of("connection", names)) == 2, "one to be out")
        for client in clients:
            assert ask(client, b"a").split()[0] == b"4"


def test_an_upgrade_knows_what_is_stored(tmp_path: Path) -> None:
    """The next version takes out what ends, and leaves in what does not."""
    target = write_handler(tmp_path, "v0", is_async=True)
    with Manager(tmp_path) as manager:
        with (
            ManagedServer(manager, tmp_path, target, *KEEP) as server,
            peers(server.address, 2) as clients,
        ):
            for client in clients:
                assert ask(client, b"a") == b"1 a v0"
            manager.wait_stored(lambda names: len(of("connection", names)) == 2, "both kept")
            assert server.cli("upgrade").exit_code == 0
            manager.wait_stored(lambda names: not of("parcel", names), "all in workers")
            clients.pop().close()
            manager.wait_stored(lambda names: len(of("connection", names)) == 1, "one to be out")
            server.kill_all()
            with ManagedServer(manager, tmp_path, target, *KEEP):
                assert ask(clients[0], b"b") == b"2 b v0"
        assert manager.store == {}


def test_a_listener_that_is_not_configured_any_more(tmp_path: Path) -> None:
    """It is dropped, and the log says so."""
    target = write_handler(tmp_path, "v0", is_async=True)
    with Manager(tmp_path) as manager:
        with ManagedServer(manager, tmp_path, target, "--bind", f"unix:{tmp_path}/sock") as first:
            manager.wait_stored(lambda names: len(of("listener", names)) == 2, "both listeners")
            first.kill_all()
            with ManagedServer(manager, tmp_path, target) as second:
                dropped = second.wait_event("listener dropped: it is not configured any more")
                assert dropped["address"] == f"unix:{tmp_path}/sock"
                manager.wait_stored(lambda names: len(of("listener", names)) == 1, "one out")
        assert manager.store == {}


def test_a_store_that_is_too_small(tmp_path: Path) -> None:
    """Is told, and serving goes on."""
    target = write_handler(tmp_path, "v0", is_async=True)
    with (
        Manager(tmp_path) as manager,
        ManagedServer(manager, tmp_path, target, *KEEP, store=3) as server,
        peers(server.address, 3) as clients,
    ):
        server.wait_event("the service manager's store is full")
        for client in clients:
            assert ask(client, b"a") == b"1 a v0"
        manager.wait_stored(lambda names: len(names) == 3, "as many as there is room for")


@pytest.mark.parametrize("model", ["fork", "async"])
@pytest.mark.timeout(120)
def test_killed_in_the_middle_of_reloads(tmp_path: Path, model: str) -> None:
    """Whoever had a connection at that moment, it is in one place, and goes on from its commit."""
    target = write_handler(tmp_path, "v0", is_async=model == "async")
    options = (*seats(model, CLIENTS), *KEEP, "--park-after", "off")
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    moments = random.Random(seed)
    with Manager(tmp_path) as manager:
        with ExitStack() as stack:
            server = stack.enter_context(ManagedServer(manager, tmp_path, target, *options))
            clients = stack.enter_context(peers(server.address, CLIENTS))
            for number in range(1, 4):
                for client in clients:
                    assert ask(client, b"x") == b"%d x v0" % number
                manager.wait_stored(
                    lambda names: len(of("connection", names)) == CLIENTS, "all kept"
                )
                server.wait_clean()
                since = server.mark()
                server.signal(signal.SIGHUP)
                server.wait_event("reload started")
                # At the last of them the connections begin to move.
                moment = moments.choice(("worker ready", "reload done", "reload done"))
                server.wait_event(moment, since=since)
                server.kill_all()
                server = stack.enter_context(ManagedServer(manager, tmp_path, target, *options))
            assert server.status()["totals"]["lost"] == 0
        assert manager.store == {}
