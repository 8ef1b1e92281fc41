"""The verbs of a sync connection that receive and send whole messages: framing, and a wait."""
# ruff: noqa: A002 - `max` is the word for a bound; the builtin is not used here

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Self

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
from socketkeep._stream._sync import SyncExchange
from socketkeep._stream._sync_waiting import Data


class Messages(SyncExchange):
    """The base of `Connection`: the verbs for whole messages."""

    __slots__ = ()

    def recv_until(
        self, separator: bytes, max: int = CHUNK, *, timeout: float | None = None
    ) -> bytes:
        """Return the bytes before `separator`, which is received too, and dropped.

        max: how many bytes they may be.  Raises LimitExceeded when they are more, and PeerClosed
        when the peer's EOF comes before the separator; what did come is still unread.
        """
        check_separator(separator, max)
        take = partial(take_until, self._buffer, separator, max)
        data = self._receive("recv_until", take, None, timeout)
        if data is None:
            self._cut_short("recv_until", None)
        return data

    def lines(
        self,
        max: int = CHUNK,
        *,
        keepends: bool = False,
        commit: bool = False,
        timeout: float | None = None,
    ) -> Iterator[bytes]:
        r"""Iterate over the lines that come, until the peer's EOF.

        A line ends with b"\n" or b"\r\n", which is not part of it unless `keepends`.  What stands
        unterminated before EOF is a line too.  max: how many bytes a line may have before its
        newline; LimitExceeded beyond.  commit: when the next line is asked for, `commit` the ones
        before, without state.  timeout: seconds for each line.  After `WouldBlock` or `TimedOut`
        the same iterator goes on.
        """
        check_bound(max)
        take = partial(LinesAhead(self._buffer, keepends).take, max)
        return _Iteration(self, "lines", take, partial(self._buffer.take, max), commit, timeout)

    def recv_frame(
        self,
        prefix: Prefix,
        max: int = CHUNK,
        *,
        byteorder: ByteOrder = "big",
        timeout: float | None = None,
    ) -> bytes:
        """Return a message that stands behind its length.

        prefix: what the length is, an unsigned integer: "u8", "u16", "u32" or "u64"; it does not
        count itself.  byteorder: its order, "big" (network order) or "little".  max: how many bytes
        the message may have.  Raises LimitExceeded as soon as a longer one is announced, and
        PeerClosed when the peer's EOF comes before its end; what did come is still unread.
        """
        check_bound(max)
        size = prefix_size(prefix, byteorder)
        take = partial(take_frame, self._buffer, size, byteorder, max)
        data = self._receive("recv_frame", take, None, timeout)
        if data is None:
            self._cut_short("recv_frame", None)
        return data

    def frames(
        self,
        prefix: Prefix,
        max: int = CHUNK,
        *,
        byteorder: ByteOrder = "big",
        commit: bool = False,
        timeout: float | None = None,
    ) -> Iterator[bytes]:
        """Iterate over messages as `recv_frame` receives them, until the peer's EOF.

        PeerClosed when EOF comes in the middle of one.  commit, timeout: as for `lines`.
        """
        check_bound(max)
        size = prefix_size(prefix, byteorder)
        take = partial(take_frame, self._buffer, size, byteorder, max)
        return _Iteration(self, "frames", take, self._at_end_of("frames"), commit, timeout)

    def send_frame(
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
        self._transmit(frame(data, prefix, byteorder, max), timeout)

    def recv_netstring(self, max: int = CHUNK, *, timeout: float | None = None) -> bytes:
        """Return the content of a netstring, as in ``5:hello,``.

        max: how many bytes it may have.  Raises LimitExceeded as soon as a longer one is announced,
        Malformed for what is no netstring (a length with leading zeros is none), and PeerClosed
        when the peer's EOF comes before its end; what did come is still unread.
        """
        check_bound(max)
        take = partial(take_netstring, self._buffer, max)
        data = self._receive("recv_netstring", take, None, timeout)
        if data is None:
            self._cut_short("recv_netstring", None)
        return data

    def netstrings(
        self, max: int = CHUNK, *, commit: bool = False, timeout: float | None = None
    ) -> Iterator[bytes]:
        """Iterate over netstrings as `recv_netstring` receives them, until the peer's EOF.

        PeerClosed when EOF comes in the middle of one.  commit, timeout: as for `lines`.
        """
        check_bound(max)
        take = partial(take_netstring, self._buffer, max)
        return _Iteration(self, "netstrings", take, self._at_end_of("netstrings"), commit, timeout)

    def send_netstring(
        self, data: Data, max: int | None = None, *, timeout: float | None = None
    ) -> None:
        """Send `data` as a netstring, as `send` does.

        max: how many bytes `data` may have, None for any number.  Raises LimitExceeded when it has
        more; nothing is sent then.
        """
        self._transmit(netstring(data, max), timeout)

    def _at_end_of(self, operation: str) -> Callable[[], None]:
        """Return what says at EOF that there is no further message, or raises that it is cut."""

        def at_end() -> None:
            if self._buffer.size:
                self._cut_short(operation, None)

        return at_end


class _Iteration:
    """An iterator, not a generator: a generator would be at its end after the first timeout."""

    __slots__ = ("_at_end", "_commit", "_conn", "_due", "_operation", "_take", "_timeout")

    def __init__(
        self,
        conn: Messages,
        operation: str,
        take: Callable[[], bytes | None],
        at_end: Callable[[], bytes | None],
        commit: bool,
        timeout: float | None,
    ) -> None:
        self._conn = conn
        self._operation = operation
        self._take = take
        self._at_end = at_end
        self._commit = commit
        self._due = False
        self._timeout = timeout

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> bytes:
        conn = self._conn
        if self._due:
            self._due = False
            conn.commit()
        message = conn._receive(self._operation, self._take, None, self._timeout)
        if message is None:
            message = self._at_end()
            if message is None:
                raise StopIteration
        self._due = self._commit
        return message
