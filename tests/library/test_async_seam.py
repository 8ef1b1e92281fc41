"""What a server may ask of an async connection, and what leaves with it when it is detached."""

from __future__ import annotations

import asyncio
import gc
import socket
import time
import weakref
from contextlib import suppress

import pytest

from socketkeep import AsyncConnection, Closed, Detached, Released
from tests.harness.seam import Leased, Row, be_handler_of, leased, order_to, row_of
from tests.library.conftest import Pair, Run

FAR = 3600.0


def assigned(**fields: object) -> Leased:
    return leased(**({"resumable": True} | fields))


async def peer_send(peer: socket.socket, data: bytes) -> None:
    await asyncio.get_running_loop().sock_sendall(peer, data)


async def waiting(lease: Leased) -> None:
    """Return once the connection's handler waits for input."""
    async with asyncio.timeout(5):
        while not row_of(lease).waiting:  # noqa: ASYNC110 - a word of shared memory
            await asyncio.sleep(0)


def test_a_waiting_receive_is_detached_at_once(pair: Pair, run: Run) -> None:
    async def scenario() -> None:
        lease = assigned()
        conn = AsyncConnection(pair[0], **lease)
        task = asyncio.ensure_future(conn.recv())
        await waiting(lease)
        conn.ask(order_to("move"))
        # Before the task has its turn, the connection is already out of reach of pushes.
        with pytest.raises(Released, match="detached from this worker"):
            await conn.send(b"push")
        with pytest.raises(Detached):
            await task
        assert row_of(conn).ended == "detached"
        with pytest.raises(Detached):
            await conn.recv()
        await conn.close()
        pair[1].send(b"alive")
        assert conn.hand_over().sock.recv(9) == b"alive"

    run(scenario)


def test_what_a_detached_handler_had_is_freed_without_the_garbage_collector(
    pair: Pair, run: Run
) -> None:
    class Large:
        pass

    async def scenario() -> None:
        lease = assigned()
        conn = AsyncConnection(pair[0], **lease)
        freed: list[weakref.ref[Large]] = []

        async def handler() -> None:
            large = Large()
            freed.append(weakref.ref(large))
            with suppress(Detached):
                await conn.recv()

        gc.disable()
        try:
            task = asyncio.ensure_future(handler())
            await waiting(lease)
            conn.ask(order_to("move"))
            await task
            assert freed[0]() is None
        finally:
            gc.enable()
        await conn.close()

    run(scenario)


def test_what_was_read_since_the_commit_is_pushed_back(pair: Pair, run: Run) -> None:
    async def scenario() -> None:
        lease = assigned()
        conn = AsyncConnection(pair[0], **lease)
        pair[1].sendall(b"done\nheader\nbo")
        lines = conn.lines()
        assert await anext(lines) == b"done"
        conn.commit(["seen"])
        assert await anext(lines) == b"header"
        task = asyncio.ensure_future(conn.recv_exactly(4))
        await waiting(lease)
        conn.ask(order_to("move"))
        with pytest.raises(Detached):
            await task
        left = conn.hand_over()
        assert left.unread == b"header\nbo"
        pair[1].sendall(b"dy")
        heir = AsyncConnection(left.sock, **assigned(unread=left.unread, state=left.state))
        assert heir.state == ["seen"]
        assert await heir.recv_until(b"\n") == b"header"
        assert await heir.recv_exactly(4) == b"body"

    run(scenario)


def test_an_order_is_remembered_until_the_next_safe_point(pair: Pair, run: Run) -> None:
    async def scenario() -> None:
        conn = AsyncConnection(pair[0], **assigned())
        be_handler_of(conn)
        await conn.send(b"half a reply")
        conn.ask(order_to("move"))
        pair[1].sendall(b"a\nb\n")
        lines = conn.lines()
        assert await anext(lines) == b"a"
        conn.commit()
        with pytest.raises(Detached):
            await anext(lines)
        assert conn.hand_over().unread == b"b\n"

    run(scenario)


def test_a_commit_and_a_receive_that_waits_obey_an_earlier_order(pair: Pair, run: Run) -> None:
    async def scenario() -> None:
        conn = AsyncConnection(pair[0], **assigned())
        conn.ask(order_to("move"))
        pair[1].sendall(b"in the kernel")
        with pytest.raises(Detached):
            await conn.recv()
        assert conn.hand_over().unread == b""

    run(scenario)


