"""The async verbs, on asyncio and uvloop, on real sockets."""

from __future__ import annotations

import asyncio
import math
import random
import socket
import threading
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

import pytest

from socketkeep import (
    AsyncConnection,
    Busy,
    Closed,
    LimitExceeded,
    PeerClosed,
    PeerReset,
    Released,
    TimedOut,
    WouldBlock,
)
from tests.harness.seam import leased, row_of
from tests.library.conftest import FAR, Flooding, Pair, Run, reads_all, reads_all_and_ends
from tests.library.test_connection import BIG, reset

T = TypeVar("T")

RECEIVES: dict[str, Callable[[AsyncConnection], Awaitable[object]]] = {
    "recv": lambda conn: conn.recv(4),
    "recv_into": lambda conn: conn.recv_into(bytearray(4)),
    "recv_exactly": lambda conn: conn.recv_exactly(4),
    "recv_until": lambda conn: conn.recv_until(b";"),
    "lines": lambda conn: anext(conn.lines()),
}


async def in_thread(call: Callable[[], T]) -> T:
    """What the peer does in its own time."""
    return await asyncio.get_running_loop().run_in_executor(None, call)


def exactly(peer: socket.socket, count: int) -> bytes:
    data = bytearray()
    while len(data) < count and (part := peer.recv(count - len(data))):
        data += part
    return bytes(data)


async def begun(conn: AsyncConnection) -> None:
    """Return once a receive waits."""
    async with asyncio.timeout(5):
        while not row_of(conn).waiting:  # noqa: ASYNC110 - a word of shared memory
            await asyncio.sleep(0)


# Receiving.


def test_each_way_to_receive(pair: Pair, run: Run) -> None:
    async def scenario() -> None:
        conn = AsyncConnection(pair[0])
        pair[1].sendall(b"hello;GET /\r\n\r\nunix\ndos\r\n\nlast")
        assert await conn.recv(2) == b"he"
        buffer = bytearray(b"....")
        assert await conn.recv_into(memoryview(buffer)[1:3]) == 2
        assert buffer == b".ll."
        assert await conn.recv_exactly(0) == b""
        assert await conn.recv_exactly(2) == b"o;"
        assert await conn.recv_until(b"\r\n") == b"GET /"
        assert await conn.recv_until(b"\r\n") == b""
        assert conn.unread.startswith(b"unix\n")
        pair[1].shutdown(socket.SHUT_WR)
        assert [line async for line in conn.lines()] == [b"unix", b"dos", b"", b"last"]
        assert await conn.recv() == b""
        assert await conn.recv_into(buffer) == 0

    run(scenario)


def test_recv_exactly_of_much(pair: Pair, run: Run) -> None:
    async def scenario() -> None:
        conn = AsyncConnection(pair[0])
        sender = threading.Thread(target=pair[1].sendall, args=[BIG])
        sender.start()
        assert await conn.recv_exactly(len(BIG)) == BIG
        sender.join()

    run(scenario)


def test_lines_commit_when_the_next_is_asked_for(pair: Pair, run: Run) -> None:
    async def scenario() -> None:
        conn = AsyncConnection(pair[0], **leased(resumable=True))
        pair[1].sendall(b"one\ntwo\n")
        lines = conn.lines(commit=True, timeout=0)
        await anext(lines)
        assert conn.hand_over().unread == b"one\ntwo\n"
        await anext(lines)
        assert conn.hand_over().unread == b"two\n"
        with pytest.raises(WouldBlock):
            await anext(lines)
        assert conn.hand_over().unread == b""

    run(scenario)


def test_what_exceeds_a_bound_stays_unread(pair: Pair, run: Run) -> None:
    async def scenario() -> None:
        conn = AsyncConnection(pair[0])
        pair[1].sendall(b"123456\n")
        with pytest.raises(LimitExceeded, match=r"^lines from .* within 5 bytes"):
            await anext(conn.lines(max=5))
        with pytest.raises(LimitExceeded, match=r"^recv_until from"):
            await conn.recv_until(b"\n", 5)
        assert await conn.recv() == b"123456\n"

    run(scenario)


