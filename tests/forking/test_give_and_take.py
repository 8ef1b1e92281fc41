"""`give` and `take`: a connection that goes to another process, and stays whole on the way."""

from __future__ import annotations

import asyncio
import os
import resource
import socket
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from functools import partial
from typing import Any

import pytest

from socketkeep import (
    AsyncConnection,
    Blocking,
    Busy,
    Closed,
    Connection,
    Deadline,
    Mode,
    NonBlocking,
    OutOfResources,
    PeerClosed,
    Released,
    SystemFailure,
    TimedOut,
    Timeout,
    WouldBlock,
    fork,
)
from socketkeep.proxy import InetAddress, ProxyHeader
from tests.forking.conftest import Pair
from tests.forking.support import Gate, child, tcp_pair
from tests.harness.seam import leased, row_of


@pytest.fixture(params=["SOCK_SEQPACKET", "SOCK_STREAM"])
def channel(request: pytest.FixtureRequest) -> Iterator[Pair]:
    """The giver's and the taker's end."""
    ends = socket.socketpair(socket.AF_UNIX, getattr(socket, request.param))
    with ends[0], ends[1]:
        yield ends


@pytest.mark.parametrize(
    "mode", [Blocking(), NonBlocking(), Timeout(2.5), Deadline(time.monotonic() + 1000)]
)
def test_it_goes_on_where_it_was(pair: Pair, channel: Pair, mode: Mode) -> None:
    """Unread bytes, state and mode go along; the peer sees one stream, and EOF at its end."""
    ours, peer = pair
    giver, taker = channel
    conn = Connection(ours, mode=mode)
    conn.deadline = ends = Deadline.after(60)
    peer.sendall(b"first\nsecond\n")
    assert conn.recv_until(b"\n", timeout=5) == b"first"
    conn.commit({"lines": 1})
    conn.send(b"one ")

    def serve() -> None:
        taken = Connection.take(taker, timeout=5)
        assert taken.mode == mode
        assert taken.deadline == ends
        assert taken.state == {"lines": 1}
        assert taken.recv_until(b"\n") == b"second"
        assert taken.recv_until(b"\n", timeout=5) == b"third"
        taken.send(b"two")
        taken.release()

    with child(serve) as forked:
        conn.give(giver, timeout=5)
        with pytest.raises(Released, match="given to another process"):
            conn.recv()
        peer.sendall(b"third\n")
        forked.wait()
        assert peer.recv(100) == b"one two"
        assert peer.recv(1) == b""


def test_the_client_behind_a_proxy_goes_along(pair: Pair, channel: Pair) -> None:
    """The taker knows what the PROXY header said, and the rate that the server has set."""
    ours, peer = pair
    client = InetAddress("192.0.2.7", 40000)
    header = ProxyHeader(source=client, destination=InetAddress("192.0.2.1", 443), authority="x")
    given = leased(peer=str(client), proxy=header.encode(), receive_rate=1000)
    conn = Connection(ours, **given)
    began = time.monotonic()
    peer.sendall(bytes(1000))
    assert len(conn.recv(timeout=5)) == 1000

    def serve() -> None:
        taken = Connection.take(channel[1], timeout=5)
        assert (taken.peer, taken.local) == ("192.0.2.7:40000", "192.0.2.1:443")
        assert taken.proxy == header
        assert taken._inflow is not None
        assert taken._inflow.full_at > began + 1
        taken.release()

    with child(serve) as forked:
        conn.give(channel[0], timeout=5)
        forked.wait()


def test_many_unread_bytes(channel: Pair) -> None:
    """More than a packet holds goes in a memfd, which is closed again."""
    ours, peer = tcp_pair()
    giver, taker = channel
    conn = Connection(ours)
    sent = os.urandom(300_000)
    writer = threading.Thread(target=peer.sendall, args=(sent,))
    writer.start()
    with peer, pytest.raises(TimedOut):
        conn.recv_exactly(len(sent) + 1, timeout=0.5)
    writer.join(5)
    assert len(conn.unread) == len(sent)
    before = set(os.listdir("/proc/self/fd"))
    taken: list[Connection] = []
    taking = threading.Thread(target=lambda: taken.append(Connection.take(taker, timeout=5)))
    taking.start()
    conn.give(giver, timeout=5)
    taking.join(5)
    assert taken[0].unread == sent
    assert len(os.listdir("/proc/self/fd")) == len(before)  # one connection, as before
    taken[0].release()


