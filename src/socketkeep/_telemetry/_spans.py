"""Spans of OpenTelemetry: a connection's stay in a worker, its moves, and messages.

A connection may live for months, and a span is exported when it has ended: so there is one for each
stay in a worker, linked to the one before it by a text that goes along (`Hooks.trace`).  Messages
are traces of their own: they are sampled one by one, and no trace grows without an end.
"""

from __future__ import annotations

import os
import time
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import replace
from types import CoroutineType
from typing import Any, Final, NamedTuple, TypeVar, overload

from opentelemetry import context as contexts
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import (
    Link,
    NonRecordingSpan,
    Span,
    SpanContext,
    SpanKind,
    StatusCode,
    TraceFlags,
    Tracer,
    TracerProvider,
)

from socketkeep._base._errors import HandlerError
from socketkeep._net._handlers import Service, WorkerInfo
from socketkeep._stream import _record as record
from socketkeep._stream._lease import HowLeft
from socketkeep._version import VERSION

T = TypeVar("T")

#: Milliseconds that a connection's own process, in the model `fork`, has to export what it has.
_FLUSH_TIME: Final = 5000
_UNIX: Final = "unix:"


class _Before(NamedTuple):
    """The stay before this one: its span, and when it ended, in ns since 1970."""

    span: SpanContext
    ended_at: int


class _Stay:
    """A connection's stay in this process."""

    __slots__ = ("message", "outside", "span", "tracer")

    def __init__(self, tracer: Tracer, span: Span) -> None:
        self.tracer = tracer
        self.span = span
        self.outside = contexts.get_current()
        self.message: _Message | None = None  # that is being dealt with
        contexts.attach(trace.set_span_in_context(span))

    def begin_message(self, name: str) -> _Message:
        self.end_message()
        self.message = _Message(self, name)
        return self.message

    def end_message(self) -> None:
        message, self.message = self.message, None
        if message is not None:
            message.span.end()
            contexts.attach(message.outside)

    def failed(self, error: BaseException) -> None:
        """Note an error on the spans that are open."""
        for span in (self.span, *([self.message.span] if self.message is not None else [])):
            span.record_exception(error)
            span.set_status(StatusCode.ERROR, f"{type(error).__name__}: {error}")

    def end(self) -> None:
        self.end_message()
        self.span.end()
        contexts.attach(self.outside)


class _Message:
    """One message, while its handler deals with it."""

    __slots__ = ("outside", "span")

    def __init__(self, stay: _Stay, name: str) -> None:
        self.outside = contexts.get_current()
        self.span = stay.tracer.start_span(
            name, Context(), SpanKind.SERVER, links=[Link(stay.span.get_span_context())]
        )
        contexts.attach(trace.set_span_in_context(self.span))


_current: Final[ContextVar[_Stay | None]] = ContextVar("socketkeep_stay", default=None)


class _Spans:
    """The functions of a service that has spans, which call the service's own."""

    def __init__(self, service: Service, provider: TracerProvider | None) -> None:
        self._service = service
        self._provider = provider
        self._worker = 0

    def on_start(self, info: WorkerInfo) -> object:
        self._worker = os.getpid()
        return None if self._service.on_start is None else self._service.on_start(info)

    def on_connect(self, conn: Any) -> object:
        tracer = trace.get_tracer("socketkeep", VERSION, self._provider)
        before = _before(conn.lease.trace)
        links = []
        if before is not None:
            links.append(Link(before.span))
            between = tracer.start_span(
                "parked" if conn.attached in ("parked", "pushed") else "move",
                trace.set_span_in_context(NonRecordingSpan(before.span)),
                start_time=before.ended_at,
                attributes={"socketkeep.id": conn.id, "socketkeep.attached": conn.attached},
            )
            between.end()
        span = tracer.start_span(
            "connection", Context(), SpanKind.SERVER, _attributes(conn), links=links
        )
        _current.set(_Stay(tracer, span))
        if self._service.on_connect is None:
            return None
        try:
            returned = self._service.on_connect(conn)
        except BaseException as error:
            self._refused(error)
            raise
        return self._connecting(returned) if isinstance(returned, CoroutineType) else None

    async def _connecting(self, returned: Any) -> None:
        try:
            await returned
        except BaseException as error:
            self._refused(error)
            raise

    def _refused(self, error: BaseException) -> None:
        """End the stay of a connection whose handler is not called."""
        stay = _current.get()
        assert stay is not None
        if isinstance(error, Exception):
            stay.failed(error)
        self._end(stay)

    def on_leave(self, conn: Any, how: HowLeft) -> object:
        if self._service.on_leave is None:
            self._leave(conn, how)
            return None
        try:
            returned = self._service.on_leave(conn, how)
        except BaseException:
            self._leave(conn, how)
            raise
        if isinstance(returned, CoroutineType):
            return self._leaving(conn, how, returned)
        self._leave(conn, how)
        return None

    async def _leaving(self, conn: Any, how: HowLeft, returned: Any) -> None:
        try:
            await returned
        finally:
            self._leave(conn, how)

    def on_error(self, conn: Any, error: BaseException) -> None:
        stay = _current.get()
        if stay is not None:
            stay.failed(error)
        if self._service.on_error is not None:
            self._service.on_error(conn, error)

    def _leave(self, conn: Any, how: HowLeft) -> None:
        stay = _current.get()
        if stay is None:
            return
        stay.span.set_attribute("socketkeep.left", how)
        stay.span.set_attribute("socketkeep.bytes_in", conn.core.record[record.BYTES_IN])
        stay.span.set_attribute("socketkeep.bytes_out", conn.core.record[record.BYTES_OUT])
        if conn.name:
            stay.span.set_attribute("socketkeep.name", conn.name)
        if how != "ended":
            conn.hooks.trace = _told(stay.span.get_span_context())
        self._end(stay)

    def _end(self, stay: _Stay) -> None:
        _current.set(None)
        stay.end()
        if os.getpid() != self._worker:  # a connection's own, which ends at once
            flush = getattr(self._provider or trace.get_tracer_provider(), "force_flush", None)
            if flush is not None:
                flush(_FLUSH_TIME)


