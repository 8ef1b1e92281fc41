"""`guard_forks`: plain sockets that forked children let go of."""

from __future__ import annotations

import os
import signal
import socket
import ssl
import sys
from collections.abc import Iterable
from functools import partial

import pytest

from socketkeep import Connection, Socket, fork, guard_forks
from tests.forking.conftest import Pair
from tests.forking.support import Gate, child


def open_in_child(socks: Iterable[socket.socket]) -> list[bool]:
    """Return which of the sockets a forked child has."""
    fds = [sock.fileno() for sock in socks]
    read, write = os.pipe()

    def look() -> None:
        for fd in fds:
            try:
                os.fstat(fd)
                os.write(write, b"1")
            except OSError:
                os.write(write, b"0")

    with child(look):
        pass
    os.close(write)
    with open(read, "rb") as file:
        return [mark == ord("1") for mark in file.read()]


def test_the_peer_sees_eof_though_a_child_lives(pair: Pair, gate: Gate) -> None:
    """As with a Connection: the case of the plain socket, mended."""
    ours, peer = pair
    with guard_forks(), child(gate.wait):
        ours.close()
        assert peer.recv(1) == b""
        gate.open()


def test_sockets_of_before_and_after_and_however_made() -> None:
    before = socket.socket()
    with before, guard_forks():
        first, second = socket.socketpair()
        server = socket.create_server(("127.0.0.1", 0))
        client = socket.create_connection(server.getsockname())
        accepted, _ = server.accept()
        copy = client.dup()
        secured = ssl.create_default_context().wrap_socket(
            client, server_hostname="localhost", do_handshake_on_connect=False
        )
        made = [before, first, second, server, accepted, copy, secured]
        assert open_in_child(made) == [False] * 7
        for sock in made:
            assert sock.fileno() >= 0
            sock.close()


def test_exempt_sockets_stay(pair: Pair) -> None:
    ours, peer = pair
    with guard_forks(exempt=[ours]) as guard:
        assert open_in_child([ours, peer]) == [True, False]
        guard.exempt(peer)
        assert open_in_child([ours, peer]) == [True, True]


def test_a_guard_ends(pair: Pair) -> None:
    init = socket.socket.__init__
    guard = guard_forks()
    with guard_forks():
        assert open_in_child(pair) == [False, False]
        guard.stop()
        guard.stop()
        assert open_in_child(pair) == [False, False]
    assert open_in_child(pair) == [True, True]
    assert socket.socket.__init__ is init


def test_what_is_inherited_or_given_stays(pair: Pair) -> None:
    """The guard does not take the socket from under a connection."""
    ours, peer = pair
    with guard_forks():
        conn = Connection(ours, inherit=True)
        with child(partial(conn.send, b"inherited")):
            assert peer.recv(100) == b"inherited"
        conn.inherit = False
        with child(partial(conn.send, b"given"), partial(fork, [conn])):
            assert peer.recv(100) == b"given"
        with child(partial(peer.getsockname), partial(fork, [peer], keep=True)):
            pass


def test_a_socket_guards_itself_beyond_the_guard(pair: Pair) -> None:
    ours = Socket(fileno=pair[0].detach(), inherit=False)
    with ours:
        with guard_forks():
            pass
        assert open_in_child([ours]) == [False]


def test_a_signal_in_the_child_does_not_write_to_a_closed_number() -> None:
    """As asyncio has it, signals write to a socket; the child closes that, and uses the number."""
    first, second = socket.socketpair()
    first.setblocking(False)
    before = signal.set_wakeup_fd(first.fileno())
    try:
        with first, second, guard_forks():

            def use_the_number() -> None:
                assert signal.set_wakeup_fd(-1) == -1

            with child(use_the_number):
                pass
            assert signal.set_wakeup_fd(-1) == first.fileno()
    finally:
        signal.set_wakeup_fd(before)


@pytest.mark.skipif(sys.version_info >= (3, 12), reason="asyncio takes it out in the child itself")
def test_a_wakeup_descriptor_that_stays_is_kept(pair: Pair) -> None:
    read, write = os.pipe2(os.O_NONBLOCK)
    before = signal.set_wakeup_fd(write)
    try:
        with guard_forks():

            def look() -> None:
                assert signal.set_wakeup_fd(-1) == write

            with child(look):
                pass
    finally:
        signal.set_wakeup_fd(before)
        os.close(read)
        os.close(write)


def test_it_is_no_error_to_close_in_the_child_what_is_gone(pair: Pair) -> None:
    ours, _ = pair

    def use() -> None:
        ours.close()
        with pytest.raises(OSError, match="Bad file descriptor"):
            ours.send(b"x")

    with guard_forks(), child(use):
        pass
