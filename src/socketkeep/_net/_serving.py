"""`serve`: an async server in one process, with no keeper behind it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import ssl
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Final, Self

from socketkeep._base._errors import (
    OutOfResources,
    PeerClosed,
    PeerReset,
    SystemFailure,
    TimedOut,
    WouldBlock,
)
from socketkeep._base._printable import printable
from socketkeep._net._listener import Listener
from socketkeep._stream._aio import AsyncConnection
from socketkeep._stream._lease import Lease

_log: Final = logging.getLogger("socketkeep")

#: How many connections are accepted in one turn of the loop, so that those there are get theirs.
_BATCH: Final = 16
#: Seconds without accepting once the process or the system is out of descriptors or memory.
PAUSE: Final = 0.1
#: Seconds that a client has for the TLS handshake.
HANDSHAKE: Final = 10.0


class Server:
    """The result of `serve`: accepts within its ``async with`` block, serves each in a task."""

    def __init__(
        self,
        handler: Callable[[AsyncConnection], Awaitable[object]],
        address: str | Listener,
        *,
        max_connections: int,
        graceful_timeout: float,
        tls: ssl.SSLContext | None,
    ) -> None:
        if max_connections < 1:
            raise ValueError(f"max_connections: a number >= 1, not {max_connections}")
        self._handler = handler
        self._max = max_connections
        self._graceful_timeout = graceful_timeout
        self._tls = tls
        self._own = isinstance(address, str)
        self._listener = Listener.bind(address) if isinstance(address, str) else address
        self._tasks: set[asyncio.Task[None]] = set()
        self._accepting = False
        self._stopping: asyncio.Event | None = None
        self._paused: asyncio.TimerHandle | None = None
        self._short = False  # of descriptors, and it has been said

    @property
    def address(self) -> str:
        """The address that is listened on, such as ``127.0.0.1:7000``, with the real port."""
        return self._listener.text

    @property
    def connections(self) -> int:
        """Return how many connections are being served."""
        return len(self._tasks)

    async def __aenter__(self) -> Self:
        self._stopping = asyncio.Event()
        self._resume()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()
        self._pause()
        if self._paused is not None:
            self._paused.cancel()
        if self._own:
            self._listener.close()
        try:
            if self._tasks and kind is None:
                await asyncio.wait(self._tasks, timeout=self._graceful_timeout)
        finally:
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    async def serve_forever(self) -> None:
        """Return when `stop` has been called."""
        assert self._stopping is not None, "serve_forever: only within the `async with` block"
        await self._stopping.wait()

    def stop(self) -> None:
        """Accept nothing more, and let `serve_forever` return.  In the loop's thread.

        What is being served ends with the ``async with`` block.
        """
        if self._stopping is not None:
            self._stopping.set()
        self._pause()

    def _resume(self) -> None:
        self._paused = None
        stopped = self._stopping is None or self._stopping.is_set()
        if not self._accepting and not stopped and len(self._tasks) < self._max:
            asyncio.get_running_loop().add_reader(self._listener.fileno(), self._accept)
            self._accepting = True

    def _pause(self) -> None:
        if self._accepting:
            asyncio.get_running_loop().remove_reader(self._listener.fileno())
            self._accepting = False

    def _accept(self) -> None:
        for _ in range(_BATCH):
            if len(self._tasks) >= self._max:
                self._pause()  # further clients wait in the kernel's queue
                return
            try:
                sock, _ = self._listener.accept_socket()
            except WouldBlock:
                return
            except PeerReset:
                continue
            except OutOfResources as error:
                self._hold(error)
                return
            except SystemFailure as error:
                _log.error("%s: accepting no more", printable(str(error)))
                self.stop()
                return
            self._short = False
            conn = AsyncConnection(sock, lease=Lease(listener=self._listener.text))
            task = asyncio.get_running_loop().create_task(self._serve(conn))
            self._tasks.add(task)
            task.add_done_callback(self._served)

    def _hold(self, error: OutOfResources) -> None:
        """Accept nothing for a while; say so once."""
        if not self._short:
            self._short = True
            _log.warning("%s: accepting again when there is room", printable(str(error)))
        self._pause()
        self._paused = asyncio.get_running_loop().call_later(PAUSE, self._resume)

    async def _serve(self, conn: AsyncConnection) -> None:
        try:
            if self._tls is None or await self._secured(conn, self._tls):
                await self._handler(conn)
        except (PeerClosed, PeerReset) as error:
            _log.info("connection from %s: %s", printable(conn.peer), printable(str(error)))
        except Exception:
            _log.exception("the handler of the connection from %s failed", printable(conn.peer))
            await conn.abort()
        except BaseException:
            await conn.abort()
            raise
        await conn.close()

    async def _secured(self, conn: AsyncConnection, tls: ssl.SSLContext) -> bool:
        """Return whether the connection has TLS; it is the client's doing if it has not."""
        try:
            await conn.start_tls(tls, server_side=True, timeout=HANDSHAKE)
        except (ssl.SSLError, TimedOut) as error:
            _log.info("connection from %s: %s", printable(conn.peer), printable(str(error)))
            return False
        return True

    def _served(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            with contextlib.suppress(asyncio.InvalidStateError):
                task.exception()
        if self._paused is None:
            self._resume()


def serve(
    handler: Callable[[AsyncConnection], Awaitable[object]],
    address: str | Listener,
    *,
    max_connections: int = 10_000,
    graceful_timeout: float = 30.0,
    tls: ssl.SSLContext | None = None,
) -> Server:
    """Serve an address with an async handler, within ``async with``, on asyncio or uvloop.

    A handler that fails is logged with its traceback, and the peer gets RST, so that it does not
    take what it got for whole; one that lets PeerClosed or PeerReset pass has ended well.  At the
    limit of descriptors accepting pauses for 0.1 s at a time, which is logged once.

    Args:
        handler: Called with each connection, in a task of its own; the connection is closed when it
            returns.
        address: As `Listener.bind` takes it, or a `Listener`, which stays open and is the caller's.
        max_connections: Further clients wait in the kernel's queue until one ends.
        graceful_timeout: Seconds that handlers get to finish in when the block ends; then, or at
            once when it ends by an exception or a cancellation, they are cancelled, and their peers
            get RST.
        tls: A context with the server's certificate: the handler gets each connection after its
            handshake, for which the client has 10 s.

    Raises:
        ListenError: The address cannot be listened on.
        AddressError: The address is not written well.
        ValueError: A limit is below 1.
    """
    return Server(
        handler,
        address,
        max_connections=max_connections,
        graceful_timeout=graceful_timeout,
        tls=tls,
    )
