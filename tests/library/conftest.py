"""Real pairs of sockets, and a server's side of the seam that a test can order about."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from typing import Any, Self, TypeAlias

import pytest
import uvloop

from socketkeep import AsyncConnection, Connection
from tests.harness.seam import FakeDrainSignal, Leased

Pair: TypeAlias = tuple[socket.socket, socket.socket]
Run: TypeAlias = Callable[[Callable[[], Coroutine[object, object, object]]], None]


LOOPS: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {
    "asyncio": asyncio.new_event_loop,
    "uvloop": uvloop.new_event_loop,
}


#: Seconds that no test takes, for a wait that is not to take place.
FAR = 30.0

#: Small buffers, so that a send need not be megabytes to have to wait.
BUFFER = 65536


def narrow(*socks: socket.socket) -> None:
    for sock in socks:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, BUFFER)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER)


def tcp_pair(family: socket.AddressFamily = socket.AF_INET) -> Pair:
    """Return an accepted socket and the client that made it."""
    host = "::1" if family == socket.AF_INET6 else "127.0.0.1"
    with socket.create_server((host, 0), family=family) as server:
        client = socket.create_connection(server.getsockname()[:2])
        accepted, _ = server.accept()
    narrow(accepted, client)
    return accepted, client


def unix_pair() -> Pair:
    pair = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    narrow(*pair)
    return pair


KINDS: dict[str, Callable[[], Pair]] = {
    "tcp": tcp_pair,
    "tcp6": lambda: tcp_pair(socket.AF_INET6),
    "unix": unix_pair,
}


# IPv6 differs in its addresses alone; the suite runs over it, too.
@pytest.fixture(params=["tcp", "unix"])
def pair(request: pytest.FixtureRequest) -> Iterator[Pair]:
    """Two ends of one connection: ours, and a plain socket for the peer (5 s timeout)."""
    ours, peer = KINDS[request.param]()
    peer.settimeout(5)
    with ours, peer:
        yield ours, peer


@pytest.fixture
def tcp() -> Iterator[Pair]:
    """A TCP pair, for what only TCP has."""
    ours, peer = tcp_pair()
    peer.settimeout(5)
    with ours, peer:
        yield ours, peer


@pytest.fixture
def drain_signal() -> Iterator[FakeDrainSignal]:
    made = FakeDrainSignal()
    yield made
    made.close()


def reads_all(sock: socket.socket) -> bytes:
    """Read to EOF."""
    parts = []
    while part := sock.recv(65536):
        parts.append(part)
    return b"".join(parts)


def reads_all_and_ends(sock: socket.socket) -> bytes:
    """Read to EOF, and end the other direction, too: whoever closes need not wait for that."""
    data = reads_all(sock)
    sock.shutdown(socket.SHUT_WR)
    return data


class Flooding:
    """A peer that sends without pause until it is cut off; a context manager."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._thread = threading.Thread(target=self._send)
        self._error: OSError | None = None

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):
            self._sock.shutdown(socket.SHUT_RDWR)
        self._thread.join()

    def _send(self) -> None:
        try:
            while True:
                self._sock.sendall(bytes(65536))
        except OSError as error:
            self._error = error

    def is_cut_off(self) -> bool:
        """Whether the connection has been ended under it, which is waited for."""
        self._thread.join(FAR)
        return isinstance(self._error, ConnectionError)


def until(condition: Callable[[], bool], seconds: float = 5.0) -> None:
    """Wait for what another thread or the kernel is about to do; fail after `seconds`."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        os.sched_yield()


#: Run a test with a sync and with an async connection, of which `make` makes one.
both = pytest.mark.parametrize("kind", ["sync", "async"])


def make(kind: str, sock: socket.socket, given: Leased) -> Any:
    """Return a connection of that kind."""
    return (Connection if kind == "sync" else AsyncConnection)(sock, **given)


async def done(result: object) -> Any:
    """Return what a verb does, in either kind of connection."""
    return await result if isinstance(result, Coroutine) else result


@pytest.fixture(params=list(LOOPS))
def run(request: pytest.FixtureRequest) -> Run:
    """Run a scenario to its end on each of the loops; nothing may be left to the exception hook."""

    def run_on_loop(scenario: Callable[[], Coroutine[object, object, object]]) -> None:
        complaints: list[dict[str, object]] = []
        with asyncio.Runner(loop_factory=LOOPS[request.param]) as runner:
            loop = runner.get_loop()
            loop.set_exception_handler(lambda _, context: complaints.append(context))
            runner.run(scenario())
        assert not complaints

    return run_on_loop
