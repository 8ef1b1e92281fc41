"""Limits by address, and of how fast connections come, where the keeper accepts."""

from __future__ import annotations

import socket
from contextlib import ExitStack

import pytest

from tests.keeper.bench import Bench
from tests.keeper.conftest import MakeBench


def come(bench: Bench, stack: ExitStack, count: int = 1) -> list[socket.socket]:
    """Connect so often over TCP."""
    port = bench.listeners[1].sock.getsockname()[1]
    return [
        stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=10))
        for _ in range(count)
    ]


def accepted(bench: Bench, tries: int) -> int:
    """Have the keeper accept so often; return how many were to be served."""
    return sum(bench.keeper.connections.accept() is not None for _ in range(tries))


def let_go(bench: Bench) -> None:
    """Close what no worker will come for."""
    for held in bench.keeper.connections.connection_table:
        held.ownership.stopped()
        bench.keeper.connections._close(held, "closed", "the test has it so")
    bench.keeper.closer.finish_all()


def test_an_address_has_so_many(make_bench: MakeBench) -> None:
    """What is over the limit is reset, and counted."""
    bench = make_bench(workers=1, max_per_address=2)
    with ExitStack() as stack:
        peers = come(bench, stack, 4)
        assert accepted(bench, 4) == 2
        for peer in peers[2:]:
            with pytest.raises(ConnectionResetError):
                peer.recv(1)
        assert bench.keeper.counters()["limit_max_per_address"] == 2
        let_go(bench)
        come(bench, stack)
        assert accepted(bench, 1) == 1
        let_go(bench)


def test_the_rate_has_others_wait(make_bench: MakeBench) -> None:
    """They stay in the queue, and nobody is refused."""
    bench = make_bench(workers=1, accept_rate="0.001:2")
    with ExitStack() as stack:
        come(bench, stack, 3)
        assert accepted(bench, 3) == 2
        assert bench.keeper.counters()["accepted"] == 2
        assert bench.listeners[1] in bench.keeper.connections._queues.occupied()
        let_go(bench)


def test_a_listener_with_its_own_rate(make_bench: MakeBench) -> None:
    """It waits alone: whoever comes to the other one is served."""
    bind = ["unix:here", "127.0.0.1:1,accept-rate=0.001:1"]
    bench = make_bench(workers=1, bind=bind)
    with ExitStack() as stack:
        come(bench, stack, 2)
        for _ in range(3):
            peer = stack.enter_context(socket.socket(socket.AF_UNIX))
            peer.connect(bench.listeners[0].sock.getsockname())
        assert accepted(bench, 5) == 4
        assert bench.keeper.connections._queues.occupied() == [bench.listeners[1]]
        let_go(bench)