def test_eof_in_the_middle(pair: Pair, run: Run) -> None:
    async def scenario() -> None:
        conn = AsyncConnection(pair[0])
        pair[1].sendall(b"12")
        pair[1].close()
        with pytest.raises(PeerClosed, match="2 of 64 bytes received"):
            await conn.recv_exactly(64)
        with pytest.raises(PeerClosed):
            await conn.recv_until(b";")
        assert await conn.recv() == b"12"

    run(scenario)


def test_a_reset_wakes_a_receiver(tcp: Pair, run: Run) -> None:
    async def scenario() -> None:
        conn = AsyncConnection(tcp[0])
        tcp[1].sendall(b"half")
        task = asyncio.ensure_future(conn.recv_exactly(64))
        await begun(conn)
        reset(tcp[1])
        with pytest.raises(PeerReset, match="the peer reset the connection, 4 bytes received"):
            await task
        assert row_of(conn).ended == "reset"
        assert await conn.recv() == b"half"
        with pytest.raises(PeerReset):
            await conn.recv()
        await conn.close()

    run(scenario)


@pytest.mark.parametrize("verb", RECEIVES)
def test_timeouts_of_a_receive(pair: Pair, run: Run, verb: str) -> None:
    async def scenario() -> None:
        conn = AsyncConnection(pair[0])
        receives: dict[str, Callable[[float], Awaitable[object]]] = {
            "recv": lambda limit: conn.recv(4, timeout=limit),
            "recv_into": lambda limit: conn.recv_into(bytearray(4), timeout=limit),
            "recv_exactly": lambda limit: conn.recv_exactly(4, timeout=limit),
            "recv_until": lambda limit: conn.recv_until(b";", timeout=limit),
            "lines": lambda limit: anext(conn.lines(timeout=limit)),
        }
        with pytest.raises(WouldBlock):
            await receives[verb](0)
        with pytest.raises(TimedOut) as caught:
            await receives[verb](0.05)
        assert caught.value.limit == 0.05
        assert caught.value.elapsed is not None
        assert caught.value.elapsed >= 0.05
        pair[1].sendall(b"12\n;")
        assert await receives[verb](5)

    run(scenario)


def test_a_timeout_bounds_the_whole_operation_and_loses_nothing(pair: Pair, run: Run) -> None:
    async def scenario() -> None:
        conn = AsyncConnection(pair[0])
        loop = asyncio.get_running_loop()
        sent = 0
        dripping: asyncio.Handle

        def drip() -> None:
            nonlocal sent, dripping
            pair[1].sendall(b"x")
            sent += 1
            dripping = loop.call_later(0.02, drip)

        dripping = loop.call_soon(drip)
        # What drips would take longer than a test may; no two bytes are that far apart.
        with pytest.raises(TimedOut) as caught:
            await conn.recv_exactly(10_000, timeout=0.15)
        assert caught.value.bytes_done == len(conn.unread) > 1
        dripping.cancel()
        assert await conn.recv_exactly(sent, timeout=math.inf) == b"x" * sent

    run(scenario)


def test_lines_go_on_after_a_timeout_and_a_cancellation(pair: Pair, run: Run) -> None:
    async def scenario() -> None:
        conn = AsyncConnection(pair[0])
        lines = conn.lines(timeout=0.05)
        pair[1].sendall(b"ha")
        with pytest.raises(TimedOut):
            await anext(lines)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await anext(lines)
        pair[1].sendall(b"lf\n")
        assert await anext(lines) == b"half"

    run(scenario)


@pytest.mark.parametrize("commit", [False, True])
def test_an_iteration_that_is_cancelled_before_it_began_loses_no_line(
    pair: Pair, run: Run, commit: bool
) -> None:
    async def scenario() -> None:
        conn = AsyncConnection(pair[0])
        pair[1].sendall(b"".join(b"%d\n" % number for number in range(100)))
        lines = conn.lines(commit=commit)
        assert await anext(lines) == b"0"
        for number in range(1, 100):
            task = asyncio.ensure_future(anext(lines))
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert await anext(lines) == b"%d" % number
        await conn.abort()

    run(scenario)


