"""Those who wait for a seat when the server is told to end: they are answered, not reset."""

from __future__ import annotations

import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import Final

import pytest

from tests.harness import Finished, Server, connect, read_reply, read_to_end, write_source
from tests.peer.conftest import Site

#: A server of one seat, whatever the model: the queue is where all the others wait.
ROOM: Final = {
    "fork": ("--max-connections", "1"),
    "prefork": ("-w", "1"),
    "thread": ("-w", "1", "--threads", "1"),
    "async": ("-w", "1", "--max-connections", "1"),
}

# The first line takes the seat, and the second gives it up.
HANDLER: Final = """
def handle(conn):
    conn.recv_until(b"\\n")
    conn.send(b"seated\\n")
    conn.send(b"done " + conn.recv_until(b"\\n") + b"\\n")
"""
WAITING: Final = 4
#: More than any of these tests takes: who is closed by it was not served.
LONG: Final = ("--graceful-timeout", "60")


def write(site: Site, *, resumable: bool = False) -> str:
    source = HANDLER
    if site.is_async:
        source = HANDLER.replace("def ", "async def ").replace("conn.", "await conn.")
    if resumable:
        source = "from socketkeep import resumable\n@resumable\n" + source.lstrip()
    return write_source(site.directory, source)


def serve(site: Site, *options: str, resumable: bool = False, bind: str = "") -> Server:
    """Return a server of one seat."""
    own = "127.0.0.1:0" if site.transport == "ipv4" else f"unix:{site.directory}/listener"
    return Server(
        site.directory,
        write(site, resumable=resumable),
        *("-k", site.model, *ROOM[site.model], *options),
        bind=[bind or own],
    )


def take_the_seat(server: Server, stack: ExitStack) -> socket.socket:
    peer = stack.enter_context(connect(server.address))
    peer.sendall(b"1\n")
    assert read_reply(peer) == b"seated"
    return peer


def queue(server: Server, stack: ExitStack, count: int = WAITING) -> list[socket.socket]:
    """Return clients that have sent all that they ask for, and wait for the seat."""
    peers = []
    for number in range(count):
        peer = stack.enter_context(connect(server.address))
        peer.sendall(b"1\nwaiter %d\n" % number)
        peers.append(peer)
    return peers


@contextmanager
def told_to_stop(server: Server) -> Iterator[None]:
    server.signal(signal.SIGTERM)
    server.wait_event("stopping")
    yield


@contextmanager
def told_to_drain(server: Server) -> Iterator[None]:
    outcome: list[Finished] = []
    command = threading.Thread(target=lambda: outcome.append(server.cli("drain")))
    command.start()
    try:
        server.wait_event("draining")
        yield
    finally:
        command.join()
    assert outcome[0].exit_code == 0, outcome


def check_all_are_answered(
    server: Server,
    told: Callable[[Server], AbstractContextManager[None]] = told_to_stop,
    silent: int = 0,
) -> None:
    """Have the server end while clients wait for its only seat.

    silent: how many of them, the first, have connected and say nothing.
    """
    with ExitStack() as stack:
        first = take_the_seat(server, stack)
        quiet = [stack.enter_context(connect(server.address)) for _ in range(silent)]
        peers = queue(server, stack)
        with told(server):
            server.wait_event("accept queues taken in", connections=WAITING + silent)
            first.sendall(b"first\n")
            assert read_to_end(first) == b"done first\n"
            for number, peer in enumerate(peers):
                assert read_to_end(peer) == b"seated\ndone waiter %d\n" % number
                peer.close()
            for peer in quiet:
                peer.close()
            first.close()
            assert server.wait_exit() == 0


def test_a_stop_answers_the_queue(site: Site) -> None:
    with serve(site, *LONG) as server:
        check_all_are_answered(server)
        assert not server.find("worker exited", status="exit code 1")


def test_a_drain_answers_the_queue(tcp_site: Site) -> None:
    with serve(tcp_site, *LONG) as server:
        check_all_are_answered(server, told_to_drain)


@pytest.mark.parametrize("keep", ["none", "reload", "crash"])
def test_whatever_is_kept(some_site: Site, keep: str) -> None:
    with serve(some_site, *LONG, "--keep", keep, resumable=True) as server:
        check_all_are_answered(server)


def test_who_says_nothing_keeps_nobody_waiting(tcp_site: Site) -> None:
    with serve(tcp_site, *LONG) as server:
        check_all_are_answered(server, silent=2)


def test_who_says_nothing_is_closed_as_who_is_idle(tcp_site: Site) -> None:
    """Of a resumable handler at once, though there is a minute left."""
    with serve(tcp_site, *LONG, resumable=True) as server, ExitStack() as stack:
        first = take_the_seat(server, stack)
        quiet = stack.enter_context(connect(server.address))
        with told_to_stop(server):
            server.wait_event("accept queues taken in", connections=1)
            first.sendall(b"first\n")
            assert read_to_end(first) == b"done first\n"
            assert read_to_end(quiet) == b""
            assert server.wait_exit() == 0


def test_at_the_deadline_who_waits_is_closed_in_order(some_site: Site) -> None:
    with serve(some_site, "--graceful-timeout", "2") as server, ExitStack() as stack:
        take_the_seat(server, stack)
        peers = queue(server, stack)
        with told_to_stop(server):
            for peer in peers:
                assert read_to_end(peer) == b""
                peer.close()
            assert server.wait_exit() == 0


def test_at_once_nobody_is_answered(some_site: Site) -> None:
    with serve(some_site, *LONG) as server, ExitStack() as stack:
        take_the_seat(server, stack)
        peers = queue(server, stack)
        server.signal(signal.SIGQUIT)
        server.wait_exit(10.0)
        for peer in peers:
            with pytest.raises(ConnectionResetError):
                read_to_end(peer)


def test_a_queue_is_left_to_who_goes_on_with_it(tmp_path: Path) -> None:
    """The listener was passed, as systemd passes them, and is to be served by the next server."""
    site = Site("prefork", "ipv4", tmp_path)
    with socket.create_server(("127.0.0.1", 0)) as listener, ExitStack() as stack:
        server = serve(site, *LONG, bind=f"fd://{listener.fileno()}")
        server._descriptors = [listener.fileno()]
        with server:
            first = take_the_seat(server, stack)
            (peer,) = queue(server, stack, 1)
            with told_to_stop(server):
                server.wait_event("accept queue left to another process")
                server.status()  # told when the worker has been told to accept no more
                first.sendall(b"first\n")
                assert read_to_end(first) == b"done first\n"
                assert server.wait_exit() == 0
        listener.settimeout(10.0)
        accepted, _ = listener.accept()
        with accepted:
            assert accepted.getpeername() == peer.getsockname()
            assert accepted.recv(100) == b"1\nwaiter 0\n"
