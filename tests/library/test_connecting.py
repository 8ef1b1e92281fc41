"""Connecting in each mode, to each form of address, and to names with several."""

from __future__ import annotations

import errno
import os
import select
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from socketkeep import (
    AddressError,
    Blocking,
    Closed,
    Connecting,
    Connection,
    Deadline,
    Listener,
    Mode,
    NonBlocking,
    OutOfResources,
    Refused,
    SystemFailure,
    TimedOut,
    Timeout,
    Unresolved,
    WouldBlock,
    connect,
)

Found = list[tuple[int, int, int, str, tuple[Any, ...]]]
NUMERIC = socket.AI_NUMERICHOST


@pytest.fixture
def listener() -> Iterator[Listener]:
    with Listener.bind("127.0.0.1:0") as made:
        yield made


def entry(host: str, port: int) -> tuple[int, int, int, str, tuple[Any, ...]]:
    if ":" in host:
        return socket.AF_INET6, socket.SOCK_STREAM, 6, "", (host, port, 0, 0)
    return socket.AF_INET, socket.SOCK_STREAM, 6, "", (host, port)


def name_of(*addresses: tuple[str, int]) -> Callable[..., Found]:
    """A getaddrinfo for which every name has these addresses."""

    def look_up(host: str, port: int, *, flags: int = 0, **_: int) -> Found:
        if flags & NUMERIC:
            raise socket.gaierror(socket.EAI_NONAME, "not a number")
        return [entry(*address) for address in addresses]

    return look_up


@contextmanager
def deaf() -> Iterator[tuple[str, int]]:
    """An address that answers no attempt: a listener whose queue is full."""
    with ExitStack() as stack:
        server = stack.enter_context(socket.socket())
        server.bind(("127.0.0.1", 0))
        server.listen(0)
        address = server.getsockname()
        for _ in range(8):
            client = stack.enter_context(socket.socket())
            client.setblocking(False)
            client.connect_ex(address)
        yield address


def unused_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        return port


def poll_for(connecting: Connecting) -> Connection:
    """Connect as a program does that does not wait."""
    while True:
        try:
            return connecting.connect()
        except WouldBlock:
            poller = select.poll()
            poller.register(connecting, select.POLLIN)
            wake_at = connecting.wake_at
            left = 5.0 if wake_at is None else max(0.0, wake_at - time.monotonic())
            assert poller.poll(left * 1000 + 1) or wake_at is not None, "it got no further"


# Modes.


@pytest.mark.parametrize(
    "make",
    [Blocking, partial(Timeout, 5), partial(Deadline.after, 60)],
    ids=["blocking", "timeout", "deadline"],
)
def test_connect_waits_and_the_connection_has_the_mode(
    listener: Listener, make: Callable[[], Mode]
) -> None:
    mode = make()
    with connect(listener.text, mode=mode) as conn, listener.accept() as accepted:
        assert conn.mode == mode
        assert conn.peer == listener.text
        conn.send(b"hello")
        conn.send_eof()
        assert accepted.recv() == b"hello"


def test_what_does_not_wait_goes_on_to_its_end(listener: Listener) -> None:
    with Connecting(listener.text, mode=NonBlocking()) as connecting:
        conn = poll_for(connecting)
        with conn:
            assert conn.mode == NonBlocking()
            with listener.accept() as accepted:
                accepted.send(b"hello")
                with conn.using(Timeout(5)):
                    assert conn.recv() == b"hello"
                conn.send_eof()
        with pytest.raises(Closed, match="made already"):
            connecting.connect()


def test_an_attempt_that_is_not_kept_is_refused(listener: Listener) -> None:
    with pytest.raises(ValueError, match="Connecting"):
        connect(listener.text, mode=NonBlocking())
    with pytest.raises(ValueError, match="Connecting"):
        connect(listener.text, timeout=0)
    with connect(listener.text, mode=NonBlocking(), timeout=5) as conn:
        assert conn.mode == NonBlocking()


def test_a_timeout_ends_the_wait_and_not_the_attempt() -> None:
    with deaf() as address, Connecting(address) as connecting:
        for limit in (0.05, 0.1):
            with pytest.raises(TimedOut, match=r"connect to 127.0.0.1:\d+ timed out") as caught:
                connecting.connect(timeout=limit)
            assert caught.value.limit == limit
            assert caught.value.elapsed is not None
            assert caught.value.elapsed >= limit
        assert connecting.fileno() >= 0
    assert connecting.fileno() == -1
    with pytest.raises(Closed, match="given up"):
        connecting.connect()


def test_a_deadline_bounds_connecting() -> None:
    with deaf() as address, pytest.raises(TimedOut):
        connect(address, mode=Deadline.after(0.05))


# Addresses.


@pytest.mark.parametrize("bind", ["127.0.0.1:0", "[::1]:0", "unix:{}/s", "unix:@socketkeep-c-{}"])
def test_each_form_of_address(bind: str, tmp_path: Path) -> None:
    filled = bind.format(os.getpid() if "@" in bind else tmp_path)
    with Listener.bind(filled) as listener:
        address: str | tuple[str, int] = listener.text
        with connect(address, timeout=5) as conn, listener.accept() as accepted:
            accepted.send(b"hello")
            assert conn.recv() == b"hello"
            conn.send_eof()


def test_a_host_and_a_port(listener: Listener) -> None:
    with connect(listener.sock.getsockname(), timeout=5) as conn:
        assert conn.peer == listener.text
        conn.abort()


