"""The ways a server ends, and what its peers see of each."""

from __future__ import annotations

import signal
import threading
from typing import Final

import pytest

from tests.harness import Finished, Load, connect, read_reply, read_to_end
from tests.peer.conftest import Site

CLIENTS: Final = 24


def test_sigterm_under_load(tcp_site: Site) -> None:
    """Every connection ends with a FIN between two replies, and the server exits with 0."""
    target = tcp_site.write("v0")
    with (
        tcp_site.serve(target, clients=CLIENTS) as server,
        Load(server.address, CLIENTS, pause=0.01) as load,
    ):
        load.wait_version("v0")
        server.signal(signal.SIGTERM)
        load.wait_ended()
        tally = load.finish()
        assert server.wait_exit() == 0
        server.wait_event("stopped")
        assert tally.fin == CLIENTS, tally.summary()
        # A request that crosses the FIN on its way is never read, and that is all.
        assert tally.disordered == 0, tally.summary()


def test_stop_command(some_site: Site) -> None:
    """`stop` is the graceful end, and returns when the server is gone."""
    target = some_site.write("v0")
    with some_site.serve(target, clients=1) as server, connect(server.address) as peer:
        peer.sendall(b"1\n")
        assert read_reply(peer) == b"1 1 v0"
        done = server.cli("stop")
        assert done.exit_code == 0, done
        assert read_to_end(peer) == b""
        assert server.wait_exit(5.0) == 0


@pytest.mark.parametrize(
    "signals",
    [[signal.SIGQUIT], [signal.SIGINT, signal.SIGINT]],
    ids=["quit", "second int"],
)
def test_at_once(tcp_site: Site, signals: list[signal.Signals]) -> None:
    """QUIT, and a second INT, do not wait for a handler that is in the middle of work."""
    target = tcp_site.write("v0", "large")
    with (
        tcp_site.serve(target, "--graceful-timeout", "300", clients=1) as server,
        connect(server.address) as peer,
    ):
        peer.sendall(b"%d\n" % (16 << 20))
        peer.recv(1)
        for number, one in enumerate(signals):
            if number:
                server.wait_event("stopping")
            server.signal(one)
        server.wait_exit(10.0)


def test_one_int_is_graceful(tcp_site: Site) -> None:
    """The first INT completes what is in flight."""
    target = tcp_site.write("v0", "large")
    with tcp_site.serve(target, clients=1) as server, connect(server.address) as peer:
        peer.sendall(b"%d\n" % (16 << 20))
        received = len(peer.recv(1))
        server.signal(signal.SIGINT)
        server.wait_event("stopping")
        while received < (16 << 20) + 4:
            piece = peer.recv(1 << 20)
            assert piece
            received += len(piece)
        peer.close()
        assert server.wait_exit() == 0


def test_drain(tcp_site: Site) -> None:
    """`drain` accepts no more, serves what is there until it is gone, and then exits."""
    target = tcp_site.write("v0")
    with tcp_site.serve(target, clients=2) as server, connect(server.address) as peer:
        peer.sendall(b"1\n")
        assert read_reply(peer) == b"1 1 v0"
        outcome: list[Finished] = []
        command = threading.Thread(target=lambda: outcome.append(server.cli("drain")))
        command.start()
        try:
            server.wait_until(lambda: server.status()["state"] == "draining", "draining")
            peer.sendall(b"2\n")
            assert read_reply(peer) == b"2 2 v0"
            peer.close()
            assert server.wait_exit() == 0
        finally:
            command.join()
        assert outcome[0].exit_code == 0, outcome


def test_drain_ends_at_the_deadline(some_site: Site) -> None:
    """A connection that does not end by itself is closed in order at the graceful timeout."""
    target = some_site.write("v0")
    with (
        some_site.serve(target, "--graceful-timeout", "1", clients=1) as server,
        connect(server.address) as peer,
    ):
        peer.sendall(b"1\n")
        assert read_reply(peer) == b"1 1 v0"
        assert server.cli("drain").exit_code == 0
        assert read_to_end(peer) == b""
        assert server.wait_exit(5.0) == 0
