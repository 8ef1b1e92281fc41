"""Who holds a connection: its worker alone, and nobody what is over."""

from __future__ import annotations

import os
import signal
from collections import Counter
from contextlib import suppress
from pathlib import Path

from tests.harness import Load, Server
from tests.peer.conftest import Site

PEERS = 12


def _connections_held(server: Server) -> Counter[str]:
    """Return how many handles of each of the server's TCP connections its processes hold."""
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    established = {
        f"socket:[{row[9]}]"
        for row in rows
        if row[3] == "01" and int(row[1].partition(":")[2], 16) == server.port
    }
    held = Counter(dict.fromkeys(established, 0))
    for pid in server.processes():
        with suppress(OSError):  # it has ended meanwhile
            for link in Path(f"/proc/{pid}/fd").iterdir():
                with suppress(OSError):  # closed meanwhile
                    held.update({os.readlink(link)} & established)
    return held


def _keeper_descriptors(server: Server) -> int:
    return len(list(Path(f"/proc/{server.pid}/fd").iterdir()))


def test_one_handle_each(tcp_site: Site) -> None:
    """After any number of reloads each connection is held by one process, once.

    Of those that were parked once, which a slow machine makes of any, the keeper has a handle too.
    """
    target = tcp_site.write("v0")
    with (
        tcp_site.serve(target, "--park-after", "off", clients=PEERS) as server,
        Load(server.address, PEERS, pause=0.02) as load,
    ):
        load.wait_version("v0")
        for version in ("v1", "v2"):
            tcp_site.write(version)
            server.reload()
            load.wait_version(version)
        server.wait_until(
            lambda: list(_connections_held(server).values()) == [1] * PEERS,
            "one handle of each connection",
        )
        tally = load.finish()
        assert tally.clean, tally.summary()


def test_keeper_lets_go_of_ended_workers(some_site: Site) -> None:
    """Reloads leave nothing open in the keeper."""
    target = some_site.write("v0")
    limits = ("--graceful-timeout", "1", "--start-timeout", "5")
    with some_site.serve(target, *limits, clients=4) as server:
        before = _keeper_descriptors(server)
        for version in ("v1", "v2", "v3"):
            some_site.write(version)
            server.reload()
        # Three reloads that leave one descriptor each are three; what the start itself still opens
        # after it is ready is less.
        server.wait_until(
            lambda: _keeper_descriptors(server) < before + 3, "as few descriptors as at the start"
        )


def test_killed_process_takes_its_connection_with_it(tcp_site: Site) -> None:
    """The peers of a process that is killed after a reload see their connection end."""
    target = tcp_site.write("v0")
    with (
        tcp_site.serve(target, clients=8) as server,
        Load(server.address, 8, pause=0.02) as load,
    ):
        load.wait_version("v0")
        tcp_site.write("v1")
        server.reload()
        load.wait_version("v1")
        server.wait_until(
            lambda: all(each["generation"] == 2 for each in server.connections()), "all moved"
        )
        owners = Counter(each["owner"] for each in server.connections())
        victim, connections = owners.most_common(1)[0]
        os.kill(victim, signal.SIGKILL)
        load.wait_until(
            lambda tally: tally.fin + tally.reset == connections, "the end of its connections", 10
        )
        load.wait_replies(50)
        tally = load.finish()
        assert tally.fin + tally.reset == connections, tally.summary()
        assert tally.disordered == 0, tally.summary()