def test_an_unfinished_send_goes_on_there(channel: Pair) -> None:
    """Half a message is out; the same send by the taker continues it."""
    ours, peer = tcp_pair()
    giver, taker = channel
    conn = Connection(ours, mode=NonBlocking())
    data = os.urandom(8_000_000)
    with pytest.raises(WouldBlock):
        conn.send(data)

    def serve() -> None:
        taken = Connection.take(taker, timeout=5)
        taken.send(data, timeout=10)
        taken.release()

    with peer, child(serve):
        conn.give(giver, timeout=5)
        received = bytearray()
        while part := peer.recv(1 << 20):
            received += part
    assert received == data


def test_the_end_of_writing_goes_along(pair: Pair, channel: Pair) -> None:
    ours, peer = pair
    giver, taker = channel
    conn = Connection(ours)
    conn.send_eof()

    def serve() -> None:
        taken = Connection.take(taker, timeout=5)
        with pytest.raises(Closed, match="has ended its sending"):
            taken.send(b"x")
        assert taken.recv() == b"still heard"
        taken.release()

    with child(serve):
        conn.give(giver, timeout=5)
        assert peer.recv(1) == b""
        peer.sendall(b"still heard")


def test_not_taken_in_time(pair: Pair, channel: Pair) -> None:
    """The giver has it still, and a taker that comes later does not get it."""
    ours, peer = pair
    giver, taker = channel
    conn = Connection(ours)
    with pytest.raises(TimedOut, match=r"^give on .* \(limit 0\.05 s\)"):
        conn.give(giver, timeout=0.05)
    with pytest.raises(TimedOut, match=r"^take timed out"):
        Connection.take(taker, timeout=0.05)
    conn.send(b"still here")
    assert peer.recv(100) == b"still here"
    assert conn.handles == 1
    with child(lambda: Connection.take(taker, timeout=5).send(b"taken")):
        conn.give(giver, timeout=5)  # the channel is as good as before
        assert peer.recv(100) == b"taken"


@pytest.mark.parametrize("read_first", [True, False])
def test_the_taker_dies(pair: Pair, channel: Pair, read_first: bool) -> None:
    """Without an answer the giver keeps it: the peer notices nothing."""
    ours, peer = pair
    giver, taker = channel
    conn = Connection(ours)

    def die() -> None:
        if read_first:
            taker.recvmsg(10, 1000)

    with child(die):
        taker.close()
        with pytest.raises((PeerClosed, OutOfResources), match="still open here"):
            conn.give(giver, timeout=5)
    conn.send(b"open")
    assert peer.recv(100) == b"open"
    conn.abort()


@pytest.mark.parametrize("room", [0, 1])
def test_the_taker_is_out_of_descriptors(pair: Pair, channel: Pair, room: int) -> None:
    """MSG_CTRUNC: the message arrived and the descriptor did not."""
    ours, peer = pair
    giver, taker = channel
    conn = Connection(ours)

    def take() -> None:
        used = len(os.listdir("/proc/self/fd")) - 1
        filler = []
        highest = max(int(name) for name in os.listdir("/proc/self/fd"))
        resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 2, highest + 2))
        try:
            while True:
                filler.append(os.open("/dev/null", os.O_RDONLY))
        except OSError:
            assert used
        for fd in filler[:room]:
            os.close(fd)
        with pytest.raises(OutOfResources, match="stays with the process that gave it"):
            Connection.take(taker, timeout=5)
        for fd in filler[room:]:
            os.close(fd)
        Connection.take(taker, timeout=5).send(b"taken")

    with child(take):
        with pytest.raises(OutOfResources, match="still open here"):
            conn.give(giver, timeout=5)
        conn.send(b"open")
        assert peer.recv(100) == b"open"
        conn.give(giver, timeout=5)
        assert peer.recv(100) == b"taken"


def test_the_other_end_has_gone(pair: Pair, channel: Pair) -> None:
    giver, taker = channel
    conn = Connection(pair[0])
    taker.close()
    with pytest.raises(PeerClosed, match="closed the channel"):
        conn.give(giver, timeout=5)
    with pytest.raises(PeerClosed, match="closed the channel"):
        Connection.take(giver, timeout=5)
    conn.abort()


def test_what_is_no_connection_is_refused(channel: Pair) -> None:
    giver, taker = channel
    giver.send(b"\x00\x00\x00\x05hello")
    with pytest.raises(SystemFailure, match="not a connection that `give` sent"):
        Connection.take(taker, timeout=5)


