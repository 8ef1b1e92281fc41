"""HAProxy's agent checks, answered by a keeper of fakes: what is told, and to how many."""

from __future__ import annotations

import socket

from socketkeep import Listener
from socketkeep._admin._agent_check import AgentCheck
from tests.keeper.bench import Bench
from tests.keeper.conftest import MakeBench


def asked(bench: Bench, listener: Listener) -> bytes:
    """Return all that a check is told, until its end."""
    with socket.create_connection(listener.sock.getsockname()) as proxy:
        proxy.settimeout(10)
        bench.settle()
        said = proxy.recv(100)
        proxy.shutdown(socket.SHUT_WR)
        bench.settle()
        assert proxy.recv(100) == b""
    return said


def test_what_a_check_is_told(make_bench: MakeBench) -> None:
    bench = make_bench(workers=2, max_connections=4)
    listener = Listener.bind("127.0.0.1:0")
    check = AgentCheck(bench.keeper, bench.reactor, listener)
    assert asked(bench, listener) == b"down #starting\n"
    first, _ = bench.start()
    assert asked(bench, listener) == b"up ready 100%\n"
    _, served = bench.serve(first)
    served.keep()
    bench.settle()
    assert asked(bench, listener) == b"up ready 75%\n"
    bench.keeper.pause()
    assert asked(bench, listener) == b"drain\n"
    check.close()


def test_so_many_at_once(make_bench: MakeBench) -> None:
    """Each gets its line, though they ask in one turn of the loop, and one has gone before."""
    bench = make_bench(workers=1)
    listener = Listener.bind("127.0.0.1:0")
    check = AgentCheck(bench.keeper, bench.reactor, listener)
    bench.start()
    address = listener.sock.getsockname()
    gone = socket.create_connection(address)
    gone.close()
    proxies = [socket.create_connection(address) for _ in range(20)]
    bench.settle()
    for proxy in proxies:
        proxy.settimeout(10)
        assert proxy.recv(100).startswith(b"up ready ")
        proxy.close()
    bench.settle()
    check.close()
