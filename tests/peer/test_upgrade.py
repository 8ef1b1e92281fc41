"""Upgrades under load: the keeper is another program afterwards, and no peer notices."""

from __future__ import annotations

import os

import pytest

from tests.harness import Load, Server
from tests.peer.conftest import Site
from tests.peer.test_reload_under_load import nothing_ended

CLIENTS = 40
UPGRADES = 10


def descriptors(server: Server) -> int:
    """Return how many the keeper has."""
    return len(os.listdir(f"/proc/{server.pid}/fd"))


@pytest.mark.timeout(240)
def test_nothing_is_lost_through_ten_upgrades(tcp_site: Site) -> None:
    """40 clients, half of which send in pieces; and the server is the same one at the end."""
    target = tcp_site.write("v0")
    # A parked connection has a row in no worker and more epochs than upgrades.
    with tcp_site.serve(target, "--park-after", "off", clients=CLIENTS) as server:
        half = CLIENTS // 2
        with (
            Load(server.address, half, pause=0.1) as whole,
            Load(server.address, half, pause=0.1, fragments=True) as fragments,
        ):
            held = ten_upgrades(server, tcp_site, whole, fragments)
        server.wait_until(lambda: descriptors(server) == held, f"{held} descriptors again", 20.0)


def ten_upgrades(server: Server, tcp_site: Site, whole: Load, fragments: Load) -> int:
    """Upgrade ten times, and see that the peers do not notice and the server is the same.

    Return how many descriptors the keeper had before.
    """
    whole.wait_version("v0")
    fragments.wait_version("v0")
    held = descriptors(server)
    before = server.status()
    names = {each["id"] for each in server.connections()}
    with nothing_ended(server, tcp_site, whole, fragments, clients=CLIENTS):
        for number in range(1, UPGRADES + 1):
            tcp_site.write(f"v{number}")
            done = server.cli("upgrade")
            assert done.exit_code == 0, done
        for load in (whole, fragments):
            load.wait_version(f"v{UPGRADES}")
        owned = {each["id"]: each["epoch"] for each in server.connections()}
        assert owned == dict.fromkeys(names, UPGRADES + 1)
        tallies = whole.finish(), fragments.finish()
    for tally in tallies:
        assert tally.clean, tally.summary()
    after = server.status()
    assert (after["pid"], after["name"]) == (server.pid, before["name"])
    assert after["generation"] == UPGRADES + 1
    assert after["uptime"] > before["uptime"]
    totals = after["totals"]
    assert (totals["upgrades"], totals["reloads"]) == (UPGRADES, UPGRADES)
    assert (totals["lost"], totals["worker_deaths"]) == (0, 0)
    assert totals["attached"]["accepted"] == CLIENTS
    return held


def test_connections_are_told_that_it_was_an_upgrade(some_site: Site) -> None:
    """And a reload later is a reload again."""
    target = some_site.write("v0", tail=_TELLS.format(is_async=some_site.is_async))
    with (
        some_site.serve(target, "--park-after", "off", clients=4) as server,
        Load(server.address, 4) as load,
    ):
        load.wait_version("v0")
        assert server.cli("upgrade").exit_code == 0
        server.wait_until(lambda: attached(server) == {"accepted": 4, "upgrade": 4}, "4 upgraded")
        server.reload()
        server.wait_until(
            lambda: attached(server) == {"accepted": 4, "upgrade": 4, "reload": 4}, "4 reloaded"
        )
        tally = load.finish()
        assert tally.clean, tally.summary()
    said = (some_site.directory / "attached").read_text().split()
    assert said == ["accepted"] * 4 + ["upgrade"] * 4 + ["reload"] * 4


#: Has the handler write down why it was called.
_TELLS = """
_handle = handle

def _note(conn):
    with open(Path(__file__).parent / "attached", "a") as file:
        file.write(conn.attached + "\\n")

if {is_async}:
    @resumable
    async def handle(conn):
        _note(conn)
        await _handle(conn)
else:
    @resumable
    def handle(conn):
        _note(conn)
        _handle(conn)
"""


def attached(server: Server) -> dict[str, int]:
    """Return how often connections were given to workers, by why, where that is not never."""
    return {why: count for why, count in server.status()["totals"]["attached"].items() if count}
