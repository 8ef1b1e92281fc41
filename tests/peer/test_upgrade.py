"""Upgrades under load: the keeper is another program afterwards, and no peer notices."""

from __future__ import annotations

import contextlib
import os
import signal
import socket

import pytest

from tests.harness import Load, Server, connect, read_reply, read_to_end
from tests.peer.conftest import Site
from tests.peer.test_reload_under_load import nothing_ended

CLIENTS = 8
UPGRADES = 3


def descriptors(server: Server) -> int:
    """Return how many the keeper has."""
    return len(os.listdir(f"/proc/{server.pid}/fd"))


@pytest.mark.timeout(240)
def test_nothing_is_lost_through_three_upgrades(tcp_site: Site) -> None:
    """8 clients, half of which send in pieces; and the server is the same one at the end."""
    target = tcp_site.write("v0")
    # A parked connection has a row in no worker and more epochs than upgrades.
    with tcp_site.serve(target, "--park-after", "off", clients=CLIENTS) as server:
        half = CLIENTS // 2
        with (
            Load(server.address, half, pause=0.1) as whole,
            Load(server.address, half, pause=0.1, fragments=True) as fragments,
        ):
            held = three_upgrades(server, tcp_site, whole, fragments)
        server.wait_until(lambda: descriptors(server) == held, f"{held} descriptors again", 20.0)


def three_upgrades(server: Server, tcp_site: Site, whole: Load, fragments: Load) -> int:
    """Upgrade three times, and see that the peers do not notice and the server is the same.

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


def ask(peer: socket.socket, text: str) -> str:
    """Send a line; return the reply."""
    peer.sendall(f"{text}\n".encode())
    return read_reply(peer).decode()


def test_parked_connections_wait_on(tcp_site: Site) -> None:
    """Through two upgrades, with more of them than there are seats; bytes and EOF find them."""
    target = tcp_site.write("v0")
    with (
        tcp_site.serve(target, "--park-after", "0.05", clients=2) as server,
        contextlib.ExitStack() as stack,
    ):
        peers = [stack.enter_context(connect(server.address)) for _ in range(12)]
        for peer in peers:
            assert ask(peer, "a") == "1 a v0"
        for number in range(1, 3):
            server.wait_until(lambda: connections(server, "parked") == 12, "12 parked")
            tcp_site.write(f"v{number}")
            assert server.cli("upgrade").exit_code == 0
        peers[0].shutdown(socket.SHUT_WR)
        assert read_to_end(peers[0]) == b""
        for peer in peers[1:]:
            assert ask(peer, "b") == "2 b v2"
        totals = server.status()["totals"]
        assert totals["lost"] == 0
        assert totals["attached"]["parked"] >= 12


def test_kept_connections_outlive_a_worker_after_an_upgrade(tcp_site: Site) -> None:
    """The keeper has their handles still, those of before the upgrade and those it moved."""
    target = tcp_site.write("v0")
    options = ("--keep", "crash", "--keep-after", "0.05", "--park-after", "off")
    with (
        tcp_site.serve(target, *options, clients=8) as server,
        contextlib.ExitStack() as stack,
    ):
        peers = [stack.enter_context(connect(server.address)) for _ in range(8)]
        for peer in peers:
            assert ask(peer, "a") == "1 a v0"
        server.wait_until(lambda: connections(server, "kept") == 8, "8 kept")
        assert server.cli("upgrade").exit_code == 0
        server.wait_until(lambda: attached(server).get("upgrade") == 8, "8 upgraded")
        if tcp_site.model == "fork":
            server.wait_until(lambda: len(processes(server)) == 8, "8 processes of connections")
            owners = processes(server)
        else:
            owners = {each["owner"] for each in server.connections()}
        server.wait_clean()
        for owner in owners:
            os.kill(owner, signal.SIGKILL)
        for peer in peers:
            assert ask(peer, "b") == "2 b v0"
        # What the first to die had may have come to the second, which died too.
        assert attached(server)["crash"] >= 8, server.status()["totals"]
        assert server.status()["totals"]["lost"] == 0


def processes(server: Server) -> set[int]:
    """Return the processes that the workers of the `fork` model have forked for connections."""
    owners = {each["owner"] for each in server.connections()}
    return owners - {each["pid"] for each in server.workers()}


def connections(server: Server, state: str) -> int:
    """Return how many connections are in that state."""
    return int(server.status()["connections"][state])
