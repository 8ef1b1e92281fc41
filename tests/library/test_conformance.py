"""The suite that is shipped, on the library's own connections, and on streams of anyio's."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import anyio
import pytest

from socketkeep import AsyncConnection, Blocking, Connection, Mode, NonBlocking, Timeout, testing
from socketkeep.testing import BYTE_STREAM, AsyncCheck, AsyncStream, Check, SyncStream
from tests.harness.seam import leased
from tests.library.conftest import KINDS, LOOPS
from tests.library.test_tls import CLIENT, HOST, SERVER

#: Factories of connected pairs; whoever makes another kind of connection adds it here.
SYNC_PAIRS: dict[str, Callable[[], tuple[SyncStream, SyncStream]]] = {}
ASYNC_PAIRS: dict[str, Callable[[], Awaitable[tuple[AsyncStream, AsyncStream]]]] = {}


def add_plain(kind: str) -> None:
    def make() -> tuple[Connection, Connection]:
        ours, theirs = KINDS[kind]()
        return Connection(ours), Connection(theirs)

    async def make_async() -> tuple[AsyncConnection, AsyncConnection]:
        ours, theirs = KINDS[kind]()
        return AsyncConnection(ours), AsyncConnection(theirs)

    SYNC_PAIRS[kind] = make
    ASYNC_PAIRS[kind] = make_async


for name in KINDS:
    add_plain(name)


def tls_pair() -> tuple[Connection, Connection]:
    ours, theirs = (Connection(sock, mode=Timeout(10)) for sock in KINDS["tcp"]())
    with ThreadPoolExecutor(1) as pool:
        accepted = pool.submit(ours.start_tls, SERVER, server_side=True)
        theirs.start_tls(CLIENT, server_hostname=HOST)
        accepted.result()
    return ours, theirs


async def tls_pair_async() -> tuple[AsyncConnection, AsyncConnection]:
    ours, theirs = (AsyncConnection(sock) for sock in KINDS["tcp"]())
    await asyncio.gather(
        ours.start_tls(SERVER, server_side=True),
        theirs.start_tls(CLIENT, server_hostname=HOST),
    )
    return ours, theirs


SYNC_PAIRS["tls"] = tls_pair
ASYNC_PAIRS["tls"] = tls_pair_async


class Redelivering(Connection):
    """What is received stays in the kernel until the next receive."""

    def _receive(self, *args: Any, **options: Any) -> bytes:
        self.commit()
        return super()._receive(*args, **options)


class AsyncRedelivering(AsyncConnection):
    def _receive(self, *args: Any, **options: Any) -> Any:
        self.commit()
        return super()._receive(*args, **options)


def add_redelivering(kind: str) -> None:
    def make() -> tuple[Connection, Connection]:
        ours, theirs = KINDS[kind]()
        return (
            Redelivering(ours, **leased(redeliver=True)),
            Redelivering(theirs, **leased(redeliver=True)),
        )

    async def make_async() -> tuple[AsyncConnection, AsyncConnection]:
        ours, theirs = KINDS[kind]()
        return (
            AsyncRedelivering(ours, **leased(redeliver=True)),
            AsyncRedelivering(theirs, **leased(redeliver=True)),
        )

    SYNC_PAIRS[f"{kind}-redelivering"] = make
    ASYNC_PAIRS[f"{kind}-redelivering"] = make_async


for name in ("tcp", "unix"):
    add_redelivering(name)


#: IPv6 differs in its addresses alone: whatever holds of it in one mode holds in the others.
MODES: dict[str, list[Mode]] = {"tcp6": [Timeout(10)]}
ALL_MODES: list[Mode] = [Blocking(), Timeout(10), NonBlocking()]


def fits(kind: str, check: str) -> bool:
    """Whether the longest of the check's messages fits into the kernel, where it has to."""
    return "redelivering" not in kind or "recv_exactly_gathers" not in check


async def anyio_streams() -> tuple[AsyncStream, AsyncStream]:
    async def one(sock: socket.socket) -> AsyncStream:
        return testing.ByteStreamVerbs(await anyio.abc.SocketStream.from_socket(sock))

    ours, theirs = KINDS["tcp"]()
    return await one(ours), await one(theirs)


