"""`open_connection`: a `Connecting` whose descriptor and moment a running loop watches."""

from __future__ import annotations

import asyncio
import socket
import time
from typing import TYPE_CHECKING

from socketkeep._base._errors import TimedOut, WouldBlock
from socketkeep._net._connecting import Connecting
from socketkeep._net._resolving import Address, host_of, parse
from socketkeep._stream._aio import AsyncConnection
from socketkeep._stream._async_steps import settle
from socketkeep._stream._modes import check_seconds
from socketkeep._stream._waiting import earlier

if TYPE_CHECKING:
    import ssl

#: Loops round to milliseconds, and nothing may time out early.
_TICK = 0.001


async def open_connection(
    address: Address,
    *,
    timeout: float | None = None,
    tls: ssl.SSLContext | None = None,
    server_hostname: str | None = None,
) -> AsyncConnection:
    """Return a connection to `address`, for asyncio and uvloop.

    A name with several addresses goes by Happy Eyeballs, as `Connecting` tells.  Cancelled, it
    leaves nothing open.

    Args:
        address: ``host:port``, ``[::1]:port``, ``unix:/path``, ``unix:@name``, or a host and a port
            in a tuple.
        timeout: Seconds for the whole of it, name resolution and all; None: as long as it takes.
        tls: The context of its TLS, as for `Connecting`.
        server_hostname: The host whose certificate is wanted, as for `Connecting`.

    Raises:
        TimedOut: It was not made in time.
        Refused: Nobody listens there.
        Unreachable: The network says that the peer cannot be reached.
        Unresolved: The name has no address.
        OutOfResources: There is no descriptor or memory for it.
        SystemFailure: The system fails otherwise; the text tells of every address that was tried.
        TlsFailure: The TLS handshake failed.
        CertificateRefused: The peer's certificate will not do.
        AddressError: The address is not written well.
    """
    begun = time.monotonic()
    with Connecting(address) as connecting:
        conn = AsyncConnection(await _connected(connecting, timeout))
        if tls is not None:
            host = server_hostname or host_of(parse(address))
            left = None if timeout is None else max(0.0, begun + timeout - time.monotonic())
            try:
                await conn.start_tls(tls, server_hostname=host, timeout=left)
            except BaseException as error:
                await conn.abort()
                if isinstance(error, TimedOut | WouldBlock):
                    raise connecting.unfinished(begun, timeout) from None
                raise
    return conn


async def _connected(connecting: Connecting, timeout: float | None) -> socket.socket:
    begun = time.monotonic()
    limit = None if timeout is None else check_seconds(timeout)
    end = None if limit is None else begun + limit
    while True:
        sock = connecting.advance()
        if sock is not None:
            return sock
        if end is not None and time.monotonic() >= end:
            raise connecting.unfinished(begun, limit)
        await _until(connecting.fileno(), earlier(end, connecting.wake_at))


async def _until(fd: int, moment: float | None) -> None:
    """Wait until `fd` is readable, or the moment has come."""
    loop = asyncio.get_running_loop()
    ready: asyncio.Future[None] = loop.create_future()
    timer = None
    if moment is not None:
        left = max(0.0, moment - time.monotonic()) + _TICK
        timer = loop.call_later(left, settle, ready, None)
    loop.add_reader(fd, settle, ready, None)
    try:
        await ready
    finally:
        loop.remove_reader(fd)
        if timer is not None:
            timer.cancel()
