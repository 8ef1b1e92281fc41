"""The verbs of an async connection that receive and send whole messages: framing, and a wait."""
# ruff: noqa: A002 - `max` is the word for a bound; the builtin is not used here

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Coroutine
from functools import partial
from typing import Any, Self, TypeAlias

from socketkeep._base._errors import LimitExceeded, Malformed
from socketkeep._stream._async import AsyncExchange
from socketkeep._stream._async_sender import Data
from socketkeep._stream._exchange import CHUNK
from socketkeep._stream._framing import (
    ByteOrder,
    LinesAhead,
    Prefix,
    check_bound,
    check_separator,
    frame,
    netstring,
    prefix_size,
    take_frame,
    take_netstring,
    take_until,
)

Receiving: TypeAlias = Coroutine[Any, Any, bytes]


class AsyncMessages(AsyncExchange):
    """The base of `AsyncConnection`: the verbs for whole messages."""

    __slots__ = ()

    def recv_until(
        self, separator: bytes, max: int = CHUNK, *, timeout: float | None = None
    ) -> Receiving:
        """Return the bytes before `separator`, which is received too, and dropped.

        max: how many bytes they may be.  Raises LimitExceeded when they are more, and PeerClosed
        when the peer's EOF comes before the separator; what did come is still unread.
        """
        check_separator(separator, max)
        take = partial(take_until, self._buffer, separator)
        cut_short = partial(self._cut_short, "recv_until", None)
        return self._receive("recv_until", take, max, None, timeout, cut_short)

    def lines(
        self,
        max: int = CHUNK,
        *,
        keepends: bool = False,
        commit: bool = False,
        timeout: float | None = None,
    ) -> AsyncIterator[bytes]:
        r"""Iterate, with ``async for``, over the lines that come, until the peer's EOF.

        A line ends with b"\n" or b"\r\n", which is not part of it unless `keepends`.  What stands
        unterminated before EOF is a line too.  max: how many bytes a line may have before its
        newline; LimitExceeded beyond.  commit: when the next line is asked for, `commit` the ones
        before, without state.  timeout: seconds for each line.  After an error or a cancellation
        the same iterator goes on.
        """
        check_bound(max)
        take = LinesAhead(self._buffer, keepends).take
        return _Iteration(
            self, "lines", take, max, partial(self._buffer.take, max), commit, timeout
        )

    def recv_frame(
        self,
        prefix: Prefix,
        max: int = CHUNK,
        *,
        byteorder: ByteOrder = "big",
        timeout: float | None = None,
    ) -> Receiving:
        """Return a message that stands behind its length.

        prefix: what the length is, an unsigned integer: "u8", "u16", "u32" or "u64"; it does not
        count itself.  byteorder: its order, "big" (network order) or "little".  max: how many bytes
        the message may have.  Raises LimitExceeded as soon as a longer one is announced, and
        PeerClosed when the peer's EOF comes before its end; what did come is still unread.
        """
        check_bound(max)
        size = prefix_size(prefix, byteorder)
        take = partial(take_frame, self._buffer, size, byteorder)
        cut_short = partial(self._cut_short, "recv_frame", None)
        return self._receive("recv_frame", take, max, None, timeout, cut_short)

    def frames(
        self,
        prefix: Prefix,
        max: int = CHUNK,
        *,
        byteorder: ByteOrder = "big",
        commit: bool = False,
        timeout: float | None = None,
    ) -> AsyncIterator[bytes]:
        """Iterate, with ``async for``, over messages as `recv_frame` receives them, until EOF.

        PeerClosed when EOF comes in the middle of one.  commit, timeout: as for `lines`.
        """
        check_bound(max)
        size = prefix_size(prefix, byteorder)
        take = partial(take_frame, self._buffer, size, byteorder)
        return _Iteration(self, "frames", take, max, self._at_end_of("frames"), commit, timeout)

    async def send_frame(
        self,
        data: Data,
        prefix: Prefix,
        max: int | None = None,
        *,
        byteorder: ByteOrder = "big",
        timeout: float | None = None,
    ) -> None:
        """Send `data` behind its length, as `send` does.

        prefix, byteorder: as for `recv_frame`.  max: how many bytes `data` may have, None for as
        many as the prefix can say.  Raises LimitExceeded when it has more; nothing is sent then.
        """
        framed = frame(data, prefix, byteorder, max)
        done = self._send_at_once(framed)
        if done is not None:
            await self._send_rest(framed, done, timeout)

    def recv_netstring(self, max: int = CHUNK, *, timeout: float | None = None) -> Receiving:
        """Return the content of a netstring, as in ``5:hello,``.

        max: how many bytes it may have.  Raises LimitExceeded as soon as a longer one is announced,
        Malformed for what is no netstring (a length with leading zeros is none), and PeerClosed
        when the peer's EOF comes before its end; what did come is still unread.
        """
        check_bound(max)
        take = partial(take_netstring, self._buffer)
        cut_short = partial(self._cut_short, "recv_netstring", None)
        return self._receive("recv_netstring", take, max, None, timeout, cut_short)

    def netstrings(
        self, max: int = CHUNK, *, commit: bool = False, timeout: float | None = None
    ) -> AsyncIterator[bytes]:
        """Iterate, with ``async for``, over netstrings as `recv_netstring` receives them, to EOF.

        PeerClosed when EOF comes in the middle of one.  commit, timeout: as for `lines`.
        """
        check_bound(max)
        take = partial(take_netstring, self._buffer)
        return _Iteration(
            self, "netstrings", take, max, self._at_end_of("netstrings"), commit, timeout
        )

    async def send_netstring(
        self, data: Data, max: int | None = None, *, timeout: float | None = None
    ) -> None:
        """Send `data` as a netstring, as `send` does.

        max: how many bytes `data` may have, None for any number.  Raises LimitExceeded when it has
        more; nothing is sent then.
        """
        framed = netstring(data, max)
        done = self._send_at_once(framed)
        if done is not None:
            await self._send_rest(framed, done, timeout)

    def _at_end_of(self, operation: str) -> Callable[[], None]:
        """Return what says at EOF that there is no further message, or raises that it is cut."""

        def at_end() -> None:
            if self._buffer.size:
                self._cut_short(operation, None)

        return at_end