@pytest.mark.parametrize("seed", range(4))
def test_cancelling_receives_anywhere_loses_no_byte(pair: Pair, run: Run, seed: int) -> None:
    """Thousands of receives are cancelled wherever they are; the stream comes out whole."""
    stream = random.Random(seed).randbytes(300_000)

    async def scenario() -> None:
        rng = random.Random(seed)
        conn = AsyncConnection(pair[0])
        sender = threading.Thread(target=trickle, args=(pair[1], stream, seed))
        sender.start()
        out = bytearray()
        cancelled = 0
        while True:
            task = asyncio.ensure_future(conn.recv(rng.randint(1, 5000)))
            for _ in range(rng.randint(0, 3)):
                await asyncio.sleep(0)
            task.cancel()
            try:
                data = await task
            except asyncio.CancelledError:
                cancelled += 1
                continue
            if not data:
                break
            out += data
        sender.join()
        assert bytes(out) == stream
        assert cancelled > 10

    run(scenario)


def trickle(peer: socket.socket, stream: bytes, seed: int) -> None:
    rng = random.Random(seed)
    at = 0
    while at < len(stream):
        step = rng.randint(1, 3000)
        peer.sendall(stream[at : at + step])
        at += step
    peer.shutdown(socket.SHUT_WR)


def test_without_a_receiver_the_bytes_stay_in_the_kernel(pair: Pair, run: Run) -> None:
    """Back-pressure: a peer that sends without end is held up by the kernel, not buffered."""

    async def scenario() -> None:
        lease = leased()
        conn = AsyncConnection(pair[0], **lease)
        task = asyncio.ensure_future(conn.recv())
        await begun(conn)  # so that the loop watches the descriptor
        pair[1].sendall(b"1")
        assert await task == b"1"
        pair[1].setblocking(False)
        sent = 1
        while True:
            try:
                sent += pair[1].send(bytes(1 << 16))
            except BlockingIOError:
                break
            await asyncio.sleep(0)
        assert row_of(lease).bytes_in <= 1 + (1 << 16)
        assert len(await conn.recv_exactly(sent - 1)) == sent - 1

    run(scenario)


def test_two_receivers_are_refused(pair: Pair, run: Run) -> None:
    async def scenario() -> None:
        conn = AsyncConnection(pair[0])
        task = asyncio.ensure_future(conn.recv())
        await begun(conn)
        with pytest.raises(Busy):
            await conn.recv()
        pair[1].sendall(b"x")
        assert await task == b"x"

    run(scenario)


# Sending.


def test_sends_go_out_whole_in_the_order_they_were_called(pair: Pair, run: Run) -> None:
    async def scenario() -> None:
        lease = leased()
        conn = AsyncConnection(pair[0], **lease)
        sends = [asyncio.ensure_future(conn.send(bytes([n]) * 100_000)) for n in range(8)]
        got = asyncio.ensure_future(in_thread(lambda: reads_all_and_ends(pair[1])))
        await asyncio.gather(*sends)
        await conn.send(bytearray(b"more"))
        await conn.send(memoryview(b"\x01\x00\x02\x00").cast("H"))
        await conn.send_eof()
        tail = b"more\x01\x00\x02\x00"
        assert await got == b"".join(bytes([n]) * 100_000 for n in range(8)) + tail
        await conn.close()
        assert row_of(lease).bytes_out == 800_008

    run(scenario)


def test_a_send_waits_for_the_peer(pair: Pair, run: Run) -> None:
    async def scenario() -> None:
        conn = AsyncConnection(pair[0])
        task = asyncio.ensure_future(conn.send(BIG))
        await asyncio.sleep(0.05)
        assert not task.done()
        assert await in_thread(lambda: exactly(pair[1], len(BIG))) == BIG
        await task

    run(scenario)


def test_after_a_timeout_a_send_goes_on_with_its_first_unsent_byte(pair: Pair, run: Run) -> None:
    async def scenario() -> None:
        conn = AsyncConnection(pair[0])
        got = b""
        progress = []
        while True:
            try:
                await conn.send(BIG, timeout=0.005)
            except TimedOut as error:
                progress.append(error.bytes_done)
                got += pair[1].recv(1 << 18)
            else:
                break
        await conn.send_eof()
        got += await in_thread(lambda: reads_all(pair[1]))
        assert got == BIG
        assert progress == sorted(progress)
        assert progress[-1] > progress[0]

    run(scenario)


