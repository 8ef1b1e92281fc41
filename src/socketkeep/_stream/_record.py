"""The words of a connection's record in the scoreboard.

A record is a fixed-size row of unsigned 64-bit words in memory that the worker shares with the
keeper (`_wire/_scoreboard.py` lays the rows out).  The connection itself writes the words here
without a system call; a connection used without a server writes them to a plain list, so that
there is one code path.

Times are nanoseconds of CLOCK_MONOTONIC, which all processes of one machine share
(clock_gettime(2)).
"""

from __future__ import annotations

from enum import IntEnum
from typing import Final, Protocol


class Record(Protocol):
    """The words, by their indices: a memoryview of the scoreboard, or a list."""

    def __getitem__(self, word: int, /) -> int: ...
    def __setitem__(self, word: int, value: int, /) -> None: ...


NUMBER: Final = 0  # with MINTED_BY the connection's id; 0: the row is free
MINTED_BY: Final = 1
EPOCH: Final = 2
PID: Final = 3
STATUS: Final = 4
WAITING: Final = 5  # 1 while the handler waits for input
BYTES_IN: Final = 6
BYTES_OUT: Final = 7
ACCEPTED_AT: Final = 8
ACTIVE_AT: Final = 9
LISTENER: Final = 10  # by `listener_in`; above it when the connection ends, by `deadline_in`
ENDED: Final = 11
HANDLER_ERRORS: Final = 12
KEEP: Final = 13  # NOT_OFFERED, OFFERED, NOT_KEPT, or the token of the keeper that has it
STATE: Final = 14  # where the committed state stands, see the scoreboard; 0: none
BOOT: Final = 15  # of the keeper under which it was accepted, with MINTED_BY and NUMBER its id
WORDS: Final = 16  # fields are only ever appended


NOT_OFFERED: Final = 0
OFFERED: Final = 1
NOT_KEPT: Final = 1 << 63  # what was offered was no connection: it is not to be offered again


_LISTENER_BITS: Final = 16
_LISTENER_MASK: Final = (1 << _LISTENER_BITS) - 1
_LAST_MOMENT: Final = (1 << 43) - 1  # so that its nanoseconds are a signed number, too
_A_MILLISECOND: Final = 1_000_000  # in nanoseconds


def listener_in(record: Record) -> int:
    """Return the number of the listener that the connection has come by."""
    return record[LISTENER] & _LISTENER_MASK


def deadline_in(record: Record) -> int:
    """Return when the connection is to end, 0: no such moment is set."""
    return min(record[LISTENER] >> _LISTENER_BITS, _LAST_MOMENT) * _A_MILLISECOND


def note_deadline(record: Record, at: float | None) -> None:
    """Note when the connection is to end, in seconds, for who goes on after a crash."""
    moment = 0 if at is None else min(max(1, int(at * 1000)), _LAST_MOMENT)
    record[LISTENER] = moment << _LISTENER_BITS | listener_in(record)


class Status(IntEnum):
    """The doings of a connection's handler since its last commit."""

    CLEAN = 0
    READ = 1
    SENT = 2
    BOUND = 3  # whatever it has done: what this process alone has is needed to go on


#: Added to the status of a connection that is delivered again, until something of it is committed:
#: it may be the message that the worker before has died of.  Alone: not received again yet.
AGAIN: Final = 8

# As plain numbers: an enumeration's members cost more to look up than all else where they are used.
CLEAN: Final = int(Status.CLEAN)
READ: Final = int(Status.READ)
SENT: Final = int(Status.SENT)
BOUND: Final = int(Status.BOUND)


class Ended(IntEnum):
    """The reason for which a connection is no longer served by its worker."""

    NOT_YET = 0
    CLOSED = 1
    RESET = 2
    DETACHED = 3
    RELEASED = 4
    TAKEN = 5  # detached, and the keeper has it: its own word, which a worker may read later


#: The same, for the ends that are looked at for each connection.
NOT_YET: Final = int(Ended.NOT_YET)
CLOSED: Final = int(Ended.CLOSED)
DETACHED: Final = int(Ended.DETACHED)
TAKEN: Final = int(Ended.TAKEN)


def blank_record() -> Record:
    """Return a record that nobody else reads, for a connection used without a server."""
    return [0] * WORDS
