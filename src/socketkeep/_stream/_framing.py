"""Framing: telling messages apart in a stream of bytes, with a bound on each.  No I/O here.

Each function takes one message from the buffer or returns None when it is not yet whole; sync and
async connections receive more and call it again.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from typing import Any, Final, Literal, TypeAlias

from socketkeep import _native
from socketkeep._base._errors import LimitExceeded, Malformed
from socketkeep._stream._buffer import ReceiveBuffer

_COLON: Final = ord(":")
_COMMA: Final = ord(",")


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


def take_line(buffer: ReceiveBuffer, keepends: bool, bound: int) -> bytes | None:
    r"""Take a line: up to a newline, without it and without one b"\r" before it.

    keepends: as it came, with its end.  `bound` counts the bytes before the newline.
    """
    line = buffer.take_line(keepends, bound)
    if line is None and (buffer.find(b"\n") > bound or buffer.size > bound):
        raise _exceeded(buffer, b"\n", bound)
    return line


def line_taker(buffer: Any, keepends: bool) -> Callable[[int], bytes | None]:
    """Return `take_line` of that buffer, which is given the bound."""
    take = partial(take_line, buffer, keepends)
    core = _native.core
    if core is None or type(buffer) is not core.ReceiveBuffer:
        return take
    made: Callable[[int], bytes | None] = core.LineTaker(buffer, keepends, take)
    return made


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


#: A frame's length prefix: an unsigned integer of 8, 16, 32 or 64 bits.
Prefix: TypeAlias = Literal["u8", "u16", "u32", "u64"]
ByteOrder: TypeAlias = Literal["big", "little"]

Data: TypeAlias = bytes | bytearray | memoryview

_PREFIX_SIZES: Final[dict[str, int]] = {"u8": 1, "u16": 2, "u32": 4, "u64": 8}
# No leading zeros: each netstring is written in one way only.
_NETSTRING_LENGTH: Final = re.compile(rb"0|[1-9][0-9]*")


def prefix_size(prefix: str, byteorder: str) -> int:
    """Return how many bytes a length prefix has; ValueError for what is none."""
    size = _PREFIX_SIZES.get(prefix)
    if size is None:
        raise ValueError(f"a length prefix is one of {', '.join(_PREFIX_SIZES)}, not {prefix!r}")
    if byteorder not in ("big", "little"):
        raise ValueError(f'the byte order is "big" or "little", not {byteorder!r}')
    return size


def take_frame(buffer: ReceiveBuffer, size: int, byteorder: ByteOrder, bound: int) -> bytes | None:
    """Take a message that follows its length, an unsigned integer of `size` bytes.

    Raises LimitExceeded, and takes nothing, when the length is more than `bound`.
    """
    if buffer.size < size:
        return None
    length = int.from_bytes(buffer.peek(size), byteorder)
    if length > bound:
        raise _too_long("frame", length, bound, buffer)
    if buffer.size < size + length:
        return None
    buffer.take_exactly(size)
    return buffer.take_exactly(length)


def take_netstring(buffer: ReceiveBuffer, bound: int) -> bytes | None:
    """Take a netstring: its length in decimal digits, a colon, its bytes and a comma.

    Raises, and takes nothing, LimitExceeded when the length is more than `bound`, and Malformed;
    each at the first byte that makes it certain, however the stream is split.
    """
    head = buffer.peek(len(str(bound)) + 1)
    if not head:
        return None
    found = _NETSTRING_LENGTH.match(head)
    if found is None:
        raise _malformed("a netstring begins with its length in digits", head, buffer)
    length = int(found.group())
    if length > bound:
        raise _too_long("netstring", length, bound, buffer)
    digits = found.end()
    if digits == len(head):
        return None
    if head[digits] != _COLON:
        raise _malformed("a netstring's length ends with a colon", head, buffer)
    whole = digits + 1 + length + 1
    if buffer.size < whole:
        return None
    if buffer.byte_at(whole - 1) != _COMMA:
        raise _malformed(f"a netstring of {length} bytes ends with a comma", head, buffer)
    buffer.take_exactly(digits + 1)
    return buffer.take_found(length, 1)


def frame(data: Data, prefix: Prefix, byteorder: ByteOrder, bound: int | None) -> bytes:
    """Return `data` behind its length; LimitExceeded when that is over `bound`, or the prefix's."""
    size = prefix_size(prefix, byteorder)
    most = (1 << 8 * size) - 1
    length = memoryview(data).nbytes
    _check_length("frame", length, most if bound is None else min(bound, most))
    return b"".join((length.to_bytes(size, byteorder), data))


def netstring(data: Data, bound: int | None) -> bytes:
    """Return `data` as a netstring; LimitExceeded when it is more than `bound` bytes."""
    length = memoryview(data).nbytes
    _check_length("netstring", length, bound)
    return b"".join((b"%d:" % length, data, b","))


def _check_length(what: str, length: int, bound: int | None) -> None:
    if bound is not None and length > bound:
        raise LimitExceeded(f"refused: a {what} of {length} bytes, {bound} are the most")


def _too_long(what: str, length: int, bound: int, buffer: ReceiveBuffer) -> LimitExceeded:
    # The length that was read may be only the first digits of a longer one.
    return LimitExceeded(
        f"failed: a {what} of {length} bytes or more is announced, {bound} are the most",
        bytes_done=buffer.size,
    )


def _malformed(rule: str, head: bytes, buffer: ReceiveBuffer) -> Malformed:
    return Malformed(f"failed: {rule}; this one begins {head!r}", bytes_done=buffer.size)