def test_a_send_that_may_not_wait(pair: Pair, run: Run) -> None:
    async def scenario() -> None:
        conn = AsyncConnection(pair[0])
        with pytest.raises(WouldBlock) as caught:
            await conn.send(BIG, timeout=0)
        assert 0 < caught.value.bytes_done < len(BIG)
        with pytest.raises(WouldBlock) as again:
            await conn.send(BIG, timeout=0)
        assert again.value.bytes_done >= caught.value.bytes_done
        rest = asyncio.ensure_future(conn.send(BIG))
        assert await in_thread(lambda: exactly(pair[1], len(BIG))) == BIG
        await rest

    run(scenario)


def test_a_cancelled_send_does_not_tear_the_stream(pair: Pair, run: Run) -> None:
    """One has begun: it is completed.  One has not: it is forgotten.  What follows is in order."""

    async def scenario() -> None:
        conn = AsyncConnection(pair[0])
        data = bytearray(BIG)
        half_out = asyncio.ensure_future(conn.send(data))
        not_begun = asyncio.ensure_future(conn.send(b"never"))
        await asyncio.sleep(0)
        for task in (half_out, not_begun):
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        data[:] = bytes(len(data))  # the caller's own again
        after = asyncio.ensure_future(conn.send(b"after"))
        assert await in_thread(lambda: exactly(pair[1], len(BIG) + 5)) == BIG + b"after"
        await after

    run(scenario)


def test_cancelling_sends_again_and_again_does_not_fill_the_memory(pair: Pair, run: Run) -> None:
    async def scenario() -> None:
        conn = AsyncConnection(pair[0])
        for _ in range(50):
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.001):
                    await conn.send(BIG)
        assert conn._out is not None
        assert len(conn._out) == 1

    run(scenario)


@pytest.mark.parametrize("timeout", [None, 5])
def test_who_always_finds_bytes_leaves_others_a_turn(
    pair: Pair, run: Run, timeout: float | None
) -> None:
    async def scenario() -> None:
        conn = AsyncConnection(pair[0])
        turns = 0

        async def other() -> None:
            nonlocal turns
            while True:
                turns += 1
                await asyncio.sleep(0)

        task = asyncio.ensure_future(other())
        for _ in range(100):
            pair[1].sendall(b"\0")
            assert await conn.recv_exactly(1, timeout=timeout) == b"\0"
        task.cancel()
        assert turns >= 5

    run(scenario)


def test_a_send_to_a_peer_that_is_gone(pair: Pair, run: Run) -> None:
    async def scenario() -> None:
        conn = AsyncConnection(pair[0])
        first = asyncio.ensure_future(conn.send(BIG))
        second = asyncio.ensure_future(conn.send(b"behind"))
        await asyncio.sleep(0)
        pair[1].close()
        for task in (first, second):
            with pytest.raises(ConnectionError, match=r"^send to .* failed: the peer"):
                await task

    run(scenario)


# Ending.


def test_close_gives_the_peer_all_and_eof_though_it_is_still_sending(pair: Pair, run: Run) -> None:
    async def scenario() -> None:
        conn = AsyncConnection(pair[0])
        flood = threading.Thread(target=pair[1].sendall, args=[BIG])
        flood.start()
        await conn.recv(1)

        def read() -> bytes:
            data = reads_all(pair[1])
            flood.join()
            pair[1].shutdown(socket.SHUT_WR)
            return data

        got = asyncio.ensure_future(in_thread(read))
        await conn.send(BIG)
        await conn.close()
        assert await got == BIG
        assert row_of(conn).ended == "closed"
        assert conn.fileno() == -1

    run(scenario)


def test_close_sends_what_is_queued_first(pair: Pair, run: Run) -> None:
    async def scenario() -> None:
        conn = AsyncConnection(pair[0])
        send = asyncio.ensure_future(conn.send(BIG))
        await asyncio.sleep(0)
        got = asyncio.ensure_future(in_thread(lambda: reads_all_and_ends(pair[1])))
        await conn.close()
        await send
        assert await got == BIG

    run(scenario)


