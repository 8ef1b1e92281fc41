"""How fast bytes are received of a connection: the account, and the receive that waits for it."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest

from socketkeep import AsyncConnection, Connection, Detached, PeerReset, TimedOut, WouldBlock
from socketkeep._stream._inflow import Inflow
from tests.harness.seam import FakeDrainSignal, Leased, leased, order_to
from tests.library.conftest import Pair, Run

RATE = 100_000
#: Beyond what may come at once: for so long the last byte must wait.
LONG = 0.2
DATA = bytes(range(256)) * ((RATE + int(LONG * RATE)) // 256)
#: So many bytes would take longer than a test may.
MUCH = 1_000_000
#: What is received for nothing: the first second's worth, and one helping.
FREE = RATE + RATE // 20


def limited(**fields: Any) -> Leased:
    return leased(receive_rate=RATE, **fields)


@pytest.fixture
def sending(pair: Pair) -> Iterator[socket.socket]:
    """The peer, which sends DATA, and as much again up to MUCH; returns its end."""

    def send() -> None:
        with suppress(OSError):  # the test is over before it has gone
            for _ in range(MUCH // len(DATA) + 1):
                pair[1].sendall(DATA)

    sender = threading.Thread(target=send)
    sender.start()
    yield pair[1]
    pair[0].close()
    sender.join(10)


# The account.


def test_a_second_may_come_at_once_and_then_as_time_goes_by() -> None:
    inflow = Inflow(1000, 0, 0.0)
    assert inflow.room(100.0, 0) == 1000
    assert inflow.room(100.0, 400) == pytest.approx(600, abs=1)
    assert inflow.room(100.0, 1000) == 0
    assert inflow.next == pytest.approx(100.05)
    assert inflow.room(100.04, 1000) == 0, "not for each byte by itself"
    assert inflow.room(100.06, 1000) == pytest.approx(60, abs=1)
    assert inflow.room(200.0, 1000) == 1000, "no more than a second's worth is saved up"


def test_what_came_too_soon_is_waited_for() -> None:
    inflow = Inflow(1000, 5000, 0.0)
    inflow.room(100.0, 5000)
    assert inflow.room(100.0, 5000 + 3000) == 0
    assert inflow.next == pytest.approx(102.05)
    heir = Inflow(1000, 8000, inflow.full_at)
    assert heir.room(102.0, 8000) == 0
    assert heir.room(102.1, 8000) == pytest.approx(100, abs=1)


def test_the_least_rate_is_a_byte() -> None:
    inflow = Inflow(1, 0, 0.0)
    assert [inflow.room(10.0, 0), inflow.room(10.0, 1), inflow.room(11.0, 1)] == [1, 0, 1]


# Sync.


def receive(conn: Connection, count: int) -> bytes:
    data = b""
    while len(data) < count:
        data += conn.recv(count - len(data))
    return data


@pytest.mark.usefixtures("sending")
def test_a_receive_waits(pair: Pair) -> None:
    conn = Connection(pair[0], **limited())
    began = time.monotonic()
    assert receive(conn, len(DATA)) == DATA
    assert time.monotonic() - began >= LONG - 0.1


@pytest.mark.usefixtures("sending")
def test_limits_and_orders_hold_while_it_waits(pair: Pair, drain_signal: FakeDrainSignal) -> None:
    conn = Connection(
        pair[0], **limited(resumable=True, replay_limit=1 << 20, drain_signal=drain_signal)
    )
    began = time.monotonic()
    with pytest.raises(TimedOut):
        conn.recv_exactly(MUCH, timeout=0.1)
    with pytest.raises(WouldBlock):
        conn.recv_exactly(MUCH, timeout=0)
    threading.Timer(0.1, drain_signal.give, (order_to("move"),)).start()
    conn.commit()
    with pytest.raises(Detached):
        receive(conn, MUCH)
    assert time.monotonic() - began < (MUCH - FREE) / RATE
    left = conn.hand_over()
    assert began + 1 < left.inflow_full_at < time.monotonic() + 1.1
    heir = Connection(left.sock, **limited(inflow_full_at=left.inflow_full_at + 60))
    with pytest.raises(WouldBlock):
        heir.recv(timeout=0)


def test_who_has_gone_is_not_waited_for(pair: Pair) -> None:
    conn = Connection(pair[0], **limited(inflow_full_at=time.monotonic() + 60))
    pair[1].sendall(b"last words")
    threading.Timer(0.1, Connection(pair[1].dup()).abort).start()
    with suppress(PeerReset):
        assert conn.recv(timeout=10) == b"last words"


# Async.


@pytest.mark.usefixtures("sending")
def test_a_task_waits(pair: Pair, run: Run) -> None:
    async def scenario() -> None:
        conn = AsyncConnection(pair[0], **limited())
        began = time.monotonic()
        data = b""
        with pytest.raises(TimedOut):
            await conn.recv_exactly(len(DATA), timeout=0.05)
        while len(data) < len(DATA):
            data += await conn.recv(len(DATA) - len(data))
        assert data == DATA
        assert time.monotonic() - began >= LONG - 0.1
        await conn.abort()

    run(scenario)


@pytest.mark.usefixtures("sending")
def test_a_task_that_waits_is_not_parked_but_moves(pair: Pair, run: Run) -> None:
    async def scenario() -> None:
        fields = {"resumable": True, "park_after": 0.02}
        full_at = time.monotonic() + 1.2
        conn = AsyncConnection(pair[0], **limited(**fields, inflow_full_at=full_at))
        assert await conn.recv(1) == DATA[:1], "not parked meanwhile"
        assert time.monotonic() > full_at - 1
        asyncio.get_running_loop().call_later(0.05, conn.ask, order_to("move"))
        with pytest.raises(Detached):
            await conn.recv_exactly(FREE + RATE)
        conn.hand_over().sock.close()

    run(scenario)
