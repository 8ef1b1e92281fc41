"""Packets with descriptors: what sends and receives them in C does it as Python does."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Iterator
from typing import Final

import pytest

from tests.wire.limits import out_of_descriptors
from tests.wire.sending import LARGE, receive_packet, send_packet

#: SCM_MAX_FD of the kernel.
_MOST: Final = 253


class InPython(socket.socket):
    """A socket of a class of its own, which only Python sends by."""


@pytest.fixture(params=[socket.socket, InPython])
def kind(request: pytest.FixtureRequest) -> type[socket.socket]:
    found: type[socket.socket] = request.param
    return found


@pytest.fixture
def ends(kind: type[socket.socket]) -> Iterator[tuple[socket.socket, socket.socket]]:
    one, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with kind(fileno=one.detach()) as ours, kind(fileno=other.detach()) as theirs:
        ours.setblocking(False)
        theirs.setblocking(False)
        yield ours, theirs


@pytest.mark.parametrize("size", [1, 100, LARGE])
@pytest.mark.parametrize("count", [0, 1, 3, _MOST])
def test_what_is_sent_arrives(
    ends: tuple[socket.socket, socket.socket], size: int, count: int
) -> None:
    ours, theirs = ends
    payload = bytes(range(256)) * (size // 256) + b"x" * (size % 256)
    assert send_packet(ours, payload, [ours.fileno()] * count) == size
    received = receive_packet(theirs)
    assert type(received).__name__ == "Received"
    assert (received.data, received.truncated) == (payload, False)
    assert len(set(received.descriptors)) == count
    for fd in received.descriptors:
        assert os.path.sameopenfile(fd, ours.fileno())
        assert not os.get_inheritable(fd)
        os.close(fd)


def test_nothing_is_there(ends: tuple[socket.socket, socket.socket]) -> None:
    with pytest.raises(BlockingIOError):
        receive_packet(ends[0])


def test_the_other_end_has_gone(ends: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = ends
    theirs.close()
    assert receive_packet(ours) == (b"", [], False)
    with pytest.raises(BrokenPipeError):
        send_packet(ours, b"x")


def test_there_is_no_room(ends: tuple[socket.socket, socket.socket]) -> None:
    ours, _ = ends

    def fill() -> None:
        while True:
            send_packet(ours, b"x" * 10_000)

    with pytest.raises(BlockingIOError):
        fill()


def test_a_closed_socket_is_told(ends: tuple[socket.socket, socket.socket]) -> None:
    ours, _ = ends
    ours.close()
    for call in (lambda: send_packet(ours, b"x"), lambda: receive_packet(ours)):
        with pytest.raises(OSError, match="Bad file descriptor") as raised:
            call()
        assert raised.value.errno == errno.EBADF


def test_more_descriptors_than_a_packet_has(ends: tuple[socket.socket, socket.socket]) -> None:
    with pytest.raises(OSError, match="Invalid argument"):
        send_packet(ends[0], b"x", [0] * (_MOST + 1))


def test_a_descriptor_that_is_none_is_not_sent(ends: tuple[socket.socket, socket.socket]) -> None:
    with pytest.raises(OSError, match="Bad file descriptor"):
        send_packet(ends[0], b"x", [10**6])
    with pytest.raises((TypeError, OverflowError)):
        send_packet(ends[0], b"x", [2**40])


def test_what_has_no_place_here_is_lost_and_told(ends: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = ends
    send_packet(ours, b"x", [ours.fileno()] * 3)
    with out_of_descriptors(spare=1):
        received = receive_packet(theirs)
    assert (received.data, received.truncated) == (b"x", True)
    assert len(received.descriptors) == 1
    os.close(received.descriptors[0])


@pytest.mark.parametrize("size", [3, 100_000])
def test_of_a_stream_comes_as_much_as_is_asked_for(kind: type[socket.socket], size: int) -> None:
    one, other = socket.socketpair()
    with kind(fileno=one.detach()) as ours, kind(fileno=other.detach()) as theirs:
        ours.setblocking(False)
        theirs.setblocking(False)
        assert send_packet(ours, b"abcdef") == 6
        received = receive_packet(theirs, size)
        assert received == (b"abcdef"[:size], [], False)
