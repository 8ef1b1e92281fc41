"""The kernel's own counters, on real connections."""

from __future__ import annotations

import select
import socket
from contextlib import suppress

import pytest

from tests.harness.seam import totals, totals_of
from tests.library.conftest import KINDS, Pair, tcp_pair, unix_pair, until


@pytest.mark.parametrize("kind", ["tcp", "tcp6"])
def test_both_directions_are_counted_whoever_moves_the_bytes(kind: str) -> None:
    ours, peer = KINDS[kind]()
    with ours, peer, socket.socket(fileno=ours.dup().detach()) as other:
        before = totals_of(ours)
        assert before is not None
        peer.sendall(b"12345")
        until(lambda: (totals_of(ours) or before).waiting == 5)
        assert totals_of(ours) == before._replace(waiting=5)
        assert other.recv(2) == b"12"
        assert totals_of(ours) == before._replace(taken=before.taken + 2, waiting=3)
        other.sendall(b"x" * 1000)
        for _ in range(50):  # acknowledged or not
            now = totals_of(ours)
            assert now is not None
            assert now.written == before.written + 1000


def test_what_waits_to_be_sent_counts(tcp: Pair) -> None:
    ours, _ = tcp
    ours.setblocking(False)
    before = totals_of(ours)
    gone = 0
    with suppress(BlockingIOError):
        while True:
            gone += ours.send(bytes(10_000))
    now = totals_of(ours)
    assert before is not None
    assert now is not None
    assert now.written - before.written == gone


def test_the_peers_fin_is_no_byte(tcp: Pair) -> None:
    ours, peer = tcp
    before = totals_of(ours)
    assert before is not None
    peer.sendall(b"12345")
    peer.shutdown(socket.SHUT_WR)
    poller = select.poll()
    poller.register(ours, select.POLLRDHUP)
    assert poller.poll(5000)
    for size, taken in ((0, 0), (3, 3), (2, 5), (1, 5)):
        ours.recv(size)
        now = before._replace(taken=before.taken + taken, waiting=5 - taken)
        assert totals_of(ours) == now


def test_a_connection_that_was_reset_is_over(tcp: Pair) -> None:
    ours, peer = tcp
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    peer.close()
    until(lambda: (totals_of(ours) or totals(0, 0, 0)).over)


def test_only_tcp_tells() -> None:
    ours, peer = unix_pair()
    with ours, peer:
        assert totals_of(ours) is None
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM, 262) as multipath:  # IPPROTO_MPTCP
        assert totals_of(multipath) is None
    ours, peer = tcp_pair()
    ours.close()
    peer.close()
    with pytest.raises(OSError, match="Bad file descriptor"):
        totals_of(ours)
