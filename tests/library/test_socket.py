"""What `Socket` adds to the standard class; that it takes nothing away, tests/stdlib shows."""

from __future__ import annotations

import io
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress

import pytest

from socketkeep import (
    Blocking,
    Deadline,
    Handle,
    Mode,
    NonBlocking,
    Socket,
    SystemFailure,
    Timeout,
)

MODES = [Blocking(), NonBlocking(), Timeout(2.5), Deadline.after(3600)]


def kind(mode: object) -> str:
    """Name a test by the kind of mode: a deadline differs in each process that collects."""
    return type(mode).__name__


Action = Callable[[Socket], object]


@pytest.fixture
def pair() -> Iterator[tuple[Socket, Socket]]:
    """Two connected Sockets."""
    left, right = (Socket(fileno=plain.detach()) for plain in socket.socketpair())
    with left, right:
        yield left, right


@pytest.fixture
def listener() -> Iterator[Socket]:
    with Socket() as sock:
        sock.bind(("127.0.0.1", 0))
        sock.listen()
        yield sock


class Small(Socket):
    """A user's own subclass."""

    __slots__ = ()


@pytest.mark.parametrize("mode", MODES, ids=kind)
def test_constructor_and_property_agree(mode: Mode) -> None:
    with Socket(mode=mode) as made, Socket() as changed:
        assert changed.mode == Blocking()
        changed.mode = mode
        assert made.mode == changed.mode == mode


@pytest.mark.parametrize(
    ("mode", "seconds"), [(Blocking(), None), (NonBlocking(), 0.0), (Timeout(2.5), 2.5)]
)
def test_mode_and_timeout_are_one_fact(mode: Mode, seconds: float | None) -> None:
    """What is set in the one vocabulary is told in the other."""
    with Socket(mode=mode) as sock:
        assert sock.gettimeout() == seconds
        assert sock.getblocking() is (seconds != 0)
    with Socket(mode=Deadline.after(10)) as sock:
        sock.settimeout(seconds)
        assert sock.mode == mode


@pytest.mark.parametrize(("flag", "mode"), [(True, Blocking()), (False, NonBlocking())])
@pytest.mark.parametrize("before", MODES, ids=kind)
def test_setblocking_sets_the_mode(before: Mode, flag: bool, mode: Mode) -> None:
    with Socket(mode=before) as sock:
        sock.setblocking(flag)
        assert sock.mode == mode


def test_timeout_of_nothing_is_not_to_wait() -> None:
    """As settimeout(0) has it."""
    with Socket(mode=Timeout(0)) as sock:
        assert sock.mode == NonBlocking()


def test_gettimeout_tells_what_is_left_of_a_deadline() -> None:
    with Socket(mode=Deadline.after(60)) as sock:
        seconds = sock.gettimeout()
        assert seconds is not None
        assert 50 < seconds <= 60
        sock.mode = Deadline.after(float("inf"))
        assert sock.getblocking()
        sock.mode = Deadline.after(0)
        assert sock.getblocking()


def test_mode_of_a_descriptor_is_stated() -> None:
    """The standard class takes a non-blocking descriptor for a blocking socket."""
    with socket.socket() as plain:
        plain.setblocking(False)
        with Socket(fileno=plain.detach(), mode=Blocking()) as sock:
            assert os.get_blocking(sock.fileno())
            assert sock.mode == Blocking()


@pytest.mark.parametrize("wrong", [None, 5, 2.5, Timeout])
def test_what_is_no_mode_is_refused(wrong: Mode) -> None:
    with Socket(mode=NonBlocking()) as sock:
        with pytest.raises(TypeError, match=r"a mode is Blocking\(\), .*, not "):
            sock.mode = wrong
        assert sock.mode == NonBlocking()


def test_constructor_that_fails_leaves_descriptors_alone() -> None:
    """Its own is closed (a warning, and so an error, otherwise), the caller's is still open."""
    with pytest.raises(OverflowError):
        Socket(mode=Timeout(1e30))
    with socket.socket() as plain:
        with pytest.raises(OverflowError):
            Socket(fileno=plain.fileno(), mode=Timeout(1e30))
        assert plain.getsockname()


def test_using_restores() -> None:
    with Socket(mode=Timeout(2.5)) as sock:
        with sock.using(NonBlocking()) as same, sock.using(Deadline.after(5)):
            assert same is sock
        assert sock.mode == Timeout(2.5)
        with pytest.raises(LookupError), sock.using(Blocking()):
            raise LookupError
        assert sock.mode == Timeout(2.5)


@pytest.mark.parametrize("end", [Socket.close, lambda sock: os.close(sock.detach())])
def test_using_lets_its_block_end_the_socket(end: Callable[[Socket], None]) -> None:
    sock = Socket()
    with sock.using(NonBlocking()):
        end(sock)
    assert sock.fileno() == -1


def test_each_mode_waits_as_it_says(pair: tuple[Socket, Socket]) -> None:
    """The errors are the standard ones."""
    sock, peer = pair
    with sock.using(NonBlocking()), pytest.raises(BlockingIOError):
        sock.recv(1)
    with sock.using(Timeout(0.01)), pytest.raises(TimeoutError):
        sock.recv(1)
    peer.send(b"x")
    assert sock.recv(1) == b"x"


def test_deadline_bounds_all_operations_together(pair: tuple[Socket, Socket]) -> None:
    """Each one waits for what is left, not for the whole again."""
    sock, peer = pair
    began = time.monotonic()
    sock.mode = Deadline.after(0.4)
    with pytest.raises(TimeoutError):
        sock.recv(1)
    for _ in range(200):  # each for itself would take longer than a test may
        with pytest.raises(TimeoutError):
            sock.recv(1)
    assert time.monotonic() - began > 0.39
    peer.send(b"late")
    assert sock.recv(9) == b"late"  # what does not wait is not late


