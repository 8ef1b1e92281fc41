"""The clients and the capture see what they are there to see: each fault is served to them."""

from __future__ import annotations

import signal
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.harness import Capture, Load, Storm, connect

Serve = Callable[[socket.socket], None]


@contextmanager
def served(serve: Serve, connections: int = 1) -> Iterator[tuple[str, int]]:
    """Serve so many connections, one after another, in a thread; yield address and port."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def run() -> None:
            for _ in range(connections):
                sock, _ = listener.accept()
                with sock:
                    serve(sock)

        thread = threading.Thread(target=run)
        thread.start()
        port = listener.getsockname()[1]
        try:
            yield f"127.0.0.1:{port}", port
        finally:
            thread.join()


def replies(*sent: bytes) -> Serve:
    """Return what sends one of `sent` for each request, then waits for the peer's end."""

    def serve(sock: socket.socket) -> None:
        with sock.makefile("rb") as lines:
            for reply, _ in zip(sent, lines, strict=False):
                sock.sendall(reply)
            while lines.read(1):
                pass

    return serve


def reset(sock: socket.socket) -> None:
    """Read one request and reset the connection."""
    sock.recv(100)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


@pytest.mark.parametrize(
    ("serve", "field"),
    [
        (replies(b"1 1 v\n1 1 v\n"), "repeated"),
        (replies(b"1 1 v\n3 3 v\n"), "missing"),
        (replies(b"1 1 v\n", b"1 2 v\n"), "miscounted"),
        (replies(b"1 1 v\n", b"nonsense\n"), "malformed"),
        (lambda sock: sock.sendall(b"1 1"), "truncated"),
        (lambda sock: None, "fin"),
        (reset, "reset"),
        (reset, "unanswered"),
    ],
)
def test_load_notices(serve: Serve, field: str) -> None:
    """Each fault has its count, and none is clean."""
    with served(serve) as (address, _), Load(address, 1) as load:
        load.wait_until(lambda tally: getattr(tally, field) == 1, field, 10.0)
        assert not load.tally.clean


def test_load_tells_what_was_marked_as_perhaps_repeated() -> None:
    """Such a reply is counted for itself, and only when it is one."""
    sent = replies(b"1 1 v\n1 1 v+\n", b"2 2 v+\n", b"3 3 v\n")
    with served(sent) as (address, _), Load(address, 1) as load:
        load.wait_replies(4)
        assert load.tally.again == 1
        assert load.tally.versions == {"v": 4}
        assert load.tally.clean


def test_load_tells_how_long_each_waited() -> None:
    """Since the mark, and of those that are asked for alone."""
    sent = [b"%d %d v\n" % (number, number) for number in range(1, 500)]
    with served(replies(*sent)) as (address, _), Load(address, 1, pause=0.001) as load:
        load.wait_replies(5)
        load.mark()
        (longest,) = load.waits(load.ports())
        assert 0.0 < longest <= max(load.tally.latencies)
        assert load.waits(set()) == []


def test_load_counts_a_late_reply_as_out_of_order() -> None:
    """A reply that was skipped and comes after all is not missing."""
    late = replies(b"2 2 v\n1 1 v\n", b"3 3 v\n")
    with served(late) as (address, _), Load(address, 1, window=3) as load:
        load.wait_until(lambda tally: tally.out_of_order == 1, "a late reply", 10.0)
        assert load.tally.missing == 0
        assert not load.tally.clean


def test_load_counts_what_is_never_answered() -> None:
    """A reply that has not come at the end is missing."""
    with served(replies(b"1 1 v\n")) as (address, _), Load(address, 1, pause=0.0) as load:
        load.wait_until(lambda tally: tally.requests == 2, "a second request")
        assert load.finish(0.1).missing == 1


def test_load_in_fragments() -> None:
    """Requests in two pieces are whole requests."""
    sent = [b"%d %d v\n" % (number, number) for number in range(1, 100)]
    with (
        served(replies(*sent)) as (address, _),
        Load(address, 1, pause=0.001, fragments=True) as load,
    ):
        load.wait_replies(20)
        tally = load.finish()
        assert tally.clean, tally.summary()
        assert load.tcp_states() == {"ESTABLISHED": 1}


def test_storm_notices() -> None:
    """Refused, reset, cut, wrong and served connections are told apart."""
    with served(replies(b"1 0 v\n"), 1) as (address, _), Storm(address, 1, 100.0) as storm:
        tally = storm.wait()
        assert tally.clean, tally
        assert tally.versions == {"v"}
    with Storm(address, 3, 100.0) as storm:  # nobody listens there any more
        assert storm.wait().refused == 3
    with served(reset) as (address, _), Storm(address, 1, 100.0) as storm:
        assert storm.wait().reset == 1
    with served(lambda sock: sock.sendall(b"1 0")) as (address, _), Storm(address, 1, 9.0) as storm:
        assert storm.wait().cut + storm.wait().reset == 1
    with served(replies(b"2 0 v\n")) as (address, _), Storm(address, 1, 100.0) as storm:
        assert storm.wait().wrong == 1
        assert not storm.tally.clean


@pytest.mark.process
@pytest.mark.skipif(bool(Capture.missing()), reason=Capture.missing() or "it can")
def test_capture_counts_by_peer() -> None:
    """FIN and RST are counted, each for the port it went to, and nothing else is."""

    def serve(sock: socket.socket) -> None:
        if sock.recv(100) == b"reset":
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    with served(serve, 2) as (address, port), Capture(port) as capture:
        with connect(address) as ended:
            fin_port = ended.getsockname()[1]
            ended.sendall(b"end")
            assert ended.recv(1) == b""
        with connect(address) as cut:
            reset_port = cut.getsockname()[1]
            cut.sendall(b"reset")
            with pytest.raises(ConnectionResetError):
                cut.recv(1)
        flags = capture.stop()
    assert flags.to([fin_port]) == (1, 0)
    assert flags.to([reset_port]) == (0, 1)
    assert flags.to([1]) == (0, 0)


@pytest.mark.process
def test_signals_that_were_ignored_are_not() -> None:
    """A background job of a shell ignores Ctrl-C; what the tests start must not inherit that."""
    program = (
        "import signal, subprocess, sys\n"
        "for number in (signal.SIGINT, signal.SIGQUIT):\n"
        "    signal.signal(number, signal.SIG_IGN)\n"
        "import tests.conftest\n"
        "ask = 'import signal; print(*map(signal.getsignal, (signal.SIGINT, signal.SIGQUIT)))'\n"
        "subprocess.run([sys.executable, '-c', ask], check=True)\n"
    )
    said = subprocess.run(
        [sys.executable, "-c", program],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
    )
    assert said.stdout == f"{signal.default_int_handler} {signal.SIG_DFL}\n", said.stderr
