"""The keeper, as the pages know it: asked over its control socket."""

from __future__ import annotations

import asyncio
import base64
import socket
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final

import msgspec

from socketkeep._admin._protocol import Done, Request, decode_answer, encode
from socketkeep._admin._reports import ConnectionsPart, LiveReport
from socketkeep._base import _passing

#: Connections on the page; more dots than that are a grey area.
MOST: Final = 400
#: The keeper answers at once, unless it is stopped, or in the middle of an upgrade.
_TIMEOUT: Final = 2.0
_LONGEST_ANSWER: Final = 1 << 24


class KeeperUnreachable(Exception):
    """The keeper does not answer; the text says why."""


class ReportSource:
    """The server's state, asked for no more often than it is used, and once for all who ask.

    door: over which the keeper is sent its end of a connection; None: it listens at `control`.
    """

    def __init__(self, control: str, door: socket.socket | None = None) -> None:
        self._control = control
        self._door = door
        self._lock = asyncio.Lock()
        self._report: LiveReport | None = None
        self._asked_at = float("-inf")

    async def look(self, max_age: float = 0.0) -> LiveReport:
        """Return the state as it was at most `max_age` seconds ago.  Raises Unreachable."""
        wanted = time.monotonic() - max_age
        async with _in_time(_TIMEOUT), self._lock:
            if self._report is None or self._asked_at < wanted:
                self._asked_at = time.monotonic()
                self._report = None
                self._report = await self._ask()
            return self._report

    async def part(self, part: int, parts: int) -> ConnectionsPart:
        """Return one of so many parts of the connections.  Raises Unreachable."""
        request = Request("connections-part", {"part": part, "parts": parts})
        async with _in_time(_TIMEOUT):
            return msgspec.convert(await self._done(request), ConnectionsPart)

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if self._door is None:
            return await asyncio.open_unix_connection(self._control, limit=_LONGEST_ANSWER)
        ours, theirs = socket.socketpair()
        try:
            with theirs:
                _passing.send(self._door, b"ask", [theirs.fileno()])
            return await asyncio.open_unix_connection(sock=ours, limit=_LONGEST_ANSWER)
        except BaseException:
            ours.close()
            raise

    async def _ask(self) -> LiveReport:
        return msgspec.convert(await self._done(Request("live", {"most": MOST})), LiveReport)

    async def push(self, command: str, to: str, message: bytes, timeout: float) -> dict[str, Any]:
        """Have the keeper push or publish; return its report.  Raises Unreachable."""
        data = base64.b64encode(message).decode()
        request = Request(command, {"to": to, "data": data, "timeout": timeout})
        async with _in_time(timeout + _TIMEOUT, "the keeper does not answer: it may have gone out"):
            report: dict[str, Any] = await self._done(request)
            return report

    async def _done(self, request: Request) -> Any:
        reader, writer = await self._connect()
        try:
            writer.write(encode(request))
            answer = decode_answer(await reader.readline())
        finally:
            writer.close()
        if not isinstance(answer, Done) or answer.error:
            raise KeeperUnreachable(f"the keeper says no: {getattr(answer, 'error', answer)}")
        return answer.result


@asynccontextmanager
async def _in_time(seconds: float, late: str = "the keeper does not answer") -> AsyncIterator[None]:
    """Bound the time of a question; raises KeeperUnreachable for all that keeps its answer away."""
    try:
        async with asyncio.timeout(seconds):
            yield
    except TimeoutError:
        raise KeeperUnreachable(late) from None
    except (OSError, msgspec.MsgspecError, ValueError) as error:
        raise KeeperUnreachable(f"the keeper cannot be asked: {error}") from None
