"""One face of a sync and an async stream, so that a check is written once for both.

A check is a coroutine function.  On a sync stream its coroutine never suspends: each verb blocks
in the call.  What is to happen at the same time is given to `together`: threads there, tasks here.
"""

from __future__ import annotations

import asyncio
import select
import threading
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from typing import Any, Final, TypeVar

from socketkeep._base._errors import WouldBlock
from socketkeep._stream._modes import Mode, NonBlocking, seconds_left

T = TypeVar("T")

#: Seconds after which something that should have happened will not.
PATIENCE: Final = 10.0
#: The same for a whole check.
LONG_PATIENCE: Final = 30.0
_GLANCE: Final = 0.02  # a TLS stream may wait for the other direction than its verb says
_TIMED: Final = ("recv", "send", "lines", "frames", "netstrings")
_UNTIMED: Final = ("send_eof",)


class End:
    """One end of a pair, in one manner of waiting."""

    def __init__(self, stream: Any, mode: Mode) -> None:
        self.stream = stream
        self.mode = mode

    async def do(self, verb: str, *args: Any, **options: Any) -> Any:
        """Run a verb to its end: where it would block, call it again until it is done."""
        raise NotImplementedError

    async def once(self, verb: str, *args: Any, **options: Any) -> Any:
        """Call a verb one time."""
        raise NotImplementedError

    def each(self, verb: str, *args: Any, **options: Any) -> AsyncIterator[bytes]:
        """Iterate over the messages of an iterator, going on where one would block."""
        raise NotImplementedError

    async def together(self, *acts: Coroutine[Any, Any, Any]) -> list[Any]:
        """Run the acts at the same time, to the end of all; return their results."""
        raise NotImplementedError

    async def all_of(self, count: int) -> bytes:
        """Receive `count` bytes by `recv`, or what there is up to EOF."""
        data = bytearray()
        while len(data) < count and (part := await self.do("recv", count - len(data))):
            data += part
        return bytes(data)

    async def to_eof(self) -> bytes:
        """Receive up to EOF by `recv`."""
        data = bytearray()
        while part := await self.do("recv"):
            data += part
        return bytes(data)

    async def messages(self, verb: str, *args: Any, **options: Any) -> list[bytes]:
        """Return all messages up to EOF."""
        return [message async for message in self.each(verb, *args, **options)]


class SyncEnd(End):
    """An end of sync streams; the mode is set on those that have one."""

    def __init__(self, stream: Any, mode: Mode) -> None:
        super().__init__(stream, mode)
        if hasattr(stream, "mode"):
            stream.mode = mode

    async def do(self, verb: str, *args: Any, **options: Any) -> Any:
        method = getattr(self.stream, verb)
        return self._persist(verb, lambda: method(*args, **options))

    async def once(self, verb: str, *args: Any, **options: Any) -> Any:
        return getattr(self.stream, verb)(*args, **options)

    async def each(self, verb: str, *args: Any, **options: Any) -> AsyncIterator[bytes]:
        messages = getattr(self.stream, verb)(*args, **options)
        last = object()
        while (message := self._persist(verb, lambda: next(messages, last))) is not last:
            yield message

    async def together(self, *acts: Coroutine[Any, Any, Any]) -> list[Any]:
        return in_threads(acts, PATIENCE)

    def _persist(self, verb: str, attempt: Callable[[], Any]) -> Any:
        end = time.monotonic() + PATIENCE
        while True:
            try:
                return attempt()
            except WouldBlock:
                if not isinstance(self.mode, NonBlocking):
                    raise
                assert time.monotonic() < end, f"{verb} would block without end"
            poller = select.poll()
            poller.register(
                self.stream.fileno(), select.POLLOUT if verb.startswith("send") else select.POLLIN
            )
            poller.poll(_GLANCE * 1000)


class AsyncEnd(End):
    """An end of async streams; the mode is given to each verb as its timeout."""

    def _options(self, verb: str, options: dict[str, Any]) -> dict[str, Any]:
        limit = seconds_left(self.mode)
        if limit is None or not verb.startswith(_TIMED) or verb in _UNTIMED:
            return options
        return {"timeout": limit, **options}

    async def do(self, verb: str, *args: Any, **options: Any) -> Any:
        method = getattr(self.stream, verb)
        given = self._options(verb, options)
        return await self._persist(verb, lambda: method(*args, **given))

    async def once(self, verb: str, *args: Any, **options: Any) -> Any:
        return await getattr(self.stream, verb)(*args, **options)

    async def each(self, verb: str, *args: Any, **options: Any) -> AsyncIterator[bytes]:
        messages = getattr(self.stream, verb)(*args, **self._options(verb, options))
        while True:
            try:
                message = await self._persist(verb, lambda: anext(messages))
            except StopAsyncIteration:
                return
            yield message

    async def together(self, *acts: Coroutine[Any, Any, Any]) -> list[Any]:
        async with asyncio.timeout(PATIENCE):
            return list(await asyncio.gather(*acts))

    async def _persist(self, verb: str, attempt: Callable[[], Any]) -> Any:
        end = time.monotonic() + PATIENCE
        while True:
            try:
                return await attempt()
            except WouldBlock:
                if not isinstance(self.mode, NonBlocking):
                    raise
                assert time.monotonic() < end, f"{verb} would block without end"
            await asyncio.sleep(0)


def in_threads(acts: Sequence[Coroutine[Any, Any, Any]], patience: float) -> list[Any]:
    """Run each act in a thread; return their results, or raise what the first of them raised.

    AssertionError when they are not done after `patience` seconds: a thread that waits for what
    never comes cannot be ended, but ends with its stream.
    """
    results: list[Any] = [None] * len(acts)
    failures: list[BaseException] = []

    def run(place: int, act: Coroutine[Any, Any, Any]) -> None:
        try:
            results[place] = run_sync(act)
        except BaseException as error:
            failures.append(error)

    threads = [
        threading.Thread(target=run, args=(place, act), daemon=True)
        for place, act in enumerate(acts)
    ]
    for thread in threads:
        thread.start()
    end = time.monotonic() + patience
    for thread in threads:
        thread.join(max(0.0, end - time.monotonic()))
    if failures:
        raise failures[0]
    assert not any(thread.is_alive() for thread in threads), "it waits without end"
    return results


def run_sync(act: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine that never suspends."""
    try:
        act.send(None)
    except StopIteration as done:
        value: T = done.value
        return value
    act.close()
    raise RuntimeError("a check of a sync stream awaited something else than a verb")


def waits(mode: Mode) -> bool:
    """Return whether verbs wait in this mode."""
    return not isinstance(mode, NonBlocking)
