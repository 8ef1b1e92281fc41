"""Waiting for one descriptor: the same in C and in Python."""

from __future__ import annotations

import os
import resource
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from types import FrameType
from typing import Any

import pytest

from socketkeep import Closed, Connection
from socketkeep._stream._waiting import ORDERED, READY, WOKEN, Poller, make_orders
from tests.harness.seam import FakeDrainSignal, leased, order_to, shared_words
from tests.native.cores import compiled, on_both

on_each = on_both("kind", Poller, "Poller")

_CHATTER = 100
_CROWDED = 13  # as `_wire/_scoreboard.py` has it


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    one, other = socket.socketpair()
    with one, other:
        yield one, other


@pytest.fixture
def wake() -> Iterator[tuple[int, int]]:
    """A pipe: the end that interrupts, and the one to write to."""
    ends = os.pipe()
    yield ends
    for end in ends:
        os.close(end)


Pair = tuple[socket.socket, socket.socket]


@on_each
def test_what_is_found(kind: Any, pair: Pair, wake: tuple[int, int]) -> None:
    poller = kind(pair[0].fileno(), select.POLLIN, wake[0])
    assert poller.fd == pair[0].fileno()
    assert poller.within(0) == 0
    assert poller.until(time.monotonic() - 1) == 0
    pair[1].send(b"x")
    assert poller.within(0) == poller.until(None) == READY
    os.write(wake[1], b"x")
    assert poller.within(60_000) == poller.until(time.monotonic() + 60) == READY + WOKEN
    pair[0].recv(1)
    assert poller.until(None) == WOKEN


@on_each
def test_only_the_descriptor_counts_once_the_word_is_ignored(
    kind: Any, pair: Pair, wake: tuple[int, int]
) -> None:
    poller = kind(pair[0].fileno(), select.POLLIN, wake[0])
    os.write(wake[1], b"x")
    assert poller.within(0) == WOKEN
    assert not poller.ignores_wake
    poller.ignore_wake()
    poller.ignore_wake()
    assert poller.ignores_wake
    assert poller.within(0) == 0
    assert kind(pair[0].fileno(), select.POLLIN, None).ignores_wake


@on_each
def test_a_hang_up_is_ready(kind: Any, pair: Pair) -> None:
    poller = kind(pair[0].fileno(), select.POLLIN, None)
    pair[1].close()
    assert poller.until(None) == READY


@on_each
def test_a_wait_goes_on_after_a_signal(kind: Any, pair: Pair) -> None:
    """PEP 475: the handler runs, and the wait has the time that is left."""
    heard: list[int] = []

    def on_signal(number: int, frame: FrameType | None) -> None:
        heard.append(number)
        pair[1].send(b"x")

    before = signal.signal(signal.SIGUSR1, on_signal)
    me = threading.main_thread().ident
    assert me is not None
    sender = threading.Timer(0.05, signal.pthread_kill, (me, signal.SIGUSR1))
    sender.start()
    try:
        assert kind(pair[0].fileno(), select.POLLIN, None).until(time.monotonic() + 60) == READY
    finally:
        sender.join()
        signal.signal(signal.SIGUSR1, before)
    assert heard == [signal.SIGUSR1]


@on_each
def test_an_exception_of_a_signals_handler_ends_the_wait(kind: Any, pair: Pair) -> None:
    class Heard(Exception):
        pass

    def on_signal(number: int, frame: FrameType | None) -> None:
        raise Heard

    before = signal.signal(signal.SIGUSR1, on_signal)
    me = threading.main_thread().ident
    assert me is not None
    sender = threading.Timer(0.05, signal.pthread_kill, (me, signal.SIGUSR1))
    sender.start()
    try:
        with pytest.raises(Heard):
            kind(pair[0].fileno(), select.POLLIN, None).until(None)
    finally:
        sender.join()
        signal.signal(signal.SIGUSR1, before)


@on_each
def test_other_threads_run_while_one_waits(kind: Any, pair: Pair) -> None:
    poller = kind(pair[0].fileno(), select.POLLIN, None)
    found: list[int] = []
    waiter = threading.Thread(target=lambda: found.append(poller.until(None)))
    waiter.start()
    pair[1].send(b"x")
    waiter.join(30)
    assert found == [READY]


