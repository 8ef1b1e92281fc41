"""What a service does around its handler's calls, and is told of failures."""

from __future__ import annotations

import asyncio
import os
import socket
import threading
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass, field
from typing import Any, Final

import pytest

from socketkeep import AsyncConnection, Connection, Detached, PeerReset, Service, WorkerInfo
from tests.harness.configuration import Model
from tests.harness.lines import Lines
from tests.harness.seam import be_handler_of, leased, order_to
from tests.worker.fakes import a_place, inspected

Said = list[object]
MODELS: Final[tuple[Model, ...]] = ("thread", "async")


@dataclass
class Told:
    """A service's functions, which note what they are told.  raises: one that does instead."""

    said: Said = field(default_factory=list)
    raises: str = ""

    def note(self, name: str, *more: object) -> None:
        self.said.append((name, *more))
        if name == self.raises:
            raise LookupError(name)

    def on_connect(self, conn: Any) -> None:
        self.note("connect", conn.attached)

    def on_leave(self, conn: Any, how: str) -> None:
        self.note("leave", how)

    def on_error(self, conn: Any, error: BaseException) -> None:
        self.note("error", str(error))

    async def on_connect_async(self, conn: Any) -> None:
        await asyncio.sleep(0)
        self.note("connect", conn.attached)

    async def on_leave_async(self, conn: Any, how: str) -> None:
        await asyncio.sleep(0)
        self.note("leave", how)

    def service(self, handler: Callable[[Any], object]) -> Service:
        return Service(
            handler, on_connect=self.on_connect, on_leave=self.on_leave, on_error=self.on_error
        )

    def service_async(self, handler: Callable[[Any], object]) -> Service:
        return Service(
            handler,
            on_connect=self.on_connect_async,
            on_leave=self.on_leave_async,
            on_error=self.on_error,
        )


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ours, theirs


def call(told: Told, handler: Callable[[Any], object], sock: socket.socket) -> object:
    """Call the handler as a worker of a sync model does; returns what it raised, or returned."""
    conn = Connection(sock, **leased(attached="reload", resumable=True))
    conn.hooks.on_error = told.on_error
    try:
        return inspected(told.service(handler)).call(conn)
    except BaseException as error:
        return error


def call_async(
    told: Told,
    handler: Callable[[Any], Coroutine[Any, Any, None]],
    sock: socket.socket,
    *,
    sync: bool = False,
) -> object:
    """The same in an async worker.  sync: the service's functions are."""

    async def main() -> object:
        conn = AsyncConnection(sock, **leased(attached="reload"))
        conn.hooks.on_error = told.on_error
        service = told.service(handler) if sync else told.service_async(handler)
        try:
            return await inspected(service).call(conn)
        except BaseException as error:
            return error

    return asyncio.run(main())


def raising(error: BaseException) -> tuple[Callable[[Any], object], Callable[[Any], Any]]:
    """Return a sync handler and an async one that raise it."""

    def handle(conn: Any) -> None:
        raise error

    async def handle_async(conn: Any) -> None:
        raise error

    return handle, handle_async


@pytest.mark.parametrize("model", ["sync", "async", "sync functions"])
def test_in_order(pair: tuple[socket.socket, socket.socket], model: str) -> None:
    told = Told()

    def handle(conn: Any) -> str:
        told.note("call")
        return "returned"

    async def handle_async(conn: Any) -> None:
        told.note("call")

    if model == "sync":
        assert call(told, handle, pair[0]) == "returned"  # a coroutine would be found by it
    else:
        assert call_async(told, handle_async, pair[0], sync=model != "async") is None
    assert told.said == [("connect", "reload"), ("call",), ("leave", "ended")]


@pytest.mark.parametrize("model", ["sync", "async"])
def test_a_failure_is_told_before_the_leaving(
    pair: tuple[socket.socket, socket.socket], model: str
) -> None:
    told = Told()
    handle, handle_async = raising(ValueError("broken"))
    if model == "sync":
        raised = call(told, handle, pair[0])
    else:
        raised = call_async(told, handle_async, pair[0])
    assert repr(raised) == "ValueError('broken')"
    assert told.said == [("connect", "reload"), ("error", "broken"), ("leave", "ended")]


@pytest.mark.parametrize("model", ["sync", "async"])
@pytest.mark.parametrize(
    "error", [Detached(), SystemExit(), TimeoutError(), asyncio.CancelledError()], ids=repr
)
def test_what_is_no_failure_is_not_told(
    pair: tuple[socket.socket, socket.socket], error: BaseException, model: str
) -> None:
    told = Told()
    handle, handle_async = raising(error)
    if model == "sync":
        assert call(told, handle, pair[0]) is error
    else:
        assert call_async(told, handle_async, pair[0]) is error
    assert told.said == [("connect", "reload"), ("leave", "ended")]


