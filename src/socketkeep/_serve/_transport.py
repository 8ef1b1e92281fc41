"""An asyncio transport on an `AsyncConnection`: for streams, and for protocols.

The loop's own transport on the socket lost against it.  What that reads and writes passes by the
ledger: after a crash nobody could tell whether the connection was clean.  It knows nothing of idle
timeouts, rates and deadlines, nor of the edge, and it reads ahead of whoever is to be moved.  The
speed of uvloop's is what is given up.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
import sys
from asyncio import trsock
from collections.abc import Callable, Coroutine
from typing import Any, Final

from socketkeep._base._errors import SocketkeepError
from socketkeep._serve._peer_names import name_of
from socketkeep._stream._aio import AsyncConnection, Backlog
from socketkeep._stream._lifecycle import State
from socketkeep._stream._shell import Data

_log: Final = logging.getLogger("asyncio")
_HIGH_WATER: Final = 65536
#: asyncio's own: so many writes to a transport that has ended are let pass in silence.
_SILENT_WRITES: Final = 5


class ConnectionTransport(asyncio.Transport):
    """The transport that a protocol writes to, with the methods of asyncio's of sockets.

    conn: the connection.  It ends as `close` and `abort` of asyncio's do: with FIN, once what was
    written has gone out, or without that.  closed: done when `connection_lost` has been called, or
    the connection has left.  error: what has ended it, None: it was closed.

    `get_extra_info` has what asyncio's has (peername, sockname, socket, and of TLS sslcontext,
    ssl_object, peercert, cipher, compression), and "socketkeep", the connection itself.
    """

    # Lets asyncio's `loop.start_tls` put TLS of its own on it.
    _start_tls_compatible = True

    def __init__(self, conn: AsyncConnection, protocol: asyncio.BaseProtocol) -> None:
        super().__init__()
        self.conn: Final = conn
        self._loop = asyncio.get_running_loop()
        self._protocol = protocol
        self.closed: Final[asyncio.Future[None]] = self._loop.create_future()
        self.error: BaseException | None = None
        self.on_pause: Callable[[], None] | None = None  # who reads is to stop, or may go on
        self.undelivered = b""  # received, and not given to the protocol yet
        self._backlog: Final = Backlog(conn, self._maybe_resume_writing, self._backlog_ended)
        self._paused = False
        self._closing = False
        self._write_ended = False
        self._lost = 0  # 0: connection_lost is not on its way; then, writes that were too late
        self._writing_paused = False
        self._high, self._low = _HIGH_WATER, _HIGH_WATER // 4
        self._sslcontext: ssl.SSLContext | None = None
        self._flushed: asyncio.Future[None] | None = None
        self._ending: asyncio.Task[None] | None = None
        self._closer: asyncio.Task[None] | None = None

    def __repr__(self) -> str:
        state = "closing " if self._closing else ""
        return f"<{type(self).__name__} {state}of {self.conn!r}>"

    # The protocol, and what is known.

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self._protocol = protocol

    def get_protocol(self) -> asyncio.BaseProtocol:
        return self._protocol

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        value = self._extra_info(name)
        return default if value is None else value

    def _extra_info(self, name: str) -> Any:
        conn = self.conn
        tls = conn.tls
        match name:
            case "peername":
                return name_of(conn.peer)
            case "sockname":
                return name_of(conn.local)
            case "socket":
                return trsock.TransportSocket(conn.core.sock)
            case "socketkeep":
                return conn
            case "sslcontext":
                return self._sslcontext
            case "ssl_object":
                return tls
            case "cipher" if tls is not None:
                return tls.cipher()
            case "peercert" if tls is not None:
                return tls.getpeercert()
        return None

    # Reading.

    def is_reading(self) -> bool:
        return not (self._paused or self._closing)

    def pause_reading(self) -> None:
        if self.is_reading():
            self._paused = True
            self._reading_changed()

    def resume_reading(self) -> None:
        if self._paused and not self._closing:
            self._paused = False
            self._reading_changed()

    def _reading_changed(self) -> None:
        if self.on_pause is not None:
            self.on_pause()

    # Writing.

    def write(self, data: Data) -> None:
        if not isinstance(data, bytes | bytearray | memoryview):
            raise TypeError(
                f"data argument must be a bytes-like object, not {type(data).__name__!r}"
            )
        if self._write_ended:
            raise RuntimeError("Cannot call write() after write_eof()")
        if not data:
            return
        if self._lost or self.conn.core.life.over:
            self._lost += 1
            if self._lost > _SILENT_WRITES:
                _log.warning("socket.send() raised exception.")
            return
        try:
            self._backlog.write(data if type(data) is bytes else memoryview(data).cast("B"))
        except (SocketkeepError, OSError) as error:
            self.fail(error)
            return
        if len(self._backlog) > self._high and not self._writing_paused:
            self._writing_paused = True
            self._tell("pause_writing")
        self._ask_again()

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        if self._closing or self._write_ended:
            return
        self._write_ended = True
        if self._backlog.empty:
            self._end_writing()

    def _end_writing(self) -> None:
        self._ending = self._loop.create_task(self._send_eof())

    async def _send_eof(self) -> None:
        try:
            await self.conn.send_eof()
        except (SocketkeepError, OSError) as error:
            self.fail(error)

    def get_write_buffer_size(self) -> int:
        return len(self._backlog)

    def get_write_buffer_limits(self) -> tuple[int, int]:
        return self._low, self._high

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        if high is None:
            high = _HIGH_WATER if low is None else 4 * low
        if low is None:
            low = high // 4
        if not high >= low >= 0:
            raise ValueError(f"high ({high!r}) must be >= low ({low!r}) must be >= 0")
        self._high, self._low = high, low

    def _maybe_resume_writing(self) -> None:
        if self._writing_paused and len(self._backlog) <= self._low:
            self._writing_paused = False
            self._tell("resume_writing")

    def _tell(self, what: str) -> None:
        try:
            getattr(self._protocol, what)()
        except Exception as error:
            self._loop.call_exception_handler(
                {
                    "message": f"protocol.{what}() failed",
                    "exception": error,
                    "transport": self,
                    "protocol": self._protocol,
                }
            )

    def _backlog_ended(self, error: SocketkeepError | OSError | None) -> None:
        self._note_flushed()
        if error is not None:
            self.fail(error)
        elif self._closing:
            self._lose_soon(None)
        elif self._write_ended:
            self._end_writing()

    async def flushed(self) -> None:
        """Wait until all that was written has gone out, or never will."""
        if self._backlog.empty or self._lost:
            return
        if self._flushed is None:
            self._flushed = self._loop.create_future()
        await asyncio.shield(self._flushed)

    def _note_flushed(self) -> None:
        flushed, self._flushed = self._flushed, None
        if flushed is not None and not flushed.done():
            flushed.set_result(None)

    async def start_tls(self, context: ssl.SSLContext | None) -> None:
        """Go on by TLS, of `context` or, where that is None, of the listener."""
        await self.flushed()
        await self.conn.start_tls(context, server_side=True)
        self._sslcontext = context

    # Commits, and the end.

    def commit(self, state: object = None, ahead: bytes = b"") -> None:
        """Say that all received so far is dealt with, and that `state` is what to go on from.

        ahead: the last bytes of it, that are not.  What was written and has not gone out counts as
        on its way, so that no crash loses it unnoticed.  Raises what `AsyncConnection.commit` does.
        """
        self._backlog.cover()
        self.conn.commit_but(ahead or self.undelivered, state)
        self._ask_again()

    def _ask_again(self) -> None:
        """Have a protocol that could not leave when it was asked to be asked once more."""
        if self.conn.is_asked and self.conn.hooks.yields is not None:
            self._loop.call_soon(self.conn.leave_if_asked)

    def is_closing(self) -> bool:
        return self._closing

    def close(self) -> None:
        if self._closing:
            return
        self._closing = True
        self._reading_changed()
        if self._backlog.empty:
            self._lose_soon(None)

    def abort(self) -> None:
        self.fail(None)

    def fail(self, error: BaseException | None) -> None:
        """End at once, what was written and has not gone out being dropped."""
        if self._lost:
            return
        self._backlog.drop()
        if not self._closing:
            self._closing = True
            self._reading_changed()
        self._lose_soon(error)

    def left(self) -> None:
        """Note that the connection has gone to the next worker, and is of no more use here."""
        self._closing = True
        self._lost = self._lost or 1
        self._note_flushed()
        if not self.closed.done():
            self.closed.set_result(None)

    def _lose_soon(self, error: BaseException | None) -> None:
        if not self._lost:
            self._lost = 1
            self.error = error
            self._loop.call_soon(self._lose)

    def _lose(self) -> None:
        self._note_flushed()
        if self.conn.core.life.state is State.DETACHED:
            self.left()
            return
        # Now, not when the handler ends: the peer waits for it.
        self._closer = _begun(self._loop, self.conn.close())
        if not self.closed.done():
            self.closed.set_result(None)
        error = self.error
        self._protocol.connection_lost(error if isinstance(error, Exception) else None)

    async def finish(self) -> None:
        """Wait until `closed`, and until the connection has ended."""
        try:
            await self.closed
        except asyncio.CancelledError:  # the server's time is over
            self.fail(None)
            raise
        if self._closer is not None:
            await self._closer


def _begun(
    loop: asyncio.AbstractEventLoop, coroutine: Coroutine[Any, Any, None]
) -> asyncio.Task[None]:
    """Return the task of a coroutine, with its first step taken where Python can do that.

    The peer is told of the end in this turn of the loop then, as by asyncio's own transports: the
    loop of a program that ends has no other.
    """
    if sys.version_info >= (3, 12):
        return asyncio.Task(coroutine, loop=loop, eager_start=True)
    else:
        return loop.create_task(coroutine)