RECEIVING: list[Action] = [
    lambda sock: sock.recv(1),
    lambda sock: sock.recv_into(bytearray(1)),
    lambda sock: sock.recv_into(nbytes=1, buffer=bytearray(4)),
    lambda sock: sock.recvfrom(1),
    lambda sock: sock.recvfrom_into(bytearray(1)),
    lambda sock: sock.recvmsg(1),
    lambda sock: sock.recvmsg_into([bytearray(1)]),
    lambda sock: sock.makefile("rb").read(1),
]
SENDING: list[Action] = [
    lambda sock: sock.send(b"x"),
    lambda sock: sock.sendall(b"x"),
    lambda sock: sock.sendmsg([b"x"]),
    lambda sock: sock.sendfile(io.BytesIO(b"x")),
]


@pytest.mark.parametrize("action", RECEIVING)
def test_every_receive_keeps_the_deadline(pair: tuple[Socket, Socket], action: Action) -> None:
    """A deadline that is past when the operation begins; the timeout set before it was longer."""
    sock, _ = pair
    sock.mode = Timeout(3600)
    sock.mode = Deadline(time.monotonic() - 1)
    with pytest.raises(TimeoutError):
        action(sock)


@pytest.mark.parametrize("action", SENDING)
def test_every_send_keeps_the_deadline(pair: tuple[Socket, Socket], action: Action) -> None:
    sock, _ = pair
    with sock.using(NonBlocking()), suppress(BlockingIOError):
        while True:
            sock.send(bytes(65536))
    sock.mode = Deadline.after(0.02)
    with pytest.raises(TimeoutError):
        action(sock)


def test_accept_and_connect_keep_the_deadline(listener: Socket) -> None:
    listener.mode = Deadline.after(0.02)
    with pytest.raises(TimeoutError):
        listener.accept()
    with Socket(mode=Deadline.after(10)) as client:
        client.connect(listener.getsockname())
        accepted, address = listener.accept()
        with accepted:
            assert address == client.getsockname()
            assert accepted.mode == Blocking()


@pytest.mark.parametrize("mode", MODES, ids=kind)
@pytest.mark.parametrize("own", [Blocking(), Timeout(10), Deadline.after(3600)], ids=kind)
def test_accepted_socket_has_the_mode_that_is_stated(
    listener: Socket, own: Mode, mode: Mode
) -> None:
    listener.mode = own
    with Socket() as client:
        client.connect(listener.getsockname())
        accepted, _ = listener.accept(mode=mode)
        with accepted:
            assert type(accepted) is Socket
            assert accepted.mode == mode


@pytest.mark.parametrize("seconds", [None, 0.0, 5.0])
def test_accepted_socket_has_the_standard_default(listener: Socket, seconds: float | None) -> None:
    """Not the listener's mode, as the standard class has it."""
    listener.mode = Timeout(10)
    with Socket() as client:
        client.connect(listener.getsockname())
        socket.setdefaulttimeout(seconds)
        try:
            accepted, _ = listener.accept()
        finally:
            socket.setdefaulttimeout(None)
        with accepted:
            assert accepted.gettimeout() == seconds
            assert os.get_blocking(accepted.fileno()) is (seconds is None)


def test_accept_with_a_wrong_mode_leaks_nothing(listener: Socket) -> None:
    with Socket() as client:
        client.connect(listener.getsockname())
        with pytest.raises(OverflowError):
            listener.accept(mode=Timeout(1e30))
        client.settimeout(10)
        assert client.recv(1) == b""


@pytest.mark.parametrize("mode", MODES, ids=kind)
@pytest.mark.parametrize("kind", [Socket, Small])
def test_dup_keeps_class_and_mode(kind: type[Socket], mode: Mode) -> None:
    with kind(mode=mode) as sock, sock.dup() as copy:
        assert type(copy) is kind
        assert copy.mode == mode
        assert copy.fileno() != sock.fileno()


def test_no_attribute_more_than_the_standard_class_takes() -> None:
    with Socket() as sock, pytest.raises(AttributeError):
        sock.anything = 1  # type: ignore[attr-defined]


def test_handles_of_this_process() -> None:
    with Socket() as sock, Socket():
        assert sock.handles() == [Handle(os.getpid(), sock.fileno())]
        with sock.dup() as copy:
            fds = sorted([sock.fileno(), copy.fileno()])
            assert sock.handles() == copy.handles() == [(os.getpid(), fd) for fd in fds]
        assert len(sock.handles()) == 1


@pytest.mark.process
def test_handles_of_a_child() -> None:
    """What keeps a connection from closing: a child that has got the socket too."""
    wait = "import sys; sys.stdin.read()"
    with Socket() as sock:
        fd = sock.fileno()
        child = subprocess.Popen([sys.executable, "-c", wait], stdin=subprocess.PIPE, pass_fds=[fd])
        with child:
            assert sorted(sock.handles()) == sorted([(os.getpid(), fd), (child.pid, fd)])
            assert child.stdin is not None
            child.stdin.close()
        assert sock.handles() == [(os.getpid(), fd)]


def test_handles_where_they_cannot_be_had(monkeypatch: pytest.MonkeyPatch) -> None:
    with Socket() as sock:
        monkeypatch.setattr(os.path, "isdir", lambda path: False)
        with pytest.raises(SystemFailure, match="handles needs Linux and a mounted /proc"):
            sock.handles()
    with pytest.raises(OSError, match="Bad file descriptor"):
        sock.handles()
