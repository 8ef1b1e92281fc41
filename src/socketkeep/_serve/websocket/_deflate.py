"""permessage-deflate (RFC 7692) whose contexts can be given up and made anew.

A context is the last window of plain text, and nothing else that the other side could notice: a
compressor that begins with it as its dictionary refers to what the peer has, and a decompressor
that has it understands what the peer refers to.  So an object of zlib's is only a way to be quick.
It is dropped when the WebSocket is idle or moves, and made of the text when it is next needed.
"""

from __future__ import annotations

import zlib
from typing import Any, Final

_LEVEL: Final = 6
#: zlib's own measure of how much memory a compressor takes, 1 to 9.
_MEMORY: Final = 5
#: What ends a flush, and is not sent.  RFC 7692, section 7.2.1.
_TAIL: Final = b"\x00\x00\xff\xff"
#: Windows are cut when they have grown to so many times their size: one copy for many messages.
_SLACK: Final = 2


class InflatesTooFar(Exception):
    """A message inflates to more than it may."""


class Corrupt(Exception):
    """The bytes are none that a compressor makes."""


class _Window:
    """The plain text that one direction's context is made of.  size: 0 where none is kept."""

    __slots__ = ("size", "text")

    def __init__(self, bits: int, takeover: bool, text: bytes) -> None:
        self.size = 1 << bits if takeover else 0
        self.text = bytearray(text)

    def add(self, data: bytes) -> None:
        size = self.size
        if len(data) >= size:
            self.text[:] = data[len(data) - size :]
            return
        self.text += data
        if len(self.text) > _SLACK * size:
            del self.text[:-size]

    def whole(self) -> bytes:
        return bytes(self.text[-self.size :]) if self.size else b""


class Deflate:
    """Both directions of one WebSocket's compression, the server's side.

    inbound_bits, outbound_bits: the windows' sizes, 9 to 15.  inbound_takeover, outbound_takeover:
    whether a message may refer to those before it.  inbound, outbound: the plain text to go on
    from.
    """

    __slots__ = ("_compressor", "_decompressor", "_inbound", "_outbound", "bits", "takeover")

    def __init__(
        self,
        inbound_bits: int,
        outbound_bits: int,
        inbound_takeover: bool,
        outbound_takeover: bool,
        inbound: bytes = b"",
        outbound: bytes = b"",
    ) -> None:
        self.bits = inbound_bits, outbound_bits
        self.takeover = inbound_takeover, outbound_takeover
        self._inbound = _Window(inbound_bits, inbound_takeover, inbound)
        self._outbound = _Window(outbound_bits, outbound_takeover, outbound)
        self._compressor: Any = None
        self._decompressor: Any = None

    @property
    def most_exported(self) -> int:
        """Return how many bytes `export` may take, at most, when it is encoded."""
        return self._inbound.size + self._outbound.size + 64

    def export(self) -> tuple[int, int, bool, bool, bytes, bytes]:
        """Return what another one goes on from; it takes these as its arguments.

        Not in the middle of a message.
        """
        return (*self.bits, *self.takeover, self._inbound.whole(), self._outbound.whole())

    def rest(self) -> bool:
        """Give up the memory of zlib's objects; return whether there were any.

        Not in the middle of a message.
        """
        had = self._compressor is not None or self._decompressor is not None
        self._compressor = self._decompressor = None
        return had

    def compress(self, data: bytes) -> bytes:
        """Return what a message of `data` is sent as."""
        compressor, window = self._compressor, self._outbound
        if compressor is None:
            compressor = zlib.compressobj(
                _LEVEL,
                zlib.DEFLATED,
                -self.bits[1],
                _MEMORY,
                zlib.Z_DEFAULT_STRATEGY,
                window.whole(),
            )
        packed: bytes = compressor.compress(data) + compressor.flush(zlib.Z_SYNC_FLUSH)
        if window.size:
            window.add(data)
            self._compressor = compressor
        return packed[:-4]

    def decompress(self, data: bytes, final: bool, most: int) -> bytes:
        """Return the plain text of a frame's payload; `most` bytes at most.

        Raises InflatesTooFar and Corrupt; then the WebSocket is to be failed.
        """
        decompressor, window = self._decompressor, self._inbound
        if decompressor is None:
            self._decompressor = decompressor = self._make_decompressor()
        if final:
            data += _TAIL
        parts = []
        try:
            while True:
                plain = decompressor.decompress(data, most + 1)
                if len(plain) > most or decompressor.unconsumed_tail:
                    raise InflatesTooFar
                parts.append(plain)
                most -= len(plain)
                if window.size:
                    window.add(plain)
                if not decompressor.eof:
                    break
                # A last block may end a message, RFC 7692, section 7.2.3.4; another stream follows.
                data = decompressor.unused_data
                self._decompressor = decompressor = self._make_decompressor()
                if data in (b"", _TAIL):
                    break
        except zlib.error:
            raise Corrupt from None
        if final and not window.size:
            self._decompressor = None
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _make_decompressor(self) -> Any:
        return zlib.decompressobj(-self.bits[0], self._inbound.whole())
