"""The orderly end of a connection that no worker serves."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import struct
from collections.abc import Iterator

import pytest

from socketkeep._keeper.loop._closer import LingeringCloser
from tests.keeper.fakes import Clock, SteppedReactor
from tests.wire.sending import packet_of

Scene = tuple[SteppedReactor, LingeringCloser, socket.socket, list[str]]


@pytest.fixture
def scene() -> Iterator[Scene]:
    """A closer at work on a TCP connection, its peer, and what it has said."""
    reactor = SteppedReactor(Clock())
    closer = LingeringCloser(reactor)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        peer = socket.create_connection(listener.getsockname())
        sock, _ = listener.accept()
    peer.settimeout(5)
    said: list[str] = []
    sock.send(b"the last reply")
    peer.send(b"not read by anybody")
    closer.close(sock, lambda: said.append("done"))
    yield reactor, closer, peer, said
    closer.finish_all()
    peer.close()
    reactor.close()


def test_the_peer_gets_all_and_then_eof_though_it_is_still_sending(scene: Scene) -> None:
    reactor, closer, peer, said = scene
    assert peer.recv(100) == b"the last reply"
    assert peer.recv(100) == b""
    for _ in range(10):
        peer.send(b"x" * 100_000)
        reactor.settle()
    assert said == []
    assert len(closer) == 1
    peer.close()
    reactor.settle()
    assert said == ["done"]
    assert len(closer) == 0


def test_a_peer_that_never_ends_is_left_after_a_bound(scene: Scene) -> None:
    reactor, closer, peer, said = scene
    clock = reactor.clock
    assert isinstance(clock, Clock)
    for _ in range(6):
        clock.now += 0.8
        peer.send(b"x")
        reactor.settle()
        assert said == []
    clock.now += 0.3
    peer.send(b"x")
    reactor.settle()
    assert said == ["done"]
    assert len(closer) == 0


def test_a_peer_that_is_silent_is_left_sooner(scene: Scene) -> None:
    reactor, _, _, said = scene
    clock = reactor.clock
    assert isinstance(clock, Clock)
    clock.now += 0.9
    reactor.settle()
    assert said == []
    clock.now += 0.2
    reactor.settle()
    assert said == ["done"]


def test_who_has_less_time_is_left_then(scene: Scene) -> None:
    reactor, closer, peer, said = scene
    clock = reactor.clock
    assert isinstance(clock, Clock)
    closer.end_by(clock.now + 0.5)
    assert len(closer) == 1
    clock.now += 0.6
    peer.send(b"x")
    reactor.settle()
    assert said == ["done"]


def test_a_reset_ends_it(scene: Scene) -> None:
    reactor, closer, peer, said = scene
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    peer.close()
    reactor.settle()
    assert said == ["done"]
    assert len(closer) == 0


def test_a_connection_that_is_reset_already() -> None:
    reactor = SteppedReactor(Clock())
    closer = LingeringCloser(reactor)
    said: list[str] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:
        peer = socket.create_connection(listener.getsockname())
        sock, _ = listener.accept()
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    peer.close()
    with pytest.raises(OSError, match="not connected") as caught:
        sock.shutdown(socket.SHUT_WR)
    assert caught.value.errno == errno.ENOTCONN
    closer.close(sock, lambda: said.append("done"))
    reactor.settle()
    assert said == ["done"]
    reactor.close()


def test_at_the_sudden_end_nothing_is_waited_for(scene: Scene) -> None:
    _, closer, _, said = scene
    closer.finish_all()
    assert said == ["done"]
    late, other = socket.socketpair()
    closer.close(late, lambda: said.append("late"))
    assert said == ["done", "late"]
    assert late.fileno() == -1
    assert other.recv(1) == b""
    other.close()


@pytest.mark.parametrize("seconds", [3600, 0])
def test_a_linger_of_the_users_is_not_waited_for(seconds: int) -> None:
    """SO_LINGER is the socket's; the close of the last handle would wait, the keeper with it."""
    reactor = SteppedReactor(Clock())
    closer = LingeringCloser(reactor)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        peer = socket.create_connection(listener.getsockname())
        sock, _ = listener.accept()
    sock.setblocking(False)
    with contextlib.suppress(BlockingIOError):
        while True:
            sock.send(bytes(65536))
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, seconds))
    closer.close(sock, lambda: None)
    closer.finish_all()
    ends = socket.socketpair()
    packet = packet_of([fd for end in ends for fd in (end.detach(),)] + list(os.pipe()))
    packet.close()
    assert packet.descriptors == []
    peer.close()
    reactor.close()
