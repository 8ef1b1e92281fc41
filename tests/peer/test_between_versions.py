"""A server of the first version becomes the present one under load, and goes back: no peer notices.

Two versions talk to each other all the while: workers and templates of one with a keeper of the
other, the present command with a keeper of either, and the one keeper with what the other left.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from typing import Final

import pytest

from tests.harness import FIRST_WHEEL, Load, Server, Versions, connect, read_reply
from tests.peer.conftest import Site
from tests.peer.test_reload_under_load import nothing_ended

CLIENTS: Final = 8
#: So many of them never ask, and are parked with the keeper.
SILENT: Final = 4
FIRST: Final = "1.0.first"
PRESENT: Final = "2.0.present"


@pytest.fixture
def versions(tcp_site: Site, monkeypatch: pytest.MonkeyPatch) -> Versions:
    """The first version, which is installed, and the present one."""
    monkeypatch.delenv("SOCKETKEEP_PURE", raising=False)  # the first one does not know it
    made = Versions(tcp_site.directory / "versions")
    made.directory.mkdir()
    made.unpack(FIRST_WHEEL, FIRST)
    made.add(PRESENT)
    made.install(FIRST)
    return made


@pytest.fixture
def server(tcp_site: Site, versions: Versions) -> Iterator[Server]:
    """A server of the first version, which keeps connections in a crash, too."""
    made = tcp_site.serve(
        tcp_site.write("v0"),
        *("--keep", "crash", "--park-after", "0.3"),
        clients=CLIENTS + SILENT,
        environment={"PYTHONPATH": versions.path, "SOCKETKEEP_GUARD": None},  # it knows no guard
    )
    with made:
        yield made


@pytest.mark.timeout(180)
def test_to_the_present_version_and_back(
    server: Server, versions: Versions, tcp_site: Site
) -> None:
    assert server.status()["version"] == FIRST
    half = CLIENTS // 2
    with (
        contextlib.ExitStack() as stack,
        Load(server.address, half, pause=0.1) as whole,
        Load(server.address, half, pause=0.1, fragments=True) as fragments,
    ):
        silent = [stack.enter_context(connect(server.address)) for _ in range(SILENT)]
        for peer in silent:
            peer.sendall(b"a\n")
            assert read_reply(peer) == b"1 a v0"
        for load in (whole, fragments):
            load.wait_version("v0")
        with nothing_ended(server, tcp_site, whole, fragments, clients=CLIENTS):
            for number, version in enumerate((PRESENT, FIRST), 1):
                server.wait_until(lambda: parked(server) >= SILENT, f"{SILENT} parked")
                tcp_site.write(f"v{number}")
                upgrade(server, versions, version)
                for load in (whole, fragments):
                    load.wait_version(f"v{number}")
            tallies = whole.finish(), fragments.finish()
        for tally in tallies:
            assert tally.clean, tally.summary()
        for peer in silent:
            peer.sendall(b"b\n")
            assert read_reply(peer) == b"2 b v2"
    totals = server.status()["totals"]
    assert (totals["upgrades"], totals["lost"], totals["worker_deaths"]) == (2, 0, 0)


def upgrade(server: Server, versions: Versions, version: str) -> None:
    """Install the version, and have the server become it."""
    versions.install(version)
    done = server.cli("upgrade", "--json")
    assert done.exit_code == 0, done
    assert json.loads(done.stdout)["version"] == version
    assert server.status()["version"] == version


def parked(server: Server) -> int:
    """Return how many connections wait with the keeper."""
    return sum(each["state"] == "parked" for each in server.connections())
