"""What edges pass on is accepted by workers as from a listener."""

from __future__ import annotations

import os
import resource
import socket
from collections.abc import Callable
from contextlib import suppress
from typing import TypeAlias

import pytest

from socketkeep.proxy import InetAddress, read_header
from tests.wire.inlets import ends_in_python, ends_of, inlet_pair, pass_on, pass_on_in_python

Passing: TypeAlias = Callable[[socket.socket, bytes], socket.socket]
PASSING = pytest.mark.parametrize("pass_on", [pass_on, pass_on_in_python], ids=["fast", "Python"])


@PASSING
def test_a_connection_comes_with_what_is_told_of_it(pass_on: Passing) -> None:
    inlet, outlet = inlet_pair()
    with inlet, outlet, pass_on(outlet, b"told") as near:
        sock, address = inlet.accept()
        with sock:
            assert (sock.gettimeout(), address) == (0.0, "")
            assert (sock.family, sock.type) == (socket.AF_UNIX, socket.SOCK_STREAM)
            assert sock.recv(100) == b"told"
            sock.send(b"answered")
            assert near.recv(100) == b"answered"
        assert near.recv(100) == b""
        with pytest.raises(BlockingIOError):
            inlet.accept()


@PASSING
def test_who_has_no_room_is_told_so_and_nothing_is_lost(pass_on: Passing) -> None:
    """Neither where so many wait, nor where who accepts has no descriptor for one more."""
    inlet, outlet = inlet_pair()
    waiting: list[socket.socket] = []
    with inlet, outlet, suppress(BlockingIOError):
        while len(waiting) < 1000:
            waiting.append(pass_on(outlet, b"%d" % len(waiting)))
    assert 100 < len(waiting) < 1000
    for each in waiting:
        each.close()
    inlet, outlet = inlet_pair()
    with inlet, outlet, pass_on(outlet, b"first"):
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        spare = os.dup(0)
        os.close(spare)
        resource.setrlimit(resource.RLIMIT_NOFILE, (spare, hard))
        try:
            with pytest.raises(OSError, match="Too many open files"):
                inlet.accept()
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        sock, _ = inlet.accept()
        with sock:
            assert sock.recv(100) == b"first"


def test_what_comes_that_is_no_connection() -> None:
    """An error as accept(2) has it of one that has given up; of more descriptors one is taken."""
    inlet, outlet = inlet_pair()
    with inlet, outlet:
        outlet.send(b"none")
        with pytest.raises(ConnectionAbortedError):
            inlet.accept()
        one, other = socket.socketpair()
        with one, other:
            socket.send_fds(outlet, [b"x"], [one.fileno(), one.fileno()])
            one.close()
            sock, _ = inlet.accept()
            sock.close()
            assert other.recv(1) == b""


@PASSING
def test_where_nobody_takes_any_more_nothing_is_left_open(pass_on: Passing) -> None:
    inlet, outlet = inlet_pair()
    inlet.close()
    with outlet:
        spare = os.dup(0)
        os.close(spare)
        with pytest.raises(BrokenPipeError):
            pass_on(outlet, b"told")
        assert os.dup(0) == spare
        os.close(spare)


@pytest.mark.parametrize("ends", [ends_of, ends_in_python], ids=["fast", "Python"])
def test_the_ends_of_a_connection_are_as_its_header_has_them(
    ends: Callable[[socket.socket], bytes],
) -> None:
    for family, host, of in (
        (socket.AF_INET, "127.0.0.1", "127.0.0.1"),
        (socket.AF_INET6, "::1", "::1"),
        (socket.AF_INET6, "::ffff:127.0.0.1", "127.0.0.1"),
    ):
        with socket.socket(family) as listener:
            listener.bind((host, 0))
            listener.listen()
            listener_port = listener.getsockname()[1]
            with socket.create_connection((host, listener_port)) as client:
                client_port = client.getsockname()[1]
                sock, _ = listener.accept()
                with sock:
                    found = ends(sock)
        whole = (
            b"\r\n\r\n\0\r\nQUIT\n!" + found[:1] + (len(found) - 1).to_bytes(2, "big") + found[1:]
        )
        header, _ = read_header(whole) or (None, 0)
        assert header is not None
        assert header.source == InetAddress(of, client_port)
        assert header.destination == InetAddress(of, listener_port)


@pytest.mark.parametrize("ends", [ends_of, ends_in_python], ids=["fast", "Python"])
def test_of_other_sockets_there_are_none(ends: Callable[[socket.socket], bytes]) -> None:
    with socket.socket() as alone, pytest.raises(OSError, match="not connected"):
        ends(alone)
