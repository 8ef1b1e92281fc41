"""Received bytes stay in the kernel until the commit: what a crash leaves to the next worker."""

from __future__ import annotations

import asyncio
import errno
import os
import select
import signal
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from socketkeep import (
    AsyncConnection,
    Closed,
    Connection,
    Detached,
    HandlerError,
    LimitExceeded,
    OutOfResources,
    PeerClosed,
    PeerReset,
    TimedOut,
    WouldBlock,
)
from socketkeep._stream import _peek
from tests.harness.seam import FakeDrainSignal, Leased, be_handler_of, leased, order_to, row_of
from tests.library.conftest import KINDS, LOOPS, Pair, Run, tcp_pair, unix_pair, until


def redelivering(**fields: Any) -> Leased:
    return leased(resumable=True, redeliver=True, **fields)


def in_kernel(sock: socket.socket) -> bytes:
    try:
        return sock.recv(1 << 20, socket.MSG_PEEK | socket.MSG_DONTWAIT)
    except BlockingIOError:
        return b""


# Each verb, with a message and what it looks like on the wire.

Wire = Callable[[bytes], bytes]


def line(body: bytes) -> bytes:
    return body + b"\n"


def framed(body: bytes) -> bytes:
    return struct.pack("!H", len(body)) + body


def netstring(body: bytes) -> bytes:
    return b"%d:%s," % (len(body), body)


def eight(body: bytes) -> bytes:
    return body[:8].ljust(8, b".")


def exactly_into(conn: Connection, timeout: float) -> bytes:
    buffer = bytearray(1)
    assert conn.recv_into(buffer, timeout=timeout) == 1
    return bytes(buffer)


VERBS: dict[str, tuple[Wire, Wire, Callable[[Any, float], Any]]] = {
    "recv": (lambda body: body[:1], lambda body: body[:1], lambda c, t: c.recv(1, timeout=t)),
    "recv_exactly": (eight, eight, lambda c, t: c.recv_exactly(8, timeout=t)),
    "recv_until": (line, bytes, lambda c, t: c.recv_until(b"\n", timeout=t)),
    "lines": (line, bytes, lambda c, t: next_of(c.lines(timeout=t))),
    "recv_frame": (framed, bytes, lambda c, t: c.recv_frame("u16", timeout=t)),
    "frames": (framed, bytes, lambda c, t: next_of(c.frames("u16", timeout=t))),
    "recv_netstring": (netstring, bytes, lambda c, t: c.recv_netstring(timeout=t)),
    "netstrings": (netstring, bytes, lambda c, t: next_of(c.netstrings(timeout=t))),
}
SYNC_VERBS = VERBS | {"recv_into": (VERBS["recv"][0], VERBS["recv"][1], exactly_into)}


def next_of(iterator: Any) -> Any:
    return anext(iterator) if hasattr(iterator, "__anext__") else next(iterator)


def cut(data: bytes, at: list[int]) -> Iterator[bytes]:
    """Yield `data` in pieces, cut at the places that `at` names modulo its length."""
    marks = sorted({mark % len(data) for mark in at} - {0})
    for start, end in zip([0, *marks], [*marks, len(data)], strict=True):
        yield data[start:end]


BODIES = st.lists(st.binary(min_size=1, max_size=20).map(lambda b: b.hex().encode()), min_size=1)
CUTS = st.lists(st.integers(0, 1000), max_size=8)
#: For each worker, how many messages it receives, and how many of them it commits.
LIVES = st.lists(st.tuples(st.integers(1, 4), st.integers(0, 4)), max_size=6)


class Story:
    """A connection whose workers die, as the keeper sees it."""

    def __init__(self, kind: str, parts: list[bytes], cuts: list[int]) -> None:
        self.kept, self.peer = KINDS[kind]()
        self._parts = parts
        self._sent = b""
        self._pieces = cut(b"".join(parts), cuts)

    def more(self) -> float:
        """Send the next piece; return how long to wait for a message thereafter."""
        piece = next(self._pieces, None)
        if piece is None:
            return 5.0
        self.peer.sendall(piece)
        self._sent += piece
        return 0.0

    def is_at(self, done: int) -> None:
        """Look, after a death, whether the kernel has all that came behind `done` messages."""
        rest = self._sent[len(b"".join(self._parts[:done])) :]
        until(lambda: in_kernel(self.kept) == rest)

    def close(self) -> None:
        self.kept.close()
        self.peer.close()


