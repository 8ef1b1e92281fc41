"""`serve --asyncio`: the callbacks of `asyncio.start_server`, of a reader and a writer.

The reader receives when the callback asks it for bytes that it has not, in the callback's own
task, and reads no further ahead than one receive.  So the callback is asked to leave where a
handler is: at a receive.  What the reader has and has not given out stays uncommitted, and goes
along as unread.
"""

from __future__ import annotations

import asyncio
import inspect
import ssl
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, TypeAlias

from socketkeep._base._errors import HandlerError, SocketkeepError
from socketkeep._net._handlers import Handler, check_arity, service_parts
from socketkeep._serve._adapted import adapted
from socketkeep._serve._transport import ConnectionTransport
from socketkeep._stream._aio import AsyncConnection
from socketkeep._stream._lifecycle import Detached

if TYPE_CHECKING:
    from socketkeep._stream._lease import Attached

Callback: TypeAlias = Callable[
    [asyncio.StreamReader, asyncio.StreamWriter], Awaitable[object] | None
]


class StreamTransport(ConnectionTransport):
    """One on which nobody reads for a protocol: `loop.start_tls` would wait for ever."""

    _start_tls_compatible = False


class KeptReader(asyncio.StreamReader):
    """An `asyncio.StreamReader` whose bytes are the connection's until they are given out."""

    def __init__(self, conn: AsyncConnection) -> None:
        super().__init__(loop=asyncio.get_running_loop())
        self.conn = conn
        self.connection_transport: ConnectionTransport | None = None
        self._receiving = False

    async def _wait_for_data(self, func_name: str) -> None:
        """Receive; asyncio waits here until its transport has fed it."""
        if self._receiving:
            raise RuntimeError(
                f"{func_name}() called while another coroutine is already waiting for incoming data"
            )
        transport = self.connection_transport
        assert transport is not None
        self._receiving = True
        try:
            data = await self.conn.recv()
        except Detached:
            transport.left()
            raise
        except (SocketkeepError, OSError) as error:
            if transport.is_closing() and transport.error is None:
                self.feed_eof()  # by the callback itself
                return
            transport.fail(error)
            raise
        finally:
            self._receiving = False
        if data:
            self.feed_data(data)
        else:
            self.feed_eof()

    def commit(self, state: object = None) -> None:
        """Say that all that was read is dealt with, and that `state` is what to go on from.

        As `writer.commit`.
        """
        assert self.connection_transport is not None
        self.connection_transport.commit(state, bytes(self._ahead))

    def give_back(self) -> None:
        """Have the connection receive again what was not given out, as the beginning of TLS.

        For the library.
        """
        buffer = self.conn.core.buffer
        if self._ahead:
            buffer.feed(bytes(self._ahead) + (buffer.take(buffer.size) or b""))
            self._ahead.clear()

    @property
    def _ahead(self) -> bytearray:
        """Return what is received and not given out."""
        ahead: bytearray = self._buffer  # type: ignore[attr-defined]
        return ahead


class KeptWriter(asyncio.StreamWriter):
    """An `asyncio.StreamWriter` that commits, and knows what was committed."""

    def __init__(
        self,
        transport: ConnectionTransport,
        protocol: asyncio.StreamReaderProtocol,
        reader: KeptReader,
    ) -> None:
        super().__init__(transport, protocol, reader, asyncio.get_running_loop())
        self._kept_transport = transport
        self._kept_reader = reader

    @property
    def state(self) -> Any:
        """Return what the last commit left, None on a connection on which nothing was committed."""
        return self._kept_transport.conn.state

    @property
    def attached(self) -> Attached:
        """The reason of the call.

        It is "accepted", "reload", "parked", "upgrade" or "crash".
        """
        return self._kept_transport.conn.attached

    def commit(self, state: object = None) -> None:
        """Say that all that was read is dealt with, and that `state` is what to go on from.

        What the reader has and has not given out is no part of it, and is read next, in whichever
        worker.  What is written and has not gone out yet counts as on its way.  After an error
        nothing is committed.

        Args:
            state: The state, as for `Connection.commit`.

        Raises:
            StateTooLarge: It encodes to more than 64 KiB.
            StateNotEncodable: It is not made of what msgspec encodes.
        """
        self._kept_reader.commit(state)

    async def start_tls(self, sslcontext: ssl.SSLContext | None, **options: Any) -> None:
        """Go on by TLS, as the server.

        With a context of the code's own the connection stays in this worker.

        Args:
            sslcontext: The context; None: the TLS of the listener (``start-tls=on``).
            options: Of asyncio's options `ssl_handshake_timeout` is heeded.
        """
        self._kept_reader.give_back()
        async with asyncio.timeout(options.get("ssl_handshake_timeout")):
            await self._kept_transport.start_tls(sslcontext)


def adapt_streams(target: object) -> Handler:
    """Return the handler of connections that serves by `target`, a callback.

    Raises HandlerError for what is none, and for one that has its input redelivered.
    """
    target, lifespan = service_parts(target)
    if not callable(target) or inspect.isclass(target):
        raise HandlerError("it is no callback: --asyncio takes a function of a reader and a writer")
    check_arity(target, 2, "two arguments, the reader and the writer")
    callback: Callback = target

    async def call(conn: AsyncConnection) -> None:
        await _serve(conn, callback)

    return adapted(target, call, lifespan, takes="asyncio's reader takes them")


async def _serve(conn: AsyncConnection, callback: Callback) -> None:
    reader = KeptReader(conn)
    protocol = asyncio.StreamReaderProtocol(reader, loop=asyncio.get_running_loop())
    transport = StreamTransport(conn, protocol)
    reader.connection_transport = transport
    protocol.connection_made(transport)
    writer = KeptWriter(transport, protocol, reader)
    try:
        returned = callback(reader, writer)
        if returned is not None and inspect.isawaitable(returned):
            await returned
    except ConnectionResetError as error:
        transport.close()
        if transport.error is None:
            raise
        raise transport.error from error  # asyncio's own does not say of which connection
    except BaseException as error:
        if not isinstance(error, Detached):
            transport.close()
        raise
    # Tasks that the callback has started may go on with them: they end with who holds them.
    del reader, protocol, writer, returned
    await transport.finish()