def instrument(
    target: Service | Callable[..., object], *, tracer_provider: TracerProvider | None = None
) -> Service:
    """Return the service with a span for each stay of a connection in a worker, and each move.

    The span of a stay, "connection", begins when the handler is called with the connection, ends
    when that call does, and is the current one meanwhile.  Where the connection was in another
    worker before, or parked, the span is linked to that of the stay before, which gets a child,
    "move" or "parked", for the time in between.  What `on_error` is told is an event of the span,
    and its status.  After a crash there is a link to the last stay that had an end, if any.

    Args:
        target: A handler, or a `Service`, whose own functions are called as ever.
        tracer_provider: By default the one that is set when a connection comes.  Set it in the
            lifespan or in `on_start`: in the template it would be too early, since threads do not
            come along in a fork.

    Raises:
        HandlerError: The service has spans already.
    """
    service = target if isinstance(target, Service) else Service(target)
    if getattr(service.on_connect, "__func__", None) is _Spans.on_connect:
        raise HandlerError("the service has spans already: instrument it once")
    spans = _Spans(service, tracer_provider)
    return replace(
        service,
        on_start=spans.on_start,
        on_connect=spans.on_connect,
        on_leave=spans.on_leave,
        on_error=spans.on_error,
    )


class _Messages(Iterator[T]):
    """Hands on what comes, each in a span that lasts until the next is asked for."""

    def __init__(self, source: Iterable[T], name: str) -> None:
        self._source = iter(source)
        self._name = name

    def __next__(self) -> T:
        stay = _current.get()
        if stay is None:
            return next(self._source)
        stay.end_message()
        item = next(self._source)
        stay.begin_message(self._name)
        return item


class _AsyncMessages(AsyncIterator[T]):
    """As `_Messages`."""

    def __init__(self, source: AsyncIterable[T], name: str) -> None:
        self._source = aiter(source)
        self._name = name

    async def __anext__(self) -> T:
        stay = _current.get()
        if stay is None:
            return await anext(self._source)
        stay.end_message()
        item = await anext(self._source)
        stay.begin_message(self._name)
        return item


@overload
def messages(source: AsyncIterable[T], name: str = ...) -> AsyncIterator[T]: ...
@overload
def messages(source: Iterable[T], name: str = ...) -> Iterator[T]: ...
def messages(
    source: AsyncIterable[T] | Iterable[T], name: str = "message"
) -> AsyncIterator[T] | Iterator[T]:
    """Return what hands on the messages of `source`, each with a span of its own.

    As in ``for line in messages(conn.lines()):``.  A span begins when a message has come, and ends
    when the next one is asked for, or the handler's call is over.  It is a trace of its own,
    linked to the connection's span.  Without `instrument` there are no spans.

    Args:
        source: An iterator over messages, sync or async.
        name: The name of each span.
    """
    if isinstance(source, AsyncIterable):
        return _AsyncMessages(source, name)
    return _Messages(source, name)


@contextmanager
def message(name: str = "message") -> Iterator[None]:
    """Have what is done in the block be one message, as with `messages`.

    For a handler that receives its messages piece by piece.  Where the block raises, the span ends
    with the handler's call, or when the next message begins.

    Args:
        name: The name of the span.
    """
    stay = _current.get()
    if stay is not None:
        begun = stay.begin_message(name)
    yield
    if stay is not None and stay.message is begun:
        stay.end_message()


def _told(span: SpanContext) -> str:
    """Return what goes along with a connection: the span's context as W3C has it, and the time."""
    if not span.is_valid:
        return ""
    return f"00-{span.trace_id:032x}-{span.span_id:016x}-{span.trace_flags:02x}-{time.time_ns():x}"


def _before(told: str) -> _Before | None:
    """Return what was told; None where nothing was, or by who says it otherwise."""
    try:
        version, trace_id, span_id, flags, ended_at = told.split("-")
        span = SpanContext(
            int(trace_id, 16),
            int(span_id, 16),
            is_remote=True,
            trace_flags=TraceFlags(int(flags, 16)),
        )
        before = _Before(span, int(ended_at, 16))
    except ValueError:
        return None
    return before if version == "00" and span.is_valid else None


def _attributes(conn: Any) -> dict[str, str | int]:
    found: dict[str, str | int] = {
        "socketkeep.id": conn.id,
        "socketkeep.listener": conn.listener,
        "socketkeep.attached": conn.attached,
        "network.transport": "tcp",
    }
    host, colon, port = conn.peer.rpartition(":")
    if conn.peer.startswith(_UNIX) or not (colon and port.isdecimal()):
        found["network.transport"] = "unix"
        found["network.peer.address"] = conn.peer.removeprefix(_UNIX)
    else:
        found["network.peer.address"] = host.strip("[]")
        found["network.peer.port"] = int(port)
    return found
