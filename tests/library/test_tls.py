"""TLS: every verb, in each mode, sync and async, over sockets and with standard peers."""

from __future__ import annotations

import asyncio
import errno
import os
import pickle
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import TypeVar

import pytest
import trustme

from socketkeep import (
    AsyncConnection,
    Blocking,
    Busy,
    CertificateRefused,
    Closed,
    Connecting,
    Connection,
    Listener,
    NonBlocking,
    PeerClosed,
    PeerReset,
    Released,
    SystemFailure,
    TimedOut,
    Timeout,
    TlsFailure,
    Truncated,
    WouldBlock,
    connect,
    fork,
    open_connection,
    serve,
)
from socketkeep._stream._tls import Engine
from tests.forking.support import child
from tests.harness.seam import leased, row_of
from tests.library.conftest import Pair, Run
from tests.library.test_connecting import poll_for

T = TypeVar("T")
HOST = "keeper.example"
BIG = bytes(range(256)) * 8192  # 2 MiB: more than all buffers between take

AUTHORITY = trustme.CA()


def server_context() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    AUTHORITY.issue_cert(HOST, "127.0.0.1", "localhost").configure_cert(context)
    return context


def client_context() -> ssl.SSLContext:
    context = ssl.create_default_context()
    AUTHORITY.configure_trust(context)
    return context


SERVER = server_context()
CLIENT = client_context()
OLD = client_context()
OLD.maximum_version = ssl.TLSVersion.TLSv1_2


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(2) as made:
        yield made


Ends = tuple[Connection, Connection]


@pytest.fixture(params=["TLSv1.3", "TLSv1.2"])
def ends(request: pytest.FixtureRequest, pair: Pair, pool: ThreadPoolExecutor) -> Iterator[Ends]:
    """Two connections that have TLS: the server's and the client's, which give up after 5 s."""
    ours, theirs = Connection(pair[0], mode=Timeout(5)), Connection(pair[1], mode=Timeout(5))
    secure(ours, theirs, pool, OLD if request.param == "TLSv1.2" else CLIENT)
    assert ours.tls is not None
    assert ours.tls.version() == request.param
    yield ours, theirs
    ours.abort()
    theirs.abort()


def secure(
    ours: Connection, theirs: Connection, pool: ThreadPoolExecutor, client: ssl.SSLContext = CLIENT
) -> None:
    done = pool.submit(ours.start_tls, SERVER, server_side=True)
    theirs.start_tls(client, server_hostname=HOST)
    done.result(5)


def standard(sock: socket.socket) -> ssl.SSLSocket:
    """The standard library's client on its end of a pair, in a thread's time."""
    return CLIENT.wrap_socket(sock, server_hostname=HOST, suppress_ragged_eofs=False)


def cut(conn: Connection | AsyncConnection) -> None:
    """End the stream under TLS, as one who is cut short does."""
    with socket.socket(fileno=os.dup(conn.fileno())) as raw:
        raw.shutdown(socket.SHUT_WR)


def retried(call: Callable[[], T], meanwhile: Callable[[], object]) -> tuple[T, int]:
    """Call until it does not raise WouldBlock; return its result and how often it did."""
    for count in range(100_000):
        try:
            return call(), count
        except WouldBlock:
            meanwhile()
    raise AssertionError("it does not get done")


# Sync.


def test_each_verb_is_of_what_tls_protects(ends: Ends) -> None:
    ours, theirs = ends
    theirs.send(b"hello;one\ntwo\nrest")
    assert ours.recv_until(b";") == b"hello"
    lines = ours.lines()
    assert [next(lines), next(lines)] == [b"one", b"two"]
    assert ours.recv_exactly(2) == b"re"
    buffer = bytearray(10)
    assert ours.recv_into(buffer) == 2
    ours.send(b"")
    ours.send(b"answer")
    assert theirs.recv_exactly(6) == b"answer"
    assert theirs.recv_exactly(0) == b""


def test_large_sends_both_ways_at_once(ends: Ends, pool: ThreadPoolExecutor) -> None:
    """A thread sends while another receives, on both sides."""
    ours, theirs = ends
    sends = [pool.submit(ours.send, BIG), pool.submit(theirs.send, BIG)]
    with ThreadPoolExecutor(1) as other:
        there = other.submit(theirs.recv_exactly, len(BIG))
        assert ours.recv_exactly(len(BIG)) == BIG
        assert there.result(5) == BIG
    for send in sends:
        send.result(5)


