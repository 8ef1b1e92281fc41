"""Replies that are once: what is on record of one before it goes out, and what follows a death.

Before the first byte goes out one record in shared memory says which input the reply answers,
where in the output it begins, the reply itself and the state to go on from (`_wire/_shelves.py`
puts state and record there by one store).  Who goes on after a death compares it with how many
bytes the kernel has: what is missing of the reply is sent, what was answered is taken, and the
handler begins from the new state.  The record may be compared any number of times: once all of it
is done, nothing follows from it.

It holds only while all that this side sends is counted: by one process, through one connection.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final, NamedTuple

from socketkeep._base._passing import Unfit
from socketkeep._stream._committed import STATE_LIMIT
from socketkeep._stream._record import BYTES_OUT
from socketkeep._stream._totals import ByteTotals

if TYPE_CHECKING:
    from socketkeep._stream._core import Core
    from socketkeep._stream._lease import Lease, Shelf
    from socketkeep._stream._peek import Peeked

_MAGIC: Final = 0x736B7231
_HEAD: Final = struct.Struct("=IIQQQ")
_LARGEST: Final = 2**63
#: A reply and its state, encoded, are at most so many bytes together.
REPLY_LIMIT: Final = STATE_LIMIT - _HEAD.size

#: Of which listeners it was told why, by the first letters of that.
_told: Final[set[tuple[str, str]]] = set()


class ReplyRecord(NamedTuple):
    """One reply, by offsets in the connection's input and output since its beginning.

    since, until: the input that it answers.  sent_at: where it begins in the output.
    """

    since: int
    until: int
    sent_at: int
    data: bytes

    def pack(self) -> bytes:
        """Return it as `unpack` reads it."""
        return _HEAD.pack(_MAGIC, len(self.data), *self[:3]) + self.data

    @classmethod
    def unpack(cls, packed: bytes) -> ReplyRecord:
        """Return what `pack` has packed.  Raises Unfit for anything else."""
        if len(packed) < _HEAD.size:
            raise Unfit(f"a record of a reply came that has {len(packed)} bytes")
        magic, size, since, until, sent_at = _HEAD.unpack_from(packed)
        if magic != _MAGIC or size != len(packed) - _HEAD.size:
            raise Unfit("what came as the record of a reply is none")
        if not (since <= until < _LARGEST and sent_at < _LARGEST):
            raise Unfit("the record of a reply has offsets that cannot be")
        return cls(since, until, sent_at, packed[_HEAD.size :])

    def left(self, totals: ByteTotals) -> Left:
        """Return what is still to be done for it.  Raises Unfit: it is not of this connection."""
        if totals.over:
            return Left(b"", 0)
        gone = totals.written - self.sent_at
        answered = self.until - totals.taken
        if gone < 0 or totals.taken < self.since or answered > totals.waiting:
            raise Unfit(f"the record of a reply and the kernel's totals differ: {self}, {totals}")
        return Left(self.data[gone:], max(0, answered))


def checked(packed: bytes) -> bytes:
    """Return the record of a reply, or b"", as another process has left it.  Raises Unfit."""
    if packed:
        ReplyRecord.unpack(packed)
    return packed


class Left(NamedTuple):
    """The rest of a reply that a death has left.

    data: what is to be sent.  answered: how many bytes are then to be taken from the kernel.
    """

    data: bytes
    answered: int


class Replies:
    """The records of one connection whose input stays in the kernel until it is committed."""

    __slots__ = ("_core", "_received", "_sent", "_shelf", "_state_before", "refusal", "unfinished")

    def __init__(self, core: Core, shelf: Shelf | None, totals: ByteTotals | None) -> None:
        """To be made when all that was sent before has gone out.

        refusal: why there can be no record; "": there can.  unfinished: there is one, and not all
        of its reply has gone out.
        """
        self._core = core
        self._shelf = shelf
        self._state_before: bytes | None = None
        self.refusal = ""
        self.unfinished = False
        self._received = self._sent = 0
        if shelf is None:
            self.refusal = "the server runs without --keep crash"
        elif totals is None:
            self.refusal = "the system does not count what passes over such a connection"
        else:
            # From here on both are counted along.
            self._received = totals.taken - _peeked(core).taken
            self._sent = totals.written - core.record[BYTES_OUT]

    @property
    def received(self) -> int:
        """Return how many bytes of input have been committed, since the connection's beginning."""
        transport = _peeked(self._core)
        return self._received + transport.taken - len(transport.loose)

    def record(self, data: bytes, packed: bytes | None) -> str:
        """Put the record of a reply, and the state that is to follow; return why not, "": it is.

        From here on all that was received counts as dealt with.
        """
        core, transport = self._core, _peeked(self._core)
        if self.refusal or transport.loose:
            return self.refusal
        since = self._received + transport.taken
        until = since + transport.kernel - core.buffer.size
        refusal = self._put(ReplyRecord(since, until, self._sent_at, data), packed)
        if not refusal:
            self.unfinished = bool(data)
            core.ledger.again = False  # what follows is no work on the message of a death before
        return refusal

    def record_push(self, data: bytes) -> None:
        """Put the record of bytes that answer nothing, so that a death does not cut them short."""
        transport = _peeked(self._core)
        if self.refusal or transport.loose:
            return
        since = self._received + transport.taken
        self._put(ReplyRecord(since, since, self._sent_at, data), self._core.committed)

    def withdraw(self) -> None:
        """Have the record of a reply be none, when something else is to go out before it has ended.

        The message that it answers is not dealt with then.
        """
        assert self._shelf is not None
        self.unfinished = False
        self._shelf.put(self._state_before)
        self._core.committed = self._state_before

    def forget(self) -> None:
        """Leave no record: the connection goes on by another socket, whose totals are others."""
        if self._shelf is not None:
            self._shelf.put(self._core.committed)

    @property
    def _sent_at(self) -> int:
        return self._sent + self._core.record[BYTES_OUT]

    def _put(self, made: ReplyRecord, packed: bytes | None) -> str:
        size = len(made.data) + len(packed or b"")
        if size >= REPLY_LIMIT:
            return f"the reply and the state have {size} bytes, the limit is {REPLY_LIMIT - 1}"
        assert self._shelf is not None
        self._state_before = self._core.committed
        self._shelf.put(packed, made.pack())
        self._core.committed = packed
        return ""


def note_refusal(refusal: str, lease: Lease) -> None:
    """Say once for each listener why the replies on its connections are not on record."""
    if (lease.listener, refusal[:9]) in _told:
        return
    _told.add((lease.listener, refusal[:9]))
    import logging

    logging.getLogger("socketkeep").warning(
        "replies of connection %s on %s are at least once, not exactly once: %s",
        lease.id or "without an id",
        lease.listener or "no listener",
        refusal,
    )


def _peeked(core: Core) -> Peeked:
    from socketkeep._stream._peek import Peeked  # for who asks for it

    assert isinstance(core.transport, Peeked)
    return core.transport
