"""The spans of a connection's stays, moves and messages, as an exporter in memory has them."""

from __future__ import annotations

import asyncio
import importlib
import socket
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import suppress
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from socketkeep import AsyncConnection, Connection, Detached, HandlerError, Service
from socketkeep.otel import instrument, message, messages
from tests.harness.seam import be_handler_of, leased, order_to
from tests.worker.fakes import inspected


async def until(condition: Callable[[], bool]) -> None:
    """Let other tasks run until it holds."""
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 - what is looked at tells nobody
            await asyncio.sleep(0)


class Seen:
    """A provider of spans, and what it has exported."""

    def __init__(self) -> None:
        self._exporter = InMemorySpanExporter()
        self.provider = TracerProvider()
        self.provider.add_span_processor(SimpleSpanProcessor(self._exporter))

    def instrumented(self, target: Any) -> Any:
        """Return the handler of a worker that has started with it."""
        service = instrument(target, tracer_provider=self.provider)
        assert service.on_start is not None
        service.on_start(None)  # type: ignore[arg-type]  # none is asked of it here
        return inspected(service)

    @property
    def spans(self) -> list[ReadableSpan]:
        return list(self._exporter.get_finished_spans())

    def span(self, name: str, number: int = 0) -> ReadableSpan:
        return [span for span in self.spans if span.name == name][number]

    def names(self) -> list[str]:
        return [span.name for span in self.spans]


@pytest.fixture
def seen() -> Seen:
    return Seen()


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ours, theirs


def links(span: ReadableSpan) -> list[int]:
    return [link.context.span_id for link in span.links]


def identity(span: ReadableSpan) -> int:
    assert span.context is not None
    number: int = span.context.span_id
    return number


def call(handler: Any, sock: socket.socket, **lent: Any) -> Connection:
    """Call a handler as a worker of a sync model does."""
    lent = {"id": "1-2-3", "listener": "127.0.0.1:7000", "peer": "[::1]:5000", **lent}
    conn = Connection(sock, **leased(**lent))
    conn.hooks.on_error = handler.on_error
    with suppress(Detached, Exception):  # as the worker does
        handler.call(conn)
    return conn


def test_a_stay_is_a_span(seen: Seen, pair: tuple[socket.socket, socket.socket]) -> None:
    """A trace of its own, current while the handler runs, and not afterwards."""
    current: list[int] = []

    def handle(conn: Any) -> None:
        current.append(trace.get_current_span().get_span_context().span_id)
        conn.name = "device"
        conn.send(b"four")

    with seen.provider.get_tracer("test").start_as_current_span("of the thread") as around:
        call(seen.instrumented(handle), pair[0])
        assert trace.get_current_span() is around
    span = seen.span("connection")
    assert current == [identity(span)]
    assert span.parent is None
    assert dict(span.attributes or {}) == {
        "socketkeep.id": "1-2-3",
        "socketkeep.listener": "127.0.0.1:7000",
        "socketkeep.attached": "accepted",
        "socketkeep.left": "ended",
        "socketkeep.name": "device",
        "socketkeep.bytes_in": 0,
        "socketkeep.bytes_out": 4,
        "network.transport": "tcp",
        "network.peer.address": "::1",
        "network.peer.port": 5000,
    }
    assert span.status.is_ok is True or span.status.is_unset


@pytest.mark.parametrize("peer", ["unix:pid=7", "unix:@name:7"])
def test_a_peer_without_a_port(
    seen: Seen, pair: tuple[socket.socket, socket.socket], peer: str
) -> None:
    call(seen.instrumented(lambda conn: None), pair[0], peer=peer)
    attributes = seen.span("connection").attributes or {}
    assert attributes["network.transport"] == "unix"
    assert attributes["network.peer.address"] == peer.removeprefix("unix:")
    assert "network.peer.port" not in attributes


