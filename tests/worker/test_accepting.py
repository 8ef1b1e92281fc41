"""Accepting: only while wanted, with a pause when the system is full, and one worker a wake-up."""

from __future__ import annotations

import errno
import os
import select
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from socketkeep._net._accept_errors import Exhausted
from socketkeep._worker import _accepting
from tests.harness.lines import Lines


class Listener(socket.socket):
    """A listener whose accept(2) fails with `code` while it is not 0."""

    code = 0

    def _accept(self) -> tuple[int, object]:
        if self.code:
            raise OSError(self.code, os.strerror(self.code))
        accepted: tuple[int, object] = super()._accept()  # type: ignore[misc]
        return accepted


@pytest.fixture
def listener() -> Iterator[Listener]:
    with Listener() as sock:
        sock.bind(("127.0.0.1", 0))
        sock.listen()
        sock.setblocking(False)
        yield sock


@pytest.fixture
def gate(listener: Listener) -> Iterator[_accepting.Gate]:
    made = _accepting.Gate([listener])
    yield made
    made.close()


def connect(listener: socket.socket) -> socket.socket:
    return socket.create_connection(listener.getsockname())


def test_nothing_to_accept(listener: Listener) -> None:
    assert _accepting.Door(listener, 0).accept() is None


@pytest.mark.parametrize("code", [errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM])
def test_no_room_for_a_connection(listener: Listener, code: int) -> None:
    listener.code = code
    with pytest.raises(Exhausted, match=os.strerror(code)):
        _accepting.Door(listener, 0).accept()


@pytest.mark.parametrize(
    "code", [errno.ECONNABORTED, errno.EPROTO, errno.EPERM, errno.ENETDOWN, errno.ETIMEDOUT]
)
def test_what_befell_the_connection_itself_is_passed_over(listener: Listener, code: int) -> None:
    listener.code = code
    assert _accepting.Door(listener, 0).accept() is None


@pytest.mark.parametrize("code", [errno.EBADF, errno.EINVAL, errno.ENOTSOCK])
def test_a_listener_that_is_none_is_an_error(listener: Listener, code: int) -> None:
    listener.code = code
    with pytest.raises(OSError, match=os.strerror(code)):
        _accepting.Door(listener, 0).accept()


def test_a_closed_gate_leaves_connections_in_the_queue(
    gate: _accepting.Gate, listener: Listener
) -> None:
    with connect(listener) as peer:
        assert gate.wait(0) == []
        gate.open(True)
        assert gate.wait(5) == [listener.fileno()]
        gate.open(False)
        assert gate.wait(0) == []
        gate.open(True)
        (fd,) = gate.wait(5)
        accepted = gate.accept(fd)
        assert isinstance(accepted, tuple)
        sock, address, number = accepted
        assert sock.getpeername() == peer.getsockname()
        assert address == "{}:{}".format(*peer.getsockname())
        assert number == 0
        sock.close()


def test_each_listener_has_its_number(listener: Listener) -> None:
    with socket.create_server(("127.0.0.1", 0)) as second:
        second.setblocking(False)
        gate = _accepting.Gate([listener, second])
        gate.open(True)
        with connect(second):
            (fd,) = gate.wait(5)
            accepted = gate.accept(fd)
            assert isinstance(accepted, tuple)
            assert accepted[2] == 1
            accepted[0].close()
        gate.close()


def test_listeners_take_turns(listener: Listener) -> None:
    """Where one connection at a time is accepted the second listener is no worse off."""
    with socket.create_server(("127.0.0.1", 0)) as second, ExitStack() as stack:
        second.setblocking(False)
        gate = _accepting.Gate([listener, second])
        gate.open(True)
        for _ in range(3):
            stack.enter_context(connect(listener))
            stack.enter_context(connect(second))
        numbers = []
        for _ in range(6):
            accepted = gate.accept(gate.wait(5)[0])
            assert isinstance(accepted, tuple)
            accepted[0].close()
            numbers.append(accepted[2])
        assert numbers == [0, 1, 0, 1, 0, 1]
        gate.close()


def test_another_worker_took_the_connection(gate: _accepting.Gate, listener: Listener) -> None:
    gate.open(True)
    with connect(listener):
        (fd,) = gate.wait(5)
        listener.accept()[0].close()
        assert gate.accept(fd) is None
        assert not gate.paused


