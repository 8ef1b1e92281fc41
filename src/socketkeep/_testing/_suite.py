"""The checks of a stream: each statement, in each manner of waiting, on pairs of one kind.

Nothing here knows pytest: a check is called, and raises AssertionError, or what a verb raised.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import Final, Protocol

from socketkeep._stream._modes import Blocking, Mode, NonBlocking, Timeout
from socketkeep._testing import _ending, _moving  # noqa: F401 - each registers its statements
from socketkeep._testing._ends import LONG_PATIENCE, AsyncEnd, SyncEnd, in_threads
from socketkeep._testing._statements import FEATURES, STATEMENTS, Statement


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

    With pytest::

        @pytest.mark.parametrize("check", sync_checks(make_pair), ids=str)
        def test_conformance(check):
            check()

    Args:
        make: Returns two connected streams, of the same kind.  It is called once for each check,
            which disposes of them.
        modes: Each check is run in each of them; for streams without a `mode` give
            ``[Blocking()]``.
        features: The verbs and promises that the streams have, `FEATURES` by default; a check that
            needs others is left out.

    Raises:
        ValueError: There is no such feature.
    """
    known = _known(features)
    return [
        Check(f"{statement.run.__name__}-{type(mode).__name__}", statement, make, mode)
        for statement in STATEMENTS
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

    A check's call is to be awaited, on asyncio or uvloop::

        @pytest.mark.parametrize("check", async_checks(make_pair), ids=str)
        def test_conformance(check):
            asyncio.run(check())

    Args:
        make: A coroutine function, otherwise as for `sync_checks`.
        modes: How long each verb is given by its `timeout`; for streams whose verbs take none give
            ``[Blocking()]``.
        features: The verbs and promises that the streams have, as for `sync_checks`.
    """
    known = _known(features)
    return [
        AsyncCheck(f"{statement.run.__name__}-{type(mode).__name__}", statement, make, mode)
        for statement in STATEMENTS
        for mode in modes
        if statement.applies("async", mode, known)
    ]


def _known(features: Iterable[str]) -> frozenset[str]:
    given = frozenset(features)
    if unknown := sorted(given - FEATURES):
        raise ValueError(f"no such feature: {', '.join(unknown)}; see FEATURES")
    return given