def test_non_blocking_from_the_handshake_on(pair: Pair) -> None:
    ours, theirs = (Connection(sock, mode=NonBlocking()) for sock in pair)
    _, tries = retried(
        lambda: ours.start_tls(SERVER, server_side=True),
        lambda: step(lambda: theirs.start_tls(CLIENT, server_hostname=HOST)),
    )
    assert tries >= 1
    step(lambda: theirs.start_tls(CLIENT, server_hostname=HOST))
    with pytest.raises(WouldBlock):
        ours.recv()
    received = bytearray()

    def receive() -> None:
        step(lambda: received.extend(theirs.recv()))

    _, tries = retried(lambda: ours.send(BIG), receive)
    assert tries >= 1
    ours.send(b"end")
    while not received.endswith(b"end"):
        receive()
    assert bytes(received) == BIG + b"end", "a byte was lost, or doubled"
    ours.close()
    theirs.close()


def step(call: Callable[[], object]) -> None:
    """Do what can be done now."""
    try:
        call()
    except WouldBlock:
        return
    except Closed:
        return  # start_tls, once it is done


def test_another_send_after_an_unfinished_one(ends: Ends) -> None:
    """What was encrypted goes out, in front of the other data; the rest is forgotten."""
    ours, theirs = ends
    with pytest.raises(TimedOut) as caught:
        ours.send(BIG, timeout=0.05)
    assert 0 < caught.value.bytes_done < len(BIG)
    received = theirs.recv()
    ours.mode = NonBlocking()

    def receive() -> None:
        nonlocal received
        received += theirs.recv()

    retried(lambda: ours.send(b"other"), receive)
    ours.mode = Blocking()
    while not received.endswith(b"other"):
        receive()
    sent = received.removesuffix(b"other")
    assert len(sent) >= caught.value.bytes_done
    assert BIG.startswith(sent)


def test_send_eof_ends_one_direction(ends: Ends) -> None:
    ours, theirs = ends
    ours.send(b"request")
    ours.send_eof()
    assert theirs.recv() == b"request"
    assert theirs.recv() == b""
    with pytest.raises(Closed):
        ours.send(b"more")
    theirs.send(b"reply")
    theirs.close(linger=0)
    assert ours.recv() == b"reply"
    assert ours.recv() == b""
    assert ours.recv() == b""


def test_close_notify_without_fin_is_the_end(pair: Pair, pool: ThreadPoolExecutor) -> None:
    """The peer ends TLS and leaves the socket open: data and its end come in one piece."""
    ours = Connection(pair[0], mode=Timeout(5))
    theirs = Connection(pair[1], mode=Timeout(5))
    secure(ours, theirs, pool)
    tls = theirs.core.transport
    theirs.send(b"last")
    tls.finish()
    tls.flush()
    assert ours.recv_exactly(4) == b"last"
    assert ours.recv() == b""
    ours.close(linger=0)
    theirs.close(linger=0)


def test_eof_without_close_notify_is_truncation(ends: Ends) -> None:
    ours, theirs = ends
    theirs.send(b"part")
    cut(theirs)
    assert ours.recv() == b"part"
    for _ in range(2):
        with pytest.raises(Truncated, match=r"^recv from .* some may be missing") as caught:
            ours.recv()
    assert isinstance(caught.value, PeerClosed)
    assert caught.value.operation == "recv"


def test_close_gives_the_peer_all_and_the_end(pair: Pair, pool: ThreadPoolExecutor) -> None:
    """With bytes in flight each way, to the standard library's client.

    What the client sends fits into the kernel's buffers, so that one thread of it can do both: the
    standard library's TLS object is not for two at once.
    """
    size = 1 << 20
    ours = Connection(pair[0], mode=Timeout(20))
    client: Future[ssl.SSLSocket] = pool.submit(standard, pair[1])
    ours.start_tls(SERVER, server_side=True)

    def both() -> bytes:
        with client.result(5) as peer:
            peer.settimeout(20)
            peer.sendall(b"r" * 65536)
            parts = []
            while part := peer.recv(65536):
                parts.append(part)
            return b"".join(parts)

    peer = pool.submit(both)
    ours.recv_exactly(1000)
    ours.send(b"a" * size)
    ours.close()
    assert peer.result(20) == b"a" * size


def test_close_holds_its_bound_where_the_peer_does_not_read(ends: Ends) -> None:
    ours, _ = ends
    with pytest.raises(TimedOut):
        ours.send(BIG, timeout=0.05)
    ours.close(linger=0.1)
    assert ours.fileno() == -1