@pytest.mark.parametrize("kind", ["tcp", "unix"])
@pytest.mark.parametrize("verb", SYNC_VERBS)
@settings(max_examples=30)
@given(bodies=BODIES, cuts=CUTS, lives=LIVES)
def test_each_worker_goes_on_from_the_last_commit(
    kind: str, verb: str, bodies: list[bytes], cuts: list[int], lives: list[tuple[int, int]]
) -> None:
    encode, expected, receive = SYNC_VERBS[verb]
    story = Story(kind, [encode(body) for body in bodies], cuts)
    done = 0
    try:
        for receives, commits in (*lives, (len(bodies), len(bodies))):
            conn = Connection(story.kept.dup(), **redelivering())
            first, timeout = done, 0.0
            for got in range(first, min(first + receives, len(bodies))):
                while True:
                    try:
                        message = receive(conn, timeout)
                        break
                    except WouldBlock:
                        timeout = story.more()
                assert message == expected(bodies[got])
                if got - first < commits:
                    conn.commit()
                    done = got + 1
            conn.core.sock.close()  # a death: nothing is put in order
            story.is_at(done)
    finally:
        story.close()


@pytest.mark.parametrize("kind", ["tcp", "unix"])
@pytest.mark.parametrize("verb", VERBS)
@settings(max_examples=30)
@given(bodies=BODIES, cuts=CUTS, lives=LIVES)
def test_each_worker_goes_on_from_the_last_commit_async(
    kind: str, verb: str, bodies: list[bytes], cuts: list[int], lives: list[tuple[int, int]]
) -> None:
    encode, expected, receive = VERBS[verb]

    async def scenario() -> None:
        story = Story(kind, [encode(body) for body in bodies], cuts)
        done = 0
        try:
            for receives, commits in (*lives, (len(bodies), len(bodies))):
                conn = AsyncConnection(story.kept.dup(), **redelivering())
                first, timeout = done, 0.0
                for got in range(first, min(first + receives, len(bodies))):
                    while True:
                        try:
                            message = await receive(conn, timeout)
                            break
                        except WouldBlock:
                            timeout = story.more()
                    assert message == expected(bodies[got])
                    if got - first < commits:
                        conn.commit()
                        done = got + 1
                conn._unwatch()
                conn.core.sock.close()
                story.is_at(done)
        finally:
            story.close()

    asyncio.run(scenario())


PARTS = [netstring(body) for body in (b"one", b"", b"three", b"the last of them")]


def receive_and_commit(conn: Connection, got: list[bytes]) -> None:
    while True:
        got.append(conn.recv_netstring(timeout=0))
        if len(got) != 2:  # the second goes with the third
            conn.commit()


async def receive_and_commit_async(conn: AsyncConnection, got: list[bytes]) -> None:
    while True:
        got.append(await conn.recv_netstring(timeout=0))
        conn.commit()


@pytest.mark.parametrize("kind", ["tcp", "unix"])
@pytest.mark.parametrize("at", range(len(b"".join(PARTS)) + 1))
def test_a_death_at_every_point_of_the_input(kind: str, at: int) -> None:
    """The first worker has had all before that point, also the part of a message; it dies of it."""
    wire = b"".join(PARTS)
    ours, peer = KINDS[kind]()
    with ours, peer:
        peer.sendall(wire[:at])
        got: list[bytes] = []
        first = Connection(ours.dup(), **redelivering())
        with pytest.raises(WouldBlock):
            receive_and_commit(first, got)
        first.core.sock.close()
        if len(got) == 2:
            del got[1]
        peer.sendall(wire[at:])
        second = Connection(ours, **redelivering(redelivered=True))
        while len(got) < len(PARTS):
            got.append(second.recv_netstring(timeout=5))
        second.commit()
        assert list(map(netstring, got)) == PARTS
        assert in_kernel(ours) == b""


