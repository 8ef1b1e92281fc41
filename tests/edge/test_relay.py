"""One connection in the edge, by itself: what each end sees of how the other one ended."""

from __future__ import annotations

import contextlib
import os
import select
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from socketkeep import Connection, PeerReset, Truncated
from socketkeep._edge._relay import Handshake, Relay
from socketkeep.proxy import ProxyHeader
from tests.edge.spoken import call_openssl, call_ssl
from tests.edge.support import CHUNK, HOST, client_context, issue, server_tls
from tests.harness.seam import leased

VERSIONS = (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3)
#: What an edge watches both sides for.
_EVENTS = select.EPOLLIN | select.EPOLLOUT | select.EPOLLRDHUP | select.EPOLLET
BIG = bytes(range(256)) * 16384  # 4 MiB: more than all buffers on the way take


class Run:
    """A relay on an epoll of its own, in a thread, as an edge has it."""

    def __init__(self, relay: Relay) -> None:
        self.relay = relay
        self.most_held = 0
        self._epoll = select.epoll()
        for sock in (relay.sock, relay.plain):
            self._epoll.register(sock, _EVENTS)
        self._client = relay.sock.fileno()
        self._stop, self._stopped = os.pipe()
        self._epoll.register(self._stop, select.EPOLLIN)
        self._thread = threading.Thread(target=self._run, name="relay")
        self._thread.start()

    def stop(self) -> None:
        """Have nothing moved any more but by the test itself."""
        if self._stopped >= 0:
            os.close(self._stopped)
            self._stopped = -1
        self._thread.join(20)

    def end(self) -> None:
        """End it, if it is not over."""
        self.stop()
        os.close(self._stop)
        self._epoll.close()
        self.relay.close()

    def wait_over(self) -> None:
        self._thread.join(20)
        assert not self._thread.is_alive(), "it goes on"

    def _run(self) -> None:
        more = True
        while not self.relay.over:
            for fd, events in self._epoll.poll(0 if more else 20):
                if fd == self._stop:
                    return
                (self.relay.note_client if fd == self._client else self.relay.on_plain)(events)
            more = self.relay.go_on()
            self.most_held = max(self.most_held, self.relay.held)


#: A client, the relay between, and the worker's end.
Shaken = tuple[ssl.SSLSocket, Run, socket.socket]


@pytest.fixture(params=VERSIONS, ids=lambda version: str(version.name))
def version(request: pytest.FixtureRequest) -> ssl.TLSVersion:
    found: ssl.TLSVersion = request.param
    return found


@pytest.fixture(params=("ssl", "OpenSSL"), autouse=True)
def called(request: pytest.FixtureRequest) -> Iterator[str]:
    """A relay calls the methods of Python's `ssl`, or OpenSSL itself."""
    if request.param == "OpenSSL" and not call_openssl():
        pytest.skip("OpenSSL itself is called by the compiled core, where it can be found")
    yield request.param
    call_ssl()


def ended(worker: socket.socket) -> str:
    """Return how the end of the client is told to the handler: as EOF, or by an error's name."""
    own = socket.socket(fileno=os.dup(worker.fileno()))
    conn = Connection(own, **leased(id="1-1-1", proxy=ProxyHeader().encode()))
    try:
        assert conn.recv() == b""
    except (PeerReset, Truncated) as error:
        return type(error).__name__
    finally:
        conn.release()
    return "EOF"


@pytest.fixture
def shaken(tmp_path: Path, version: ssl.TLSVersion) -> Iterator[Shaken]:
    """Yields a client, the relay between, and the worker's end."""
    files = issue(tmp_path)
    tls = server_tls(files)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        theirs = socket.create_connection(listener.getsockname(), timeout=20)
        ours, _ = listener.accept()
    ours.setblocking(False)
    handshake = Handshake(ours, tls.begin)
    plain, worker = socket.socketpair()
    plain.setblocking(False)
    worker.settimeout(20)
    made: list[Relay] = []

    def shake() -> None:
        poller = select.poll()
        poller.register(ours, select.POLLIN)
        while (found := handshake.go_on()) is None:
            poller.poll(20_000)
        made.append(handshake.relay(found, plain))

    thread = threading.Thread(target=shake, name="handshake")
    thread.start()
    client = client_context(maximum_version=version).wrap_socket(
        theirs, server_hostname=HOST, suppress_ragged_eofs=False
    )
    thread.join(20)
    run = Run(made[0])
    yield client, run, worker
    client.close()
    worker.close()
    run.end()


def read_all(receive: Callable[[int], bytes]) -> bytes:
    found = b""
    while data := receive(65536):
        found += data
    return found


def is_told_the_end(client: ssl.SSLSocket) -> bool:
    """Whether a close_notify has come; without it this raises."""
    try:
        return client.recv(100) == b""
    except ssl.SSLZeroReturnError:  # where the client's own is out
        return True


def fill(sock: socket.socket) -> int:
    """Send until nobody on the way takes any more; return how much that was."""
    sock.setblocking(False)
    sent = stalled = 0
    while stalled < 10:
        try:
            sent += sock.send(BIG[:CHUNK])
            stalled = 0
        except (BlockingIOError, ssl.SSLWantWriteError):
            stalled += 1
            select.select([], [sock], [], 0.02)
    sock.settimeout(20)
    return sent


