"""Limits by address, and of how fast connections come, where the keeper accepts."""

from __future__ import annotations

import socket
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.harness.configuration import origins
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


def let_go(bench: Bench, but: str = "") -> None:
    """Close what no worker will come for."""
    for held in bench.keeper.connections.connection_table:
        if held.id == but:
            continue
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


def test_limits_of_a_file_that_is_read_anew(make_bench: MakeBench, tmp_path: Path) -> None:
    """They begin and end with a reload; who is parked by then counts."""
    bench = make_bench(workers=1, start_timeout=0.0, worker_timeout="off", over_limit="close")
    always = 'workers = 1\nstart_timeout = 0\nworker_timeout = "off"\n'
    bench.keeper.origins = origins(tmp_path, always)
    [worker] = bench.start()
    _, sock = bench.connect(tcp=True)
    served = worker.accept(sock, "127.0.0.1:5000")
    served.park()
    bench.settle()
    served.settle()

    def reload(text: str) -> None:
        closes = 'over_limit = "close"\n' if text else ""  # without a limit it is refused
        (tmp_path / "server.toml").write_text(always + closes + text)
        bench.reload()
        bench.bring_up()

    with ExitStack() as stack:
        reload("max_per_address = 2")
        come(bench, stack, 2)
        assert accepted(bench, 2) == 1
        let_go(bench, but=served.id)
        reload("max_per_address = 3")
        come(bench, stack, 3)
        assert accepted(bench, 3) == 2
        let_go(bench, but=served.id)
        assert bench.keeper.counters()["limit_max_per_address"] == 2
        reload('deny = ["127.0.0.1"]')
        come(bench, stack)
        assert accepted(bench, 1) == 0
        assert bench.keeper.counters()["limit_denied"] == 1
        reload("")
        come(bench, stack, 4)
        assert accepted(bench, 4) == 4
        let_go(bench, but=served.id)