@pytest.mark.parametrize("at", range(len(b"".join(PARTS)) + 1))
def test_a_death_at_every_point_of_the_input_async(at: int) -> None:
    async def scenario() -> None:
        wire = b"".join(PARTS)
        ours, peer = tcp_pair()
        with ours, peer:
            peer.sendall(wire[:at])
            got: list[bytes] = []
            first = AsyncConnection(ours.dup(), **redelivering())
            with pytest.raises(WouldBlock):
                await receive_and_commit_async(first, got)
            first._unwatch()
            first.core.sock.close()
            peer.sendall(wire[at:])
            second = AsyncConnection(ours, **redelivering(redelivered=True))
            while len(got) < len(PARTS):
                got.append(await second.recv_netstring(timeout=5))
            second.commit()
            assert list(map(netstring, got)) == PARTS
            assert in_kernel(ours) == b""
            await second.abort()

    asyncio.run(scenario())


# One connection: what is where, and when.


@pytest.fixture(params=["tcp", "unix"])
def ends(request: pytest.FixtureRequest) -> Iterator[Pair]:
    ours, peer = KINDS[request.param]()
    peer.settimeout(5)
    with ours, peer:
        yield ours, peer


def test_the_commit_takes_what_was_given_and_leaves_the_read_ahead(ends: Pair) -> None:
    lease = redelivering()
    conn = Connection(ends[0], **lease)
    row = row_of(lease)
    ends[1].sendall(b"one\ntwo\nthr")
    lines = conn.lines()
    assert next(lines) == b"one"
    assert (in_kernel(ends[0]), row.status) == (b"one\ntwo\nthr", "read")
    conn.commit()
    assert (in_kernel(ends[0]), conn.unread) == (b"two\nthr", b"two\nthr")
    with be_handler_of(conn):
        assert next(lines) == b"two"
        conn.send(b"2")
        assert row.status == "sent"
        conn.commit()
    assert in_kernel(ends[0]) == b"thr"
    ends[1].sendall(b"ee\n")
    assert next(lines) == b"three"
    conn.commit()
    assert (in_kernel(ends[0]), row.status) == (b"", "clean")


def test_iterators_that_commit(ends: Pair) -> None:
    conn = Connection(ends[0], **redelivering())
    ends[1].sendall(b"a\nb\n")
    lines = conn.lines(commit=True)
    assert next(lines) == b"a"
    assert in_kernel(ends[0]) == b"a\nb\n"
    assert next(lines) == b"b"
    assert in_kernel(ends[0]) == b"b\n"
    ends[1].close()
    assert list(lines) == []
    assert in_kernel(ends[0]) == b""


def feed_slowly(peer: socket.socket, data: bytes, pause: float = 0.02) -> threading.Thread:
    def feed() -> None:
        for at in range(len(data)):
            select.select([], [], [], pause)
            peer.sendall(data[at : at + 1])

    thread = threading.Thread(target=feed)
    thread.start()
    return thread


def test_waiting_in_the_middle_of_a_message_costs_no_time(ends: Pair) -> None:
    conn = Connection(ends[0], **redelivering())
    feeder = feed_slowly(ends[1], b"0123456789")
    began = time.thread_time()
    assert conn.recv_exactly(10) == b"0123456789"
    assert time.thread_time() - began < 0.1, "it spins"
    feeder.join(5)


def test_waiting_in_the_middle_of_a_message_costs_a_loop_no_time(ends: Pair, run: Run) -> None:
    async def scenario() -> None:
        conn = AsyncConnection(ends[0], **redelivering())
        feeder = feed_slowly(ends[1], b"0123456789")
        began = time.thread_time()
        assert await conn.recv_exactly(10) == b"0123456789"
        assert time.thread_time() - began < 0.1, "it spins"
        feeder.join(5)
        conn.commit()
        await conn.abort()

    run(scenario)


class _Sips(_peek.Peeked):
    """Receives seven bytes at most at a time."""

    def recv(self, _size: int, /) -> bytes:
        return super().recv(7)