def test_what_is_no_listener_is_not_accepted_from(gate: _accepting.Gate) -> None:
    assert gate.accept(0) is None


def test_out_of_descriptors_pauses_says_so_once_and_goes_on(
    gate: _accepting.Gate, listener: Listener, log: Lines
) -> None:
    gate.open(True)
    with connect(listener):
        for _ in range(3):
            (fd,) = gate.wait(5)
            listener.code = errno.EMFILE
            assert gate.accept(fd) is None
            gate.open(True)
            begun = time.monotonic()
            assert gate.wait(None) == [], "paused, though a connection waits: it does not spin"
            assert time.monotonic() - begun >= _accepting.PAUSE * 0.1
            while gate.paused:
                gate.wait(None)
            gate.open(True)
        listener.code = 0
        (fd,) = gate.wait(5)
        accepted = gate.accept(fd)
        assert isinstance(accepted, tuple)
        accepted[0].close()
    assert log.events() == ["out of file descriptors"]
    assert log.fields("out of file descriptors")["process"] == "worker"


def test_a_pause_does_not_keep_other_descriptors_from_being_reported(
    gate: _accepting.Gate, listener: Listener
) -> None:
    read, write = os.pipe()
    gate.watch(read)
    gate.pause("cannot fork", "no room")
    os.write(write, b"x")
    assert gate.wait(None) == [read]
    gate.unwatch(read)
    os.close(read)
    os.close(write)


def test_listeners_are_watched_exclusively(gate: _accepting.Gate, listener: Listener) -> None:
    """So that a connection wakes one of the workers that wait, not all."""
    gate.open(True)
    lines = Path(f"/proc/self/fdinfo/{gate._epoll.fileno()}").read_text().splitlines()
    (events,) = (
        int(words[3], 16)
        for words in (line.split() for line in lines)
        if words[:2] == ["tfd:", str(listener.fileno())]
    )
    assert events & select.EPOLLEXCLUSIVE
    assert events & select.EPOLLIN


def test_a_forked_child_that_forgets_takes_nothing_from_its_parent(listener: Listener) -> None:
    gate = _accepting.Gate([listener])
    gate.open(True)
    # What a fork gives the parent: handles of its own of the same epoll and the same listener.
    epoll = select.epoll.fromfd(os.dup(gate._epoll.fileno()))
    parents = listener.dup()
    with parents, connect(parents):
        gate.forget()
        assert listener.fileno() == -1
        assert epoll.poll(5)
    epoll.close()


def test_closing_the_listeners_closes_these_handles_alone(listener: Listener) -> None:
    keepers = listener.dup()
    gate = _accepting.Gate([listener])
    gate.open(True)
    gate.close_listeners()
    gate.close_listeners()
    assert listener.fileno() == -1
    with keepers, connect(keepers):
        assert gate.wait(0) == []
        assert select.select([keepers], [], [], 5)[0], "it waits in the queue"
    gate.close()


def test_queued_tells_of_connections_that_wait(listener: Listener, gate: _accepting.Gate) -> None:
    assert not gate.queued()
    with connect(listener):
        deadline = time.monotonic() + 5
        while not gate.queued():
            assert time.monotonic() < deadline
            select.select([listener], [], [], 1)


def test_a_gate_that_is_closed_has_no_queue(listener: Listener, gate: _accepting.Gate) -> None:
    with connect(listener):
        gate.close_listeners()
        assert not gate.queued()


@pytest.mark.parametrize("part", ["Socket", "format_address"])
def test_whatever_raises_of_one_connection_ends_it_alone(
    listener: Listener, monkeypatch: pytest.MonkeyPatch, part: str
) -> None:
    def fail(*_: object) -> None:
        raise LookupError("a bug")

    with monkeypatch.context() as broken:
        broken.setattr(f"socketkeep._worker._accepting.{part}", fail)
        door = _accepting.Door(listener, 0)
        with connect(listener) as peer:
            with pytest.raises(_accepting.BadAccept):
                door.accept()
            peer.settimeout(10)
            assert peer.recv(1) == b"", "its descriptor is closed"
    with connect(listener) as peer:
        accepted = _accepting.Door(listener, 0).accept()
        assert isinstance(accepted, tuple)
        accepted[0].close()