def test_abort_and_release(ends: Ends) -> None:
    ours, theirs = ends
    ours.release()
    with pytest.raises(Released):
        ours.recv()
    theirs.abort()
    with pytest.raises(Closed):
        theirs.send(b"x")


# What goes wrong.


def test_a_certificate_that_is_not_trusted(pair: Pair, pool: ThreadPoolExecutor) -> None:
    ours, theirs = (Connection(sock, mode=Timeout(5)) for sock in pair)
    served = pool.submit(ours.start_tls, SERVER, server_side=True)
    with pytest.raises(
        CertificateRefused, match=r"^start_tls on .* certificate was refused: "
    ) as c:
        theirs.start_tls(ssl.create_default_context(), server_hostname=HOST)
    assert isinstance(c.value, ssl.SSLCertVerificationError)
    assert str(pickle.loads(pickle.dumps(c.value))) == str(c.value)
    with pytest.raises(TlsFailure, match="unknown ca"):
        served.result(5)
    with pytest.raises(TlsFailure):
        ours.recv()
    ours.close(linger=0)
    theirs.close()


def test_the_name_is_checked(pair: Pair, pool: ThreadPoolExecutor) -> None:
    ours, theirs = (Connection(sock, mode=Timeout(5)) for sock in pair)
    with pytest.raises(ValueError, match="server_hostname"):
        theirs.start_tls(CLIENT)
    assert theirs.tls is None
    served = pool.submit(ours.start_tls, SERVER, server_side=True)
    with pytest.raises(CertificateRefused, match=r"other\.example"):
        theirs.start_tls(CLIENT, server_hostname="other.example")
    with pytest.raises(TlsFailure):
        served.result(5)
    ours.close(linger=0)
    theirs.close()


def test_a_peer_that_speaks_no_tls(pair: Pair) -> None:
    ours = Connection(pair[0], mode=Timeout(5))
    pair[1].sendall(b"GET / HTTP/1.0\r\n\r\n")
    with pytest.raises(TlsFailure):
        ours.start_tls(SERVER, server_side=True)
    ours.close(linger=0)


def test_a_peer_that_goes_or_stays_silent(pair: Pair) -> None:
    ours = Connection(pair[0])
    for _ in range(2):
        with pytest.raises(TimedOut, match=r"^start_tls on .* timed out"):
            ours.start_tls(SERVER, server_side=True, timeout=0.02)
    with pytest.raises(Closed, match="not finished"):
        ours.send(b"x")
    pair[1].shutdown(socket.SHUT_WR)
    with pytest.raises(PeerClosed, match="in the TLS handshake"):
        ours.start_tls(SERVER, server_side=True, timeout=5)
    ours.close()


def test_a_reset_is_a_reset(tcp: Pair, pool: ThreadPoolExecutor) -> None:
    ours, theirs = (Connection(sock, mode=Timeout(5)) for sock in tcp)
    secure(ours, theirs, pool)
    theirs.abort()
    with pytest.raises(PeerReset):
        ours.recv()
    ours.close()


def test_once_is_enough(ends: Ends) -> None:
    with pytest.raises(Closed, match="already"):
        ends[0].start_tls(SERVER, server_side=True)


def test_an_unfinished_send_comes_first(pair: Pair) -> None:
    ours = Connection(pair[0])
    with pytest.raises(TimedOut):
        ours.send(BIG, timeout=0.02)
    with pytest.raises(Busy, match="a send is not finished"):
        ours.start_tls(SERVER, server_side=True)
    ours.abort()


# What is between plain and TLS, and around it.


def test_what_came_with_the_request_for_tls_is_never_plaintext(
    pair: Pair, pool: ThreadPoolExecutor
) -> None:
    """The start of TLS within a protocol, with the client's first message already received."""
    ours = Connection(pair[0], mode=Timeout(5))
    engine = Engine(CLIENT, server_side=False, server_hostname=HOST)
    assert not engine.handshake()
    pair[1].sendall(b"STARTTLS\n" + engine.outgoing())
    lines = ours.lines()
    assert next(lines) == b"STARTTLS"
    assert ours.unread
    done = pool.submit(ours.start_tls, SERVER, server_side=True)
    while not engine.handshake():
        engine.feed(pair[1].recv(65536))
    engine.write(memoryview(b"secret\n"))
    pair[1].sendall(engine.outgoing())
    done.result(5)
    assert next(lines) == b"secret"
    ours.close(linger=0)