def test_more_than_one_helping_is_there(ends: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    """An edge tells once of what takes several looks."""
    monkeypatch.setattr(_peek, "Peeked", _Sips)
    conn = Connection(ends[0], **redelivering())
    ends[1].sendall(bytes(range(100)))
    seen = b""
    while len(seen) < 100:
        seen += conn.recv(timeout=5)
    assert seen == bytes(range(100))
    conn.commit()
    ends[1].sendall(b"next")
    assert conn.recv(timeout=5) == b"next"


@pytest.mark.parametrize("later", [False, True])
def test_the_peers_end_behind_uncommitted_bytes(ends: Pair, later: bool) -> None:
    conn = Connection(ends[0], **redelivering())
    ends[1].sendall(b"half")
    assert conn.recv() == b"half"
    if later:
        threading.Timer(0.05, ends[1].shutdown, [socket.SHUT_WR]).start()
    else:
        ends[1].shutdown(socket.SHUT_WR)
    with pytest.raises(PeerClosed):
        conn.recv_exactly(1, timeout=5)
    assert conn.recv() == b""
    assert in_kernel(ends[0]) == b"half"
    conn.commit()
    assert conn.recv() == b""


@pytest.mark.parametrize("commit", [False, True])
def test_the_peers_end_that_came_along_with_the_last_bytes(ends: Pair, commit: bool) -> None:
    """One edge tells of both."""
    ends[1].sendall(b"last")
    ends[1].shutdown(socket.SHUT_WR)
    conn = Connection(ends[0], **redelivering())
    assert conn.recv(timeout=5) == b"last"
    if commit:
        conn.commit()
    assert conn.recv(timeout=5) == b""


@pytest.mark.parametrize("commit", [False, True])
def test_the_peers_end_that_came_along_with_the_last_bytes_async(
    ends: Pair, run: Run, commit: bool
) -> None:
    async def scenario() -> None:
        conn = AsyncConnection(ends[0], **redelivering())
        receiving = asyncio.ensure_future(conn.recv(timeout=5))
        await asyncio.sleep(0)
        ends[1].sendall(b"last")
        ends[1].shutdown(socket.SHUT_WR)
        assert await receiving == b"last"
        if commit:
            conn.commit()
        assert await conn.recv(timeout=5) == b""
        await conn.abort()

    run(scenario)


def test_the_peers_end_behind_uncommitted_bytes_async(ends: Pair, run: Run) -> None:
    async def scenario() -> None:
        conn = AsyncConnection(ends[0], **redelivering())
        ends[1].sendall(b"half")
        assert await conn.recv() == b"half"
        asyncio.get_running_loop().call_later(0.05, ends[1].shutdown, socket.SHUT_WR)
        assert await conn.recv(timeout=5) == b""
        assert in_kernel(ends[0]) == b"half"
        await conn.abort()

    run(scenario)


@pytest.mark.parametrize("later", [False, True])
def test_a_reset_behind_uncommitted_bytes(later: bool) -> None:
    ours, peer = tcp_pair()
    with ours, peer:
        conn = Connection(ours, **redelivering())
        peer.sendall(b"half")
        assert conn.recv() == b"half"
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        threading.Timer(0.05 if later else 0.0, peer.close).start()
        with pytest.raises(PeerReset):
            conn.recv(timeout=5)


def test_a_reset_behind_uncommitted_bytes_async(run: Run) -> None:
    async def scenario() -> None:
        ours, peer = tcp_pair()
        with ours, peer:
            conn = AsyncConnection(ours, **redelivering())
            peer.sendall(b"half")
            assert await conn.recv() == b"half"
            peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            asyncio.get_running_loop().call_later(0.05, peer.close)
            with pytest.raises(PeerReset):
                await conn.recv(timeout=5)
            await conn.abort()

    run(scenario)


def test_a_wait_that_ends_by_its_limit_loses_nothing(ends: Pair) -> None:
    conn = Connection(ends[0], **redelivering())
    ends[1].sendall(b"he")
    with pytest.raises(TimedOut) as timed_out:
        conn.recv_exactly(4, timeout=0.05)
    assert timed_out.value.bytes_done == 2
    with pytest.raises(WouldBlock):
        conn.recv_exactly(4, timeout=0)
    ends[1].sendall(b"ad")
    assert conn.recv_exactly(4) == b"head"


# What leaves with it.


@pytest.mark.parametrize("park", [False, True])
def test_what_is_detached_has_all_in_the_kernel(
    ends: Pair, drain_signal: FakeDrainSignal, park: bool
) -> None:
    park_after = 0.05 if park else None
    lease = redelivering(drain_signal=drain_signal, park_after=park_after, replay_limit=2)
    conn = Connection(ends[0], **lease)
    ends[1].sendall(b"done\nheader\nbo")
    lines = conn.lines()
    assert next(lines) == b"done"
    conn.commit()
    assert next(lines) == b"header"
    if not park:
        drain_signal.give(order_to("move"))
    with pytest.raises(Detached):
        conn.recv_exactly(4)
    left = conn.hand_over()
    assert (left.unread, in_kernel(left.sock), left.parked) == (b"", b"header\nbo", park)
    assert left.sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT) == 1
    heir = Connection(left.sock)
    assert heir.recv() == b"header\nbo"


