"""The bytes that a connection has received and its handler has not yet dealt with.  No I/O here.

Two marks move through the bytes: `commit` moves the first, the takes move the second.

    ... dropped | retained: taken since the commit | unread: not yet taken |
                ^ _mark                            ^ _pos

What is retained is what a replay pushes back in front of the unread bytes.  It costs nothing while
it lies in the same chunk as the unread bytes, which is the usual case; only when the next chunk
comes is it set aside.

A chunk is kept as the `bytes` that the system call made, so that a line is copied once, when it is
taken.  Only where a message spans chunks are they gathered in a bytearray, which grows by a
constant factor: joining `bytes` anew with each chunk would be quadratic.
"""

from __future__ import annotations


class ReceiveBuffer:
    """Received bytes, taken from the front, retained from the last commit on when `retain` is set.

    replay_limit: how many taken bytes are retained at most; past it they are dropped, and the
    buffer has `overflowed` until the next commit.  size: the number of unread bytes.
    """

    __slots__ = (
        "_aside",
        "_aside_size",
        "_data",
        "_dropped",
        "_limit",
        "_mark",
        "_pos",
        "_retain",
        "_scanned",
        "_separator",
        "size",
    )

    def __init__(self, *, retain: bool = False, replay_limit: int = 65536) -> None:
        self.size = 0
        self._data: bytes | bytearray = b""
        self._mark = 0
        self._pos = 0
        self._retain = retain
        self._limit = replay_limit
        self._aside: list[bytes] | None = None  # what is retained of chunks before this one
        self._aside_size = 0
        self._dropped = False
        self._separator = b""  # the one last looked for in vain, and from where to look on
        self._scanned = 0

    def feed(self, data: bytes) -> None:
        """Add what was received."""
        if self.size:
            self.size += len(data)
            self._gather(data)
            return
        if self._retain and self._mark != self._pos:
            self._set_aside()
        self._data = data
        self.size = len(data)
        self._mark = self._pos = self._scanned = 0

    def pass_by(self, data: bytes) -> None:
        """Add what was received, and take it: all of it, when nothing is unread."""
        if self._mark != self._pos:
            self._set_aside()
        self._data = data
        self._mark = self._scanned = 0
        self._pos = len(data)

    def _gather(self, data: bytes) -> None:
        if self._mark != self._pos and self._retain:
            self._set_aside()
        held = self._data
        if isinstance(held, bytearray):
            del held[: self._pos]
        else:
            held = self._data = bytearray(memoryview(held)[self._pos :])
        held += data
        self._scanned = max(0, self._scanned - self._pos)
        self._mark = self._pos = 0

    def _set_aside(self) -> None:
        """Retain what was taken of a chunk that is about to go."""
        size = self._pos - self._mark
        if self._dropped or self._aside_size + size > self._limit:
            self._dropped = True
            self._aside = None
            self._aside_size = 0
            return
        if self._aside is None:
            self._aside = []
        self._aside.append(bytes(memoryview(self._data)[self._mark : self._pos]))
        self._aside_size += size

    def take(self, most: int) -> bytes | None:
        """Take what is there, up to `most` bytes; None when nothing is."""
        size = self.size
        if not size:
            return None
        data = self._data
        pos = self._pos
        if size > most:
            size = most
        elif not pos and isinstance(data, bytes):
            self._pos = size
            self.size = 0
            return data
        self._pos = end = pos + size
        self.size -= size
        return data[pos:end] if isinstance(data, bytes) else self._cut(data, pos, end)

    def take_exactly(self, count: int) -> bytes | None:
        """Take `count` bytes; None, and nothing is taken, when there are fewer."""
        if count > self.size:
            return None
        self.size -= count
        data = self._data
        pos = self._pos
        self._pos = end = pos + count
        return data[pos:end] if isinstance(data, bytes) else self._cut(data, pos, end)

    def find(self, separator: bytes) -> int:
        """Return how many unread bytes stand before `separator`, -1 when it is not there.

        Asked again for the same separator it goes on from where it gave up.
        """
        data = self._data
        pos = self._pos
        start = pos
        if self._scanned > pos and self._separator == separator:
            start = self._scanned
        at = data.find(separator, start)
        if at < 0:
            self._separator = separator
            self._scanned = len(data) - len(separator) + 1
            return -1
        return at - pos

    def take_until(self, separator: bytes, bound: int, keep: int) -> bytes | None:
        """Take the bytes before `separator`, and `keep` bytes of it; the rest of it is dropped.

        None, and nothing is taken, when it is not there, or they are more than `bound`.
        """
        data = self._data
        pos = self._pos
        start = pos
        if self._scanned > pos and self._separator == separator:
            start = self._scanned
        at = data.find(separator, start)
        if at < 0 or at - pos > bound:
            return None
        self._pos = end = at + len(separator)
        self.size -= end - pos
        end = at + keep
        return data[pos:end] if isinstance(data, bytes) else self._cut(data, pos, end)

    def take_line(self, keepends: bool, bound: int) -> bytes | None:
        r"""Take the bytes before a newline, without one b"\r" before it; or with both, as it came.

        None, and nothing is taken, when there is no newline, or they are more than `bound`.
        """
        line = self.take_until(b"\n", bound, keepends)
        if line is None or keepends or not line.endswith(b"\r"):
            return line
        return line[:-1]

    def peek(self, most: int) -> bytes:
        """Return the first unread bytes, up to `most`, and take none."""
        pos = self._pos
        part = self._data[pos : pos + most]
        return part if isinstance(part, bytes) else bytes(part)

    def byte_at(self, index: int) -> int:
        """Return the unread byte at `index`, which there must be."""
        return self._data[self._pos + index]

    def take_found(self, count: int, separator_size: int) -> bytes:
        """Take the `count` bytes before a separator that `find` found, and drop the separator."""
        pos = self._pos
        end = pos + count
        self._pos = end + separator_size
        self.size -= count + separator_size
        data = self._data
        return data[pos:end] if isinstance(data, bytes) else self._cut(data, pos, end)

    def _cut(self, data: bytearray, pos: int, end: int) -> bytes:
        """Copy out of what was gathered, and let go of it once all of it is taken."""
        part = bytes(memoryview(data)[pos:end])  # data[pos:end] would be a bytearray, copied anew
        if not self.size:
            if self._retain:
                self._set_aside()
            self._data = b""
            self._mark = self._pos = self._scanned = 0
        return part

    @property
    def unread(self) -> bytes:
        """A copy of the unread bytes."""
        return bytes(memoryview(self._data)[self._pos :])

    @property
    def overflowed(self) -> bool:
        """More was taken since the last commit than is retained: a replay would lack bytes."""
        return self._dropped or self._aside_size + self._pos - self._mark > self._limit

    @property
    def untouched(self) -> bool:
        """Nothing was taken since the last commit, and nothing is unread.  For `retain` only."""
        return self._mark == len(self._data) and not self._aside_size and not self._dropped

    def commit(self) -> int:
        """Drop what is retained: it has been dealt with.

        Returns how many bytes that has taken from the kernel: none, where they were not left there.
        """
        self._mark = self._pos
        if not self.size:
            self._data = b""  # so that an idle connection holds no chunk
            self._mark = self._pos = self._scanned = 0
        if self._aside_size or self._dropped:
            self._aside = None
            self._aside_size = 0
            self._dropped = False
        return 0

    def replay(self) -> bytes:
        """Return all since the last commit: what was taken, then what is unread.

        Raises RuntimeError when bytes taken since then were not retained.
        """
        if self.overflowed or (not self._retain and self._mark != self._pos):
            raise RuntimeError("bytes taken since the last commit were not retained")
        return b"".join((*(self._aside or ()), memoryview(self._data)[self._mark :]))
