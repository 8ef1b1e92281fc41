"""`serve --protocol`: factories of `asyncio.Protocol` and `asyncio.BufferedProtocol`.

What comes is pushed into the protocol by the task that serves the connection, which waits in a
receive of the connection's in between.  There it is asked to leave, and asks the protocol: `detach`
returns the state that the next one is given by `attach`.
"""

from __future__ import annotations

import asyncio
import dataclasses
import inspect
from collections.abc import Callable
from typing import Any, Final, Protocol, TypeAlias, TypeGuard

from socketkeep._base._errors import HandlerError, NotCommitted
from socketkeep._net._handlers import Handler, check_arity, service_parts
from socketkeep._serve._adapted import adapted
from socketkeep._serve._transport import ConnectionTransport
from socketkeep._stream._aio import AsyncConnection
from socketkeep._stream._lifecycle import Detached

Factory: TypeAlias = Callable[[], asyncio.BaseProtocol]

_OTHERS: Final = (asyncio.DatagramProtocol, asyncio.SubprocessProtocol)


class _Detaches(Protocol):
    def detach(self) -> object: ...


class _Attaches(Protocol):
    def attach(self, state: object) -> None: ...


def adapt_protocols(target: object) -> Handler:
    """Return the handler of connections that serves each by a protocol that `target` makes.

    A class that has `detach` and `attach` is resumable without a mark.  Raises HandlerError for
    what makes no protocol of a stream, and for one that has its input redelivered.
    """
    target, lifespan = service_parts(target)
    protocol_class = target if isinstance(target, type) else None
    if not callable(target) or inspect.iscoroutinefunction(target):
        raise HandlerError("it is no factory: --protocol takes a protocol class, or what makes one")
    if protocol_class is not None and issubclass(protocol_class, _OTHERS):
        raise HandlerError(f"{protocol_class.__qualname__} is no protocol of a stream")
    check_arity(target, 0, "no arguments")
    factory: Factory = target

    async def call(conn: AsyncConnection) -> None:
        await _serve(conn, factory)

    handler = adapted(target, call, lifespan, takes="a protocol is given them")
    if protocol_class is None:
        return handler
    if _detaches(protocol_class) != _attaches(protocol_class):
        has, lacks = ("detach", "attach") if _detaches(protocol_class) else ("attach", "detach")
        raise HandlerError(f"{handler.name} has {has} and no {lacks}: to be kept it needs both")
    return dataclasses.replace(handler, resumable=handler.resumable or _detaches(protocol_class))


def _detaches(protocol: object) -> TypeGuard[_Detaches]:
    return callable(getattr(protocol, "detach", None))


def _attaches(protocol: object) -> TypeGuard[_Attaches]:
    return callable(getattr(protocol, "attach", None))


async def _serve(conn: AsyncConnection, factory: Factory) -> None:
    protocol = factory()
    transport = ConnectionTransport(conn, protocol)
    if conn.lease.resumable:
        conn.hooks.yields = _Leaving(transport, protocol)
        # Nothing has been received: who never commits, but detaches, is missing no commit.
        conn.core.commit(conn.core.committed)
    try:
        if conn.attached != "accepted" and _attaches(protocol):
            protocol.attach(conn.state)
        protocol.connection_made(transport)
    except BaseException:
        transport.abort()
        raise
    await Pump(transport).run()


class _Leaving:
    """Asks a protocol for the state that its connection leaves with."""

    def __init__(self, transport: ConnectionTransport, protocol: asyncio.BaseProtocol) -> None:
        self._transport = transport
        self._protocol = protocol

    def __call__(self) -> bool:
        transport, protocol = self._transport, self._protocol
        if transport.is_closing() or transport.get_protocol() is not protocol:
            return False  # another one, such as of TLS, would not be there in the next worker
        if not _detaches(protocol):
            return True  # where it has committed, that counts
        try:
            transport.commit(protocol.detach())
        except NotCommitted:
            return False
        except Exception as error:
            transport.fail(error)
            return False
        return True


class Pump:
    """Receives for a protocol, until its transport is closed.  One task runs it."""

    def __init__(self, transport: ConnectionTransport) -> None:
        self._transport = transport
        self._task = asyncio.current_task()
        self._receiving = False
        self._interrupted = False  # a receive, by this, since reading was paused or ended
        self._changed: asyncio.Future[None] | None = None  # what is awaited while it is paused

    async def run(self) -> None:
        """Serve; raise what has ended the connection, unless that is its own way to end."""
        transport = self._transport
        transport.on_pause = self._on_pause
        try:
            await self._serve()
        except Detached:
            transport.left()
            raise
        except asyncio.CancelledError:
            transport.abort()
            raise
        except BaseException as error:
            transport.fail(error)
        finally:
            transport.on_pause = None
        await transport.finish()
        if transport.error is not None:
            raise transport.error

    async def _serve(self) -> None:
        transport = self._transport
        while not transport.is_closing():
            if not transport.is_reading():
                self._changed = asyncio.get_running_loop().create_future()
                await self._changed
            elif transport.undelivered:
                self._deliver()
            else:
                data = await self._receive()
                if data:
                    transport.undelivered = data
                elif data is not None and not self._ended():
                    await asyncio.shield(transport.closed)

    async def _receive(self) -> bytes | None:
        """Return what has come, b"" at EOF, None where reading was paused or ended meanwhile."""
        self._receiving = True
        try:
            return await self._transport.conn.recv()
        except asyncio.CancelledError:
            if not self._interrupted:
                raise
            assert self._task is not None
            if self._task.uncancel():
                raise  # by the worker, too
            return None
        finally:
            self._receiving = self._interrupted = False

    def _on_pause(self) -> None:
        if self._receiving:
            if not self._interrupted:
                self._interrupted = True
                assert self._task is not None
                self._task.cancel()
        elif self._changed is not None and not self._changed.done():
            self._changed.set_result(None)

    def _deliver(self) -> None:
        transport = self._transport
        data, transport.undelivered = transport.undelivered, b""
        protocol: Any = transport.get_protocol()  # what has the methods is one
        if not isinstance(protocol, asyncio.BufferedProtocol):
            protocol.data_received(data)
            return
        buffer = memoryview(protocol.get_buffer(-1)).cast("B")
        count = min(len(buffer), len(data))
        if not count:
            raise RuntimeError("get_buffer() returned an empty buffer")
        buffer[:count] = data[:count]
        transport.undelivered = data[count:]
        protocol.buffer_updated(count)

    def _ended(self) -> bool:
        """Tell the protocol of the peer's EOF; close unless it goes on writing."""
        transport = self._transport
        protocol: Any = transport.get_protocol()
        if not protocol.eof_received():
            transport.close()
        return transport.is_closing()
