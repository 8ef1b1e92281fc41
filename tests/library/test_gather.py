"""Sends that go out together: what the peer gets, and when."""

from __future__ import annotations

import asyncio
import contextvars
import os
import select
import socket
import struct
import threading

import pytest

from socketkeep import AsyncConnection, Connection, Detached, TimedOut, Timeout
from tests.harness.seam import FakeDrainSignal, be_handler_of, leased, order_to, row_of
from tests.library.conftest import Pair, Run, until

_LINES = b"".join(b"line %d\n" % number for number in range(16))
#: Of `struct tcp_info` (linux/tcp.h): how many segments with data have been sent.
_DATA_SEGMENTS = 156


def segments(sock: socket.socket) -> int:
    info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 256)
    return int(struct.unpack_from("I", info, _DATA_SEGMENTS)[0])


def nothing_came(peer: socket.socket) -> bool:
    return not select.select([peer], [], [], 0)[0]


def exactly(peer: socket.socket, size: int) -> bytes:
    got = b""
    while len(got) < size and (data := peer.recv(size - len(got))):
        got += data
    return got


def test_many_answers_are_one_send(tcp: Pair) -> None:
    conn = Connection(tcp[0])
    conn.gather()
    tcp[1].sendall(_LINES)
    lines = conn.lines(keepends=True)
    before = segments(conn.core.sock)
    for _ in range(15):
        conn.send(next(lines))
    assert nothing_came(tcp[1])
    conn.send(next(lines))  # nothing is unread behind this one
    assert exactly(tcp[1], len(_LINES)) == _LINES
    assert segments(conn.core.sock) == before + 1


def test_many_answers_are_one_send_async(tcp: Pair, run: Run) -> None:
    async def scenario() -> None:
        conn = AsyncConnection(tcp[0])
        conn.gather()
        tcp[1].sendall(_LINES)
        before = segments(conn.core.sock)
        lines = conn.lines(keepends=True)
        for _ in range(15):
            await conn.send(await anext(lines))
        assert nothing_came(tcp[1])
        await conn.send(await anext(lines))
        assert exactly(tcp[1], len(_LINES)) == _LINES
        assert segments(conn.core.sock) == before + 1
        await conn.abort()

    run(scenario)


def test_it_goes_out_before_the_handler_waits(pair: Pair) -> None:
    def serve() -> None:
        with Connection(pair[0]) as conn:
            conn.gather()
            for line in conn.lines():
                conn.send(line)

    serving = threading.Thread(target=serve)
    serving.start()
    pair[1].sendall(b"one\ntwo\nthr")  # the third has begun
    assert exactly(pair[1], 6) == b"onetwo"
    pair[1].sendall(b"ee\n")
    assert exactly(pair[1], 5) == b"three"
    pair[1].close()
    serving.join(30)


def test_it_goes_out_before_the_handler_waits_async(pair: Pair, run: Run) -> None:
    async def scenario() -> None:
        loop = asyncio.get_running_loop()
        async with AsyncConnection(pair[0]) as conn:
            conn.gather()
            pair[1].sendall(b"one\ntwo\nthr")
            assert await conn.recv_until(b"\n") == b"one"
            await conn.send(b"1")
            assert await conn.recv_until(b"\n") == b"two"
            await conn.send(b"2")
            assert nothing_came(pair[1])
            waiting = asyncio.create_task(conn.recv_until(b"\n"))
            assert await loop.run_in_executor(None, exactly, pair[1], 2) == b"12"
            pair[1].sendall(b"ee\n")
            assert await waiting == b"three"
            pair[1].close()

    run(scenario)


def kept_back(pair: Pair) -> Connection:
    """Return a connection that has kept back "answer", with input unread."""
    conn = Connection(pair[0])
    conn.gather()
    pair[1].sendall(b"1\n2\n")
    assert conn.recv_until(b"\n") == b"1"
    conn.send(b"answer")
    assert nothing_came(pair[1])
    return conn


def test_what_sends_it(pair: Pair) -> None:
    conn = kept_back(pair)
    conn.commit()
    assert exactly(pair[1], 6) == b"answer"
    conn.send(b"again")
    conn.send_eof()
    assert exactly(pair[1], 6) == b"again"


def test_close_sends_it(pair: Pair) -> None:
    conn = kept_back(pair)
    conn.close(linger=0)
    assert exactly(pair[1], 7) == b"answer"


def test_abort_drops_it(tcp: Pair) -> None:
    kept_back(tcp).abort()
    with pytest.raises(ConnectionResetError):
        tcp[1].recv(1)


