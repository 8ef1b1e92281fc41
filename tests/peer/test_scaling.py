"""More and fewer workers under load."""

from __future__ import annotations

import signal

from tests.harness import Load, Server
from tests.peer.conftest import Site


def _wait_workers(server: Server, number: int) -> None:
    server.wait_until(
        lambda: server.status()["workers"] == {"starting": 0, "ready": number, "draining": 0},
        f"{number} workers",
    )


def test_scale_under_load(tcp_site: Site) -> None:
    """Workers come and go by command; the peers notice nothing."""
    target = tcp_site.write("v0")
    with (
        tcp_site.serve(target, clients=8) as server,
        Load(server.address, 8, pause=0.02) as load,
    ):
        load.wait_version("v0")
        started = server.status()["workers"]["ready"]
        for number in (started + 3, started + 1, started + 2, started):
            server.scale(number)
            _wait_workers(server, number)
            load.wait_replies(100)
        tally = load.finish()
        assert tally.clean, tally.summary()


def test_one_worker_takes_all(tcp_site: Site) -> None:
    """Scaled down to one worker, all connections are with it (a prefork worker has but one)."""
    clients = 1 if tcp_site.model == "prefork" else 8
    target = tcp_site.write("v0")
    with (
        tcp_site.serve(target, clients=clients, spare=2) as server,
        Load(server.address, clients, pause=0.02) as load,
    ):
        load.wait_version("v0")
        server.scale(1)
        _wait_workers(server, 1)
        load.wait_replies(100)
        workers = server.workers()
        assert [each["connections"] for each in workers] == [clients], workers
        tally = load.finish()
        assert tally.clean, tally.summary()


def test_ttin_and_ttou(some_site: Site) -> None:
    """Each signal is one worker more or fewer."""
    target = some_site.write("v0")
    with (
        some_site.serve(target, clients=4) as server,
        Load(server.address, 4, pause=0.02) as load,
    ):
        load.wait_version("v0")
        started = server.status()["workers"]["ready"]
        server.signal(signal.SIGTTIN)
        _wait_workers(server, started + 1)
        server.signal(signal.SIGTTIN)
        _wait_workers(server, started + 2)
        for number in (started + 1, started):
            server.signal(signal.SIGTTOU)
            _wait_workers(server, number)
        load.wait_replies(100)
        tally = load.finish()
        assert tally.clean, tally.summary()
