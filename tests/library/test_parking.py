"""When a connection leaves its worker to wait elsewhere for bytes, and what goes along."""

from __future__ import annotations

import asyncio
import threading
import time

import pytest

from socketkeep import (
    AsyncConnection,
    Busy,
    Closed,
    Connection,
    Detached,
    NotCommitted,
    PeerClosed,
    TimedOut,
)
from tests.harness.seam import FakeDrainSignal, Leased, be_handler_of, leased, order_to, row_of
from tests.library.conftest import Pair, Run, until
from tests.library.test_seam import exactly

SOON = 0.02


def parking(**fields: object) -> Leased:
    return leased(**({"resumable": True, "park_after": SOON} | fields))


# A receive that waits.


def test_a_receive_that_waits_is_parked(pair: Pair) -> None:
    conn = Connection(pair[0], **parking())
    started = time.monotonic()
    with pytest.raises(Detached):
        conn.recv()
    assert time.monotonic() - started >= SOON
    assert row_of(conn).ended == "detached"
    left = conn.hand_over()
    assert (left.parked, left.unread, left.state) == (True, b"", None)


def test_what_was_read_since_the_commit_goes_along(pair: Pair) -> None:
    conn = Connection(pair[0], **parking())
    pair[1].sendall(b"done\nheader\nbo")
    lines = conn.lines()
    assert next(lines) == b"done"
    conn.commit(1)
    assert next(lines) == b"header"
    with pytest.raises(Detached):
        conn.recv_exactly(4)
    left = conn.hand_over()
    assert (left.parked, left.unread) == (True, b"header\nbo")
    heir = Connection(left.sock, **leased(unread=left.unread, state=left.state))
    assert (heir.state, heir.recv(6)) == (1, b"header")


def test_each_message_begins_the_time_anew(pair: Pair) -> None:
    conn = Connection(pair[0], **parking(park_after=0.3))
    lines = conn.lines(commit=True)
    for _ in range(4):
        threading.Timer(0.15, pair[1].sendall, [b"x\n"]).start()
        assert next(lines) == b"x"


def test_not_parked_with_something_sent(pair: Pair) -> None:
    conn = Connection(pair[0], **parking())
    with be_handler_of(conn):
        conn.send(b"half a reply")
        with pytest.raises(TimedOut):
            conn.recv(timeout=3 * SOON)
        conn.commit()
        with pytest.raises(Detached):
            conn.recv()


def test_not_parked_past_the_replay_limit(pair: Pair) -> None:
    conn = Connection(pair[0], **parking(replay_limit=4))
    pair[1].sendall(b"12345")
    assert conn.recv_exactly(5) == b"12345"
    with pytest.raises(TimedOut):
        conn.recv(timeout=3 * SOON)


def test_not_parked_without_a_resumable_handler(pair: Pair) -> None:
    conn = Connection(pair[0], **parking(resumable=False))
    with pytest.raises(TimedOut):
        conn.recv(timeout=3 * SOON)


def test_not_parked_while_a_push_goes_out(pair: Pair) -> None:
    conn = Connection(pair[0], **parking())
    pushed = bytes(1_000_000)
    pusher = threading.Thread(target=conn.send, args=[pushed])
    pusher.start()
    until(lambda: conn.bytes_sent > 0)
    with pytest.raises(TimedOut):
        conn.recv(timeout=3 * SOON)
    got: list[bytes] = []
    reader = threading.Thread(target=lambda: got.append(exactly(pair[1], len(pushed))))
    reader.start()
    with pytest.raises(Detached):
        conn.recv()
    pusher.join(5)
    reader.join(5)
    assert got == [pushed]


def test_the_idle_timeout_holds(pair: Pair) -> None:
    conn = Connection(pair[0], **parking(park_after=60, idle_timeout=SOON))
    with pytest.raises(Closed, match="idle for"):
        conn.recv()


def test_a_limit_of_the_handlers_comes_first(pair: Pair) -> None:
    conn = Connection(pair[0], **parking(park_after=0.2))
    with pytest.raises(TimedOut):
        conn.recv(timeout=SOON)


