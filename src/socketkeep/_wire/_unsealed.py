"""Memory shared with a process that could shorten it, reached by pread(2) and pwrite(2).

The scoreboards of versions that did not seal them, which come with an upgrade or an adoption.  Who
has such a memfd mapped is killed by SIGBUS when another process shortens it.  These two stand in
the place of the mapping and of its words: slower, and read as zeros beyond the end.
"""

from __future__ import annotations

import contextlib
import os
import sys
from typing import Final, overload

_WORD: Final = 8
_MOST: Final = 2**64 - 1


class Memory:
    """The bytes of a file, as slices; in the place of an mmap object."""

    def __init__(self, fd: int) -> None:
        """Take a descriptor of its own for the file.  Raises OSError."""
        self._fd = os.dup(fd)

    def __del__(self) -> None:
        with contextlib.suppress(OSError, AttributeError):
            os.close(self._fd)

    def __getitem__(self, part: slice) -> bytes:
        size = max(0, part.stop - part.start)
        return os.pread(self._fd, size, part.start).ljust(size, b"\0")

    def __setitem__(self, part: slice, data: bytes) -> None:
        os.pwrite(self._fd, data, part.start)

    def madvise(self, option: int, start: int, length: int) -> None:
        """Do nothing: the memory is given back with the file."""


class Words:
    """Words of 64 bits of a `Memory`, every `step`-th from `start` to before `stop`."""

    def __init__(self, memory: Memory, start: int, stop: int, step: int = 1) -> None:
        self._memory = memory
        self._range = range(start, stop, step)

    def __len__(self) -> int:
        return len(self._range)

    @overload
    def __getitem__(self, key: int) -> int: ...
    @overload
    def __getitem__(self, key: slice) -> Words: ...
    def __getitem__(self, key: int | slice) -> int | Words:
        if isinstance(key, slice):
            part = self._range[key]
            return Words(self._memory, part.start, part.stop, part.step)
        start = self._range[key] * _WORD
        return int.from_bytes(self._memory[start : start + _WORD], sys.byteorder)

    def __setitem__(self, key: int, value: int) -> None:
        start = self._range[key] * _WORD
        self._memory[start : start + _WORD] = (value & _MOST).to_bytes(_WORD, sys.byteorder)

    def tolist(self) -> list[int]:
        """Return the words."""
        if not self._range:
            return []
        start, end = self._range[0] * _WORD, (self._range[-1] + 1) * _WORD
        words = memoryview(self._memory[start:end]).cast("Q")
        return words[:: self._range.step].tolist()