def test_a_task_that_is_detached_has_all_in_the_kernel(ends: Pair, run: Run) -> None:
    async def scenario() -> None:
        conn = AsyncConnection(ends[0], **redelivering(park_after=0.05))
        ends[1].sendall(b"header\nbo")
        assert await anext(conn.lines()) == b"header"
        with pytest.raises(Detached):
            await conn.recv_exactly(4)
        left = conn.hand_over()
        assert (left.unread, left.parked) == (b"", True)
        heir = AsyncConnection(left.sock)
        assert await heir.recv() == b"header\nbo"
        await heir.abort()

    run(scenario)


def test_bytes_that_came_with_it_are_retained_until_the_commit(
    ends: Pair, drain_signal: FakeDrainSignal
) -> None:
    """From a worker of code that did not redeliver: they are in no kernel any more."""
    lease = redelivering(unread=b"a\nb\nc", drain_signal=drain_signal)
    conn = Connection(ends[0], **lease)
    assert row_of(lease).status == "bound", "no other could go on"
    lines = conn.lines()
    assert next(lines) == b"a"
    conn.commit()
    assert next(lines) == b"b"
    ends[1].sendall(b"c\nd")
    assert next(lines) == b"cc"
    assert next_kernel_is(ends[0], b"c\nd")
    drain_signal.give(order_to("move"))
    with pytest.raises(Detached):
        next(lines)
    assert (conn.hand_over().unread, in_kernel(ends[0])) == (b"b\nc", b"c\nd")


def test_bytes_that_came_with_it_are_committed_first(ends: Pair) -> None:
    lease = redelivering(unread=b"a\nb")
    conn = Connection(ends[0], **lease)
    ends[1].sendall(b"b\nc\n")
    lines = conn.lines()
    assert next(lines) == b"a"
    conn.commit()
    assert row_of(lease).status == "bound"
    assert next(lines) == b"bb"
    conn.commit()
    assert row_of(lease).status == "read"
    assert next_kernel_is(ends[0], b"c\n")
    assert next(lines) == b"c"


def next_kernel_is(sock: socket.socket, data: bytes) -> bool:
    return in_kernel(sock) == data


@pytest.mark.parametrize("verb", ["close", "abort", "release"])
def test_its_ends_leave_the_socket_as_it_was(ends: Pair, verb: str) -> None:
    conn = Connection(ends[0], **redelivering())
    with ends[0].dup() as other:
        ends[1].sendall(b"uncommitted")
        assert conn.recv_exactly(11) == b"uncommitted"
        with pytest.raises(TimedOut):
            conn.recv(timeout=0.01)
        ends[1].shutdown(socket.SHUT_WR)
        getattr(conn, verb)()
        assert other.getsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT) == 1
        if verb == "release":
            assert in_kernel(other) == b"uncommitted"


def test_given_away_it_is_a_connection_as_any(ends: Pair) -> None:
    conn = Connection(ends[0], **redelivering())
    ends[1].sendall(b"taken\nunread")
    assert conn.recv_until(b"\n") == b"taken"
    here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with here, there:
        giver = threading.Thread(target=conn.give, args=[here], kwargs={"timeout": 5})
        giver.start()
        with Connection.take(there, timeout=5) as taken:
            assert taken.unread == b"unread"
            ends[1].sendall(b"!")
            assert taken.recv_exactly(7) == b"unread!"
            ends[1].close()
        giver.join(5)


@pytest.mark.process
def test_a_child_that_keeps_it_waits_for_itself(ends: Pair) -> None:
    conn = Connection(ends[0], inherit=True, **redelivering())
    ends[1].sendall(b"ha")
    assert conn.recv() == b"ha"
    child = os.fork()
    if child == 0:
        try:
            os._exit(0 if conn.recv_exactly(2, timeout=5) == b"lf" else 1)
        finally:
            os._exit(2)
    ends[1].sendall(b"lf")
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert conn.recv_exactly(2, timeout=5) == b"lf", "to have looked takes nothing from others"


def test_tls_is_refused(ends: Pair) -> None:
    import ssl

    conn = Connection(ends[0], **redelivering())
    with pytest.raises(HandlerError, match="redeliver"):
        conn.start_tls(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), server_side=True)
    ends[1].sendall(b"plain")
    assert conn.recv() == b"plain"


