"""msgpack as messages between processes need it: of msgspec, or in Python where that is not loaded.

msgspec and what it imports have 37 mappings and 2 MB.  A worker that forks a process for each
connection sends and receives a few messages in its life, and each of its children would pay for
them.  So templates begin with the codec here, and load msgspec where the code that they have loaded
needs it (`use_msgspec`).  What both write is the same, byte for byte.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any, Final

_DEEPEST: Final = 64
_LEAST: Final = -(2**63)
_MOST: Final = 2**64 - 1

_FLOAT: Final = struct.Struct(">Bd")
_DOUBLE: Final = struct.Struct(">d")
_SINGLE: Final = struct.Struct(">f")


def pack_plainly(value: Any) -> bytes:
    """Return `value`, made of what messages have, encoded.

    Raises TypeError and OverflowError for what they do not have, RecursionError.
    """
    parts: list[bytes] = []
    _pack(value, parts.append, 0)
    return b"".join(parts)


def unpack_plainly(data: bytes | memoryview) -> Any:
    """Return the value in `data`.  Raises ValueError, RecursionError."""
    try:
        value, end = _unpack(bytes(data), 0, 0)
    except (IndexError, struct.error):
        raise ValueError("Input data was truncated") from None
    if end != len(data):
        raise ValueError("MessagePack data is malformed: trailing characters")
    return value


pack: Callable[[Any], bytes] = pack_plainly
unpack: Callable[[bytes | memoryview], Any] = unpack_plainly


def use_msgspec() -> None:
    """Encode and decode by msgspec from here on."""
    global pack, unpack
    import msgspec

    pack, unpack = msgspec.msgpack.Encoder().encode, msgspec.msgpack.Decoder().decode


def _pack(value: Any, put: Any, depth: int) -> None:
    if depth > _DEEPEST:
        raise RecursionError("the value is nested too deep")
    if value is None:
        put(b"\xc0")
    elif value is True or value is False:
        put(b"\xc3" if value else b"\xc2")
    elif isinstance(value, int):
        put(_integer(value))
    elif isinstance(value, str):
        text = value.encode()
        put(_head(len(text), 0xA0, 32, (0xD9, 0xDA, 0xDB)))
        put(text)
    elif isinstance(value, bytes | bytearray | memoryview):
        put(_head(len(value), 0, 0, (0xC4, 0xC5, 0xC6)))
        put(bytes(value))
    elif isinstance(value, float):
        put(_FLOAT.pack(0xCB, value))
    elif isinstance(value, list | tuple):
        put(_head(len(value), 0x90, 16, (0, 0xDC, 0xDD)))
        for each in value:
            _pack(each, put, depth + 1)
    elif isinstance(value, dict):
        put(_head(len(value), 0x80, 16, (0, 0xDE, 0xDF)))
        for key, each in value.items():
            _pack(key, put, depth + 1)
            _pack(each, put, depth + 1)
    else:
        raise TypeError(f"Encoding objects of type {type(value).__name__} is unsupported")


def _head(length: int, fixed: int, below: int, marks: tuple[int, int, int]) -> bytes:
    """Return the head of what has that length: its marks have it in one, two or four bytes."""
    if length < below:
        return bytes((fixed | length,))
    for mark, size in zip(marks, (1, 2, 4), strict=True):
        if mark and length < 1 << 8 * size:
            return bytes((mark,)) + length.to_bytes(size, "big")
    raise OverflowError(f"{length} are too many")


def _integer(value: int) -> bytes:
    if -32 <= value < 128:
        return bytes((value & 0xFF,))
    if not _LEAST <= value <= _MOST:
        raise OverflowError("Integer value out of range")
    for power in range(4):
        size = 1 << power
        if value >= 0 and value < 1 << 8 * size:
            return bytes((0xCC + power,)) + value.to_bytes(size, "big")
        if value < 0 and value >= -(1 << 8 * size - 1):
            return bytes((0xD0 + power,)) + value.to_bytes(size, "big", signed=True)
    raise AssertionError(value)


def _unpack(data: bytes, at: int, depth: int) -> tuple[Any, int]:
    if depth > _DEEPEST:
        raise RecursionError("the value is nested too deep")
    mark = data[at]
    at += 1
    if mark < 0x80:
        return mark, at
    if mark >= 0xE0:
        return mark - 256, at
    if mark < 0x90:
        return _map(data, at, mark & 0x0F, depth)
    if mark < 0xA0:
        return _array(data, at, mark & 0x0F, depth)
    if mark < 0xC0:
        return _text(data, at, mark & 0x1F)
    if mark in _CONSTANTS:
        return _CONSTANTS[mark], at
    if mark == 0xCB:
        return _DOUBLE.unpack_from(data, at)[0], at + 8
    if mark == 0xCA:
        return _SINGLE.unpack_from(data, at)[0], at + 4
    if 0xCC <= mark <= 0xD3:
        size = 1 << (mark & 3)
        piece = _piece(data, at, size)
        return int.from_bytes(piece, "big", signed=mark >= 0xD0), at + size
    kind = _SIZED.get(mark)
    if kind is None:
        raise ValueError(f"MessagePack data is malformed: invalid opcode {mark:#x}")
    read, size = kind
    length = int.from_bytes(_piece(data, at, size), "big")
    at += size
    if read == "bytes":
        return _piece(data, at, length), at + length
    if read == "text":
        return _text(data, at, length)
    return _array(data, at, length, depth) if read == "array" else _map(data, at, length, depth)


_CONSTANTS: Final = {0xC0: None, 0xC2: False, 0xC3: True}
#: By the mark: what follows a length, and of how many bytes that is.
_SIZED: Final = {
    0xC4: ("bytes", 1),
    0xC5: ("bytes", 2),
    0xC6: ("bytes", 4),
    0xD9: ("text", 1),
    0xDA: ("text", 2),
    0xDB: ("text", 4),
    0xDC: ("array", 2),
    0xDD: ("array", 4),
    0xDE: ("map", 2),
    0xDF: ("map", 4),
}


def _piece(data: bytes, at: int, size: int) -> bytes:
    piece = data[at : at + size]
    if len(piece) != size:
        raise IndexError
    return piece


def _text(data: bytes, at: int, length: int) -> tuple[str, int]:
    return _piece(data, at, length).decode(), at + length


def _array(data: bytes, at: int, length: int, depth: int) -> tuple[list[Any], int]:
    values = []
    for _ in range(length):
        value, at = _unpack(data, at, depth + 1)
        values.append(value)
    return values, at


def _map(data: bytes, at: int, length: int, depth: int) -> tuple[dict[Any, Any], int]:
    values = {}
    for _ in range(length):
        key, at = _unpack(data, at, depth + 1)
        if isinstance(key, list | dict):
            raise ValueError("a list or a map is no key")
        values[key], at = _unpack(data, at, depth + 1)
    return values, at
