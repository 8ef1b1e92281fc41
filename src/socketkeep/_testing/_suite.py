"""From statements to checks: a statement holds for each manner of waiting, on each kind of stream.

Nothing here knows pytest: a check is called, and raises AssertionError, or what a verb raised.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from dataclasses import dataclass
from typing import Any, Final, Literal, Protocol, TypeAlias

from socketkeep._stream._modes import Blocking, Mode, NonBlocking, Timeout
from socketkeep._testing._ends import (
    LONG_PATIENCE,
    AsyncEnd,
    End,
    SyncEnd,
    in_threads,
    waits,
)

World: TypeAlias = Literal["sync", "async"]
Run: TypeAlias = Callable[[End, End], Coroutine[Any, Any, None]]


class SyncStream(Protocol):
    """The least that a sync stream has; what else there is, `features` says."""

    def recv(self, max: int = ..., /) -> bytes:  # noqa: A002 - the word of the library
        """Return what has come, 1 to `max` bytes; b"" at the peer's EOF."""
        ...

    def send(self, data: bytes, /) -> None:
        """Send all of `data`."""
        ...

    def close(self) -> None:
        """End the connection; the peer gets all that was sent, then EOF."""
        ...


class AsyncStream(Protocol):
    """The least that an async stream has; what else there is, `features` says."""

    def recv(self, max: int = ..., /) -> Awaitable[bytes]:  # noqa: A002 - as above
        """Return what has come, 1 to `max` bytes; b"" at the peer's EOF."""
        ...

    def send(self, data: bytes, /) -> Awaitable[None]:
        """Send all of `data`."""
        ...

    def close(self) -> Awaitable[None]:
        """End the connection; the peer gets all that was sent, then EOF."""
        ...


#: The verbs, and what else can be asked of a stream: "errors": it raises Socketkeep's; "timeout":
#: verbs take one; "drain": `close` lets the peer finish sending; "mode": it has the modes of a sync
#: `Connection`; "attributes": `peer`, `local`, `unread`, `ended`, `fileno`.
FEATURES: Final = frozenset(
    [
        "abort",
        "attributes",
        "close",
        "commit",
        "drain",
        "errors",
        "frames",
        "lines",
        "mode",
        "netstrings",
        "recv",
        "recv_exactly",
        "recv_frame",
        "recv_into",
        "recv_netstring",
        "recv_until",
        "release",
        "send",
        "send_eof",
        "send_frame",
        "send_netstring",
        "shutdown",
        "timeout",
    ]
)

#: What any stream of bytes has, whatever its library.
BYTE_STREAM: Final = frozenset({"recv", "send", "send_eof", "close"})


@dataclass(frozen=True)
class Statement:
    """Something that holds for every pair of streams that have what it `needs`."""

    run: Run
    needs: frozenset[str]
    world: World | None  # None: both
    waiting: bool  # it is about waiting: not for NonBlocking()

    def applies(self, world: World, mode: Mode, features: Iterable[str]) -> bool:
        """Whether it is to be run."""
        if self.world not in (None, world) or (self.waiting and not waits(mode)):
            return False
        return self.needs <= frozenset(features)


STATEMENTS: Final[list[Statement]] = []


def holds(*needs: str, world: World | None = None, waiting: bool = False) -> Callable[[Run], Run]:
    """Register the statement that is decorated."""
    unknown = set(needs) - FEATURES
    assert not unknown, unknown

    def register(run: Run) -> Run:
        every = frozenset({"recv", "send", "close", *needs})
        STATEMENTS.append(Statement(run, every, world, waiting))
        return run

    return register


@dataclass(frozen=True)
class Check:
    """One statement, about sync streams of one factory, in one mode.  Call it to run it."""

    name: str
    statement: Statement
    make: Callable[[], tuple[SyncStream, SyncStream]]
    mode: Mode

    def __str__(self) -> str:
        return self.name

    def __call__(self) -> None:
        """Make a pair and check it; raises AssertionError, or what a verb raised unexpectedly.

        It runs in a thread, so that a stream that waits without end fails after half a minute.
        """
        ours, theirs = self.make()
        try:
            ends = SyncEnd(ours, self.mode), SyncEnd(theirs, self.mode)
            in_threads([self.statement.run(*ends)], LONG_PATIENCE)
        finally:
            for stream in (ours, theirs):
                getattr(stream, "abort", stream.close)()


@dataclass(frozen=True)
class AsyncCheck:
    """One statement, about async streams of one factory, with one timeout.  Await its call."""

    name: str
    statement: Statement
    make: Callable[[], Awaitable[tuple[AsyncStream, AsyncStream]]]
    mode: Mode

    def __str__(self) -> str:
        return self.name

    async def __call__(self) -> None:
        """Make a pair and check it; raises AssertionError, or what a verb raised unexpectedly."""
        ours, theirs = await self.make()
        try:
            async with asyncio.timeout(LONG_PATIENCE):
                await self.statement.run(AsyncEnd(ours, self.mode), AsyncEnd(theirs, self.mode))
        finally:
            await asyncio.gather(*(getattr(end, "abort", end.close)() for end in (ours, theirs)))


_MODES: Final = (Blocking(), Timeout(10), NonBlocking())


def sync_checks(
    make: Callable[[], tuple[SyncStream, SyncStream]],
    *,
    modes: Iterable[Mode] = _MODES,
    features: Iterable[str] = FEATURES,
) -> list[Check]:
    """Return the checks of what the verbs promise, for pairs of sync streams.

    make: returns two connected streams, of the same kind; it is called once for each check, which
    disposes of them.  modes: each check is run in each of them; for streams without a `mode` give
    ``[Blocking()]``.  features: which verbs and promises the streams have, `FEATURES` by default;
    a check that needs others is left out.  With pytest::

        @pytest.mark.parametrize("check", sync_checks(make_pair), ids=str)
        def test_conformance(check):
            check()

    Raises ValueError for a feature that there is none of.
    """
    known = _known(features)
    return [
        Check(f"{statement.run.__name__}-{type(mode).__name__}", statement, make, mode)
        for statement in _statements()
        for mode in modes
        if statement.applies("sync", mode, known)
    ]


def async_checks(
    make: Callable[[], Awaitable[tuple[AsyncStream, AsyncStream]]],
    *,
    modes: Iterable[Mode] = _MODES,
    features: Iterable[str] = FEATURES - {"mode"},
) -> list[AsyncCheck]:
    """Return the checks of what the verbs promise, for pairs of async streams.

    make: a coroutine function, otherwise as for `sync_checks`.  modes: how long each verb is given
    by its `timeout`; for streams whose verbs take none give ``[Blocking()]``.  features: as there.
    A check's call is to be awaited, on asyncio or uvloop::

        @pytest.mark.parametrize("check", async_checks(make_pair), ids=str)
        def test_conformance(check):
            asyncio.run(check())
    """
    known = _known(features)
    return [
        AsyncCheck(f"{statement.run.__name__}-{type(mode).__name__}", statement, make, mode)
        for statement in _statements()
        for mode in modes
        if statement.applies("async", mode, known)
    ]


def _known(features: Iterable[str]) -> frozenset[str]:
    given = frozenset(features)
    if unknown := sorted(given - FEATURES):
        raise ValueError(f"no such feature: {', '.join(unknown)}; see FEATURES")
    return given


def _statements() -> list[Statement]:
    # Where they are stated is imported here, because it registers them with `holds` above.
    from socketkeep._testing import _ending, _moving  # noqa: F401

    return STATEMENTS