async def ours_as_anyios() -> tuple[AsyncStream, AsyncStream]:
    ours, theirs = (AsyncConnection(sock) for sock in KINDS["tcp"]())
    return (
        testing.ByteStreamVerbs(ours.byte_stream()),
        testing.ByteStreamVerbs(theirs.byte_stream()),
    )


@pytest.mark.parametrize(
    "check",
    [
        pytest.param(check, id=f"{kind}-{check}")
        for kind, make in SYNC_PAIRS.items()
        for check in testing.sync_checks(make, modes=MODES.get(kind, ALL_MODES))
        if fits(kind, str(check))
    ],
)
def test_sync(check: Check) -> None:
    check()


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize(
    "check",
    [
        pytest.param(check, id=f"{kind}-{check}")
        for kind, make in ASYNC_PAIRS.items()
        for check in testing.async_checks(make, modes=MODES.get(kind, ALL_MODES))
        if fits(kind, str(check))
    ],
)
def test_async(check: AsyncCheck, loop: str) -> None:
    with asyncio.Runner(loop_factory=LOOPS[loop]) as runner:
        runner.run(check())


@pytest.mark.parametrize(
    "check",
    [
        pytest.param(check, id=f"{kind}-{check}")
        for kind, make in (("anyio", anyio_streams), ("ours", ours_as_anyios))
        for check in testing.async_checks(make, modes=[Blocking()], features=BYTE_STREAM)
    ],
)
def test_streams_of_another_library(check: AsyncCheck) -> None:
    asyncio.run(check())


def test_every_statement_is_run_on_a_full_connection() -> None:
    make = SYNC_PAIRS["tcp"]
    run = {check.statement for check in testing.sync_checks(make)}
    run |= {check.statement for check in testing.async_checks(ASYNC_PAIRS["tcp"])}
    from socketkeep._testing._statements import STATEMENTS

    assert run == set(STATEMENTS)
    names = [str(check) for check in testing.sync_checks(make)]
    assert len(set(names)) == len(names)


class Lossy(Connection):
    """A stream that does not keep the promises: it loses a byte of what it sends."""

    def send(self, data: bytes | bytearray | memoryview, *, timeout: float | None = None) -> None:
        super().send(data[:-1], timeout=timeout)


def test_the_checks_see_a_broken_stream() -> None:
    def make() -> tuple[Lossy, Lossy]:
        ours, theirs = socket.socketpair()
        return Lossy(ours), Lossy(theirs)

    failed = 0
    for check in testing.sync_checks(make, modes=[NonBlocking()], features=BYTE_STREAM):
        if check.statement.run.__name__ == "recv_returns_nothing_at_eof_again_and_again":
            with pytest.raises(AssertionError):
                check()
            failed += 1
    assert failed == 1


def test_a_feature_that_there_is_none_of_is_refused() -> None:
    with pytest.raises(ValueError, match="no such feature: fly"):
        testing.sync_checks(SYNC_PAIRS["tcp"], features={"recv", "fly"})


@pytest.mark.parametrize("name", testing.__all__)
def test_each_public_name_is_documented(name: str) -> None:
    value = getattr(testing, name)
    assert isinstance(value, frozenset) or (value.__doc__ or "").strip()


def test_names_that_are_not_there() -> None:
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = testing.no_such_name


class Mute(Connection):
    """A stream that sends nothing: who receives from it waits without end."""

    def send(self, data: bytes | bytearray | memoryview, *, timeout: float | None = None) -> None:
        return None


def test_a_stream_that_waits_without_end_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("socketkeep._testing._suite.LONG_PATIENCE", 0.1)

    def make() -> tuple[Mute, Mute]:
        ours, theirs = socket.socketpair()
        return Mute(ours), Mute(theirs)

    check = testing.sync_checks(make, modes=[Blocking()], features=BYTE_STREAM)[0]
    with pytest.raises(AssertionError, match="it waits without end"):
        check()