def test_it_is_never_at_a_safe_point(pair: Pair, pool: ThreadPoolExecutor) -> None:
    ours = Connection(pair[0], mode=Timeout(5), **leased(resumable=True))
    theirs = Connection(pair[1], mode=Timeout(5))
    assert ours._movable()
    secure(ours, theirs, pool)
    ours.commit()
    assert not ours._movable()
    assert row_of(ours).status == "bound"
    left, right = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with left, right, pytest.raises(SystemFailure, match="keys") as caught:
        theirs.give(left)
    assert caught.value.errno == errno.EOPNOTSUPP
    theirs.send(b"x")
    assert ours.recv() == b"x"
    ours.close(linger=0)
    theirs.close(linger=0)


@pytest.mark.parametrize("size", [1, 7, 100])
def test_the_engine_takes_ciphertext_split_anywhere(size: int) -> None:
    client = Engine(CLIENT, server_side=False, server_hostname=HOST)
    server = Engine(SERVER, server_side=True, server_hostname=None)

    def pass_on(source: Engine, target: Engine) -> bytes:
        data = source.outgoing()
        plain = b""
        for start in range(0, len(data), size):
            target.feed(data[start : start + size])
            if target.handshake():
                plain += target.read()
        return plain

    while not (client.handshake() and server.handshake()):
        pass_on(client, server)
        pass_on(server, client)
    pass_on(server, client)
    client.write(memoryview(BIG[:40_000]))
    client.close()
    assert pass_on(client, server) == BIG[:40_000]
    assert server.ended


def test_connect_by_tls(pool: ThreadPoolExecutor) -> None:
    with Listener.bind("127.0.0.1:0") as listener:

        def serve_once() -> None:
            with listener.accept(mode=Timeout(5), timeout=5) as conn:
                conn.start_tls(SERVER, server_side=True)
                conn.send(conn.recv())
                conn.recv()

        served = pool.submit(serve_once)
        with connect(listener.text, timeout=5, tls=CLIENT, mode=Timeout(4)) as conn:
            assert conn.mode == Timeout(4)
            conn.send(b"x")
            assert conn.recv() == b"x"
        served.result(5)
        served = pool.submit(serve_once)
        with Connecting(
            listener.text, mode=NonBlocking(), tls=CLIENT, server_hostname=HOST
        ) as connecting:
            conn = poll_for(connecting)
        with conn.using(Timeout(5)):
            conn.send(b"x")
            assert conn.recv() == b"x"
        conn.close()
        served.result(5)
        with pytest.raises(TimedOut, match=r"^connect to 127"):
            connect(listener.text, timeout=0.05, tls=CLIENT)


# Async.


async def secured(pair: Pair, client: ssl.SSLContext = CLIENT) -> tuple[AsyncConnection, ...]:
    ours, theirs = AsyncConnection(pair[0]), AsyncConnection(pair[1])
    await asyncio.gather(
        ours.start_tls(SERVER, server_side=True, timeout=5),
        theirs.start_tls(client, server_hostname=HOST, timeout=5),
    )
    return ours, theirs


@pytest.mark.parametrize("client", [CLIENT, OLD], ids=["TLSv1.3", "TLSv1.2"])
def test_async_verbs(pair: Pair, run: Run, client: ssl.SSLContext) -> None:
    async def scenario() -> None:
        ours, theirs = await secured(pair, client)
        await theirs.send(b"hello;one\ntwo\nrest")
        assert await ours.recv_until(b";") == b"hello"
        lines = ours.lines()
        assert [await anext(lines), await anext(lines)] == [b"one", b"two"]
        assert await ours.recv_exactly(4) == b"rest"
        with pytest.raises(WouldBlock):
            await ours.recv(timeout=0)
        _, _, there, here = await asyncio.gather(
            ours.send(BIG),
            theirs.send(BIG),
            theirs.recv_exactly(len(BIG)),
            ours.recv_exactly(len(BIG)),
        )
        assert there == here == BIG
        await ours.send_eof()
        assert await theirs.recv(timeout=5) == b""
        await theirs.send(b"reply")
        await theirs.close(linger=0)
        assert await ours.recv(timeout=5) == b"reply"
        assert await ours.recv(timeout=5) == b""
        await ours.close()

    run(scenario)


