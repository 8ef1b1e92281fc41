"""A handler that swallows the end of its call costs its connection nothing, and nobody else."""

from __future__ import annotations

import signal
import socket
import struct
from pathlib import Path
from typing import Final

import pytest

from tests.harness import Server, connect, read_reply, write_source
from tests.peer.conftest import MODELS

#: A bare `except`, as people write it to be safe.
_BARE: Final = """
import contextlib
from socketkeep import resumable

{resumable}
def handle(conn):
    count = conn.state or 0
    while True:
        try:
            line = conn.recv_until(b"\\n")
            count += 1
            conn.send(b"%d %s {version}\\n" % (count, line))
            conn.commit(count)
        {swallow}:
            pass
"""
_TELLS: Final = "handler goes on without its connection"


def _write(
    directory: Path,
    model: str,
    version: str = "v1",
    *,
    swallow: str = "except",
    plain: bool = False,
) -> str:
    source = _BARE.format(version=version, swallow=swallow, resumable="" if plain else "@resumable")
    return write_source(directory, _as_async(source) if model == "async" else source)


def _as_async(source: str) -> str:
    source = source.replace("def handle", "async def handle")
    for verb in ("conn.recv", "conn.send"):
        source = source.replace(verb, f"await {verb}")
    return source


def _asks(sock: socket.socket, word: bytes) -> bytes:
    sock.sendall(word + b"\n")
    return read_reply(sock)


def _check_tells(server: Server) -> None:
    """It is said, by name and place, and not once for each time it happens."""
    server.wait_event(_TELLS)
    said = server.find(_TELLS)
    pids = {event["pid"] for event in server.find("worker ready")}
    assert len(said) <= len(pids), "at a bounded rate, each worker"
    assert said[0]["handler"].endswith(".handle")
    assert "handlers.py:" in said[0]["at"]


def one_seat(model: str) -> tuple[str, ...]:
    """Options of a server whose one worker serves, if by threads, by one."""
    return ("-k", model, "-w", "1", *(("--threads", "1") if model == "thread" else ()))


@pytest.mark.parametrize("model", MODELS)
def test_a_reload(tmp_path: Path, model: str) -> None:
    """Its connections move, with their state, and the old workers end at once."""
    room = ("-w", "3") if model == "prefork" else ("-w", "1")
    target = _write(tmp_path, model)
    with Server(tmp_path, target, "-k", model, *room) as server:  # noqa: SIM117 - it says more so
        with connect(server.address) as one, connect(server.address) as two:
            assert [_asks(each, b"a") for each in (one, two)] == [b"1 a v1"] * 2
            _write(tmp_path, model, "v2")
            assert server.reload().exit_code == 0
            server.wait_until(
                lambda: all(each["generation"] == 2 for each in server.workers()),
                "the old workers' end, long before the deadline",
                timeout=10,
            )
            assert [_asks(each, b"b") for each in (one, two)] == [b"2 b v2"] * 2
            _check_tells(server)
            status = server.status()
            assert status["totals"]["lost"] == 0
            assert status["totals"]["handler_errors"] == 2
            assert status["connections"]["open"] == 2


@pytest.mark.parametrize("model", ["prefork", "thread", "async"])
def test_parking(tmp_path: Path, model: str) -> None:
    """It is parked whenever it waits; its seat is for others."""
    target = _write(tmp_path, model)
    with Server(tmp_path, target, *one_seat(model), "--park-after", "0.1") as server:
        with connect(server.address) as sock:
            for number in (1, 2, 3):
                assert _asks(sock, b"a") == b"%d a v1" % number
                server.wait_until(
                    lambda: server.status()["connections"]["parked"] == 1, "it is parked"
                )
                with connect(server.address) as other:
                    assert _asks(other, b"b") == b"1 b v1"
        _check_tells(server)
        assert server.status()["totals"]["lost"] == 0


@pytest.mark.parametrize("model", ["prefork", "thread"])
def test_others_wait_for_its_seat(tmp_path: Path, model: str) -> None:
    """With default options: who waits for input makes room, and is served again."""
    target = _write(tmp_path, model)
    with Server(tmp_path, target, *one_seat(model)) as server:
        clients = [connect(server.address) for _ in range(3)]
        try:
            for number in (1, 2):
                for sock in clients:
                    assert _asks(sock, b"a") == b"%d a v1" % number
        finally:
            for sock in clients:
                sock.close()
        _check_tells(server)
        assert server.status()["totals"]["lost"] == 0


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("plain", [False, True])
def test_a_stop(tmp_path: Path, model: str, plain: bool) -> None:
    """The connection ends in order, and the server when it is to."""
    target = _write(tmp_path, model, plain=plain)
    with Server(tmp_path, target, "-k", model, "--graceful-timeout", "0.5") as server:
        with connect(server.address) as sock:
            assert _asks(sock, b"a") == b"1 a v1"
            server.signal(signal.SIGTERM)
            assert sock.recv(1) == b""
        assert server.wait_exit(10) == 0
        _check_tells(server)
        assert not server.find("worker killed: it did not end in time")