def test_a_failure_is_the_status_of_its_span(
    seen: Seen, pair: tuple[socket.socket, socket.socket]
) -> None:
    """And of the message that it was; the service's own function is told, too."""
    told: list[str] = []

    def handle(conn: Any) -> None:
        for _ in messages(["one", "two"], "request"):
            if len(seen.spans) == 1:
                raise ValueError("broken")

    def on_error(conn: Any, error: BaseException) -> None:
        told.append(str(error))

    call(seen.instrumented(Service(handle, on_error=on_error)), pair[0])
    assert told == ["broken"]
    assert seen.names() == ["request", "request", "connection"]
    assert not seen.span("request").events
    for span in (seen.span("request", 1), seen.span("connection")):
        assert span.status.description == "ValueError: broken"
        (event,) = span.events
        assert event.name == "exception"


def test_messages_are_traces_of_their_own(
    seen: Seen, pair: tuple[socket.socket, socket.socket]
) -> None:
    """Linked to the connection's span; a span made meanwhile is their child."""
    tracer = seen.provider.get_tracer("test")

    def handle(conn: Any) -> None:
        for _ in messages(["one", "two"]):
            tracer.start_span("query").end()
        tracer.start_span("between").end()
        with message("login"):
            tracer.start_span("query").end()

    call(seen.instrumented(handle), pair[0])
    stay = seen.span("connection")
    assert seen.names() == [
        *("query", "message", "query", "message", "between", "query", "login", "connection")
    ]
    for number, name in enumerate(["message", "message", "login"]):
        span = [span for span in seen.spans if span.name in ("message", "login")][number]
        assert span.name == name
        assert span.parent is None
        assert links(span) == [identity(stay)]
        query = seen.span("query", number)
        assert query.parent is not None
        assert query.parent.span_id == identity(span)
    between = seen.span("between").parent
    assert between is not None
    assert between.span_id == identity(stay)


def test_a_message_whose_block_raises_lasts_until_the_next(
    seen: Seen, pair: tuple[socket.socket, socket.socket]
) -> None:
    def handle(conn: Any) -> None:
        try:
            with message("first"):
                raise LookupError
        except LookupError:
            assert seen.names() == []
        with message("second"):
            assert seen.names() == ["first"]

    call(seen.instrumented(handle), pair[0])
    assert seen.names() == ["first", "second", "connection"]


def test_without_a_connection_there_are_no_messages(seen: Seen) -> None:
    assert list(messages([1, 2])) == [1, 2]
    with message():
        pass

    async def source() -> AsyncIterator[int]:
        yield 1

    async def main() -> list[int]:
        return [each async for each in messages(source())]

    assert asyncio.run(main()) == [1]
    assert seen.names() == []


@pytest.mark.parametrize(("how", "between"), [("moved", "move"), ("parked", "parked")])
def test_the_next_stay_is_linked(
    seen: Seen, pair: tuple[socket.socket, socket.socket], how: str, between: str
) -> None:
    """By what is handed over with the connection; what lies between is a child of the first."""

    async def handle(conn: AsyncConnection) -> None:
        be_handler_of(conn)
        async for _ in messages(conn.lines(commit=True)):
            pass

    def sync(conn: Connection) -> None:
        if conn.attached == "accepted":
            conn.park()

    async def main() -> Any:
        handler = seen.instrumented(handle)
        conn = AsyncConnection(pair[0], **leased(id="1-2-3", resumable=True))
        serving = asyncio.create_task(handler.call(conn))
        await until(lambda: conn.is_waiting)
        conn.ask(order_to("move", 10))
        with pytest.raises(Detached):
            await serving
        return conn.hand_over()

    if how == "moved":
        handoff = asyncio.run(main())
        handler = seen.instrumented(lambda conn: None)
    else:
        handler = seen.instrumented(sync)
        handoff = call(handler, pair[0], resumable=True, attached="accepted").hand_over()
    attached = "reload" if how == "moved" else "parked"
    call(handler, handoff.sock, trace=handoff.trace, attached=attached)
    first, second, gap = seen.span("connection"), seen.span("connection", 1), seen.span(between)
    assert (first.attributes or {})["socketkeep.left"] == how
    assert (second.attributes or {})["socketkeep.attached"] == attached
    assert links(second) == [identity(first)]
    assert links(first) == []
    assert gap.parent is not None
    assert gap.parent.span_id == identity(first)
    assert first.end_time is not None
    assert gap.start_time is not None
    assert gap.end_time is not None
    assert second.start_time is not None
    assert gap.start_time <= gap.end_time <= second.start_time