def test_the_peers_end_is_no_wait(pair: Pair) -> None:
    conn = Connection(pair[0], **parking(park_after=60))
    threading.Timer(SOON, pair[1].close).start()
    assert conn.recv() == b""


def test_an_order_to_move_goes_before(pair: Pair, drain_signal: FakeDrainSignal) -> None:
    conn = Connection(pair[0], **parking(park_after=0.2, drain_signal=drain_signal))
    threading.Timer(SOON, drain_signal.give, [order_to("move")]).start()
    with pytest.raises(Detached):
        conn.recv()
    assert not conn.hand_over().parked


def test_not_parked_while_draining(pair: Pair, drain_signal: FakeDrainSignal) -> None:
    drain_signal.order = order_to("finish")
    conn = Connection(pair[0], **parking(drain_signal=drain_signal))
    with pytest.raises(TimedOut):
        conn.recv(timeout=3 * SOON)


# Where others wait for the seat.


@pytest.mark.parametrize("full", [True, False])
def test_where_there_are_seats_it_waits_its_time(
    pair: Pair, drain_signal: FakeDrainSignal, full: bool
) -> None:
    """In one wait; what it has waited by then counts, and it is not parked before."""
    drain_signal.full = full
    conn = Connection(pair[0], **parking(park_after=0.15, drain_signal=drain_signal))
    pair[1].sendall(b"x\n")
    assert conn.recv() == b"x\n"
    conn.commit()
    began = time.monotonic()
    with pytest.raises(Detached):
        conn.recv()
    assert time.monotonic() - began >= 0.15
    assert conn.hand_over().parked


def test_crowded_means_at_once(pair: Pair, drain_signal: FakeDrainSignal) -> None:
    drain_signal.crowded = True
    conn = Connection(pair[0], **parking(park_after=60, drain_signal=drain_signal))
    pair[1].sendall(b"x\n")
    lines = conn.lines(commit=True)
    assert next(lines) == b"x", "there was something to do"
    with pytest.raises(Detached):
        next(lines)
    assert conn.hand_over().parked


def test_awaited_means_at_once(pair: Pair, drain_signal: FakeDrainSignal) -> None:
    drain_signal.awaited = True
    conn = Connection(pair[0], **parking(park_after=60, drain_signal=drain_signal))
    pair[1].sendall(b"x\n")
    lines = conn.lines(commit=True)
    assert next(lines) == b"x", "there was something to do"
    with pytest.raises(Detached):
        next(lines)
    assert conn.hand_over().parked


def test_a_peer_that_asks_every_moment_does_not_keep_an_order_out(
    pair: Pair, drain_signal: FakeDrainSignal, monkeypatch: pytest.MonkeyPatch
) -> None:
    drain_signal.order = order_to("close")
    conn = Connection(pair[0], **parking(park_after=60, drain_signal=drain_signal))

    def comes_soon(*_: object) -> bool:
        pair[1].sendall(b"more")
        return True

    monkeypatch.setattr(Connection, "_comes_soon", comes_soon)
    with pytest.raises(Closed, match="the server is stopping"):
        conn.recv()


def test_who_waits_already_is_told_of_the_crowd(pair: Pair, drain_signal: FakeDrainSignal) -> None:
    lease = parking(park_after=60, drain_signal=drain_signal)
    conn = Connection(pair[0], **lease)

    def crowd() -> None:
        until(lambda: row_of(lease).waiting)
        drain_signal.crowd()

    crowding = threading.Thread(target=crowd)
    crowding.start()
    with pytest.raises(Detached):
        conn.recv()
    crowding.join(5)
    assert conn.hand_over().parked


def test_a_crowd_does_not_part_a_message(pair: Pair, drain_signal: FakeDrainSignal) -> None:
    drain_signal.crowded = True
    conn = Connection(pair[0], **parking(park_after=60, drain_signal=drain_signal))
    with be_handler_of(conn):
        conn.send(b"half")
        with pytest.raises(TimedOut):
            conn.recv(timeout=SOON)