def test_async_sends_keep_their_order_and_lose_nothing(pair: Pair, run: Run) -> None:
    """A send that times out goes on where it was; one that is cancelled goes out whole."""

    async def scenario() -> None:
        ours, theirs = await secured(pair)
        with pytest.raises(TimedOut) as caught:
            await ours.send(BIG, timeout=0.05)
        assert 0 < caught.value.bytes_done < len(BIG)
        received = asyncio.create_task(theirs.recv_exactly(len(BIG)))
        await ours.send(BIG, timeout=5)
        assert await received == BIG
        cancelled = asyncio.create_task(ours.send(BIG))
        await asyncio.sleep(0)
        behind = asyncio.create_task(ours.send(b"behind"))
        await asyncio.sleep(0)
        cancelled.cancel()
        assert await theirs.recv_exactly(len(BIG) + 6, timeout=5) == BIG + b"behind"
        await behind
        await ours.close(linger=0)
        await theirs.close(linger=0)

    run(scenario)


def test_async_truncation_and_the_end(pair: Pair, run: Run) -> None:
    async def scenario() -> None:
        ours, theirs = await secured(pair)
        receive = asyncio.create_task(ours.recv_exactly(8))
        await asyncio.sleep(0)
        await theirs.send(b"part")
        cut(theirs)
        with pytest.raises(Truncated):
            await receive
        assert ours.unread == b"part"
        await ours.close(linger=0)
        await theirs.close(linger=0)

    run(scenario)


def test_async_close_notify_without_fin_is_the_end(pair: Pair, run: Run) -> None:
    async def scenario() -> None:
        ours, theirs = await secured(pair)
        receive = asyncio.create_task(ours.recv())
        await asyncio.sleep(0)
        await theirs.send(b"last")
        theirs.core.transport.finish()
        theirs.core.transport.flush()
        assert await receive == b"last"
        assert await ours.recv(timeout=5) == b""
        await ours.close(linger=0)
        await theirs.close(linger=0)

    run(scenario)


def test_async_handshakes_that_fail(pair: Pair, run: Run) -> None:
    async def scenario() -> None:
        ours, theirs = AsyncConnection(pair[0]), AsyncConnection(pair[1])
        with pytest.raises(TimedOut, match=r"^start_tls on"):
            await ours.start_tls(SERVER, server_side=True, timeout=0.02)
        with pytest.raises(WouldBlock):
            await ours.start_tls(SERVER, server_side=True, timeout=0)
        served = asyncio.create_task(ours.start_tls(SERVER, server_side=True))
        with pytest.raises(CertificateRefused):
            await theirs.start_tls(ssl.create_default_context(), server_hostname=HOST)
        with pytest.raises(TlsFailure):
            await served
        await ours.close(linger=0)
        await theirs.close(linger=0)

    run(scenario)


def test_a_server_and_its_clients_by_tls(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    async def echo(conn: AsyncConnection) -> None:
        while data := await conn.recv():
            await conn.send(data)

    def standard_client(port: int) -> bytes:
        with (
            socket.create_connection(("127.0.0.1", port), timeout=5) as sock,
            standard(sock) as client,
        ):
            client.sendall(BIG[:100])
            return client.recv(100)

    async def scenario() -> None:
        async with serve(echo, "127.0.0.1:0", tls=SERVER) as server:
            async with await open_connection(server.address, timeout=5, tls=CLIENT) as conn:
                await conn.send(b"hello")
                assert await conn.recv(timeout=5) == b"hello"
            port = int(server.address.rpartition(":")[2])
            assert await asyncio.to_thread(standard_client, port) == BIG[:100]
            with pytest.raises(CertificateRefused):
                await open_connection(server.address, tls=ssl.create_default_context())
            plain = await open_connection(server.address)
            await plain.send(b"no TLS here\n")
            await plain.recv(timeout=5)  # the alert
            await plain.close()

    run(scenario)
    assert not [record for record in caplog.records if record.exc_info]


@pytest.mark.process
def test_a_fork_that_gives_it_away(ends: Ends) -> None:
    """The keys go along; whoever gave it says that it has, and sends nothing."""
    ours, theirs = ends

    def answer() -> None:
        ours.send(b"child " + ours.recv())
        ours.close()

    with child(answer, partial(fork, [ours])):
        with pytest.raises(Released, match="by a fork"):
            ours.recv()
        theirs.send(b"hello")
        assert theirs.recv_exactly(11) == b"child hello"
        assert theirs.recv() == b""
        theirs.close()


def test_a_closing_thread_wakes_one_that_receives(ends: Ends) -> None:
    ours, _ = ends
    errors: list[BaseException] = []

    def receive() -> None:
        try:
            ours.recv(timeout=10)
        except SystemFailure as error:
            errors.append(error)

    thread = threading.Thread(target=receive)
    thread.start()
    while not row_of(ours).waiting:
        pass
    ours.close(linger=0.5)
    thread.join(5)
    assert [type(error) for error in errors] == [Closed]
