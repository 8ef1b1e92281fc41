"""The files that socketserver's handlers read and write: `rfile`, `wfile`, and others of makefile.

A reader keeps no bytes of its own.  What it reads ahead stands in the connection's buffer, where a
commit, a move and a crash find it; an `io.BufferedReader` would take it along to nowhere.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from socketkeep._base._errors import LimitExceeded, PeerClosed, Truncated
from socketkeep._stream._lifecycle import State

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer, WriteableBuffer

    from socketkeep._stream._connection import Connection

#: Bytes of a line where the handler sets no limit, and of a read that is to take all.
_ANY: Final = (1 << 62) - 1


class _OfSocket(io.IOBase):
    """A file that counts as open for its socket until it is closed."""

    def __init__(self, conn: Connection, on_close: Callable[[], None]) -> None:
        super().__init__()
        self._conn = conn
        self._on_close: Callable[[], None] | None = on_close

    def fileno(self) -> int:
        return self._conn.fileno()

    def close(self) -> None:
        super().close()
        on_close, self._on_close = self._on_close, None
        if on_close is not None:
            on_close()


class ConnectionReader(_OfSocket, io.BufferedIOBase):
    """The result of ``makefile("rb")``, with the methods of `io.BufferedReader` but for peek."""

    def readable(self) -> bool:
        return True

    def read(self, size: int | None = -1, /) -> bytes:
        """Return `size` bytes, fewer at the peer's EOF; all until EOF when it is negative."""
        self._check_open()
        count = _ANY if size is None or size < 0 else size
        try:
            return self._conn.recv_exactly(count)
        except Truncated:
            raise
        except PeerClosed:
            return self._conn.recv(count)

    def read1(self, size: int = -1, /) -> bytes:
        """Return what has come, up to `size` bytes, waiting for the first."""
        self._check_open()
        if size == 0:
            return b""
        return self._conn.recv() if size < 0 else self._conn.recv(size)

    def readinto1(self, buffer: WriteableBuffer, /) -> int:
        view = memoryview(buffer).cast("B")
        data = self.read1(view.nbytes)
        view[: len(data)] = data
        return len(data)

    def readline(self, size: int | None = -1, /) -> bytes:
        """Return the next line with its end, at most `size` bytes of it; b"" at EOF."""
        self._check_open()
        limit = _ANY if size is None or size < 0 else size
        if limit <= 1:
            return self._conn.recv(1) if limit else b""
        try:
            return next(self._conn.lines(limit - 1, keepends=True), b"")
        except LimitExceeded:
            return self._conn.recv(limit)

    def _check_open(self) -> None:
        if self.closed:
            raise ValueError("I/O operation on closed file.")


class RawConnectionFile(_OfSocket, io.RawIOBase):
    """The result of ``makefile("rb", 0)`` and ``makefile("wb", 0)``, which lies under buffers."""

    def __init__(
        self, conn: Connection, on_close: Callable[[], None], *, reads: bool, writes: bool
    ) -> None:
        super().__init__(conn, on_close)
        self._reads = reads
        self._writes = writes

    def readable(self) -> bool:
        return self._reads

    def writable(self) -> bool:
        return self._writes

    def readinto(self, buffer: WriteableBuffer, /) -> int:
        view = memoryview(buffer).cast("B")
        if not view.nbytes:
            return 0
        data = self._conn.recv(view.nbytes)
        view[: len(data)] = data
        return len(data)

    def write(self, data: ReadableBuffer, /) -> int:
        """Send all of `data`.

        Once the connection has left, what a buffer still holds is uncommitted: what it answers is
        read again in the next worker, which answers it.
        """
        view = memoryview(data).cast("B")
        if self._conn.core.life.state is not State.DETACHED:
            self._conn.send(view)
        return view.nbytes