def test_crowded_without_parking_is_nothing(pair: Pair, drain_signal: FakeDrainSignal) -> None:
    drain_signal.crowded = True
    conn = Connection(pair[0], **parking(park_after=None, drain_signal=drain_signal))
    with pytest.raises(TimedOut):
        conn.recv(timeout=SOON)


# conn.park()


def test_park_leaves_at_once(pair: Pair) -> None:
    conn = Connection(pair[0], **parking(park_after=None))
    pair[1].sendall(b"head")
    assert conn.recv() == b"head"
    with pytest.raises(Detached):
        conn.park()
    left = conn.hand_over()
    assert (left.parked, left.unread) == (True, b"head")


def test_park_in_the_middle_of_a_message_is_refused(pair: Pair) -> None:
    conn = Connection(pair[0], **parking())
    with be_handler_of(conn):
        conn.send(b"half a reply")
        with pytest.raises(NotCommitted, match="commit first"):
            conn.park()
        conn.commit()
        with pytest.raises(Detached):
            conn.park()


def test_park_past_the_replay_limit_is_refused(pair: Pair) -> None:
    conn = Connection(pair[0], **parking(replay_limit=1))
    pair[1].sendall(b"12")
    assert conn.recv_exactly(2) == b"12"
    with pytest.raises(NotCommitted):
        conn.park()


def test_park_does_nothing_where_it_cannot(pair: Pair) -> None:
    conn = Connection(pair[0])
    conn.park()
    pair[1].sendall(b"x")
    assert conn.recv() == b"x"


def test_park_does_nothing_when_there_is_something_to_do(pair: Pair) -> None:
    conn = Connection(pair[0], **parking())
    pair[1].sendall(b"a\nb\n")
    lines = conn.lines(commit=True)
    assert next(lines) == b"a"
    conn.commit()
    conn.park()
    assert next(lines) == b"b"
    pair[1].close()
    with pytest.raises(PeerClosed):
        conn.recv_exactly(1)
    conn.park()


def test_park_after_the_end_says_what_ended_it(pair: Pair) -> None:
    conn = Connection(pair[0], **parking())
    conn.abort()
    with pytest.raises(Closed):
        conn.park()


def test_park_while_another_thread_receives_is_refused(pair: Pair) -> None:
    lease = parking(park_after=None)
    conn = Connection(pair[0], **lease)
    waiter = threading.Thread(target=conn.recv)
    waiter.start()
    until(lambda: row_of(lease).waiting)
    with pytest.raises(Busy):
        conn.park()
    pair[1].sendall(b"x")
    waiter.join(5)


# Async.


def test_a_task_that_waits_is_parked(pair: Pair, run: Run) -> None:
    async def scenario() -> None:
        conn = AsyncConnection(pair[0], **parking())
        pair[1].sendall(b"done\nheader\nbo")
        lines = conn.lines()
        assert await anext(lines) == b"done"
        conn.commit(1)
        assert await anext(lines) == b"header"
        started = time.monotonic()
        with pytest.raises(Detached):
            await conn.recv_exactly(4)
        assert time.monotonic() - started >= SOON
        left = conn.hand_over()
        assert (left.parked, left.unread) == (True, b"header\nbo")

    run(scenario)


def test_a_busy_task_is_not_parked_and_has_one_timer(pair: Pair, run: Run) -> None:
    async def scenario() -> None:
        conn = AsyncConnection(pair[0], **parking(park_after=0.2))
        lines = conn.lines(commit=True)
        loop = asyncio.get_running_loop()
        timers = []
        for _ in range(8):
            loop.call_later(0.05, pair[1].sendall, b"x\n")
            assert await anext(lines) == b"x"
            timers.append(conn._check_timer)
        assert 1 < len(set(timers)) < 6, "moved on when it fires, and not with each wait"
        with pytest.raises(Detached):
            await anext(lines)

    run(scenario)


