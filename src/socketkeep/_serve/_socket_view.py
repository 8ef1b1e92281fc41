"""A connection in the words of `socket.socket`, for handlers that were written for one."""

from __future__ import annotations

import errno
import io
import os
import socket
from typing import IO, TYPE_CHECKING, Any, Final, Self

from socketkeep._base._errors import HandlerError
from socketkeep._serve._peer_names import family_of, name_of
from socketkeep._serve._socket_files import ConnectionReader, RawConnectionFile
from socketkeep._stream._modes import Blocking, Deadline, NonBlocking, Timeout, seconds_left

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer, WriteableBuffer

    from socketkeep._stream._connection import Connection
    from socketkeep._stream._lease import Attached

_MODES: Final = frozenset("rwb")


class ConnectionSocket:
    """`request` and `connection` of a handler: the methods of a socket, over a `Connection`.

    A timeout bounds the whole operation, not each system call of it.  `send` sends all.  Of recv's
    flags there is MSG_DONTWAIT alone.

    Args:
        conn: The connection itself, with all of its verbs.  `commit`, `state` and `attached` are
            its.
    """

    def __init__(self, conn: Connection) -> None:
        self.conn: Final = conn
        self._files = 0
        self._closed = False
        self._writers: list[io.BufferedWriter | io.BufferedRWPair] = []

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {self.conn!r}>"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # What keeps it.

    @property
    def state(self) -> Any:
        """Return what the last commit left, None on a connection on which nothing was committed."""
        return self.conn.state

    @property
    def attached(self) -> Attached:
        """The reason of the call.

        It is "accepted", "reload", "parked", "upgrade" or "crash".
        """
        return self.conn.attached

    def commit(self, state: object = None) -> None:
        """Say that all read so far is dealt with, and that `state` is what to go on from.

        What has been written goes out first.

        Args:
            state: The state, as for `Connection.commit`.

        Raises:
            SocketkeepError: What `Connection.commit` raises, and what a send does.
        """
        for writer in self._writers:
            if not writer.closed:
                writer.flush()
        self.conn.commit(state)

    # A socket's own.

    @property
    def family(self) -> socket.AddressFamily:
        return family_of(self.conn.peer)

    @property
    def type(self) -> socket.SocketKind:
        return socket.SOCK_STREAM

    @property
    def proto(self) -> int:
        return 0 if self.family is socket.AF_UNIX else socket.IPPROTO_TCP

    @property
    def timeout(self) -> float | None:
        return self.gettimeout()

    def fileno(self) -> int:
        return self.conn.fileno()

    def getpeername(self) -> Any:
        """Return the client's address, which behind a proxy or TLS is not the descriptor's."""
        return name_of(self.conn.peer)

    def getsockname(self) -> Any:
        return name_of(self.conn.local)

    def getsockopt(self, level: int, option: int, size: int = 0, /) -> int | bytes:
        sock = self.conn.core.sock
        return sock.getsockopt(level, option, size) if size else sock.getsockopt(level, option)

    def setsockopt(self, level: int, option: int, value: Any, /) -> None:
        """Set an option of the descriptor, by the arguments of `socket.socket.setsockopt`.

        Those of TCP are the edge's where TLS ends there.
        """
        sock = self.conn.core.sock
        if level == socket.IPPROTO_TCP and sock.family == socket.AF_UNIX and self.conn.tls:
            return
        sock.setsockopt(level, option, value)

    def gettimeout(self) -> float | None:
        mode = self.conn.mode
        if isinstance(mode, Blocking):
            return None
        if isinstance(mode, NonBlocking):
            return 0.0
        return seconds_left(mode) if isinstance(mode, Deadline) else mode.seconds

    def settimeout(self, value: float | None, /) -> None:
        if value is None:
            self.conn.mode = Blocking()
        else:
            self.conn.mode = Timeout(value) if value else NonBlocking()

    def getblocking(self) -> bool:
        return not isinstance(self.conn.mode, NonBlocking)

    def setblocking(self, flag: bool, /) -> None:
        self.conn.mode = Blocking() if flag else NonBlocking()

    def recv(self, size: int, flags: int = 0, /) -> bytes:
        if flags & socket.MSG_PEEK:
            return self._peek(size, flags & ~socket.MSG_PEEK)
        timeout = self._timeout_of(flags)
        return self.conn.recv(size, timeout=timeout) if size else b""

    def recv_into(self, buffer: WriteableBuffer, size: int = 0, flags: int = 0) -> int:
        view = memoryview(buffer).cast("B")
        view = view[:size] if size else view
        if flags & socket.MSG_PEEK:
            data = self._peek(view.nbytes, flags & ~socket.MSG_PEEK)
            view[: len(data)] = data
            return len(data)
        return self.conn.recv_into(view, timeout=self._timeout_of(flags)) if view.nbytes else 0

    def _peek(self, size: int, flags: int) -> bytes:
        """Return what the next receive will, and leave it unread."""
        buffer = self.conn.core.buffer

        def look(most: int) -> bytes | None:
            return buffer.peek(most) if buffer.size else None

        timeout = self._timeout_of(flags)
        return self.conn.receive_by("recv", look, size, bytes, timeout) if size else b""

    def send(self, data: ReadableBuffer, flags: int = 0, /) -> int:
        self.sendall(data, flags)
        return memoryview(data).nbytes

    def sendall(self, data: ReadableBuffer, flags: int = 0, /) -> None:
        timeout = self._timeout_of(flags & ~socket.MSG_NOSIGNAL)
        self.conn.send(memoryview(data).cast("B"), timeout=timeout)

    def sendfile(self, file: IO[bytes], offset: int = 0, count: int | None = None) -> int:
        """Send `file`, from `offset` on, `count` bytes or all; return how many they were."""
        if offset:
            file.seek(offset)
        done = 0
        while count is None or done < count:
            piece = file.read(65536 if count is None else min(65536, count - done))
            if not piece:
                break
            self.conn.send(piece)
            done += len(piece)
        return done

    def shutdown(self, how: int, /) -> None:
        self.conn.shutdown(how)

    def close(self) -> None:
        """End the connection, once the files of `makefile` are closed too."""
        self._closed = True
        if not self._files:
            self.conn.close()

    def makefile(
        self,
        mode: str = "r",
        buffering: int | None = None,
        *,
        encoding: str | None = None,
        errors: str | None = None,
        newline: str | None = None,
    ) -> Any:
        """Return a file on the connection, as `socket.socket.makefile` does, by the same arguments.

        Raises:
            HandlerError: It reads ahead (text, or both directions in one), and the handler is
                resumable: what it has read would not move with the connection.
        """
        if not _MODES.issuperset(mode):
            raise ValueError(f"invalid mode {mode!r} (only r, w, b allowed)")
        writes = "w" in mode
        reads = "r" in mode or not writes
        size = io.DEFAULT_BUFFER_SIZE if buffering is None or buffering < 0 else buffering
        text = "b" not in mode
        if text and not size:
            raise ValueError("unbuffered streams must be binary")
        if reads and (text or writes) and self.conn.lease.resumable:
            raise HandlerError(
                f"refused: makefile({mode!r}) reads ahead, and what it has read would not move with"
                ' the connection of a resumable handler: read bytes, of makefile("rb")'
            )
        if reads and not writes and size:
            reader = ConnectionReader(self.conn, self._opened())
            return reader if not text else io.TextIOWrapper(reader, encoding, errors, newline)
        raw = RawConnectionFile(self.conn, self._opened(), reads=reads, writes=writes)
        if not size:
            return raw
        buffered: io.BufferedWriter | io.BufferedRWPair
        buffered = io.BufferedRWPair(raw, raw, size) if reads else io.BufferedWriter(raw, size)
        self._writers.append(buffered)
        return buffered if not text else io.TextIOWrapper(buffered, encoding, errors, newline)

    def _opened(self) -> Any:
        self._files += 1

        def closed() -> None:
            self._files -= 1
            if self._closed and not self._files:
                self.conn.close()

        return closed

    def _timeout_of(self, flags: int) -> float | None:
        if not flags:
            return None
        if flags != socket.MSG_DONTWAIT:
            raise OSError(
                errno.EOPNOTSUPP,
                f"{os.strerror(errno.EOPNOTSUPP)}: flags other than MSG_DONTWAIT and MSG_PEEK on a"
                " connection of the server's",
            )
        return 0.0
