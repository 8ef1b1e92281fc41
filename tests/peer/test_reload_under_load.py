"""Reloads under load: the peers of a resumable handler notice nothing but the new replies."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import pytest

from tests.harness import Capture, Flood, Load, Server, Storm
from tests.peer.conftest import Site

CLIENTS: Final = 60
#: Where a client is a process each, new ones at each reload, fewer show as much in less time.
CLIENTS_OF_PROCESSES: Final = {"fork": 30, "prefork": 20}
RELOADS: Final = 3
NEWCOMERS: Final = 100  # before the reload and after it
NEWCOMERS_PER_SECOND: Final = 200.0


@contextmanager
def nothing_ended(server: Server, site: Site, *loads: Load, clients: int) -> Iterator[None]:
    """Confirm, by other witnesses than the clients' own reads, that no connection ended meanwhile.

    The witnesses are a capture on loopback, where capturing is allowed, and the state that the
    clients' kernel has for each connection.
    """
    if site.transport != "ipv4":
        yield
        return
    if Capture.missing():
        yield
    else:
        ports = set[int]().union(*(load.ports() for load in loads))
        assert len(ports) == clients
        with Capture(server.port) as capture:
            yield
            fin, reset = capture.stop().to(ports)
        assert (fin, reset) == (0, 0)
    for load in loads:
        assert set(load.tcp_states()) == {"ESTABLISHED"}


@pytest.mark.timeout(180)
def test_nothing_is_lost_through_three_reloads(tcp_site: Site) -> None:
    """Clients in a request loop see three new versions, and no other difference.

    Half of them send each request in two pieces: at any reload some are between the two.
    """
    clients = CLIENTS_OF_PROCESSES.get(tcp_site.model, CLIENTS)
    target = tcp_site.write("v0")
    with (
        tcp_site.serve(target, clients=clients) as server,
        Load(server.address, clients // 2, pause=0.1) as whole,
        Load(server.address, clients // 2, pause=0.1, fragments=True) as fragments,
    ):
        whole.wait_version("v0")
        fragments.wait_version("v0")
        with nothing_ended(server, tcp_site, whole, fragments, clients=clients):
            for number in range(1, RELOADS + 1):
                tcp_site.write(f"v{number}")
                server.reload()
                whole.wait_version(f"v{number}")
                fragments.wait_version(f"v{number}")
            tallies = whole.finish(), fragments.finish()
        for tally in tallies:
            assert tally.clean, tally.summary()
            assert set(tally.versions) == {f"v{number}" for number in range(RELOADS + 1)}
        totals = server.status()["totals"]
        assert totals["lost"] == 0
        assert totals["attached"]["accepted"] == clients

        def accounted_for() -> bool:
            status = server.status()
            attached = status["totals"]["attached"]
            came = attached["reload"] + attached["parked"] + status["connections"]["parked"]
            return bool(came == status["totals"]["detached"] >= clients * RELOADS)

        server.wait_until(accounted_for, "what left a worker with another, or parked")


def test_pipelined_requests_are_not_lost(tcp_site: Site) -> None:
    """Requests that arrive together, and lie unread while the handler moves, are all answered."""
    target = tcp_site.write("v0")
    with (
        tcp_site.serve(target, clients=8) as server,
        Load(server.address, 8, pause=0.01, window=50) as load,
    ):
        load.wait_version("v0")
        for version in ("v1", "v2"):
            tcp_site.write(version)
            server.reload()
            load.wait_version(version)
        tally = load.finish()
        assert tally.clean, tally.summary()


def test_a_thousand_busy_connections(tmp_path: Path) -> None:
    """Each moves when its handler has dealt with what it had, and none is lost."""
    site = Site("async", "ipv4", tmp_path)
    target = site.write("v0")
    with (
        site.serve(target, clients=1000) as server,
        Load(server.address, 1000, pause=0.0) as load,
    ):
        load.wait_version("v0")
        site.write("v1")
        server.reload()
        load.wait_version("v1")
        tally = load.finish()
        assert tally.clean, tally.summary()


@pytest.mark.timeout(120)
def test_new_connections_during_a_reload(tcp_site: Site) -> None:
    """Connections made at 200 a second before, during and after it are accepted and served."""
    target = tcp_site.write("v0")
    with (
        tcp_site.serve(target, clients=24, spare=8) as server,
        Load(server.address, 8, pause=0.05) as load,
        Storm(server.address, 10_000, NEWCOMERS_PER_SECOND) as storm,
    ):
        load.wait_version("v0")
        server.wait_until(lambda: storm.tally.served >= NEWCOMERS, "newcomers before the reload")
        tcp_site.write("v1")
        server.reload()
        load.wait_version("v1")
        enough = storm.tally.served + NEWCOMERS
        server.wait_until(lambda: storm.tally.served >= enough, "newcomers after the reload")
        newcomers = storm.finish()
        assert newcomers.clean, newcomers
        assert newcomers.versions == {"v0", "v1"}
        tally = load.finish()
        assert tally.clean, tally.summary()


def test_a_peer_that_sends_without_pause(some_site: Site) -> None:
    """It is moved like any other, loses nothing, and does not keep the others from their turn."""
    target = some_site.write("v0")
    workers = "2" if some_site.model == "prefork" else "1"
    with (
        some_site.serve(target, "-w", workers, clients=2) as server,
        Load(server.address, 1) as load,
        Flood(server.address) as flood,
    ):
        flood.wait_version("v0")
        load.wait_replies(10, timeout=20.0)
        some_site.write("v1")
        server.reload()
        load.wait_version("v1", timeout=20.0)
        flood.wait_version("v1")
        sent, answered = flood.finish()
        assert sent == answered
        tally = load.finish()
        assert tally.clean, tally.summary()
