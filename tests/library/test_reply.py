"""`reply`: send and commit in one, and what the next worker makes of one that was cut short.

What is left at each instant is in `test_crash_order`.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import socket
import threading
from collections.abc import Callable, Coroutine
from typing import Any, TypeAlias

import msgspec
import pytest

from socketkeep import (
    AsyncConnection,
    Closed,
    Connection,
    NotCommitted,
    StateNotEncodable,
    StateTooLarge,
    TimedOut,
    WouldBlock,
)
from tests.harness.seam import (
    REPLY_LIMIT,
    WORDS,
    Leased,
    Row,
    be_handler_of,
    forget_warnings,
    leased,
    reply_in,
    reply_record,
    totals_of,
)
from tests.library.conftest import KINDS, Pair, Run, both, done, make, tcp_pair, unix_pair, until

Shells: TypeAlias = Connection | AsyncConnection

#: More than the kernel takes of a connection whose peer does not read.
LARGE = b"x" * 4_000_000


class Shelf:
    def __init__(self) -> None:
        self.state: bytes | None = None
        self.reply = b""

    def put(self, state: bytes | None, reply: bytes = b"") -> None:
        self.state, self.reply = state, reply

    @property
    def decoded(self) -> Any:
        return None if self.state is None else msgspec.msgpack.decode(self.state)

    @property
    def record(self) -> Any:
        return reply_in(self.reply)


def recorded(shelf: Shelf, **fields: Any) -> Leased:
    return leased(resumable=True, redeliver=True, shelf=shelf, **fields)


def next_lease(shelf: Shelf, **fields: Any) -> Leased:
    """What the next worker is told after a crash."""
    more = {"attached": "crash", "redelivered": True, **fields}
    return recorded(Shelf(), state=shelf.state, reply=shelf.reply, **more)


def go(scenario: Coroutine[Any, Any, None]) -> None:
    asyncio.run(scenario)


def on_a_loop(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """Run a test that is a coroutine; what it has of sync connections waits for nobody."""

    @functools.wraps(test)
    def run(*arguments: Any, **named: Any) -> None:
        asyncio.run(test(*arguments, **named))

    return run


def replying(kind: str, sock: socket.socket) -> tuple[Any, Shelf]:
    """Return a connection whose replies are on record, in its handler, and where they are."""
    shelf = Shelf()
    conn = make(kind, sock, recorded(shelf))
    be_handler_of(conn)
    return conn, shelf


async def asked(conn: Any, peer: socket.socket, line: bytes) -> None:
    """Have the handler receive a line."""
    peer.sendall(line + b"\n")
    assert await done(conn.recv_until(b"\n", 10)) == line


@both
@pytest.mark.parametrize("net", list(KINDS))
@pytest.mark.parametrize("redeliver", [False, True])
@on_a_loop
async def test_it_sends_and_commits(kind: str, net: str, redeliver: bool) -> None:
    ours, peer = KINDS[net]()
    shelf, row = Shelf(), Row()
    lease = leased(resumable=True, redeliver=redeliver, shelf=shelf, record=row.words)
    with peer:
        conn = make(kind, ours, lease)
        be_handler_of(conn)
        peer.sendall(b"one\ntwo\n")
        for number in (1, 2):
            assert await done(conn.recv_until(b"\n", 10)) == (b"one", b"two")[number - 1]
            await done(conn.reply(b"%d\n" % number, state={"count": number}))
            assert conn.state == shelf.decoded == {"count": number}
            assert row.status == ("read", "clean")[number - 1]
        assert peer.recv(10, socket.MSG_WAITALL | socket.MSG_DONTWAIT) == b"1\n2\n"
        await done(conn.reply(b""))
        assert (conn.state, shelf.state) == (None, None)
        peer.close()
        await done(conn.close())


@both
@on_a_loop
async def test_without_a_server_it_sends(kind: str, pair: Pair) -> None:
    conn = make(kind, pair[0], leased())
    await done(conn.reply(b"hello", state=1))
    assert pair[1].recv(10) == b"hello"
    assert conn.state == 1
    pair[1].close()
    await done(conn.close())


@both
@on_a_loop
async def test_the_record_says_where_it_stands(kind: str, tcp: Pair) -> None:
    ours, peer = tcp
    conn, shelf = replying(kind, ours)
    for number, (asked, answer) in enumerate([(b"abc", b"12345"), (b"defgh", b"6")]):
        peer.sendall(asked + b"\n")
        await done(conn.recv_until(b"\n", 10))
        await done(conn.reply(answer, number))
        since, sent_at = ((0, 0), (4, 5))[number]
        assert shelf.record == (since, since + len(asked) + 1, sent_at, answer)
    await done(conn.abort())


@both
@pytest.mark.parametrize("redelivers", [True, False])
@on_a_loop
async def test_the_next_worker_completes_it(kind: str, redelivers: bool, tcp: Pair) -> None:
    """Whatever of the reply had gone; a message that comes behind is delivered again."""
    ours, peer = tcp
    peer.sendall(b"one\ntwo\n")
    until(lambda: len(ours.recv(100, socket.MSG_PEEK)) == 8)
    shelf = Shelf()
    shelf.put(msgspec.msgpack.encode(1), reply_record(0, 4, 0, b"answer 1\n"))
    ours.sendall(b"ans")  # and then it was killed
    lease = next_lease(shelf)
    if not redelivers:  # the code that it is replaced by
        lease["lease"] = lease["lease"]._replace(redeliver=False)
    conn = make(kind, ours, lease)
    be_handler_of(conn)
    kept = lease["hooks"].shelf
    assert isinstance(kept, Shelf)
    assert kept.reply == shelf.reply, "who completes it may die, too"
    await done(conn.complete_reply())
    assert peer.recv(100) == b"answer 1\n"
    assert conn.state == 1
    assert await done(conn.recv_until(b"\n", 10)) == b"two"
    await done(conn.reply(b"answer 2\n", 2))
    assert peer.recv(100) == b"answer 2\n"
    totals = totals_of(ours)
    assert totals is not None
    assert totals.taken == 8
    await done(conn.abort())


@both
@on_a_loop
async def test_completing_waits_for_the_peer(kind: str, tcp: Pair) -> None:
    ours, peer = tcp
    reply = b"z" * 60_000
    ours.setblocking(False)
    filled = 0
    while True:
        try:
            filled += ours.send(bytes(60_000))
        except BlockingIOError:
            break
    shelf = Shelf()
    shelf.put(None, reply_record(0, 0, filled, reply))
    conn = make(kind, ours, next_lease(shelf))
    got: list[bytes] = []

    def read() -> None:
        while sum(map(len, got)) < filled + len(reply):
            got.append(peer.recv(100_000))

    reader = threading.Thread(target=read)
    reader.start()
    await done(conn.complete_reply())
    reader.join()
    assert b"".join(got) == bytes(filled) + reply
    await done(conn.abort())


@both
@on_a_loop
async def test_nothing_follows_from_a_record_that_is_done(kind: str, tcp: Pair) -> None:
    ours, peer = tcp
    conn, shelf = replying(kind, ours)
    await asked(conn, peer, b"one")
    await done(conn.reply(b"1\n", 1))
    be_handler_of(None)
    await done(conn.send(b"pushed\n"))
    conn = make(kind, ours, next_lease(shelf))
    await done(conn.complete_reply())
    assert peer.recv(100) == b"1\npushed\n"
    await done(conn.abort())


@both
@pytest.mark.parametrize(
    "reply",
    [b"garbage", reply_record(5, 9, 0, b"x"), reply_record(0, 0, 7, b"x")],
)
@on_a_loop
async def test_a_record_that_cannot_be_is_not_believed(kind: str, reply: bytes, tcp: Pair) -> None:
    ours, peer = tcp
    shelf = Shelf()
    shelf.put(None, reply)
    conn = make(kind, ours, next_lease(shelf))
    with pytest.raises(ValueError, match="record of a reply"):
        await done(conn.complete_reply())
    await done(conn.close(linger=0))
    assert peer.recv(10) == b""


def test_a_record_with_a_connection_that_has_no_totals_is_not_believed() -> None:
    ours, peer = unix_pair()
    shelf = Shelf()
    shelf.put(None, reply_record(0, 0, 0, b"x"))
    with Connection(ours, **next_lease(shelf)) as conn, peer:
        peer.close()
        with pytest.raises(ValueError, match="no totals"):
            conn.complete_reply()


@both
@on_a_loop
async def test_what_is_pushed_is_completed_too(kind: str, tcp: Pair) -> None:
    """From the first reply on; it answers nothing, and the state stays."""
    ours, peer = tcp
    conn, shelf = replying(kind, ours)
    peer.sendall(b"one\ntwo\n")
    await done(conn.recv_until(b"\n", 10))
    await done(conn.reply(b"1\n", "state"))
    be_handler_of(None)
    await done(conn.send(b"pushed\n"))
    assert shelf.record == (4, 4, 2, b"pushed\n")
    assert shelf.decoded == "state"
    await done(conn.abort())


def test_async_pushes_behind_a_reply_that_waits_wait_for_its_commit(run: Run) -> None:
    """Or a death between the two would have the message answered twice."""

    async def scenario() -> None:
        ours, peer = tcp_pair()
        with peer:
            shelf = Shelf()
            conn = AsyncConnection(ours, **recorded(shelf))
            be_handler_of(conn)
            peer.sendall(b"one\n")
            await conn.recv_until(b"\n", 10)
            await conn.reply(b"", 0)
            ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
            filler = b"f" * 1_000_000
            fill = asyncio.create_task(conn.send(filler))
            reply = b"r" * 50_000
            replying = asyncio.create_task(conn.reply(reply, 1))
            await asyncio.sleep(0)
            be_handler_of(None)
            pushing = asyncio.create_task(conn.send(b"pushed"))
            loop = asyncio.get_running_loop()
            peer.setblocking(False)
            got = b""
            while len(got) < len(filler) + len(reply) + 6:
                got += await loop.sock_recv(peer, 1 << 20)
                if shelf.reply and shelf.record.data == b"pushed":
                    assert shelf.decoded == 1
            await asyncio.gather(fill, replying, pushing)
            assert got == filler + reply + b"pushed"
            assert shelf.record == (4, 4, len(filler) + len(reply), b"pushed")
            await conn.abort()

    run(scenario)


def test_what_is_gathered_goes_with_the_reply(tcp: Pair) -> None:
    ours, peer = tcp
    shelf = Shelf()
    with Connection(ours, **recorded(shelf)) as conn, be_handler_of(conn):
        conn.gather()
        peer.sendall(b"one\ntwo\n")
        conn.recv_until(b"\n", 10)
        conn.send(b"kept back, ")
        conn.reply(b"reply", 1)
        assert shelf.record.data == b"kept back, reply"
        assert peer.recv(100) == b"kept back, reply"
        peer.close()


def test_a_commit_waits_for_what_another_thread_is_putting_on_record(tcp: Pair) -> None:
    """Or the push's record could have the new state, and the message that it is of come again."""
    ours, peer = tcp
    shelf = Shelf()
    with Connection(ours, **recorded(shelf)) as conn:
        be_handler_of(conn)
        conn.reply(b"", 0)
        peer.sendall(b"one\n")
        conn.recv_until(b"\n", 10)
        order: list[str] = []
        claimed, told = threading.Event(), threading.Event()

        def push() -> None:
            with conn._sending_lock:
                claimed.set()
                told.wait(5)
                order.append("pushed")

        pushing = threading.Thread(target=push)
        pushing.start()
        assert claimed.wait(5)

        def commit() -> None:
            conn.commit(1)
            order.append("committed")

        committing = threading.Thread(target=commit)
        committing.start()
        assert shelf.decoded == 0
        told.set()
        pushing.join()
        committing.join()
        assert order == ["pushed", "committed"]
        assert shelf.record == (0, 4, 0, b"")
        peer.close()


