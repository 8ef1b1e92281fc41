"""The keeper is killed: what it leaves serves on, and the next keeper takes it over."""

from __future__ import annotations

import signal
from typing import Final

import pytest

from tests.harness import Load, Server, connect, read_reply
from tests.peer.conftest import Site

CLIENTS: Final = 20
# What is parked the keeper alone has, and it ends with the keeper.
UNPARKED: Final = ("--park-after", "off")


def kill(server: Server) -> None:
    """End the keeper as the out-of-memory killer does."""
    server.signal(signal.SIGKILL)
    server.process.wait(10.0)


@pytest.mark.timeout(120)
def test_the_next_keeper_takes_all_over(tcp_site: Site) -> None:
    """Peers are answered without a keeper, then by the next one's workers, and lose nothing."""
    target = tcp_site.write("v0")
    with (
        tcp_site.serve(target, *UNPARKED, clients=CLIENTS) as first,
        Load(first.address, CLIENTS, pause=0.05) as load,
    ):
        load.wait_version("v0")
        kill(first)
        load.wait_replies(10)
        tcp_site.write("v1")
        # These come to a listener at which nobody accepts: they wait, and are not refused.
        with connect(first.address) as early:
            early.sendall(b"x\n")
            with tcp_site.serve(target, *UNPARKED, clients=CLIENTS, spare=2) as second:
                assert second.address == first.address
                load.wait_version("v1")
                assert read_reply(early) == b"1 x v1"
                with connect(second.address) as late:
                    late.sendall(b"y\n")
                    assert read_reply(late) == b"1 y v1"
                second.wait_until(
                    lambda: second.status()["workers"]["draining"] == 0, "the old workers' end"
                )
                totals = second.status()["totals"]
                assert totals["attached"]["reload"] == CLIENTS
                assert totals["lost"] == 0
                names = [each["id"] for each in second.connections()]
                assert len(set(names)) == len(names) >= CLIENTS
                tally = load.finish()
                assert tally.clean, tally.summary()
        assert not first.processes(timeout=5.0)
        assert not first.find("worker failed")
        assert not first.find("handler failed")
