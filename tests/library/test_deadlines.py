"""`deadline`, and the time for the first bytes: until when a connection may go on."""

from __future__ import annotations

import asyncio
import math
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest

from socketkeep import AsyncConnection, Closed, Connection, Deadline, Detached
from tests.harness.seam import Leased, leased, row_of
from tests.library.conftest import Pair, Run, narrow

SOON = 0.1
LONG = 60.0
PASSED = "its deadline has passed"


def accepted(**fields: Any) -> Leased:
    """Return what a connection is told that was accepted now."""
    made = leased(**fields)
    row_of(made).accepted_at = time.monotonic_ns()
    return made


def trickle(peer: socket.socket, over: threading.Event) -> None:
    """Send a byte now and then, until the connection has ended."""
    with suppress(OSError):
        while not over.wait(SOON / 10):
            peer.send(b"x")


@pytest.fixture
def trickling(pair: Pair) -> Iterator[None]:
    over = threading.Event()
    sender = threading.Thread(target=trickle, args=(pair[1], over))
    sender.start()
    yield
    over.set()
    sender.join(5)


# Sync.


def test_none_is_set(pair: Pair) -> None:
    conn = Connection(pair[0])
    assert conn.deadline is None
    conn.deadline = None
    assert (conn.deadline, conn.overdue) == (None, "")
    assert conn._patience, "it pays nothing"
    with pytest.raises(TypeError, match="a deadline is"):
        conn.deadline = 5.0  # type: ignore[assignment]
    conn.deadline = Deadline(math.inf)
    assert conn.deadline is None


@pytest.mark.usefixtures("trickling")
@pytest.mark.parametrize("limit", [None, 30.0], ids=["no limit", "a limit"])
def test_bytes_do_not_put_it_off(pair: Pair, limit: float | None) -> None:
    """It ends a message that never ends, whatever limit the receive has of its own."""
    conn = Connection(pair[0])
    began = time.monotonic()
    conn.deadline = Deadline.after(SOON)
    with pytest.raises(Closed, match=PASSED):
        conn.recv_until(b"\n", timeout=limit)
    assert SOON <= time.monotonic() - began < 5
    assert PASSED in conn.overdue
    with pytest.raises(Closed, match=PASSED):
        conn.send(b"too late")
    conn.abort()


def test_a_receive_that_does_not_wait_looks_at_it(pair: Pair) -> None:
    conn = Connection(pair[0])
    conn.deadline = Deadline.after(0)
    pair[1].send(b"x")
    with pytest.raises(Closed, match=PASSED):
        conn.recv(timeout=0)


def test_it_ends_a_send_that_waits(pair: Pair) -> None:
    narrow(*pair)
    conn = Connection(pair[0])
    conn.deadline = Deadline.after(SOON)
    with pytest.raises(Closed, match=PASSED):
        conn.send(bytes(10_000_000))


def test_lifted_it_is_as_if_it_had_never_been(pair: Pair) -> None:
    conn = Connection(pair[0], **accepted(deadline=time.monotonic() + SOON))
    assert conn.deadline is not None
    pair[1].send(b"login\n")
    assert conn.recv_until(b"\n") == b"login"
    conn.deadline = None
    threading.Timer(2 * SOON, pair[1].send, (b"later",)).start()
    assert conn.recv() == b"later"
    assert conn._patience, "it pays nothing any more"


def test_the_first_byte_must_come_in_time(pair: Pair) -> None:
    conn = Connection(pair[0], **accepted(first_bytes_timeout=SOON))
    assert conn.deadline is None, "it is the server's"
    with pytest.raises(Closed, match=f"sent nothing for {SOON:g} s"):
        conn.recv()


def test_after_the_first_byte_there_is_no_hurry(pair: Pair) -> None:
    conn = Connection(pair[0], **accepted(first_bytes_timeout=SOON))
    pair[1].send(b"1")
    assert conn.recv() == b"1"
    threading.Timer(2 * SOON, pair[1].send, (b"2",)).start()
    assert conn.recv() == b"2"
    assert conn._patience, "it pays nothing any more"


def test_it_goes_along_when_the_connection_is_parked(pair: Pair) -> None:
    """The next worker's connection has it, unless the handler has lifted it."""
    at = time.monotonic() + LONG
    lease = {"resumable": True, "park_after": SOON / 10, "deadline": at}
    conn = Connection(pair[0], **accepted(**lease))
    with pytest.raises(Detached):
        conn.recv()
    left = conn.hand_over()
    assert left.deadline == at
    heir = Connection(left.sock, **accepted(**lease))
    heir.deadline = None
    with pytest.raises(Detached):
        heir.recv()
    assert heir.hand_over().deadline is None


# Async.


@pytest.mark.usefixtures("trickling")
@pytest.mark.parametrize("limit", [None, 30.0], ids=["no limit", "a limit"])
def test_bytes_do_not_put_it_off_for_a_task(pair: Pair, run: Run, limit: float | None) -> None:
    async def scenario() -> None:
        conn = AsyncConnection(pair[0])
        began = time.monotonic()
        conn.deadline = Deadline.after(SOON)
        with pytest.raises(Closed, match=PASSED):
            await conn.recv_until(b"\n", timeout=limit)
        assert SOON <= time.monotonic() - began < 5
        assert PASSED in conn.overdue
        with pytest.raises(Closed, match=PASSED):
            await conn.send(b"too late")
        conn.deadline = None  # of no matter any more
        await conn.abort()

    run(scenario)


def test_it_ends_a_task_that_sends(pair: Pair, run: Run) -> None:
    narrow(*pair)

    async def scenario() -> None:
        conn = AsyncConnection(pair[0])
        conn.deadline = Deadline.after(SOON)
        with pytest.raises(Closed, match=PASSED):
            await conn.send(bytes(10_000_000))
        await conn.abort()

    run(scenario)


def test_a_task_lifts_it(pair: Pair, run: Run) -> None:
    async def scenario() -> None:
        conn = AsyncConnection(pair[0], **accepted(deadline=time.monotonic() + SOON))
        pair[1].send(b"login\n")
        assert await conn.recv_until(b"\n") == b"login"
        conn.deadline = None
        asyncio.get_running_loop().call_later(2 * SOON, pair[1].send, b"later")
        assert await conn.recv() == b"later"
        await conn.abort()

    run(scenario)


@pytest.mark.parametrize("says", [b"", b"1"])
def test_the_first_byte_to_a_task(pair: Pair, run: Run, says: bytes) -> None:
    async def scenario() -> None:
        conn = AsyncConnection(pair[0], **accepted(first_bytes_timeout=SOON))
        if says:
            pair[1].send(says)
            assert await conn.recv() == says
            asyncio.get_running_loop().call_later(2 * SOON, pair[1].send, b"2")
            assert await conn.recv() == b"2"
        else:
            with pytest.raises(Closed, match=f"sent nothing for {SOON:g} s"):
                await conn.recv()
        await conn.abort()

    run(scenario)


def test_it_may_have_passed_when_the_worker_gets_it(pair: Pair, run: Run) -> None:
    """It waited for a seat meanwhile: its handler meets the end at its first verb."""
    lease = {"deadline": time.monotonic()}
    other, peer = socket.socketpair()
    conn = Connection(other, **accepted(**lease))
    with conn, peer, pytest.raises(Closed, match=PASSED):
        conn.recv()

    async def scenario() -> None:
        conn = AsyncConnection(pair[0], **accepted(**lease))
        with pytest.raises(Closed, match=PASSED):
            await conn.recv()
        await conn.abort()

    run(scenario)
