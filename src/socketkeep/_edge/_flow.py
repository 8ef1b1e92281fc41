"""The bytes of one connection in the edge, both ways, as long as nothing but bytes comes.

The normal course is what has a twin in C (`_native/flow.c`).  Whatever else is met, an end or an
error, is for what `_relay.Relay` makes of it.

By `ssl.MemoryBIO`, not by an `ssl.SSLSocket`.  That takes a quarter less of processor time (81 µs
against 106 for an echo of 1 KiB), but cannot end one direction alone: `unwrap` reads on at once,
and when it meets data of the client it fails, and the connection with it.  Here what has come can
be held back meanwhile.

OpenSSL is asked for plaintext once a record is whole, by the lengths that stand before each: it
would raise an error where more is to come, which takes longer than all else.

Both descriptors are watched edge-triggered, so that nothing is asked of epoll while bytes pass.  Of
each direction no more is held than one record's worth: what has no room on the other side is not
read from this one.
"""

from __future__ import annotations

import contextlib
import select
import socket
import ssl
from typing import TYPE_CHECKING, Any, Final

from socketkeep import _native

#: What is moved at a time: the plaintext of one record at most, so that none is left in OpenSSL.
CHUNK: Final = 16384
_HEADER: Final = 5
#: The longest body of a record that OpenSSL takes; what is said to be longer it is to refuse.
_LONGEST: Final = CHUNK + 320
#: A client to which so much is unsent is not read from: each of its records may ask for an answer.
_MOST_UNSENT: Final = 4 * CHUNK
#: How often in a row until others have their turn.
_AT_ONCE: Final = 16

_SAYS: Final = select.EPOLLIN | select.EPOLLRDHUP | select.EPOLLHUP | select.EPOLLERR
#: After these what a read brings may be followed by an end that is not told of again.
_ENDS: Final = select.EPOLLRDHUP | select.EPOLLHUP | select.EPOLLERR
_TAKES: Final = select.EPOLLOUT | select.EPOLLHUP | select.EPOLLERR

#: What passes through is never in these for longer than a call: an edge has one thread.
_plaintext: Final = memoryview(bytearray(CHUNK))
_ciphertext: Final = memoryview(bytearray(_HEADER + _LONGEST))


