"""What has come of a message when its handler moves is there for the next one."""

from __future__ import annotations

import socket
from contextlib import ExitStack
from typing import Final

from tests.harness import Server, connect, read_reply
from tests.peer.conftest import Site

PEERS: Final = 10


def _wait_bytes_in(server: Server, number: int) -> None:
    """Wait until the handler of every connection has taken `number` bytes from the kernel."""
    server.wait_until(
        lambda: [each["bytes_in"] for each in server.connections()] == [number] * PEERS,
        f"{number} bytes received on each of {PEERS} connections",
    )


def _wait_generation(server: Server, generation: int) -> None:
    """Wait until every connection is with a worker of `generation`."""
    server.wait_until(
        lambda: [each["generation"] for each in server.connections()] == [generation] * PEERS,
        f"{PEERS} connections in generation {generation}",
    )


def _connect_all(stack: ExitStack, server: Server) -> list[socket.socket]:
    return [stack.enter_context(connect(server.address)) for _ in range(PEERS)]


def test_half_a_line_before_and_half_after(site: Site) -> None:
    """A line whose halves arrive in two generations is one line, in the second."""
    target = site.write("v0")
    with site.serve(target, clients=PEERS) as server, ExitStack() as stack:
        peers = _connect_all(stack, server)
        for peer in peers:
            peer.sendall(b"1\n")
        for peer in peers:
            assert read_reply(peer) == b"1 1 v0"
        for number, peer in enumerate(peers):
            peer.sendall(b"first %02d " % number)
        _wait_bytes_in(server, 2 + 9)
        site.write("v1")
        server.reload()
        _wait_generation(server, 2)
        for peer in peers:
            peer.sendall(b"second\n")
        for number, peer in enumerate(peers):
            assert read_reply(peer) == b"2 first %02d second v1" % number


def test_header_before_and_body_after(tcp_site: Site) -> None:
    """A handler that has read the header, and waits for the body, reads it again elsewhere.

    Twice over, so that what was pushed back is pushed back again; the body comes in two pieces.
    """
    target = tcp_site.write("v0", "framed")
    with tcp_site.serve(target, clients=PEERS) as server, ExitStack() as stack:
        peers = _connect_all(stack, server)
        for peer in peers:
            peer.sendall((7).to_bytes(4, "big"))
        _wait_bytes_in(server, 4)
        tcp_site.write("v1", "framed")
        server.reload()
        _wait_generation(server, 2)
        for number, peer in enumerate(peers):
            peer.sendall(b"bo%02d" % number)
        server.wait_until(
            lambda: sum(each["bytes_in"] for each in server.connections()) >= 4 * PEERS,
            "half of each body received",
        )
        tcp_site.write("v2", "framed")
        server.reload()
        _wait_generation(server, 3)
        for peer in peers:
            peer.sendall(b"dy!")
        for number, peer in enumerate(peers):
            assert read_reply(peer) == b"1 bo%02ddy! v2" % number


def test_no_move_between_a_question_and_its_answer(tcp_site: Site) -> None:
    """A handler that has sent since its commit stays, and moves once it has committed."""
    target = tcp_site.write("v0", "asks back")
    with tcp_site.serve(target, clients=1, spare=1) as server, connect(server.address) as peer:
        peer.sendall(b"go\n")
        assert read_reply(peer) == b"go? v0"
        tcp_site.write("v1", "asks back")
        server.reload()
        with connect(server.address) as newcomer:
            newcomer.sendall(b"go\n")
            assert read_reply(newcomer) == b"go? v1"
        peer.sendall(b"yes\n")
        assert read_reply(peer) == b"yes v0"
        server.wait_until(
            lambda: {each["generation"] for each in server.connections()} == {2},
            "the connection in the new generation",
        )
        peer.sendall(b"go\n")
        assert read_reply(peer) == b"go? v1"


def test_end_of_stream_after_the_reload(tcp_site: Site) -> None:
    """A peer that has half-closed while its handler moved gets its reply and its end."""
    target = tcp_site.write("v0")
    with tcp_site.serve(target, clients=1) as server, connect(server.address) as peer:
        peer.sendall(b"1\n")
        assert read_reply(peer) == b"1 1 v0"
        tcp_site.write("v1")
        server.reload()
        peer.sendall(b"2\n")
        peer.shutdown(socket.SHUT_WR)
        assert read_reply(peer) == b"2 2 v1"
        assert peer.recv(1) == b""