# Where it is at least once.


@both
def test_a_unix_socket_has_no_record_and_that_is_said_once(
    kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    forget_warnings()

    async def scenario() -> None:
        for _ in range(2):
            ours, peer = unix_pair()
            shelf = Shelf()
            conn = make(kind, ours, recorded(shelf, listener="unix:/run/x.sock"))
            be_handler_of(conn)
            for number in (1, 2):
                await done(conn.reply(b"x", number))
                assert (shelf.decoded, shelf.reply) == (number, b"")
            peer.close()
            await done(conn.close())

    with caplog.at_level(logging.WARNING, "socketkeep"):
        go(scenario())
    (line,) = caplog.messages
    assert "on unix:/run/x.sock are at least once, not exactly once: the system" in line


def test_a_reply_that_is_too_large_is_sent_and_committed(
    tcp: Pair, caplog: pytest.LogCaptureFixture
) -> None:
    forget_warnings()
    ours, peer = tcp
    shelf = Shelf()
    conn = Connection(ours, **recorded(shelf))
    state = msgspec.msgpack.encode("state0")
    with conn, be_handler_of(conn), caplog.at_level(logging.WARNING, "socketkeep"):
        for more in (-1, 0, 1):
            reply = b"x" * (REPLY_LIMIT - len(state) + more)
            receiving = threading.Thread(target=peer.recv, args=(len(reply), socket.MSG_WAITALL))
            receiving.start()
            conn.reply(reply, f"state{more + 1}")
            receiving.join()
            assert bool(shelf.reply) == (more < 0)
            assert shelf.decoded == f"state{more + 1}"
        conn.reply(b"small", "state")
        assert shelf.record.sent_at == 3 * (REPLY_LIMIT - len(state))
        peer.close()
    (line,) = caplog.messages
    assert "the reply and the state have 65504 bytes, the limit is 65503" in line


def test_without_the_keeper_it_is_send_and_commit(tcp: Pair) -> None:
    with Connection(tcp[0], **leased(resumable=True, redeliver=True)) as conn:
        conn.reply(b"x", 1)
        assert conn.state == 1
        tcp[1].close()


# Over the plain end of an edge, which counts in the kernel's place.


@both
@on_a_loop
async def test_over_a_plain_end_it_counts_along(kind: str) -> None:
    ours, peer = unix_pair()
    with peer:
        shelf = Shelf()
        conn = make(kind, ours, recorded(shelf, passed=(100, 50), record=[7] * WORDS))
        be_handler_of(conn)
        peer.sendall(b"one\ntwo\n")
        assert conn.received == 50
        await done(conn.recv_until(b"\n", 10))
        await done(conn.send(b"before "))
        await done(conn.reply(b"reply", 1))
        assert shelf.record == (50, 54, 107, b"reply")
        await done(conn.recv_until(b"\n", 10))
        assert conn.received == 54
        assert conn.hand_over().passed == (112, 54)
        await done(conn.abort())


@both
@pytest.mark.parametrize("redelivers", [True, False])
@on_a_loop
async def test_over_a_plain_end_it_is_completed(kind: str, redelivers: bool) -> None:
    ours, peer = unix_pair()
    with peer:
        shelf = Shelf()
        shelf.put(msgspec.msgpack.encode(1), reply_record(50, 54, 100, b"reply"))
        peer.sendall(b"one\ntwo\n")
        lease = next_lease(shelf, passed=(103, 50))
        if not redelivers:
            lease["lease"] = lease["lease"]._replace(redeliver=False)
        conn = make(kind, ours, lease)
        be_handler_of(conn)
        await done(conn.complete_reply())
        assert peer.recv(10) == b"ly"
        assert await done(conn.recv_until(b"\n", 10)) == b"two"
        if redelivers:
            assert conn.hand_over().passed == (105, 54)
        await done(conn.abort())


# Replies that do not end.


def test_after_a_timeout_the_same_reply_goes_on(tcp: Pair) -> None:
    ours, peer = tcp
    shelf = Shelf()
    conn = Connection(ours, **recorded(shelf))
    with be_handler_of(conn):
        peer.sendall(b"one\n")
        conn.recv_until(b"\n", 10)
        conn.reply(b"", "before")
        with pytest.raises(TimedOut):
            conn.reply(LARGE, "after", timeout=0.01)
        with pytest.raises(WouldBlock):
            conn.reply(LARGE, "after", timeout=0)
        assert conn.state == "before"
        got: list[bytes] = []
        reader = threading.Thread(target=lambda: got.append(read(peer, len(LARGE) + 1)))
        reader.start()
        conn.reply(LARGE, "after")
        assert conn.state == "after"
        conn.send(b"!")
        reader.join()
        assert got == [LARGE + b"!"]
        conn.abort()


def read(peer: socket.socket, size: int) -> bytes:
    got = bytearray()
    while len(got) < size:
        got += peer.recv(1 << 20)
    return bytes(got)


def test_what_is_sent_in_the_place_of_the_rest_is_not_completed_by_it(tcp: Pair) -> None:
    ours, peer = tcp
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    shelf = Shelf()
    conn = Connection(ours, **recorded(shelf))
    with be_handler_of(conn):
        conn.reply(b"", "before")
        fill(conn, b"f")
        with pytest.raises(TimedOut):
            conn.reply(b"r" * 50_000, "after", timeout=0.01)
        assert shelf.record.data == b"r" * 50_000
        with pytest.raises(TimedOut):
            conn.send(b"something else", timeout=0.01)
        assert (shelf.decoded, shelf.reply) == ("before", b"")
        assert conn.state == "before"
        peer.close()
        conn.abort()


def fill(conn: Connection, letter: bytes) -> None:
    """Send until the kernel takes no more, and wait until that is so for good."""
    for _ in range(3):
        with pytest.raises(TimedOut):
            conn.send(letter * 8_000_000, timeout=0.05)


def test_a_cancelled_reply_of_which_nothing_has_gone_is_none(run: Run) -> None:
    async def scenario() -> None:
        ours, peer = tcp_pair()
        with peer:
            shelf = Shelf()
            conn = AsyncConnection(ours, **recorded(shelf))
            be_handler_of(conn)
            await conn.reply(b"", "before")
            with pytest.raises(TimedOut):
                await conn.send(b"f" * 8_000_000, timeout=0.1)
            replying = asyncio.create_task(conn.reply(b"r" * 50_000, "after"))
            await asyncio.sleep(0)
            assert shelf.decoded == "after"
            replying.cancel()
            with pytest.raises(asyncio.CancelledError):
                await replying
            assert (shelf.decoded, shelf.reply, conn.state) == ("before", b"", "before")
            await conn.abort()

    run(scenario)


def strait() -> Pair:
    """Return a pair that takes little of what is sent before it is read."""
    with socket.create_server(("127.0.0.1", 0)) as server, socket.socket() as made:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
        made.connect(server.getsockname())
        accepted, _ = server.accept()
        accepted.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        return accepted, made.dup()


def test_a_cancelled_reply_that_has_begun_goes_out_and_does_not_commit(run: Run) -> None:
    """What the handler has received since is no part of what it answered."""

    async def scenario() -> None:
        ours, peer = strait()
        with peer:
            shelf, row = Shelf(), Row()
            conn = AsyncConnection(ours, **recorded(shelf, record=row.words))
            be_handler_of(conn)
            peer.sendall(b"one\ntwo\n")
            await conn.recv_until(b"\n", 10)
            reply = b"r" * 65_000
            replying = asyncio.create_task(conn.reply(reply, "after"))
            await asyncio.sleep(0)
            assert 0 < conn.bytes_sent < len(reply)
            replying.cancel()
            with pytest.raises(asyncio.CancelledError):
                await replying
            assert await conn.recv_until(b"\n", 10) == b"two"
            loop = asyncio.get_running_loop()
            peer.setblocking(False)
            got = b""
            while len(got) < len(reply):
                got += await loop.sock_recv(peer, 1 << 20)
            assert got == reply
            assert row.status == "sent"
            assert shelf.record == (0, 4, 0, reply)
            await conn.reply(b"second", "two")
            assert shelf.record == (0, 8, len(reply), b"second")
            await conn.abort()

    run(scenario)


# What is refused.


@both
@on_a_loop
async def test_a_state_that_is_refused_sends_nothing(kind: str, tcp: Pair) -> None:
    conn = make(kind, tcp[0], recorded(Shelf()))
    with pytest.raises(StateTooLarge, match="reply: "):
        await done(conn.reply(b"x", bytes(70_000)))
    with pytest.raises(StateNotEncodable, match="reply: "):
        await done(conn.reply(b"x", object()))
    assert conn.bytes_sent == 0
    tcp[1].close()
    await done(conn.close())


@both
@on_a_loop
async def test_on_a_closed_connection_it_is_refused(kind: str, tcp: Pair) -> None:
    shelf = Shelf()
    conn = make(kind, tcp[0], recorded(shelf))
    await done(conn.abort())
    with pytest.raises(Closed):
        await done(conn.reply(b"x", 1))
    assert shelf.state is None


# Request ids.


@pytest.mark.parametrize("net", ["tcp", "unix"])
@pytest.mark.parametrize("redeliver", [False, True])
def test_received_names_each_message(net: str, redeliver: bool) -> None:
    ours, peer = KINDS[net]()
    with (
        peer,
        Connection(ours, **leased(resumable=True, redeliver=redeliver, shelf=Shelf())) as conn,
        be_handler_of(conn),
    ):
        peer.sendall(b"one\ntwo\nthree\n")
        seen = []
        for _ in range(3):
            before = conn.received
            conn.recv_until(b"\n", 10)
            assert conn.received == before
            seen.append(before)
            if len(seen) == 2:
                conn.commit()
            else:
                conn.reply(b"x")
        assert seen == [0, 4, 8]
        assert conn.received == 14
        peer.close()


def test_received_is_the_same_when_the_message_comes_again() -> None:
    ours, peer = tcp_pair()
    shelf = Shelf()
    first = Connection(ours, **recorded(shelf))
    peer.sendall(b"one\ntwo\n")
    with be_handler_of(first):
        first.recv_until(b"\n", 10)
        first.reply(b"x")
        first.recv_until(b"\n", 10)
        before = first.received
    second = Connection(ours, **next_lease(shelf))  # the first has died
    second.complete_reply()
    assert second.received == before == 4
    assert second.recv_until(b"\n", 10) == b"two"
    assert second.received == before
    peer.close()
    second.abort()


def test_received_where_nothing_is_committed(tcp: Pair) -> None:
    with Connection(tcp[0]) as conn:
        tcp[1].sendall(b"one\ntwo\n")
        assert conn.recv_until(b"\n", 10) == b"one"
        assert conn.received == 4
        tcp[1].close()
    with pytest.raises(Closed):
        _ = conn.received


def test_received_is_not_known_beyond_the_replay_limit(tcp: Pair) -> None:
    with Connection(tcp[0], **leased(resumable=True, replay_limit=10)) as conn:
        tcp[1].sendall(b"x" * 11)
        conn.recv_exactly(11)
        with pytest.raises(NotCommitted, match="--replay-limit"):
            _ = conn.received
        conn.commit()
        assert conn.received == 11
        tcp[1].close()
