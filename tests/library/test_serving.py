"""Opening connections and serving them, on asyncio and uvloop."""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from socketkeep import (
    AddressError,
    AsyncConnection,
    Listener,
    PeerReset,
    Refused,
    TimedOut,
    open_connection,
    serve,
)
from tests.library.conftest import Run
from tests.library.test_connecting import deaf, name_of, unused_port


async def echo(conn: AsyncConnection) -> None:
    while data := await conn.recv():
        await conn.send(data)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not condition():  # noqa: ASYNC110 - of several tasks
            await asyncio.sleep(0.001)


# Opening.


@pytest.mark.parametrize("bind", ["127.0.0.1:0", "[::1]:0", "unix:{}/s"])
def test_a_connection_to_a_server(bind: str, tmp_path: Path, run: Run) -> None:
    async def scenario() -> None:
        async with (
            serve(echo, bind.format(tmp_path)) as server,
            await open_connection(server.address, timeout=5) as conn,
        ):
            await conn.send(b"hello")
            assert await conn.recv_exactly(5, timeout=5) == b"hello"
            assert server.connections == 1
            await conn.send_eof()
            assert await conn.recv(timeout=5) == b""

    run(scenario)


def test_what_cannot_be_opened(run: Run) -> None:
    async def scenario() -> None:
        with pytest.raises(Refused, match=r"^connect to 127"):
            await open_connection(("127.0.0.1", unused_port()))
        with pytest.raises(AddressError):
            await open_connection("fd://3")
        with deaf() as address:
            with pytest.raises(TimedOut) as caught:
                await open_connection(address, timeout=0.05)
            assert caught.value.elapsed is not None
            assert caught.value.elapsed >= 0.05
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.05):
                    await open_connection(address)

    run(scenario)


def test_a_silent_address_does_not_hold_up_the_next(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario() -> None:
        with deaf() as silent, Listener.bind("127.0.0.1:0") as listener:
            found = name_of(silent, listener.sock.getsockname())
            with monkeypatch.context() as patch:
                patch.setattr(socket, "getaddrinfo", found)
                begun = time.monotonic()
                conn = await open_connection("a.example:80", timeout=5)
            assert time.monotonic() - begun >= 0.25
            assert conn.peer == listener.text
            await conn.close(linger=0)

    run(scenario)


# Serving.


def test_at_the_limit_clients_wait_in_the_queue(run: Run) -> None:
    async def scenario() -> None:
        async with serve(echo, "127.0.0.1:0", max_connections=1) as server:
            first = await open_connection(server.address)
            second = await open_connection(server.address)
            await second.send(b"x")
            await first.send(b"x")
            assert await first.recv(timeout=5) == b"x"
            with pytest.raises(TimedOut):
                await second.recv(timeout=0.05)
            assert server.connections == 1
            await first.close()
            assert await second.recv(timeout=5) == b"x"
            await second.close()

    run(scenario)


def test_the_end_waits_for_handlers_and_then_cancels_them(run: Run) -> None:
    async def scenario() -> None:
        async with serve(echo, "127.0.0.1:0") as server:
            conn = await open_connection(server.address)
            await until(lambda: server.connections == 1)
            asyncio.get_running_loop().call_later(0.05, lambda: socket_of(conn).shutdown(1))
        assert server.connections == 0
        assert await conn.recv() == b""
        await conn.close()
        async with serve(echo, "127.0.0.1:0", graceful_timeout=0.05) as server:
            conn = await open_connection(server.address)
            await until(lambda: server.connections == 1)
        with pytest.raises(PeerReset):
            await conn.recv(timeout=5)
        await conn.close()

    run(scenario)


def socket_of(conn: AsyncConnection) -> socket.socket:
    return conn.core.sock


def test_a_cancelled_server_cancels_at_once(run: Run) -> None:
    async def scenario() -> None:
        with Listener.bind("127.0.0.1:0") as listener:

            async def body() -> None:
                async with serve(echo, listener) as server:
                    await server.serve_forever()

            task = asyncio.create_task(body())
            conn = await open_connection(listener.text)
            await conn.send(b"x")
            assert await conn.recv(timeout=5) == b"x"
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            with pytest.raises(PeerReset):
                await conn.recv(timeout=5)
            await conn.close()
            assert listener.fileno() >= 0, "it is the caller's"

    run(scenario)


def test_stop_lets_it_return(run: Run) -> None:
    async def scenario() -> None:
        async with serve(echo, "127.0.0.1:0") as server:
            asyncio.get_running_loop().call_soon(server.stop)
            async with asyncio.timeout(5):
                await server.serve_forever()

    run(scenario)


def test_a_handler_that_fails_is_logged_and_its_peer_reset(
    run: Run, caplog: pytest.LogCaptureFixture
) -> None:
    async def fail(conn: AsyncConnection) -> None:
        await conn.recv()
        raise RuntimeError("on purpose")

    async def scenario() -> None:
        async with serve(fail, "127.0.0.1:0") as server:
            conn = await open_connection(server.address)
            await conn.send(b"x")
            with pytest.raises(PeerReset):
                await conn.recv(timeout=5)
            await conn.close()

    run(scenario)
    (record,) = caplog.records
    assert record.exc_info is not None
    assert "the handler of the connection from 127.0.0.1:" in record.message


def test_out_of_descriptors_it_pauses_and_says_so_once(
    run: Run, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    failing = [True]
    plain_accept = socket.socket.accept

    def accept(self: socket.socket) -> tuple[socket.socket, Any]:
        if failing[0]:
            tries.append(time.monotonic())
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        return plain_accept(self)

    tries: list[float] = []
    monkeypatch.setattr(socket.socket, "accept", accept)

    async def scenario() -> None:
        async with serve(echo, "127.0.0.1:0") as server:
            conn = await open_connection(server.address)
            await conn.send(b"x")
            await until(lambda: len(tries) >= 3)
            assert tries[2] - tries[0] >= 0.19
            failing[0] = False
            assert await conn.recv(timeout=5) == b"x"
            await conn.close()

    run(scenario)
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