class Flow:
    """The bytes that pass in both directions.

    incoming: what has come of the handshake's sequel.  unsent: ciphertext to be sent first.

    taken, given: how many bytes have come from the plain end, and gone to it.
    """

    __slots__ = (
        "_cipher",
        "_client_ends",
        "_client_says",
        "_client_takes",
        "_framed",
        "_header",
        "_incoming",
        "_left",
        "_missing",
        "_notified",
        "_outgoing",
        "_plain_ends",
        "_plain_says",
        "_plain_takes",
        "_tail",
        "_tls",
        "_whole",
        "deserted",
        "given",
        "in_ended",
        "out_ended",
        "plain",
        "sock",
        "taken",
    )

    def __init__(
        self,
        sock: socket.socket,
        tls: ssl.SSLObject,
        incoming: ssl.MemoryBIO,
        outgoing: ssl.MemoryBIO,
        plain: socket.socket,
        unsent: bytes,
    ) -> None:
        self.sock = sock
        self.plain = plain
        self._tls = tls
        self._incoming = incoming
        self._outgoing = outgoing
        self._left = b""  # plaintext that the worker's end has no room for
        self._cipher = unsent  # ciphertext that the client's has no room for
        self.in_ended = False  # from the client
        self.out_ended = False  # to the client
        self._notified = False  # its close_notify has been made, and FIN follows what is unsent
        self.deserted = False  # nobody has the worker's end any more
        self._client_says = self._plain_says = True
        self._client_ends = self._plain_ends = False
        self._client_takes = self._plain_takes = True
        self.taken = 0
        self.given = 0
        self._framed = True  # the lengths make sense
        self._header = b""  # what has come of a record's header
        self._missing = 0  # how much of its body has not
        self._whole = 0  # how many records of `incoming` are
        self._tail = 0  # how much of it is of the one that is not
        first = incoming.read()
        self._put(memoryview(first))

    @property
    def held(self) -> int:
        """Return how many bytes are held, of both directions, in whatever form."""
        return len(self._left) + len(self._cipher) + self._incoming.pending

    @property
    def unsent(self) -> int:
        """Return how many bytes of ciphertext the client has no room for."""
        return len(self._cipher)

    @property
    def over(self) -> bool:
        """Return whether nothing passes any more, in either direction."""
        return self.in_ended and self.out_ended

    def note_client(self, events: int) -> None:
        """Note what the client's side is ready for."""
        if events & _SAYS:
            self._client_says = True
            if events & _ENDS:
                self._client_ends = True
        if events & _TAKES:
            self._client_takes = True

    def note_plain(self, events: int) -> None:
        """Note what the worker's side is ready for."""
        if events & _SAYS:
            self._plain_says = True
            if events & _ENDS:
                self._plain_ends = True
        if events & _TAKES:
            self._plain_takes = True

    def go_on(self) -> bool:
        """Move what can be moved; return whether there is more, for which others are to wait."""
        more_out = more_in = False
        if self._plain_says or self._cipher or self._notified:
            more_out = self._outward()
        if self._client_says or self._left or self._whole:
            more_in = self._inward()
        if self.deserted and self.out_ended:
            self.in_ended = True  # there is nobody to read what still comes
        return (more_in or more_out) and not self.over

    def close(self) -> None:
        """Let go of both sides."""
        self.sock.close()
        self.plain.close()

    # From the client to the worker.

    def _inward(self) -> bool:
        for _ in range(_AT_ONCE):
            if self._left:
                if not self._plain_takes or not self._give(self._left):
                    return False
            elif self.in_ended or not self._decrypt():
                return False
        return True

    def _decrypt(self) -> bool:
        """Take plaintext of one record in; return False when there is none yet."""
        if not self._whole:
            return self._feed()
        try:
            count = int(self._tls.read(CHUNK, _plaintext))
        except OSError as error:  # all of OpenSSL's are
            self._whole = 0  # they were of another kind
            return self._read_failed(error) and self._feed()
        if self._framed:
            self._whole -= 1
        if count:
            self._give(_plaintext[:count])
        else:
            self._end_in(None)
        return True

    def _feed(self) -> bool:
        """Take ciphertext in; return False when none has come."""
        if not self._client_says or len(self._cipher) > _MOST_UNSENT:
            return False
        room = _HEADER + _LONGEST - self._tail
        try:
            count = self.sock.recv_into(_ciphertext, room)
        except BlockingIOError:
            self._client_says = False
            return False
        except OSError:
            self.cut("reset")
            return False
        if not count:
            self._end_in("truncated")
            return False
        if count < room and not self._client_ends:
            self._client_says = False  # that was all; what comes is told of
        self._put(_ciphertext[:count])
        return True

    def _put(self, data: memoryview) -> None:
        """Add to `incoming`, and note how many records are whole with it."""
        size, at = len(data), 0
        while at < size and self._framed:
            if not self._missing:
                begun = bytes(data[at : at + _HEADER - len(self._header)])
                self._header += begun
                at += len(begun)
                self._tail += len(begun)
                if len(self._header) < _HEADER:
                    break
                self._missing = int.from_bytes(self._header[3:], "big")
                self._header = b""
                self._framed = self._missing <= _LONGEST
            step = min(self._missing, size - at)
            at += step
            self._missing -= step
            self._tail += step
            if not self._missing:
                self._whole += 1
                self._tail = 0
        if not self._framed:
            self._whole, self._tail = 1, 0
        self._incoming.write(data)

    def _give(self, data: bytes | memoryview) -> bool:
        """Give plaintext to the worker; return False when some is left."""
        try:
            count = self.plain.send(data)
        except BlockingIOError:
            count = 0
        except OSError:
            # Nobody reads there any more.  What is still sent to the client is heard of by its EOF.
            self._left = b""
            self.in_ended = True
            self._plain_says = True
            return False
        self.given += count
        self._left = bytes(data[count:])
        if self._left:
            self._plain_takes = False
        return not self._left

    # From the worker to the client.

    def _outward(self) -> bool:
        for _ in range(_AT_ONCE):
            if self._cipher and not (self._client_takes and self._flush()):
                return False
            if self._notified:
                self._finish_out()
            if self.out_ended or not self._encrypt():
                return False
        return True

    def _encrypt(self) -> bool:
        """Take what the worker has sent; return False when there is nothing yet."""
        if not self._plain_says:
            return False
        try:
            count = self.plain.recv_into(_plaintext)
        except BlockingIOError:
            self._plain_says = False
            return False
        except OSError:
            count = 0  # it was closed with bytes that nobody had read
        if not count:
            self._worker_ended()
            return False
        if count < CHUNK and not self._plain_ends:
            self._plain_says = False
        self.taken += count
        try:
            self._tls.write(_plaintext[:count])
        except OSError:
            self.cut("reset")
            return False
        return self._flush()

    def _flush(self) -> bool:
        """Send ciphertext; return False when some is left."""
        if self._outgoing.pending:
            made = self._outgoing.read()
            self._cipher = self._cipher + made if self._cipher else made
        if not self._cipher:
            return True
        try:
            count = self.sock.send(self._cipher)
        except BlockingIOError:
            count = 0
        except OSError:
            self.cut("reset")
            return False
        self._cipher = self._cipher[count:]
        if self._cipher:
            self._client_takes = False
        return not self._cipher

    def _notify(self) -> None:
        """Make the close_notify.  What the client has sent is held back meanwhile."""
        held_back = self._incoming.read()
        with contextlib.suppress(ssl.SSLError):  # it wants the client's, which comes when it comes
            self._tls.unwrap()
        if held_back:
            self._incoming.write(held_back)

    if TYPE_CHECKING:
        # What a relay makes of the rest.

        def cut(self, word: Any) -> None: ...
        def _end_in(self, word: Any) -> None: ...
        def _read_failed(self, error: OSError) -> bool: ...
        def _worker_ended(self) -> None: ...
        def _finish_out(self) -> None: ...


if TYPE_CHECKING:
    FastFlow = Flow
else:
    FastFlow = _native.compiled_or(Flow, "Flow")
