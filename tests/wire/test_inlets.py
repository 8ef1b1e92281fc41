"""What edges pass on is accepted by workers as from a listener."""

from __future__ import annotations

import os
import resource
import socket
from contextlib import suppress

import pytest

from tests.wire.inlets import inlet_pair, pass_on


def test_a_connection_comes_with_what_is_told_of_it() -> None:
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


def test_who_has_no_room_is_told_so_and_nothing_is_lost() -> None:
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
