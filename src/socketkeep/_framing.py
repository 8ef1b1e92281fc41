"""How messages are told apart in a stream of bytes, with a bound on each.  No I/O here.

Each function takes one message from the buffer or returns None when it is not yet whole; sync and
async connections receive more and call it again.
"""

from __future__ import annotations

from typing import Final

from socketkeep._buffer import ReceiveBuffer
from socketkeep._errors import LimitExceeded

_CARRIAGE_RETURN: Final = b"\r"


def take_until(buffer: ReceiveBuffer, separator: bytes, bound: int) -> bytes | None:
    """Take the bytes before `separator`, and drop it.

    Raises LimitExceeded, and takes nothing, once it is certain that they are more than `bound`.
    """
    size = buffer.find(separator)
    if size < 0:
        # The last bytes may be the separator's beginning: they do not count yet.
        if buffer.size - len(separator) + 1 > bound:
            raise _exceeded(buffer, separator, bound)
        return None
    if size > bound:
        raise _exceeded(buffer, separator, bound)
    return buffer.take_found(size, len(separator))


def take_line(buffer: ReceiveBuffer, bound: int, keepends: bool) -> bytes | None:
    r"""Take a line: up to a newline, without it and without one b"\r" before it.

    keepends: as it came, with its end.  `bound` counts the bytes before the newline.
    """
    size = buffer.find(b"\n")
    if size < 0:
        if buffer.size > bound:
            raise _exceeded(buffer, b"\n", bound)
        return None
    if size > bound:
        raise _exceeded(buffer, b"\n", bound)
    if keepends:
        return buffer.take_exactly(size + 1)
    line = buffer.take_found(size, 1)
    return line[:-1] if line.endswith(_CARRIAGE_RETURN) else line


def check_separator(separator: bytes, bound: int) -> None:
    """Raise ValueError when nothing could be received with these."""
    if not separator:
        raise ValueError("the separator is empty")
    check_bound(bound)


def check_bound(bound: int) -> None:
    """Raise ValueError when `bound` is no number of bytes to receive."""
    if bound < 1:
        raise ValueError(f"the bound is a number of bytes >= 1, not {bound!r}")


def _exceeded(buffer: ReceiveBuffer, separator: bytes, bound: int) -> LimitExceeded:
    return LimitExceeded(f"found no {separator!r} within {bound} bytes", bytes_done=buffer.size)