def exchange(client: ssl.SSLSocket, data: bytes) -> bytes:
    """Send, and meanwhile receive as much; by one thread, since `ssl` has no lock of its own."""
    client.setblocking(False)
    sent, got = 0, bytearray()
    while len(got) < len(data):
        with contextlib.suppress(ssl.SSLWantReadError, ssl.SSLWantWriteError):
            while sent < len(data):
                sent += client.send(data[sent : sent + CHUNK])
        with contextlib.suppress(ssl.SSLWantReadError):
            while found := client.recv(65536):
                got += found
        writers = [client] if sent < len(data) else []
        if len(got) < len(data):
            assert any(select.select([client], writers, [], 20)), f"{sent} sent, {len(got)} back"
    client.settimeout(20)
    return bytes(got)


def test_both_directions_at_once(shaken: Shaken) -> None:
    """Bytes pass whole and in order, and no more is held than a record's worth of each side."""
    client, run, worker = shaken

    def echo() -> None:
        while data := worker.recv(65536):
            worker.sendall(data)
        worker.shutdown(socket.SHUT_WR)

    thread = threading.Thread(target=echo)
    thread.start()
    assert exchange(client, BIG) == BIG
    client.unwrap()
    thread.join(20)
    run.wait_over()
    assert (run.relay.taken, run.relay.given) == (len(BIG), len(BIG))
    assert run.most_held <= 2 * (CHUNK + 256)


def test_the_clients_end_is_the_workers_eof(shaken: Shaken) -> None:
    """And what the worker sends after that arrives."""
    client, run, worker = shaken
    client.sendall(b"last")
    client.setblocking(False)
    with pytest.raises(ssl.SSLWantReadError):
        client.unwrap()  # its own close_notify is out, and it waits for the other
    client.settimeout(20)
    assert read_all(worker.recv) == b"last"
    assert ended(worker) == "EOF"
    worker.sendall(b"reply")
    assert client.recv(100) == b"reply"
    worker.shutdown(socket.SHUT_WR)
    assert is_told_the_end(client)
    run.wait_over()


def test_the_workers_half_close_is_a_close_notify(shaken: Shaken) -> None:
    """What the client had sent by then, and what it sends after, is the worker's all the same."""
    client, run, worker = shaken
    for _ in range(20):
        client.sendall(b"x" * 10_000)
    worker.sendall(b"bye")
    worker.shutdown(socket.SHUT_WR)
    assert client.recv(100) == b"bye"
    assert is_told_the_end(client)
    client.unwrap()
    assert read_all(worker.recv) == b"x" * 200_000
    run.wait_over()


def test_truncated(shaken: Shaken) -> None:
    """FIN without a close_notify is EOF with a mark."""
    client, run, worker = shaken
    client.sendall(b"half")
    socket.socket.shutdown(client, socket.SHUT_WR)
    assert read_all(worker.recv) == b"half"
    assert ended(worker) == "Truncated"
    worker.close()
    run.wait_over()


def test_the_clients_reset_is_told(shaken: Shaken) -> None:
    client, run, worker = shaken
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    client.close()
    run.wait_over()
    run.relay.close()
    assert ended(worker) == "PeerReset"


def test_the_workers_abort_is_a_reset(shaken: Shaken) -> None:
    """At once, also while the client takes nothing in."""
    client, run, worker = shaken
    fill(worker)
    Connection(worker).abort()
    run.wait_over()
    run.relay.close()
    with pytest.raises(ConnectionResetError):
        read_all(partial(socket.socket.recv, client))  # `ssl` takes a reset for an end


def test_the_death_of_who_had_it_is_no_end_of_tls(shaken: Shaken) -> None:
    """The client gets all that was sent, and can tell that there may have been more."""
    client, run, worker = shaken
    worker.sendall(b"half a rep")
    worker.close()
    assert client.recv(100) == b"half a rep"
    with pytest.raises(ssl.SSLEOFError):
        client.recv(100)
    run.wait_over()


def test_bytes_that_nobody_read_are_no_abort(shaken: Shaken) -> None:
    """A worker that has closed with unread bytes has ended as one that had none."""
    client, run, worker = shaken
    client.sendall(b"unread")
    select.select([worker], [], [], 20)
    worker.sendall(b"reply")
    worker.shutdown(socket.SHUT_WR)
    assert client.recv(100) == b"reply"
    assert is_told_the_end(client)
    worker.close()
    run.wait_over()


def test_back_pressure(shaken: Shaken) -> None:
    """A worker that does not read stops the client, and the other direction goes on."""
    client, run, worker = shaken
    sent = fill(client)
    assert sent < 3 * len(BIG)
    worker.sendall(b"still here")
    assert client.recv(100) == b"still here"
    assert run.most_held <= 2 * (CHUNK + 256)


def test_a_half_close_while_the_client_is_held_up(shaken: Shaken) -> None:
    """What stands between the two when the close_notify is made is not lost by that."""
    client, _, worker = shaken
    sent = fill(client)
    worker.sendall(b"bye")
    worker.shutdown(socket.SHUT_WR)
    assert client.recv(100) == b"bye"
    assert is_told_the_end(client)
    received = 0
    while received < sent:
        data = worker.recv(65536)
        assert data, f"{received} of {sent} bytes"
        received += len(data)
    assert received == sent


def test_an_end_that_is_met_before_it_is_told(shaken: Shaken) -> None:
    """The EOF of a shutdown is one, whether or not epoll has had its say by then."""
    client, run, worker = shaken
    run.stop()
    worker.sendall(bytes(CHUNK))  # after less than that no more is read until it is told
    worker.shutdown(socket.SHUT_WR)
    run.relay._plain_says = True
    run.relay.go_on()
    assert client.recv(CHUNK) == bytes(CHUNK)
    assert is_told_the_end(client)