@pytest.mark.parametrize("address", ["fd://3", ":7000", "host", "unix:", ("", 7000)])
def test_what_is_no_address_of_a_peer(address: str | tuple[str, int]) -> None:
    with pytest.raises(AddressError):
        Connecting(address)


# Failures.


def test_nobody_listens(tmp_path: Path) -> None:
    port = unused_port()
    with pytest.raises(Refused, match=f"^connect to 127.0.0.1:{port} was refused") as caught:
        connect(("127.0.0.1", port))
    assert caught.value.errno == errno.ECONNREFUSED
    with pytest.raises(SystemFailure, match="No such file") as caught_unix:
        connect(f"unix:{tmp_path}/none")
    assert caught_unix.value.errno == errno.ENOENT


def test_a_failed_attempt_says_so_again() -> None:
    connecting = Connecting(("127.0.0.1", unused_port()))
    for _ in range(2):
        with pytest.raises(Refused):
            connecting.connect()


def test_a_name_without_address(monkeypatch: pytest.MonkeyPatch) -> None:
    def look_up(*_: object, **__: object) -> Found:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    with pytest.raises(Unresolved, match=r"^connect to a.example:80 failed: the name") as caught:
        connect("a.example:80", timeout=5)
    assert caught.value.errno == socket.EAI_NONAME


def test_a_name_server_that_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    answer, asked = threading.Event(), threading.Event()

    def look_up(*_: object, flags: int = 0, **__: object) -> Found:
        if not flags & NUMERIC:
            asked.set()
            answer.wait(10)
        raise socket.gaierror(socket.EAI_AGAIN, "later")

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    try:
        with pytest.raises(TimedOut):
            connect("a.example:80", timeout=0.05)
        assert asked.is_set()
    finally:
        answer.set()


def test_out_of_descriptors(listener: Listener, monkeypatch: pytest.MonkeyPatch) -> None:
    connecting = Connecting(listener.text)

    def fail(*_: object) -> socket.socket:
        raise OSError(errno.EMFILE, "Too many open files")

    with monkeypatch.context() as patch:
        patch.setattr(socket, "socket", fail)
        with pytest.raises(OutOfResources):
            connecting.connect()


def test_a_full_unix_queue_is_waited_for(tmp_path: Path) -> None:
    with Listener.bind(f"unix:{tmp_path}/s", backlog=0) as listener:
        first = connect(listener.text)
        with Connecting(listener.text, mode=Timeout(0.05)) as connecting:
            with pytest.raises(TimedOut):
                connecting.connect()
            listener.accept().abort()
            connecting.connect(timeout=5).abort()
        first.abort()


# Names with several addresses.


def test_the_next_address_is_tried_where_one_refuses(
    listener: Listener, monkeypatch: pytest.MonkeyPatch
) -> None:
    host, port = listener.sock.getsockname()
    monkeypatch.setattr(socket, "getaddrinfo", name_of(("::1", unused_port()), (host, port)))
    with connect("a.example:80", timeout=5) as conn:
        assert conn.peer == listener.text
        conn.abort()


def test_the_next_address_is_tried_while_one_is_silent(
    listener: Listener, monkeypatch: pytest.MonkeyPatch
) -> None:
    with deaf() as silent:
        address = listener.sock.getsockname()
        monkeypatch.setattr(socket, "getaddrinfo", name_of(silent, address))
        with Connecting("a.example:80", mode=NonBlocking()) as connecting:
            begun = time.monotonic()
            with poll_for(connecting) as conn:
                assert conn.peer == listener.text
            assert time.monotonic() - begun >= 0.25


def test_the_error_tells_of_every_address(monkeypatch: pytest.MonkeyPatch) -> None:
    ports = unused_port(), unused_port()
    addresses = [("127.0.0.1", port) for port in ports]
    monkeypatch.setattr(socket, "getaddrinfo", name_of(*addresses))
    with pytest.raises(Refused, match=r"^connect to a.example:80 failed at every") as caught:
        connect("a.example:80", timeout=5)
    for port in ports:
        assert f"127.0.0.1:{port} was refused" in str(caught.value)
    group = caught.value.__cause__
    assert isinstance(group, ExceptionGroup)
    assert [type(error) for error in group.exceptions] == [Refused, Refused]


# Accepting.


def test_accept_in_each_mode(listener: Listener) -> None:
    listener.mode = NonBlocking()
    with pytest.raises(WouldBlock, match=r"^accept on"):
        listener.accept()
    listener.mode = Timeout(0.05)
    with pytest.raises(TimedOut, match=r"^accept on .* timed out"):
        listener.accept()
    with pytest.raises(WouldBlock):
        listener.accept(timeout=0)
    with connect(listener.text) as conn, listener.accept() as accepted:
        assert accepted.mode == Blocking(), "not the listener's"
        assert accepted.listener == listener.text
        conn.send_eof()
    with connect(listener.text) as conn, listener.accept(mode=Timeout(3)) as accepted:
        assert accepted.mode == Timeout(3)
        conn.send_eof()


def test_accept_waits(listener: Listener) -> None:
    clients: list[Connection] = []
    thread = threading.Thread(target=lambda: clients.append(connect(listener.text)))
    thread.start()
    accepted = listener.accept(timeout=5)
    thread.join()
    clients[0].abort()
    accepted.abort()
