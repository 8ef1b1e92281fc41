"""The verbs of a sync connection: what the compiled core leaves to Python, and what it hears."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Iterator

import pytest

from socketkeep import Closed, Connection, Deadline, TimedOut, Timeout
from tests.harness.seam import row_of
from tests.library.conftest import until


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    one, other = socket.socketpair()
    with one, other:
        yield one, other


Pair = tuple[socket.socket, socket.socket]


@pytest.mark.parametrize("patient", [False, True])
def test_a_wait_that_is_left_has_the_rest_of_its_time(pair: Pair, patient: bool) -> None:
    conn = Connection(pair[0], mode=Timeout(0.05))
    if patient:  # as after attempts that found nothing
        for _ in range(5):
            pair[1].send(b"x")
            conn.recv()
    began = time.monotonic()
    with pytest.raises(TimedOut) as told:
        conn.recv()
    assert told.value.limit == 0.05
    assert told.value.elapsed is not None
    assert 0.04 < told.value.elapsed <= time.monotonic() - began
    conn.mode = Deadline(time.monotonic() + 0.05)
    with pytest.raises(TimedOut):
        conn.recv_exactly(3)
    with pytest.raises(TimedOut):
        conn.recv_exactly(3)  # it is over for this one, too


def test_what_has_come_counts_though_the_rest_does_not(pair: Pair) -> None:
    conn = Connection(pair[0], mode=Timeout(0.02))
    pair[1].send(b"abc")
    with pytest.raises(TimedOut) as told:
        conn.recv_exactly(5)
    assert told.value.bytes_done == 3
    pair[1].send(b"de")
    assert conn.recv_exactly(5) == b"abcde"


def test_who_waits_is_woken_by_another_threads_close(pair: Pair) -> None:
    conn = Connection(pair[0])
    told: list[BaseException] = []

    def receive() -> None:
        try:
            conn.recv()
        except Exception as error:
            told.append(error)

    waiting = threading.Thread(target=receive)
    waiting.start()
    until(lambda: row_of(conn).waiting)
    conn.close(linger=0)
    waiting.join(30)
    assert [type(error) for error in told] == [Closed]
    assert not row_of(conn).waiting


def test_a_send_that_finds_no_room_goes_on_where_it_was(pair: Pair) -> None:
    conn = Connection(pair[0], mode=Timeout(0.02))
    data = os.urandom(4 << 20)
    got = bytearray()
    with pytest.raises(TimedOut) as told:
        conn.send(data)
    assert 0 < told.value.bytes_done < len(data)

    def read() -> None:
        while len(got) < len(data):
            got.extend(pair[1].recv(1 << 20))

    reading = threading.Thread(target=read)
    reading.start()
    conn.mode = Timeout(30)
    conn.send(data)
    reading.join(30)
    assert bytes(got) == data