@pytest.mark.parametrize("model", MODELS)
def test_a_peer_that_resets(tmp_path: Path, model: str) -> None:
    """`except Exception` in a loop takes a reset for an error like others."""
    target = _write(tmp_path, model, swallow="except Exception", plain=True)
    with Server(tmp_path, target, *one_seat(model)) as server:
        for _ in range(2):
            with connect(server.address) as sock:
                assert _asks(sock, b"a") == b"1 a v1"
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        server.wait_event(_TELLS)
        server.wait_until(lambda: server.status()["connections"]["open"] == 0, "both ended")
        assert server.status()["totals"]["reset"] == 2
        with connect(server.address) as sock:
            assert _asks(sock, b"a") == b"1 a v1"
        _check_tells(server)


_ENDLESS: Final = """
def handle(conn):
    while True:
        conn.send(conn.recv())
"""


@pytest.mark.parametrize("model", MODELS)
def test_an_end_that_is_not_looked_at(tmp_path: Path, model: str) -> None:
    """The classic: an echo that takes the peer's EOF for no bytes, and sends none, for ever."""
    target = write_source(tmp_path, _as_async(_ENDLESS) if model == "async" else _ENDLESS)
    with Server(tmp_path, target, *one_seat(model)) as server:
        for _ in range(2):
            with connect(server.address) as sock:
                sock.sendall(b"x")
                assert sock.recv(1) == b"x"
                sock.shutdown(socket.SHUT_WR)
                assert sock.recv(1) == b""
        server.wait_until(lambda: server.status()["connections"]["open"] == 0, "both ended")
        assert server.status()["totals"]["handler_errors"] == 2
        _check_tells(server)


def test_a_cancellation(tmp_path: Path) -> None:
    """An async handler that is cancelled at the deadline, and goes on, does not keep the server."""
    source = """
import asyncio

async def handle(conn):
    await conn.send(b"here\\n")
    while True:
        try:
            await asyncio.sleep(3600)
        except:
            pass
"""
    target = write_source(tmp_path, source)
    with Server(tmp_path, target, "--graceful-timeout", "0.2") as server:
        with connect(server.address) as sock:
            assert read_reply(sock) == b"here"
            server.signal(signal.SIGTERM)
            assert sock.recv(1) == b""
        assert server.wait_exit(6) == 0
        assert server.find("handlers did not end in time")[0]["open"] == 1
        assert not server.find("worker killed: it did not end in time")


@pytest.mark.parametrize("model", ["thread", "async"])
def test_many_in_one_worker(tmp_path: Path, model: str) -> None:
    """Each that is given up keeps memory: after some the worker is replaced, and nobody notices."""
    target = _write(tmp_path, model)
    options = ("-w", "1", "--park-after", "0.1")
    with Server(tmp_path, target, "-k", model, *options) as server:
        clients = [connect(server.address) for _ in range(17)]
        try:
            assert {_asks(sock, b"a") for sock in clients} == {b"1 a v1"}
            event = server.wait_event("recycling worker")
            assert event["reason"] == "handlers that did not end"
            server.wait_event("worker exited", pid=event["pid"])
            assert {_asks(sock, b"b") for sock in clients} == {b"2 b v1"}
        finally:
            for sock in clients:
                sock.close()
        assert server.status()["totals"]["worker_deaths"] == 0
        _check_tells(server)


@pytest.mark.parametrize("model", MODELS)
def test_what_a_handler_does_on_its_way_out_is_no_fault(tmp_path: Path, model: str) -> None:
    source = _BARE.format(version="v1", resumable="@resumable", swallow="finally").replace(
        "            pass",
        """            with contextlib.suppress(OSError):
                conn.send(b"") if False else None
            leave(conn) if not conn.ended == 0 else None
""",
    )
    source += """
def leave(conn):
    for _ in range(3):
        with contextlib.suppress(OSError):
            conn.send(b"bye")
    conn.close()
"""
    if model == "async":
        source = _as_async(source).replace("leave(conn) if", "await leave(conn) if")
        source = source.replace("def leave", "async def leave").replace(
            "conn.close()", "await conn.close()"
        )
    target = write_source(tmp_path, source)
    with Server(tmp_path, target, "-k", model, "-w", "1") as server:
        with connect(server.address) as sock:
            assert _asks(sock, b"a") == b"1 a v1"
            assert server.reload().exit_code == 0
            assert _asks(sock, b"b") == b"2 b v1"
        assert not [event for event in server.events if event["level"] in ("warning", "error")]