@pytest.mark.parametrize("how", ["commit", "send_eof", "close"])
def test_what_sends_it_async(how: str, pair: Pair, run: Run) -> None:
    async def scenario() -> None:
        conn = AsyncConnection(pair[0])
        conn.gather()
        pair[1].sendall(b"1\n2\n")
        assert await conn.recv_until(b"\n") == b"1"
        await conn.send(b"answer")
        assert nothing_came(pair[1])
        if how == "commit":
            conn.commit()
        elif how == "send_eof":
            await conn.send_eof()
        else:
            await conn.close(linger=0)
        assert exactly(pair[1], 6) == b"answer"
        await conn.abort()

    run(scenario)


def test_what_is_too_much_goes_out_at_once(pair: Pair) -> None:
    conn = kept_back(pair)
    reading = threading.Thread(target=lambda: got.append(exactly(pair[1], 6 + (1 << 17))))
    got: list[bytes] = []
    reading.start()
    conn.send(b"x" * (1 << 17))
    reading.join(30)
    assert got == [b"answer" + b"x" * (1 << 17)]


@pytest.mark.parametrize("pair", ["unix"], indirect=True)  # TCP takes a few bytes more
def test_a_peer_that_does_not_read_gets_each_byte_once(pair: Pair) -> None:
    conn = Connection(pair[0], mode=Timeout(0.02))
    filling = os.urandom(1 << 20)
    sent = 0
    try:
        while True:
            conn.send(filling)
            sent += len(filling)
    except TimedOut as full:
        sent += full.bytes_done
    expected = (filling * (sent // len(filling) + 1))[:sent]
    conn.gather()
    conn._unsent = None  # the rest of it is given up
    pair[1].sendall(b"1\n2\n")
    assert conn.recv_until(b"\n") == b"1"
    conn.send(b"<first>")
    assert conn.recv_until(b"\n") == b"2"
    for _ in range(2):
        with pytest.raises(TimedOut) as late:
            conn.send(b"<second>")
        assert late.value.bytes_done == 0
        with pytest.raises(TimedOut):
            conn.recv()
    conn.mode = Timeout(30)
    got: list[bytes] = []
    reading = threading.Thread(target=lambda: got.append(exactly(pair[1], sent + 15)))
    reading.start()
    conn.send(b"<second>")
    reading.join(30)
    assert got == [expected + b"<first><second>"]


def test_who_sends_while_another_receives_waits_for_nobody(pair: Pair) -> None:
    conn = Connection(pair[0])
    conn.gather()
    pair[1].sendall(b"beg")  # it stays unread while the receive waits for its end
    receiving = threading.Thread(target=lambda: conn.recv_until(b"\n"))
    receiving.start()
    until(lambda: row_of(conn).waiting)
    conn.send(b"news")
    assert exactly(pair[1], 4) == b"news"
    pair[1].sendall(b"in\n")
    receiving.join(30)


def test_what_is_kept_back_was_never_sent_where_the_connection_moves(
    pair: Pair, drain_signal: FakeDrainSignal
) -> None:
    conn = Connection(pair[0], **leased(resumable=True, drain_signal=drain_signal))
    with be_handler_of(conn):
        conn.gather()
        pair[1].sendall(b"1\n2\n3\n")
        assert conn.recv_until(b"\n") == b"1"
        conn.send(b"one")
        conn.commit(1)
        assert exactly(pair[1], 3) == b"one"
        assert conn.recv_until(b"\n") == b"2"
        conn.send(b"two")
        assert row_of(conn).status == "read"
        drain_signal.order = order_to("move")
        with pytest.raises(Detached):
            conn.recv_until(b"\n")
        assert conn.hand_over().unread == b"2\n3\n"
        assert nothing_came(pair[1])


def test_a_commit_is_not_clean_before_the_kernel_has_it_all(pair: Pair, run: Run) -> None:
    async def scenario() -> None:
        conn = AsyncConnection(pair[0], **leased(resumable=True))
        be_handler_of(conn)
        elsewhere = contextvars.Context()
        filling = asyncio.create_task(conn.send(os.urandom(8 << 20)), context=elsewhere)
        await asyncio.sleep(0)
        pair[1].sendall(b"1\n2\n")
        conn.gather()
        assert await conn.recv_until(b"\n") == b"1"
        await conn.send(b"answer")
        conn.commit()
        assert row_of(conn).status == "sent"
        loop = asyncio.get_running_loop()
        got = await loop.run_in_executor(None, exactly, pair[1], (8 << 20) + 6)
        assert got.endswith(b"answer")
        await filling
        await loop.run_in_executor(None, until, lambda: row_of(conn).status != "sent")
        assert row_of(conn).status == "read", "what is unread has left the kernel"
        await conn.abort()

    run(scenario)
