"""The TLS handshake of an async connection: it waits as a receive does, and hears the server."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from socketkeep._stream._async import AsyncExchange
from socketkeep._stream._exchange import ARRIVED, TIMED_OUT
from socketkeep._stream._modes import check_seconds

if TYPE_CHECKING:
    from socketkeep._stream._tls import TlsSocket


async def shake_hands(conn: AsyncExchange, tls: TlsSocket, timeout: float | None) -> None:
    """Go through the handshake; cancelled or out of time, it can be gone on with."""
    limit = None if timeout is None else check_seconds(timeout)
    end = time.monotonic() + limit if limit else None
    conn._unwatch()
    steps = tls.shaking_hands()
    while True:
        if conn._life.over:
            raise conn._refusal("start_tls")
        if conn._order is not None:
            conn._obey("start_tls")
            if conn._order.how == "close":
                raise conn._end("ended: the server is stopping", "start_tls")
        try:
            want = next(steps, None)
        except OSError as error:
            raise conn._failed(error, "start_tls") from error
        if want is None:
            return
        if limit == 0 or await _ready(conn, want.direction, end) == TIMED_OUT:
            raise conn._unfinished("start_tls", None, limit, end, 0)


async def _ready(conn: AsyncExchange, want: str, end: float | None) -> int:
    """Wait for one direction; return what the wait ended with."""
    loop, fd = conn._loop, conn._fd
    waiter = conn._waiter
    waiter.pending = waiter._asyncio_future_blocking = True
    conn._waiting_since = time.monotonic()
    timer = None if end is None else conn._call_at(end, waiter.end, TIMED_OUT)
    if want == "read":
        loop.add_reader(fd, waiter.end, ARRIVED)
    else:
        loop.add_writer(fd, waiter.end, ARRIVED)
    try:
        await conn._turn
        return waiter.came
    finally:
        waiter.pending = False
        if conn._sock.fileno() >= 0:
            loop.remove_reader(fd)
            loop.remove_writer(fd)
        if timer is not None:
            timer.cancel()
