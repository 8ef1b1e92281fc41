"""A connection as `anyio.abc.ByteStream`.  Only this module imports anyio, and only when used.

A wrapper, and not more verbs of the connection: anyio has errors of its own for the ends of a
stream, and wants the other tasks to have a turn at each operation, which would cost every receive
of those who do without it.
"""

from __future__ import annotations

import socket
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol

from anyio import BrokenResourceError, BusyResourceError, ClosedResourceError, EndOfStream
from anyio.abc import ByteStream, SocketAttribute
from anyio.lowlevel import checkpoint

from socketkeep._base._errors import Busy, Closed, Released, SystemFailure

if TYPE_CHECKING:
    import ssl

    from socketkeep._stream._core import Core


class _AsyncVerbs(Protocol):
    """An `AsyncConnection` as far as it is used here."""

    @property
    def core(self) -> Core: ...

    def recv(self, max: int, /) -> Awaitable[bytes]: ...  # noqa: A002 - the word of the library

    async def send(self, data: bytes, /) -> None: ...

    async def send_eof(self) -> None: ...

    async def close(self) -> None: ...


class ConnectionByteStream(ByteStream):
    """The result of `AsyncConnection.byte_stream`."""

    def __init__(self, conn: _AsyncVerbs) -> None:
        self._conn = conn

    async def receive(self, max_bytes: int = 65536) -> bytes:
        """Receive what has come, at most `max_bytes`; raises EndOfStream at the peer's EOF."""
        await checkpoint()  # before any byte is taken, so that being cancelled here loses none
        with _translated():
            data = await self._conn.recv(max_bytes)
        if not data:
            raise EndOfStream
        return data

    async def send(self, item: bytes) -> None:
        """Send all of `item`."""
        await checkpoint()
        with _translated():
            await self._conn.send(item)

    async def send_eof(self) -> None:
        """End the sending, as `AsyncConnection.send_eof`."""
        with _translated():
            await self._conn.send_eof()

    async def aclose(self) -> None:
        """Close the connection, as `AsyncConnection.close`."""
        await self._conn.close()

    @property
    def extra_attributes(self) -> Mapping[Any, Callable[[], Any]]:
        """The attributes that anyio's own socket streams have."""
        sock = self._conn.core.sock
        attributes: dict[Any, Callable[[], Any]] = {
            SocketAttribute.family: lambda: sock.family,
            SocketAttribute.raw_socket: lambda: sock,
            SocketAttribute.local_address: lambda: _address(sock.getsockname()),
            SocketAttribute.remote_address: lambda: _address(sock.getpeername()),
        }
        if sock.family in (socket.AF_INET, socket.AF_INET6):
            attributes[SocketAttribute.local_port] = lambda: sock.getsockname()[1]
            attributes[SocketAttribute.remote_port] = lambda: sock.getpeername()[1]
        engine = self._conn.core.transport.tls
        if engine is not None:
            attributes.update(_tls_attributes(engine))
        return attributes


def _tls_attributes(tls: ssl.SSLObject) -> dict[Any, Callable[[], Any]]:
    """Return the attributes that anyio's own TLS streams have; close_notify is always required."""
    from anyio.streams.tls import TLSAttribute

    return {
        TLSAttribute.alpn_protocol: tls.selected_alpn_protocol,
        TLSAttribute.channel_binding_tls_unique: tls.get_channel_binding,
        TLSAttribute.cipher: tls.cipher,
        TLSAttribute.peer_certificate: lambda: tls.getpeercert(False),
        TLSAttribute.peer_certificate_binary: lambda: tls.getpeercert(True),
        TLSAttribute.server_side: lambda: tls.server_side,
        TLSAttribute.shared_ciphers: lambda: tls.shared_ciphers() if tls.server_side else None,
        TLSAttribute.standard_compatible: lambda: True,
        TLSAttribute.ssl_object: lambda: tls,
        TLSAttribute.tls_version: tls.version,
    }


def _address(address: Any) -> Any:
    return address[:2] if isinstance(address, tuple) else address


@contextmanager
def _translated() -> Iterator[None]:
    """Raise anyio's error for the library's, which is its cause."""
    try:
        yield
    except (Closed, Released) as error:
        raise ClosedResourceError from error
    except SystemFailure as error:
        raise BrokenResourceError from error
    except Busy as error:
        raise BusyResourceError("receiving from") from error