def test_what_befell_this_connection_is_no_failure(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    told = Told()

    def handle(conn: Any) -> None:
        raise PeerReset(peer=conn.peer, address=conn.local)

    call(told, handle, pair[0])
    assert told.said == [("connect", "reload"), ("leave", "ended")]


@pytest.mark.parametrize("model", ["sync", "async"])
def test_who_fails_to_meet_is_not_served_nor_left(
    pair: tuple[socket.socket, socket.socket], model: str
) -> None:
    told = Told(raises="connect")
    handle, handle_async = raising(ValueError("not called"))
    if model == "sync":
        raised = call(told, handle, pair[0])
    else:
        raised = call_async(told, handle_async, pair[0])
    assert isinstance(raised, LookupError)
    assert told.said == [("connect", "reload"), ("error", "connect")]


@pytest.mark.parametrize("model", ["sync", "async"])
def test_a_leaving_that_fails_changes_nothing(
    pair: tuple[socket.socket, socket.socket], model: str, log: Lines
) -> None:
    """It is logged and told; the handler's own end stands."""
    told = Told(raises="leave")
    error = Detached()
    handle, handle_async = raising(error)
    if model == "sync":
        assert call(told, handle, pair[0]) is error
    else:
        assert call_async(told, handle_async, pair[0]) is error
    assert told.said == [("connect", "reload"), ("leave", "ended"), ("error", "leave")]
    assert log.events() == ["on_leave failed"]
    assert "LookupError: leave" in str(log.fields("on_leave failed")["traceback"])


def test_a_report_that_fails_is_logged(
    pair: tuple[socket.socket, socket.socket], log: Lines
) -> None:
    told = Told(raises="error")
    handle, _ = raising(ValueError("broken"))
    assert repr(call(told, handle, pair[0])) == "ValueError('broken')"
    assert log.events() == ["on_error failed"]


@pytest.mark.parametrize("parked", [False, True])
def test_how_it_leaves(pair: tuple[socket.socket, socket.socket], parked: bool) -> None:
    told = Told()

    def handle(conn: Any) -> None:
        if parked:
            conn.park()
        raise AssertionError("it was not parked")

    async def handle_async(conn: Any) -> None:
        be_handler_of(conn)
        await conn.recv(1)

    if parked:
        call(told, handle, pair[0])
    else:
        call_moved(told, handle_async, pair[0])
    assert told.said[-1] == ("leave", "parked" if parked else "moved")


def call_moved(told: Told, handler: Callable[[Any], Any], sock: socket.socket) -> None:
    """Call an async handler, which is asked to move while it waits."""

    async def main() -> None:
        conn = AsyncConnection(sock, **leased(attached="reload", resumable=True))
        serving = asyncio.create_task(inspected(told.service_async(handler)).call(conn))
        async with asyncio.timeout(10):
            while not conn.is_waiting:  # noqa: ASYNC110 - it tells nobody
                await asyncio.sleep(0)
        conn.ask(order_to("move", 10))
        with pytest.raises(Detached):
            await serving

    asyncio.run(main())


@pytest.mark.process
@pytest.mark.parametrize("model", ["sync", "async"])
def test_a_child_that_the_handler_forks_tells_nothing(
    pair: tuple[socket.socket, socket.socket], model: str
) -> None:
    told = Told()
    children: list[int] = []

    def fork() -> None:
        children.append(os.fork())
        if children == [0]:
            raise SystemExit

    def handle(conn: Any) -> None:
        fork()

    async def handle_async(conn: Any) -> None:
        fork()

    pid = os.getpid()
    try:
        if model == "sync":
            call(told, handle, pair[0])
        else:
            call_async(told, handle_async, pair[0])
    finally:
        if os.getpid() != pid:
            os._exit(len(told.said))
    _, status = os.waitpid(children[0], 0)
    assert os.waitstatus_to_exitcode(status) == 1  # that it was met, before the fork
    assert told.said == [("connect", "reload"), ("leave", "ended")]


def _fails(info: object) -> None:
    raise LookupError("nobody to tell")


async def _fails_async(info: object) -> None:
    await asyncio.sleep(0)
    raise LookupError("nobody to tell")


def _handler_of(model: Model) -> Callable[[Any], object]:
    async def handle_async(conn: Any) -> None: ...

    return handle_async if model == "async" else print


@pytest.mark.parametrize("model", MODELS)
def test_a_worker_starts_and_is_ready(model: Model) -> None:
    said: list[WorkerInfo] = []
    ready = threading.Event()
    service = Service(_handler_of(model), on_start=said.append, on_ready=lambda info: ready.set())
    with a_place(service, model) as place:
        thread = place.start()
        assert ready.wait(10)
        place.retire("close")
        thread.join(10)
        assert not thread.is_alive()
    assert said == [WorkerInfo("", 1, 0, model)]


@pytest.mark.parametrize("model", MODELS)
def test_a_worker_that_cannot_start_says_why(model: Model) -> None:
    fails = _fails_async if model == "async" else _fails
    with a_place(Service(_handler_of(model), on_start=fails), model) as place:
        place.run()
        told, _ = place.wait_for("StartFailed")
        assert told.error.startswith("on_start failed:\nTraceback")
        assert told.error.endswith("LookupError: nobody to tell")
        assert f"{os.sep}socketkeep{os.sep}_" not in told.error


@pytest.mark.parametrize("model", MODELS)
def test_a_worker_that_fails_when_it_is_ready_serves(model: Model, log: Lines) -> None:
    fails = _fails_async if model == "async" else _fails
    with a_place(Service(_handler_of(model), on_ready=fails), model) as place:
        thread = place.start()
        place.permit(1)
        with socket.create_connection(place.environment.listeners[0].getsockname()) as peer:
            peer.settimeout(10)
            assert peer.recv(1) == b""  # its handler has returned
        place.retire("close")
        thread.join(10)
    assert "LookupError: nobody to tell" in str(log.fields("on_ready failed")["traceback"])


def test_a_worker_that_ends_waits_for_nothing() -> None:
    """An on_ready that has not come to its end is cancelled."""
    ended: list[str] = []
    begun = threading.Event()

    async def on_ready(info: object) -> None:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.append("cancelled")

    with a_place(Service(_handler_of("async"), on_ready=on_ready), "async") as place:
        thread = place.start()
        assert begun.wait(10)
        place.retire("close")
        thread.join(10)
        assert not thread.is_alive()
    assert ended == ["cancelled"]