# How much may be uncommitted.


def pour(peer: socket.socket, size: int) -> threading.Thread:
    peer.settimeout(30)
    thread = threading.Thread(target=peer.sendall, args=[bytes(size)])
    thread.start()
    return thread


@pytest.mark.parametrize("by_hand", [False, True])
def test_the_receive_buffer_grows_with_the_message(
    by_hand: bool, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", logger="socketkeep")
    with socket.create_server(("127.0.0.1", 0)) as server:
        peer = socket.create_connection(server.getsockname())
        ours, _ = server.accept()
    if by_hand:
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 32768)
    with ours, peer:
        size = 150_000 if by_hand else 1_000_000
        conn = Connection(ours, **redelivering())
        pouring = pour(peer, size)
        assert conn.recv_exactly(size, timeout=20) == bytes(size)
        pouring.join(5)
        assert isinstance(conn.core.transport, _peek.Peeked)
        assert conn.core.transport.kernel == size
        conn.commit()
        assert in_kernel(ours) == b""
    assert sum("raised" in message for message in caplog.messages) == 1  # not at each doubling


def test_past_what_the_kernel_holds_the_error_says_what_to_do(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(_peek, "most_room", lambda: 0)
    ours, peer = tcp_pair()  # with a buffer set by hand, which then cannot grow
    with ours, peer:
        conn = Connection(ours, **redelivering())
        pouring = pour(peer, 1_000_000)
        with pytest.raises(LimitExceeded, match="commit more often, or raise net"):
            conn.recv_exactly(1_000_000, timeout=20)
        seen = conn.recv(1_000_000)
        assert len(seen) > 32768
        conn.commit()
        rest = 1_000_000 - len(seen)
        while rest:
            rest -= len(conn.recv(timeout=5))
            conn.commit()
        pouring.join(5)


def test_past_what_the_kernel_holds_async(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_peek, "most_room", lambda: 0)

    async def scenario() -> None:
        ours, peer = tcp_pair()
        with ours, peer:
            conn = AsyncConnection(ours, **redelivering())
            pouring = pour(peer, 1_000_000)
            with pytest.raises(LimitExceeded, match="commit more often, or raise net"):
                await conn.recv_exactly(1_000_000, timeout=20)
            rest = 1_000_000
            while rest:
                rest -= len(await conn.recv(timeout=5))
                conn.commit()
            await asyncio.to_thread(pouring.join, 5)
            await conn.abort()

    run(scenario)


@pytest.mark.parametrize("piece", [10, 100_000])
def test_a_unix_peer_that_cannot_send_on_is_noticed(piece: int) -> None:
    ours, peer = unix_pair()
    with ours, peer:
        peer.setblocking(False)
        conn = Connection(ours, **redelivering())
        assert fill(peer, piece) < 1_000_000
        with pytest.raises(LimitExceeded, match=r"commit more often, or raise the sender's"):
            conn.recv_exactly(1_000_000, timeout=5)
        conn.recv(1_000_000)
        conn.commit()
        assert fill(peer, piece)


def test_a_unix_peer_that_cannot_send_on_is_noticed_async(run: Run) -> None:
    async def scenario() -> None:
        ours, peer = unix_pair()
        with ours, peer:
            peer.setblocking(False)
            conn = AsyncConnection(ours, **redelivering())
            receiving = asyncio.ensure_future(conn.recv_exactly(1_000_000, timeout=5))
            await asyncio.sleep(0)
            assert fill(peer, 100)
            with pytest.raises(LimitExceeded, match=r"commit more often"):
                await receiving
            await conn.abort()

    run(scenario)


def test_a_unix_peer_in_a_sandbox_has_a_fixed_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_peek, "peer_is_full", lambda sock: None)
    ours, peer = socket.socketpair()
    with ours, peer:
        conn = Connection(ours, **redelivering())
        peer.sendall(bytes(65535))
        with pytest.raises(TimedOut):
            conn.recv_exactly(1_000_000, timeout=0.05)
        peer.sendall(b"x")
        with pytest.raises(LimitExceeded):
            conn.recv_exactly(1_000_000, timeout=5)


def fill(peer: socket.socket, piece: int) -> int:
    """Send until the kernel takes no more; return how much it took."""
    sent = 0
    while True:
        try:
            sent += peer.send(bytes(piece))
        except BlockingIOError:
            return sent