class _Iteration:
    """An iterator, not a generator: a generator would be at its end after the first timeout."""

    __slots__ = (
        "_at_end",
        "_bound",
        "_conn",
        "_due",
        "_operation",
        "_take",
        "_take_one",
        "_timeout",
    )

    def __init__(
        self,
        conn: AsyncMessages,
        operation: str,
        take: Callable[[int], bytes | None],
        bound: int,
        at_end: Callable[[], bytes | None],
        commit: bool,
        timeout: float | None,
    ) -> None:
        self._conn = conn
        self._operation = operation
        self._take_one = take
        self._take = self._take_to_commit if commit else take
        self._bound = bound
        self._at_end = at_end
        self._due = False  # a message has been given, and is to be committed before the next
        self._timeout = timeout

    def __aiter__(self) -> Self:
        return self

    def __anext__(self) -> Receiving:
        conn = self._conn
        if self._due:
            self._due = False
            conn.commit()
        if conn._buffer.size:
            return self._take_now()
        return conn._receive(
            self._operation, self._take, self._bound, None, self._timeout, self._last
        )

    async def _take_now(self) -> bytes:
        """Take what is there, when the task runs: one that is cancelled before loses nothing."""
        conn = self._conn
        if not conn._life.over and conn._order is None and not conn._receiving:
            try:
                message = self._take(self._bound)
            except (LimitExceeded, Malformed):
                message = None  # to be raised with all that is to be said of it
            if message is not None:
                return message
        return await conn._receive(
            self._operation, self._take, self._bound, None, self._timeout, self._last
        )

    def _take_to_commit(self, bound: int) -> bytes | None:
        message = self._take_one(bound)
        self._due = message is not None
        return message

    def _last(self) -> bytes:
        message = self._at_end()
        if message is None:
            raise StopAsyncIteration
        return message