@pytest.mark.parametrize("why", ["sent", "overflowed", "not resumable", "draining"])
def test_a_task_that_is_not_parked(pair: Pair, run: Run, why: str) -> None:
    async def scenario() -> None:
        fields: dict[str, dict[str, object]] = {
            "overflowed": {"replay_limit": 1},
            "not resumable": {"resumable": False},
        }
        conn = AsyncConnection(pair[0], **parking(**fields.get(why, {})))
        be_handler_of(conn)
        if why == "sent":
            await conn.send(b"half a reply")
        if why == "overflowed":
            pair[1].sendall(b"12")
            assert await conn.recv_exactly(2) == b"12"
        if why == "draining":
            conn.ask(order_to("finish"))
        with pytest.raises(TimedOut):
            await conn.recv(timeout=4 * SOON)
        if why in ("sent", "overflowed"):
            conn.commit()
            with pytest.raises(Detached):
                await conn.recv()
        else:
            await conn.abort()

    run(scenario)


def test_a_task_is_not_parked_while_a_push_goes_out(pair: Pair, run: Run) -> None:
    async def scenario() -> None:
        conn = AsyncConnection(pair[0], **parking())
        pushed = bytes(1_000_000)
        push = asyncio.ensure_future(conn.send(pushed))
        with pytest.raises(TimedOut):
            await conn.recv(timeout=4 * SOON)
        got = asyncio.ensure_future(asyncio.to_thread(exactly, pair[1], len(pushed)))
        with pytest.raises(Detached):
            await conn.recv()
        await push
        assert await got == pushed

    run(scenario)


def test_the_idle_timeout_holds_for_a_task(pair: Pair, run: Run) -> None:
    async def scenario() -> None:
        conn = AsyncConnection(pair[0], **parking(park_after=60, idle_timeout=SOON))
        with pytest.raises(Closed, match="idle for"):
            await conn.recv()
        await conn.abort()

    run(scenario)


def test_park_in_a_task_leaves_at_once(pair: Pair, run: Run) -> None:
    async def scenario() -> None:
        conn = AsyncConnection(pair[0], **parking(park_after=None))
        pair[1].sendall(b"head")
        assert await conn.recv() == b"head"
        with pytest.raises(Detached):
            await conn.park()
        left = conn.hand_over()
        assert (left.parked, left.unread) == (True, b"head")

    run(scenario)


def test_park_in_a_task_waits_for_queued_pushes(pair: Pair, run: Run) -> None:
    async def scenario() -> None:
        conn = AsyncConnection(pair[0], **parking(park_after=None))
        pushed = bytes(1_000_000)
        push = asyncio.ensure_future(conn.send(pushed))
        await asyncio.sleep(0)
        got = asyncio.ensure_future(asyncio.to_thread(exactly, pair[1], len(pushed)))
        with pytest.raises(Detached):
            await conn.park()
        await push
        assert await got == pushed

    run(scenario)


def test_park_in_a_task_is_refused_or_nothing(pair: Pair, run: Run) -> None:
    async def scenario() -> None:
        conn = AsyncConnection(pair[0], **parking(park_after=None))
        be_handler_of(conn)
        await conn.send(b"half a reply")
        with pytest.raises(NotCommitted, match="commit first"):
            await conn.park()
        conn.commit()
        pair[1].sendall(b"a\nb\n")
        lines = conn.lines(commit=True)
        assert await anext(lines) == b"a"
        await conn.park()
        assert await anext(lines) == b"b"
        receiving = asyncio.ensure_future(conn.recv())
        await asyncio.sleep(0)
        with pytest.raises(Busy):
            await conn.park()
        receiving.cancel()
        await conn.abort()
        with pytest.raises(Closed):
            await conn.park()

    run(scenario)


def test_park_does_nothing_without_a_server_in_a_task_either(pair: Pair, run: Run) -> None:
    async def scenario() -> None:
        conn = AsyncConnection(pair[0])
        await conn.park()
        pair[1].sendall(b"x")
        assert await conn.recv() == b"x"
        await conn.abort()

    run(scenario)
