"""Handlers that are not resumable: what is in flight completes, then the connection ends."""

from __future__ import annotations

import signal
import socket
from typing import Final

from tests.harness import Load, connect, read_reply, read_to_end
from tests.peer.conftest import Site

# More than the socket buffers of both ends hold: in flight for as long as the peer does not read.
LARGE: Final = 16 << 20
GRACE: Final = 1.5
CLIENTS: Final = 16


def _read_exactly(peer: socket.socket, number: int) -> bytes:
    pieces = bytearray()
    while len(pieces) < number:
        piece = peer.recv(min(number - len(pieces), 1 << 20))
        assert piece, f"the reply was cut after {len(pieces)} of {number} bytes"
        pieces += piece
    return bytes(pieces)


def test_reload_completes_the_reply_and_then_ends(site: Site) -> None:
    """The reply in flight is whole, requests are served until the deadline, then comes a FIN."""
    target = site.write("v0", "large")
    with (
        site.serve(target, "--graceful-timeout", str(GRACE), clients=3, spare=3) as server,
        connect(server.address) as reading,
        connect(server.address) as leaving,
    ):
        leaving.sendall(b"1\n")
        assert read_reply(leaving) == b"x v0"
        reading.sendall(b"%d\n" % LARGE)
        received = reading.recv(1)
        site.write("v1", "large")
        server.signal(signal.SIGHUP)
        server.wait_event("reload done", generation=2)
        with connect(server.address) as newcomer:
            newcomer.sendall(b"1\n")
            assert read_reply(newcomer) == b"x v1"
        leaving.shutdown(socket.SHUT_WR)  # its handler returns
        assert read_to_end(leaving) == b""  # before the deadline, since the other is served on
        received += _read_exactly(reading, LARGE + len(b" v0\n") - 1)
        assert received == b"x" * LARGE + b" v0\n"
        reading.sendall(b"1\n")
        assert read_reply(reading) == b"x v0"
        assert read_to_end(reading) == b""


def test_reload_under_load_ends_between_two_replies(tcp_site: Site) -> None:
    """At the deadline every connection ends with a FIN, and none inside a reply."""
    target = tcp_site.write("v0", "drained counter")
    with (
        tcp_site.serve(target, "--graceful-timeout", "1", clients=CLIENTS) as server,
        Load(server.address, CLIENTS, pause=0.01) as load,
    ):
        load.wait_version("v0")
        tcp_site.write("v1", "drained counter")
        server.reload()
        load.wait_ended()
        tally = load.finish()
        assert tally.fin == CLIENTS, tally.summary()
        # A request that crosses the FIN on its way is never read, and that is all.
        assert tally.disordered == 0, tally.summary()
        assert set(tally.versions) == {"v0"}


def test_sigterm_completes_the_reply(tcp_site: Site) -> None:
    """A reply in flight at SIGTERM is whole; then the connection and the server end in order."""
    target = tcp_site.write("v0", "large")
    with (
        tcp_site.serve(target, "--graceful-timeout", "10", clients=1) as server,
        connect(server.address) as peer,
    ):
        peer.sendall(b"%d\n" % LARGE)
        received = peer.recv(1)
        server.signal(signal.SIGTERM)
        server.wait_event("stopping")
        received += _read_exactly(peer, LARGE + len(b" v0\n") - 1)
        assert received == b"x" * LARGE + b" v0\n"
        peer.shutdown(socket.SHUT_WR)
        assert read_to_end(peer) == b""
        assert server.wait_exit() == 0


def test_handler_returns_while_the_peer_sends(tcp_site: Site) -> None:
    """The peer gets the whole reply and then the end, though what it sent was never read."""
    target = tcp_site.write("v0", "replies and returns")
    length = 1 << 20
    with tcp_site.serve(target, clients=1) as server, connect(server.address) as peer:
        peer.sendall(b"%d\n" % length + b"never read\n" * 100)
        received = peer.recv(1)
        # Left in the kernel: closing a socket with it there would be a reset.  Little enough that
        # a Unix socket takes it though its peer does not read.
        peer.sendall(b"never read either\n" * 100)
        assert received + read_to_end(peer) == b"x" * length + b" v0\n"


def test_handler_exception_ends_its_connection_alone(tcp_site: Site) -> None:
    """The connection ends in order, the log tells which, and the others go on."""
    target = tcp_site.write("v0", "fails")
    with (
        tcp_site.serve(target, clients=2) as server,
        connect(server.address) as failing,
        connect(server.address) as other,
    ):
        for peer in (failing, other):
            peer.sendall(b"1\n")
            assert read_reply(peer) == b"1 1 v0"
        failing.sendall(b"fail\n")
        assert read_to_end(failing) == b""
        event = server.wait_event("handler failed")
        assert "RuntimeError: the handler was told to fail" in event["traceback"]
        assert event["id"]
        if tcp_site.transport == "ipv4":
            assert event["peer"] == f"127.0.0.1:{failing.getsockname()[1]}"
        other.sendall(b"2\n")
        assert read_reply(other) == b"2 2 v0"
        server.wait_until(
            lambda: server.status()["totals"]["handler_errors"] == 1, "the error counted"
        )