@on_each
def test_a_busy_processor_is_left_to_others_only_for_threads_that_want_it(
    kind: Any, pair: Pair
) -> None:
    """A thread that sleeps wants nothing: what has come is there at once."""
    own = os.sched_getaffinity(0)
    done = threading.Event()
    sleeper = threading.Thread(target=done.wait)
    sleeper.start()
    os.sched_setaffinity(0, {min(own)})
    endless = "print(1, flush=True)\nwhile 1: pass"
    busy = subprocess.Popen([sys.executable, "-S", "-c", endless], stdout=subprocess.PIPE)
    try:
        assert busy.stdout is not None
        busy.stdout.readline()
        pair[1].send(b"x")
        poller = kind(pair[0].fileno(), select.POLLIN, None)
        before = resource.getrusage(resource.RUSAGE_THREAD).ru_nivcsw
        for _ in range(_CHATTER):
            assert poller.until(None) == READY
        given_way = resource.getrusage(resource.RUSAGE_THREAD).ru_nivcsw - before
    finally:
        busy.kill()
        busy.communicate()
        os.sched_setaffinity(0, own)
        done.set()
        sleeper.join()
    assert given_way < _CHATTER / 4


@on_each
def test_moments_that_are_far(kind: Any, pair: Pair) -> None:
    """Further than a C int has milliseconds for, and never."""
    poller = kind(pair[0].fileno(), select.POLLIN, None)
    pair[1].send(b"x")
    assert poller.until(float("inf")) == poller.until(time.monotonic() + 1e9) == READY


@on_each
def test_what_is_no_wait(kind: Any, pair: Pair) -> None:
    poller = kind(pair[0].fileno(), select.POLLIN, None)
    with pytest.raises(TypeError):
        poller.until("soon")
    with pytest.raises(ValueError, match="negative"):
        kind(-1, select.POLLIN, None)


class Retiring:
    """A worker that has its order as soon as it is told to look."""

    crowded = full = False

    def __init__(self) -> None:
        self.wake_fd = os.eventfd(0)
        self.order: object = None

    def asked(self, _record: object) -> None:
        return None

    def is_awaited(self) -> bool:
        return False

    def woken(self) -> None:
        self.order = order_to("close", 0.0)


@pytest.fixture
def retiring() -> Iterator[Retiring]:
    made = Retiring()
    yield made
    os.close(made.wake_fd)


def served(sock: socket.socket, retiring: Retiring, header: memoryview) -> Connection:
    orders = make_orders(retiring.wake_fd, header)
    return Connection(sock, **leased(record=shared_words(), drain_signal=retiring, orders=orders))


def _chat(conn: Connection, peer: socket.socket) -> None:
    for _ in range(_CHATTER):
        peer.send(b"x")
        assert conn.recv() == b"x"


def test_a_peer_that_never_pauses_does_not_keep_the_servers_word_away(
    pair: Pair, retiring: Retiring
) -> None:
    conn = served(pair[0], retiring, memoryview(bytearray(256)).cast("Q"))
    os.eventfd_write(retiring.wake_fd, 1)
    with pytest.raises(Closed):
        _chat(conn, pair[1])
    assert retiring.order is not None


def test_an_order_in_the_header_is_read_before_each_receive(pair: Pair, retiring: Retiring) -> None:
    header = memoryview(bytearray(256)).cast("Q")
    conn = served(pair[0], retiring, header)
    pair[1].send(b"ab")
    assert conn.recv(1) == b"a"
    header[ORDERED] = 1
    retiring.order = order_to("close", 0.0)
    with pytest.raises(Closed):
        conn.recv(1)
    assert conn.unread == b"b"


class _Asked(FakeDrainSignal):
    """Counts how often it is asked whether a connection that only waits is in the way."""

    times = 0

    @property
    def full(self) -> bool:
        self.times += 1
        return False

    @full.setter
    def full(self, full: bool) -> None:
        """It never is."""


@pytest.mark.skipif(compiled is None, reason="Python alone asks at each wait")
def test_how_long_to_wait_before_it_is_parked_is_asked_once_in_that_time(pair: Pair) -> None:
    signal, header = _Asked(), memoryview(bytearray(256)).cast("Q")
    orders = make_orders(signal.wake_fd, header)
    given = leased(record=shared_words(), drain_signal=signal, orders=orders, park_after=30.0)
    conn = Connection(pair[0], **given)
    began = time.monotonic()
    for _ in range(5):
        _chat(conn, pair[1])
    spans = (time.monotonic() - began) / 0.02
    assert 1 <= signal.times <= 1 + spans, "of some fifty waits"
    header[_CROWDED] = 1  # others wait for a seat: now each wait counts
    before = signal.times
    for _ in range(5):
        _chat(conn, pair[1])
    assert signal.times - before > 40
    signal.close()