def test_without_a_descriptor_for_it_the_receive_says_so(
    monkeypatch: pytest.MonkeyPatch, run: Run
) -> None:
    def refuse() -> None:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr(_peek, "select", SimpleNamespace(**vars(select) | {"epoll": refuse}))

    async def scenario() -> None:
        ours, peer = unix_pair()
        with ours, peer:
            conn = Connection(ours.dup(), **redelivering())
            aconn = AsyncConnection(ours, **redelivering())
            peer.sendall(b"x")
            with pytest.raises(OutOfResources):
                conn.recv(timeout=5)
            with pytest.raises(OutOfResources):
                await aconn.recv(timeout=5)
            conn.commit()
            assert in_kernel(ours) == b"x"
            conn.abort()
            await aconn.abort()

    run(scenario)


# What the next worker is told.


def test_redelivered_is_as_the_server_says(ends: Pair) -> None:
    assert not Connection(ends[0], **redelivering()).redelivered
    conn = Connection(ends[0], **redelivering(redelivered=True))
    assert conn.redelivered
    conn.commit()
    assert not conn.redelivered


@pytest.mark.parametrize("pipelined", [False, True])
def test_what_a_dead_worker_may_have_seen_is_disputed_until_it_is_committed(
    ends: Pair, drain_signal: FakeDrainSignal, pipelined: bool
) -> None:
    ends[1].sendall(b"one\ntwo\n" if pipelined else b"one\n")
    lease = redelivering(redelivered=True, drain_signal=drain_signal)
    row = row_of(lease)
    conn = Connection(ends[0], **lease)
    conn.commit()
    assert conn.redelivered, "nothing of it was dealt with"
    conn = Connection(ends[0], **lease)
    assert row.status == "again", "a death before the first receive changes nothing"
    with pytest.raises(WouldBlock):
        conn.recv_exactly(100, timeout=0)
    assert row.status == "read again"
    assert conn.recv_exactly(4) == b"one\n"
    conn.commit()
    assert row.status == ("read" if pipelined else "clean")
    assert conn.redelivered == pipelined
    drain_signal.give(order_to("move"))
    with pytest.raises(Detached):
        conn.recv_exactly(100)
    assert conn.hand_over().redelivered == pipelined


def test_a_reply_of_a_dead_worker_is_disputed_though_nothing_came(
    ends: Pair, drain_signal: FakeDrainSignal
) -> None:
    lease = redelivering(redelivered=True, drain_signal=drain_signal)
    conn = Connection(ends[0], **lease)
    with pytest.raises(WouldBlock):
        conn.recv(timeout=0)
    assert row_of(lease).status == "read again"
    conn.commit()
    assert row_of(lease).status == "clean"
    drain_signal.order = order_to("close")
    with pytest.raises(Closed, match="stopping"):
        conn.recv()


def test_a_stop_does_not_wait_for_what_is_disputed(
    ends: Pair, drain_signal: FakeDrainSignal
) -> None:
    drain_signal.order = order_to("close")
    lease = redelivering(redelivered=True, drain_signal=drain_signal)
    with pytest.raises(Closed, match="stopping"):
        Connection(ends[0], **lease).recv()


def test_unacknowledged(ends: Pair) -> None:
    conn = Connection(ends[0])
    assert conn.unacknowledged == 0
    with pytest.raises(TimedOut):
        conn.send(bytes(5_000_000), timeout=0.1)
    stuck = conn.unacknowledged
    assert stuck > 10_000
    heir = Connection(ends[0].dup())
    assert heir.unacknowledged == stuck, "it is the kernel's count, not the process's"
    got = 0
    while heir.unacknowledged:
        got += len(ends[1].recv(1 << 20))
    assert got
    for each in (conn, heir):
        each.abort()
        assert each.unacknowledged == 0


# A death.


@contextmanager
def killed_in_the_middle(
    sock: socket.socket, part: Callable[[socket.socket], None]
) -> Iterator[None]:
    """Have a child process do `part` with the connection, and kill it."""
    ready, say = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            part(sock)
            os.write(say, b"x")
            signal.pause()
        finally:
            os._exit(1)
    os.close(say)
    with open(ready, "rb") as told:
        assert told.read(1) == b"x", "it failed before it was killed"
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    yield