def test_detaching_waits_for_queued_pushes(pair: Pair, run: Run) -> None:
    async def scenario() -> None:
        lease = assigned()
        conn = AsyncConnection(pair[0], **lease)
        task = asyncio.ensure_future(conn.recv())
        await waiting(lease)
        pushed = bytes(range(256)) * 40_000
        push = asyncio.ensure_future(conn.send(pushed))
        await asyncio.sleep(0)
        assert row_of(lease).status == "sent"
        conn.ask(order_to("move"))
        await asyncio.sleep(0)
        assert not task.done()
        pair[1].setblocking(False)
        got = bytearray()
        while len(got) < len(pushed):
            got += await asyncio.get_running_loop().sock_recv(pair[1], 1 << 20)
        await push
        with pytest.raises(Detached):
            await task
        assert bytes(got) == pushed
        assert row_of(lease).status == "clean"

    run(scenario)


def test_a_handler_that_is_not_resumable_ends_at_the_deadline(pair: Pair, run: Run) -> None:
    async def scenario() -> None:
        lease = assigned(resumable=False)
        conn = AsyncConnection(pair[0], **lease)
        task = asyncio.ensure_future(conn.recv())
        await waiting(lease)
        conn.ask(order_to("move", 0.1))
        with pytest.raises(Closed, match="time for it to finish is over"):
            await task

    run(scenario)


def test_a_waiting_send_ends_at_the_deadline(pair: Pair, run: Run) -> None:
    async def scenario() -> None:
        conn = AsyncConnection(pair[0], **assigned())
        conn.ask(order_to("finish", 0.1))
        with pytest.raises(Closed, match="time for it to finish is over") as caught:
            await conn.send(bytes(50_000_000))
        assert caught.value.bytes_done > 0

    run(scenario)


def test_close_ends_a_clean_connection_that_waits(pair: Pair, run: Run) -> None:
    async def scenario() -> None:
        lease = assigned()
        conn = AsyncConnection(pair[0], **lease)
        task = asyncio.ensure_future(conn.recv())
        await waiting(lease)
        conn.ask(order_to("close", FAR))
        with pytest.raises(Closed, match="the server is stopping"):
            await task

    run(scenario)


def test_close_leaves_what_is_in_the_kernel_to_be_answered(pair: Pair, run: Run) -> None:
    async def scenario() -> None:
        conn = AsyncConnection(pair[0], **assigned())
        conn.ask(order_to("close", FAR))
        pair[1].sendall(b"ask\n")
        assert await anext(conn.lines()) == b"ask"
        conn.commit()
        with pytest.raises(Closed, match="the server is stopping"):
            await conn.recv()

    run(scenario)


def test_idle_for_too_long_but_not_when_pushed_to(pair: Pair, run: Run) -> None:
    async def scenario() -> None:
        started = time.monotonic()
        conn = AsyncConnection(pair[0], **assigned(idle_timeout=0.5))
        asyncio.get_running_loop().call_later(
            0.1, lambda: tasks.append(asyncio.ensure_future(conn.send(b"push")))
        )
        tasks: list[asyncio.Future[None]] = []
        with pytest.raises(Closed, match=r"idle for 0\.5 s"):
            await conn.recv()
        assert time.monotonic() - started > 0.59
        await tasks[0]
        with pytest.raises(Closed, match=r"idle for 0\.5 s"):
            await conn.send(b"x")

    run(scenario)


def test_a_receive_cancelled_when_it_was_detached_says_so_at_the_next(pair: Pair, run: Run) -> None:
    async def scenario() -> None:
        lease = assigned()
        conn = AsyncConnection(pair[0], **lease)
        task = asyncio.ensure_future(conn.recv())
        await waiting(lease)
        conn.ask(order_to("move"))
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        with pytest.raises(Detached):
            await conn.recv()

    run(scenario)


def test_the_scoreboard_shows_each_step(pair: Pair, run: Run) -> None:
    async def scenario() -> None:
        lease = assigned()
        record = lease["hooks"].record
        conn = AsyncConnection(pair[0], **lease)
        be_handler_of(conn)
        assert Row(record).status == "clean"
        pair[1].sendall(b"one\ntwo\n")
        lines = conn.lines()
        await anext(lines)
        assert Row(record).status == "read"
        await conn.send(b"1")
        assert Row(record).status == "sent"
        conn.commit()
        assert Row(record).status == "read"
        await anext(lines)
        conn.commit()
        assert Row(record).status == "clean"

    run(scenario)