def test_a_channel_is_a_unix_socket(pair: Pair) -> None:
    other, peer = tcp_pair()
    conn = Connection(pair[0])
    with other, peer:
        with pytest.raises(ValueError, match="SOCK_SEQPACKET or SOCK_STREAM"):
            conn.give(peer)
        with pytest.raises(ValueError, match="SOCK_SEQPACKET or SOCK_STREAM"):
            Connection.take(peer)
    conn.abort()


def test_what_another_thread_uses_is_busy(pair: Pair, channel: Pair) -> None:
    ours, peer = pair
    conn = Connection(ours)
    reader = threading.Thread(target=conn.recv)
    reader.start()
    while not row_of(conn).waiting:
        os.sched_yield()
    with pytest.raises(Busy):
        conn.give(channel[0], timeout=5)
    peer.sendall(b"x")
    reader.join(5)
    conn.abort()


def test_several_givers_and_takers_on_one_channel(gate: Gate) -> None:
    """Packets are whole: each connection goes to exactly one taker."""
    giver, taker = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    pairs = [tcp_pair() for _ in range(8)]

    def serve() -> None:
        for _ in range(4):
            conn = Connection.take(taker, timeout=5)
            conn.send(b"%d" % os.getpid())
            conn.release()

    with giver, taker, child(serve) as one, child(serve) as other:
        threads = [
            threading.Thread(target=Connection(ours).give, args=(giver,), kwargs={"timeout": 5})
            for ours, _ in pairs
        ]
        for thread in threads:
            thread.start()
        said = []
        for _, peer in pairs:
            with peer:
                said.append(int(peer.recv(100)))
                assert peer.recv(1) == b""
        for thread in threads:
            thread.join(5)
    assert sorted(said) == sorted([one.pid, other.pid] * 4)


# Async.

Scenario = Callable[[], Coroutine[Any, Any, None]]


@pytest.fixture(params=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Callable[[Scenario], None]:
    def on_loop(scenario: Scenario) -> None:
        import uvloop

        factory = uvloop.new_event_loop if request.param == "uvloop" else asyncio.new_event_loop
        with asyncio.Runner(loop_factory=factory) as runner:
            runner.run(scenario())

    return on_loop


def test_async_gives_and_sync_takes(
    pair: Pair, channel: Pair, run: Callable[[Scenario], None]
) -> None:
    ours, peer = pair
    giver, taker = channel

    def serve() -> None:
        taken = Connection.take(taker, timeout=5)
        assert taken.mode == Blocking()
        assert taken.recv_until(b"\n") == b"second"
        taken.send(b"taken")
        taken.release()

    async def scenario() -> None:
        conn = AsyncConnection(ours)
        peer.sendall(b"first\nsecond\n")
        assert await conn.recv_until(b"\n") == b"first"
        await conn.give(giver, timeout=5)
        with pytest.raises(Released, match="given to another process"):
            await conn.recv()

    with child(serve):
        run(scenario)
        assert peer.recv(100) == b"taken"
        assert peer.recv(1) == b""


def test_sync_gives_and_async_takes(
    pair: Pair, channel: Pair, run: Callable[[Scenario], None]
) -> None:
    ours, peer = pair
    giver, taker = channel
    conn = Connection(ours)
    peer.sendall(b"first\nsecond\n")
    assert conn.recv_until(b"\n") == b"first"

    async def scenario() -> None:
        taken = await AsyncConnection.take(taker, timeout=5)
        assert await taken.recv_until(b"\n") == b"second"
        await taken.send(b"taken")
        await taken.release()

    with child(lambda: conn.give(giver, timeout=5), partial(fork, [conn])):
        run(scenario)
        assert peer.recv(100) == b"taken"


def test_a_cancelled_give_is_not_taken_later(
    pair: Pair, channel: Pair, run: Callable[[Scenario], None]
) -> None:
    ours, peer = pair
    giver, taker = channel

    async def scenario() -> None:
        conn = AsyncConnection(ours)
        giving = asyncio.create_task(conn.give(giver))
        await asyncio.sleep(0)
        assert taker.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)  # it is on its way
        giving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await giving
        with pytest.raises(TimedOut):
            await AsyncConnection.take(taker, timeout=0.05)
        await conn.send(b"still here")
        assert peer.recv(100) == b"still here"
        with pytest.raises(TimedOut, match=r"limit 0\.05 s"):
            await conn.give(giver, timeout=0.05)
        await conn.abort()

    run(scenario)