def two_and_a_half(sock: socket.socket) -> None:
    """Be a handler: two messages committed, a third answered and not, a fourth begun."""
    conn = Connection(sock, **redelivering())
    be_handler_of(conn)
    lines = conn.lines(timeout=5)
    for number in (1, 2):
        assert next(lines)
        conn.send(b"%d" % number)
        conn.commit(number)
    assert next(lines)
    conn.send(b"3")
    with pytest.raises(TimedOut):
        conn.recv_exactly(100, timeout=0.1)


def two_and_a_half_async(sock: socket.socket) -> None:
    async def handler() -> None:
        conn = AsyncConnection(sock, **redelivering())
        be_handler_of(conn)
        lines = conn.lines(timeout=5)
        for number in (1, 2):
            assert await anext(lines)
            await conn.send(b"%d" % number)
            conn.commit(number)
        assert await anext(lines)
        await conn.send(b"3")
        with pytest.raises(TimedOut):
            await conn.recv_exactly(100, timeout=0.1)

    asyncio.run(handler())


def test_code_that_does_not_redeliver_goes_on_as_well(ends: Pair) -> None:
    """What the dead worker had set on the socket, the new one has not."""
    conn = Connection(ends[0].dup(), **redelivering())
    ends[1].sendall(b"half")
    with pytest.raises(TimedOut):
        conn.recv_exactly(100, timeout=0.01)
    conn.core.sock.close()
    heir = Connection(ends[0], **leased(resumable=True, attached="crash"))
    assert heir.recv() == b"half"
    ends[1].sendall(b"!")
    assert heir.recv(timeout=5) == b"!"


def test_another_holder_that_lets_go_does_not_make_it_spin(ends: Pair) -> None:
    conn = Connection(ends[0], **redelivering())
    other = Connection(ends[0].dup(), **redelivering())
    ends[1].sendall(b"half")
    for each in (conn, other):
        with pytest.raises(TimedOut):
            each.recv_exactly(5, timeout=0.01)
    other.release()
    room = ends[0].getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF)
    began = time.thread_time()
    with pytest.raises(TimedOut):
        conn.recv_exactly(5, timeout=0.2)
    assert time.thread_time() - began < 0.1
    assert ends[0].getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) == room


HANDLERS = {"sync": two_and_a_half, "async": two_and_a_half_async}


@pytest.mark.process
@pytest.mark.parametrize("before", HANDLERS)
def test_after_a_kill_the_uncommitted_bytes_come_again(ends: Pair, before: str) -> None:
    ends[1].sendall(b"one\ntwo\nthree\nfour")
    with killed_in_the_middle(ends[0], HANDLERS[before]):
        conn = Connection(ends[0], **redelivering(redelivered=True))
        ends[1].sendall(b"!\nfive\n")
        lines = conn.lines(timeout=5)
        assert [next(lines), next(lines), next(lines)] == [b"three", b"four!", b"five"]
        conn.commit()
        assert in_kernel(ends[0]) == b""
        assert ends[1].recv(100) == b"123"


@pytest.mark.process
@pytest.mark.parametrize("before", HANDLERS)
@pytest.mark.parametrize("loop", LOOPS)
def test_after_a_kill_the_uncommitted_bytes_come_again_async(
    ends: Pair, before: str, loop: str
) -> None:
    ends[1].sendall(b"one\ntwo\nthree\nfour")
    with killed_in_the_middle(ends[0], HANDLERS[before]):

        async def scenario() -> None:
            conn = AsyncConnection(ends[0], **redelivering(redelivered=True))
            ends[1].sendall(b"!\nfive\n")
            lines = conn.lines(timeout=5)
            got = [await anext(lines) for _ in range(3)]
            assert got == [b"three", b"four!", b"five"]
            conn.commit()
            assert in_kernel(ends[0]) == b""
            await conn.abort()

        with asyncio.Runner(loop_factory=LOOPS[loop]) as runner:
            runner.run(scenario())


def test_a_commit_of_nothing_proves_nothing(ends: Pair) -> None:
    """A handler that commits when it is called may be killed by the same message all the same."""
    ends[1].sendall(b"one\n")
    lease = redelivering(redelivered=True)
    conn = Connection(ends[0], **lease)
    conn.commit("called")
    assert conn.recv_exactly(4) == b"one\n"
    assert row_of(lease).status == "read again"
    conn.commit("answered")
    assert row_of(lease).status == "clean"