@pytest.mark.parametrize(
    "told", ["", "nonsense", "00-0-0-01-1", "01-1-1-01-1", "00-x-1-01-1", "00-1-1-01--1"]
)
def test_what_others_have_noted_is_no_link(
    seen: Seen, pair: tuple[socket.socket, socket.socket], told: str
) -> None:
    call(seen.instrumented(lambda conn: None), pair[0], trace=told)
    assert seen.names() == ["connection"]
    assert links(seen.span("connection")) == []


def test_a_span_that_is_not_recorded_goes_along_as_such(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    """Without a provider there is no span, and nothing to link to."""
    service = instrument(lambda conn: conn.park(), tracer_provider=trace.NoOpTracerProvider())
    conn = call(inspected(service), pair[0], resumable=True)
    assert conn.hand_over().trace == ""


class Own:
    """A service's own functions, sync or async, the last of which may raise."""

    def __init__(self, raises: str) -> None:
        self.said: list[str] = []
        self._raises = raises

    def _note(self, name: str) -> None:
        self.said.append(f"{name} {trace.get_current_span().is_recording()}")
        if name == self._raises:
            raise LookupError(name)

    def service(self, handler: Callable[[Any], object]) -> Service:
        return Service(
            handler,
            on_start=lambda info: self._note("start"),
            on_connect=lambda conn: self._note("connect"),
            on_leave=lambda conn, how: self._note("leave"),
        )

    def service_async(self, handler: Callable[[Any], object]) -> Service:
        async def on_connect(conn: Any) -> None:
            await asyncio.sleep(0)
            self._note("connect")

        async def on_leave(conn: Any, how: str) -> None:
            await asyncio.sleep(0)
            self._note("leave")

        return Service(
            handler,
            on_start=lambda info: self._note("start"),
            on_connect=on_connect,
            on_leave=on_leave,
        )


@pytest.mark.parametrize("raises", ["", "connect", "leave"])
@pytest.mark.parametrize("model", ["sync", "async"])
def test_the_functions_of_the_service_are_called_within_the_span(
    seen: Seen, pair: tuple[socket.socket, socket.socket], model: str, raises: str
) -> None:
    """Which has an end whatever they do."""
    own = Own(raises)

    async def handle(conn: Any) -> None:
        own.said.append("call")

    async def main() -> None:
        handler = seen.instrumented(own.service_async(handle))
        conn = AsyncConnection(pair[0], **leased())
        conn.hooks.on_error = handler.on_error
        try:
            await handler.call(conn)
        except LookupError:
            assert raises == "connect"
        assert not trace.get_current_span().is_recording()

    if model == "sync":
        call(seen.instrumented(own.service(lambda conn: own.said.append("call"))), pair[0])
        assert not trace.get_current_span().is_recording()
    else:
        asyncio.run(main())
    met = ["start False", "connect True"]
    assert own.said == (met if raises == "connect" else [*met, "call", "leave True"])
    assert seen.names() == ["connection"]
    failed = seen.span("connection").status.description
    assert failed == ("LookupError: connect" if raises == "connect" else None)


def test_once_is_enough(seen: Seen) -> None:
    with pytest.raises(HandlerError, match="has spans already"):
        instrument(instrument(lambda conn: None))


def test_a_process_of_one_connection_exports_before_it_ends(
    pair: tuple[socket.socket, socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in the model `fork`: nobody would export afterwards."""
    flushed: list[int] = []

    class Provider(TracerProvider):
        def force_flush(self, timeout_millis: int = 0) -> bool:
            flushed.append(timeout_millis)
            return True

    seen = Seen()
    seen.provider = Provider()
    handler = seen.instrumented(lambda conn: None)
    call(handler, pair[0])
    assert flushed == []
    monkeypatch.setattr("os.getpid", lambda: 1)
    call(handler, pair[0])
    assert len(flushed) == 1


def test_without_opentelemetry_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """In the user's words: what is missing is theirs to install."""
    monkeypatch.delitem(sys.modules, "socketkeep.otel")
    monkeypatch.setitem(sys.modules, "opentelemetry.trace", None)
    with pytest.raises(ModuleNotFoundError, match="needs OpenTelemetry, which the extra otel"):
        importlib.import_module("socketkeep.otel")