def test_close_is_bounded_though_the_peer_does_not_read(pair: Pair, run: Run) -> None:
    async def scenario() -> None:
        conn = AsyncConnection(pair[0])
        send = asyncio.ensure_future(conn.send(BIG))
        await asyncio.sleep(0)
        await conn.close(linger=0.1)
        with pytest.raises(Closed):
            await send

    run(scenario)


def test_close_is_bounded_though_the_peer_never_stops(pair: Pair, run: Run) -> None:
    async def scenario() -> None:
        conn = AsyncConnection(pair[0])
        with Flooding(pair[1]) as flooding:
            await conn.close(linger=0.1)
            assert await in_thread(flooding.is_cut_off)

    run(scenario)


def test_close_of_a_silent_peer(pair: Pair, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("socketkeep._stream._closing.QUIET", 0.2)

    async def scenario() -> None:
        started = time.monotonic()
        await AsyncConnection(pair[0]).close(linger=FAR)
        assert 0.15 < time.monotonic() - started < FAR

    run(scenario)


def test_close_cancelled_closes_at_once(pair: Pair, run: Run) -> None:
    async def scenario() -> None:
        conn = AsyncConnection(pair[0])
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await conn.close()
        assert conn.fileno() == -1
        assert pair[1].recv(1) == b""

    run(scenario)


def test_send_eof_leaves_receiving_open(pair: Pair, run: Run) -> None:
    async def scenario() -> None:
        conn = AsyncConnection(pair[0])
        await conn.send(b"question")
        await conn.send_eof()
        assert reads_all(pair[1]) == b"question"
        pair[1].sendall(b"answer")
        assert await conn.recv() == b"answer"
        with pytest.raises(Closed, match="this side has ended its sending"):
            await conn.send(b"x")

    run(scenario)


def test_release_leaves_the_connection_to_the_other_holder(pair: Pair, run: Run) -> None:
    other = pair[0].dup()

    async def scenario() -> None:
        conn = AsyncConnection(pair[0])
        task = asyncio.ensure_future(conn.recv())
        await begun(conn)
        with pytest.raises(Busy):
            await conn.release()
        pair[1].sendall(b"x")
        await task
        await conn.release()
        assert row_of(conn).ended == "released"
        other.send(b"alive")
        assert pair[1].recv(9) == b"alive"

    run(scenario)
    other.close()


def test_abort_resets(tcp: Pair, run: Run) -> None:
    async def scenario() -> None:
        conn = AsyncConnection(tcp[0])
        task = asyncio.ensure_future(conn.recv())
        await begun(conn)
        await conn.send(b"lost")
        await conn.abort()
        with pytest.raises(Closed):
            await task
        with pytest.raises(ConnectionResetError):
            reads_all(tcp[1])

    run(scenario)


@pytest.mark.parametrize(
    ("end", "error"), [("close", Closed), ("abort", Closed), ("release", Released)]
)
def test_after_the_end_each_verb_says_what_ended_it(
    pair: Pair, run: Run, end: str, error: type[Exception]
) -> None:
    async def scenario() -> None:
        conn = AsyncConnection(pair[0])
        pair[1].sendall(b"unread")
        pair[1].shutdown(socket.SHUT_WR)
        assert await conn.recv(1) == b"u"
        await getattr(conn, end)()
        for verb in RECEIVES.values():
            with pytest.raises(error):
                await verb(conn)
        with pytest.raises(error, match=r"^send to"):
            await conn.send(b"x")
        with pytest.raises(error):
            await conn.send_eof()
        for again in ("close", "abort", "release", "close"):
            await getattr(conn, again)()

    run(scenario)


def test_a_block_closes(pair: Pair, run: Run) -> None:
    async def scenario() -> None:
        pair[1].shutdown(socket.SHUT_WR)
        async with AsyncConnection(pair[0]) as conn:
            await conn.send(b"bye")
        assert reads_all(pair[1]) == b"bye"

    run(scenario)


def test_close_wakes_a_receiver(pair: Pair, run: Run) -> None:
    async def scenario() -> None:
        conn = AsyncConnection(pair[0])
        task = asyncio.ensure_future(conn.recv())
        await begun(conn)
        pair[1].shutdown(socket.SHUT_WR)
        await conn.close()
        with pytest.raises((Closed, AssertionError)):
            assert await task != b""

    run(scenario)
