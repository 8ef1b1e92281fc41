"""The graceful timeout is the time after which nothing of the server is left."""

from __future__ import annotations

import signal
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Final

import pytest

from tests.harness import Server, connect, read_reply
from tests.peer.conftest import MODELS

GRACE: Final = 2.0
#: Beyond it, by the documentation, and for a machine that is busy with other things.
MARGIN: Final = 1.0
SLACK: Final = 1.5

# It holds on to its connection, each in another way, and can be told to do none of that.
HANDLER: Final = """
import contextlib, time
def handle(conn):
    told = conn.recv_until(b"\\n")
    conn.send(told + b"\\n")
    while told == b"compute":
        with contextlib.suppress(Exception):
            time.sleep(3600)
    while True:
        try:
            if not conn.recv():
                return
        except Exception:
            if told == b"leave":
                return
            time.sleep(0.01)
"""
ASYNC_HANDLER: Final = """
import asyncio, contextlib, time
async def handle(conn):
    told = await conn.recv_until(b"\\n")
    await conn.send(told + b"\\n")
    if told == b"compute":
        await asyncio.sleep(0.1)  # until the reply is out
        time.sleep(3600)
    while True:
        try:
            if not await conn.recv():
                return
        except BaseException:
            if told == b"leave":
                return
            with contextlib.suppress(BaseException):
                await asyncio.sleep(0.01)
"""
CASES: Final = [
    *[(model, ("leave",)) for model in MODELS],
    *[(model, ("stay", "compute")) for model in MODELS if model != "async"],
    *[("async", (how,)) for how in ("stay", "compute")],
]


@pytest.mark.parametrize(("model", "hows"), CASES)
def test_nothing_outlives_the_graceful_timeout(
    model: str, hows: tuple[str, ...], tmp_path: Path
) -> None:
    """Whatever the handler does about it, and though its peer never ends the connection.

    Where the handler ends when its time is over the peer gets FIN, and the server ends in order.
    """
    (tmp_path / "app.py").write_text(ASYNC_HANDLER if model == "async" else HANDLER)
    workers = str(len(hows)) if model == "prefork" else "1"
    options = ("-k", model, "-w", workers, "--graceful-timeout", str(GRACE))
    with Server(tmp_path, "app.py:handle", *options) as server, ExitStack() as stack:
        for how in hows:
            peer = stack.enter_context(connect(server.address, GRACE + 10))
            peer.sendall(how.encode() + b"\n")
            assert read_reply(peer) == how.encode()
        began = time.monotonic()
        server.signal(signal.SIGTERM)
        server.wait_exit(GRACE + MARGIN + SLACK)
        assert time.monotonic() - began > GRACE / 2, "the handlers had no time"
        if hows == ("leave",):
            assert peer.recv(1) == b"", "in order"
            assert not server.find("worker killed: it did not end in time")
