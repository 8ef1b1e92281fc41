"""The scoreboard: what a worker's connections are doing, in memory shared with the keeper.

One memfd a worker, made by the keeper and mapped by both; fork children inherit the mapping.  The
worker writes it without a system call and the keeper reads it: the keeper needs no message to know
of a connection, and what a killed worker left behind can still be read.  A memfd a worker, and not
one for the server: a row can then never be written by a worker that has lost it.

Layout, in words of 64 bits: a header of HEADER_WORDS, then rows of ROW_WORDS, each the words of
`_stream/_record` and the peer's address as text; after these, where connections are kept through
crashes, the committed states (`_wire/_shelves.py`).
"""

from __future__ import annotations

import fcntl
import mmap
import os
import struct
import sys
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Final, Literal, cast

from socketkeep import _native
from socketkeep._base._admission import LIMITS, REASONS, Reason, counter_of
from socketkeep._base._passing import Unfit, has_seals, sealed_size
from socketkeep._stream import _record as record
from socketkeep._stream._lease import WHY_OF, Order
from socketkeep._stream._record import Ended, Record
from socketkeep._wire import _shelves, _unsealed
from socketkeep._wire._shelves import StatePlace

HEADER_WORDS: Final = 32
_PEER_WORDS: Final = 8
ROW_WORDS: Final = record.WORDS + _PEER_WORDS
_WORD: Final = 8
#: Of the memfd, by which the maps of a process show whose scoreboard it has.
NAME: Final = "socketkeep-scoreboard"
_CHUNK: Final = 512  # rows that are read at a time
_MASK: Final = 2**64 - 1
#: By these nobody can shorten the memory that another has mapped, which would end that by SIGBUS.
SEALS: Final = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
_MOST_ROWS: Final = 2**24
#: Beyond it a counter was not counted up.
_MOST_COUNTED: Final = 2**48
#: The highest number of a lease; after it they begin anew.
LAST_EPOCH: Final = 2**32
#: The latest second that a keeper can have started in, the largest pid, and so on.
LAST_BOOT: Final = 2**40
_LAST_PID: Final = 2**22
_LAST_TIME: Final = 2**63
#: ACCEPTED, CLOSED, RESET, and LOST; each is read by one load.
_ENDS: Final = struct.Struct("@8x3Q40xQ")
#: What a row has behind its first word, NUMBER, which is written by itself.
_ROW: Final = struct.Struct(f"={record.WORDS - 1}Q{_PEER_WORDS * _WORD}s")

# The header's words.
OPEN: Final = 0
ACCEPTED: Final = 1
CLOSED: Final = 2
RESET: Final = 3
DETACHED: Final = 4
HANDLER_ERRORS: Final = 5
ATTACHED_RELOAD: Final = 6
ATTACHED_PARKED: Final = 7
ATTACHED_CRASH: Final = 8
LOST: Final = 9
RETIRE_HOW: Final = 10
RETIRE_AT: Final = 11
BEAT: Final = 12  # when the worker's loop last showed that it goes on, CLOCK_MONOTONIC in ns
CROWDED: Final = 13  # 1 while connections wait for a seat; the keeper writes it
_ROWS: Final = 14
ATTACHED_UPGRADE: Final = 15
SEATS_HEARD: Final = 16  # the serial of the `Seats` that the worker goes by, or ACCEPTS_NO_MORE
REFUSED: Final = 17  # how many connections that were sent to the worker it has refused
UNSERVED: Final = 18  # how many connections it took and could not begin to serve
UNSERVED_TOLD: Final = 19  # when the log said so last, CLOCK_MONOTONIC in ns
FORKED_TOLD: Final = 20  # and that a process which a handler forked came back
GOES_ON_TOLD: Final = 21  # and that a handler goes on without its connection
PROXY_REFUSED: Final = 22  # the first of those that count the refused, by why (`REASONS`)
OVER_LIMIT: Final = PROXY_REFUSED + len(REASONS)  # and the first of those for a limit (`LIMITS`)

OVERDUE: Final = 31  # how many connections a deadline of theirs has ended

#: The word that counts the connections refused for a reason.
WORD_OF_REASON: Final[dict[Reason, int]] = {
    **{why: PROXY_REFUSED + place for place, why in enumerate(REASONS)},
    **{why: OVER_LIMIT + place for place, why in enumerate(LIMITS)},
}

#: What a worker that has been retired has heard.
ACCEPTS_NO_MORE: Final = 2**64 - 1

COUNTERS: Final = {
    "accepted": ACCEPTED,
    "closed": CLOSED,
    "reset": RESET,
    "detached": DETACHED,
    "handler_errors": HANDLER_ERRORS,
    "attached_reload": ATTACHED_RELOAD,
    "attached_parked": ATTACHED_PARKED,
    "attached_crash": ATTACHED_CRASH,
    "attached_upgrade": ATTACHED_UPGRADE,
    "lost": LOST,
    "unserved": UNSERVED,
    "overdue": OVERDUE,
    **{counter_of(why): word for why, word in WORD_OF_REASON.items()},
}
_HOW: Final[tuple[Literal["move", "close", "finish"], ...]] = ("move", "close", "finish")
#: In the place of one of these: there is no order for all, and handlers are to look for their own.
_LOOK: Final = 255
_COUNTER_OF_END: Final[dict[int, int]] = {
    int(Ended.CLOSED): CLOSED,
    int(Ended.RELEASED): CLOSED,
    int(Ended.RESET): RESET,
    int(Ended.DETACHED): DETACHED,
    int(Ended.TAKEN): DETACHED,
}


def create_memfd(rows: int, *, states: bool = False) -> int:
    """Return a memfd with room for `rows` connections, and, if wanted, for their states.

    Pages that are not used cost nothing.  Raises OSError.
    """
    fd = os.memfd_create(NAME, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        size = (HEADER_WORDS + rows * ROW_WORDS) * _WORD
        os.ftruncate(fd, _shelves.end(size, rows) if states else size)
        os.pwrite(fd, rows.to_bytes(_WORD, sys.byteorder), _ROWS * _WORD)
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, SEALS)
    except BaseException:
        os.close(fd)
        raise
    return fd


class Rows:
    """The free rows, and the counts of the others in the header; for several threads.

    words: of a scoreboard, from its first on.
    """

    def __init__(self, words: memoryview, rows: int, /) -> None:
        self._words = words
        self._unused = iter(range(rows))
        self._freed: list[int] = []
        self._lock = threading.Lock()

    def claim(self, counter: int | None, /) -> int | None:
        """Return the number of a free row, cleared, or None when all are taken.

        counter: the header's word that counts it.
        """
        with self._lock:
            row = self._freed.pop() if self._freed else next(self._unused, None)
            if row is not None:
                self._words[OPEN] += 1
                if counter is not None:
                    self._words[counter] += 1
        return row

    def reserve(self) -> int | None:
        """Return the number of a free row for who counts its connections himself, as C does.

        It is his until `release`.
        """
        with self._lock:
            return self._freed.pop() if self._freed else next(self._unused, None)

    def give_back(self, row: int, counter: int | None, /) -> None:
        """Free a row that was claimed, as if it never had been: nobody has read anything of it.

        counter: the one that `claim` was given.
        """
        with self._lock:
            self._words[OPEN] -= 1
            if counter is not None:
                self._words[counter] -= 1
            self._blank(row)

    def release(self, row: int, /) -> None:
        """Count how the row's connection ended, and free the row."""
        start = HEADER_WORDS + row * ROW_WORDS
        header = self._words
        ended, errors = header[start + record.ENDED], header[start + record.HANDLER_ERRORS]
        with self._lock:
            # Within the words: the keeper does this too, for a worker that may have left anything.
            counter = _COUNTER_OF_END.get(ended, LOST)
            header[counter] = header[counter] + 1 & _MASK
            header[HANDLER_ERRORS] = header[HANDLER_ERRORS] + errors & _MASK
            header[OPEN] = header[OPEN] - 1 & _MASK
            self._blank(row)

    def settle(self, row: int, /) -> bool:
        """As `release`, where nobody is to be told of the end; return whether it was done.

        That is for a connection that has ended here, of which the keeper has nothing, while nobody
        waits for its seat.
        """
        words, start = self._words, HEADER_WORDS + row * ROW_WORDS
        told = words[start + record.KEEP] or words[start + record.STATE] or words[CROWDED]
        if told or _COUNTER_OF_END.get(words[start + record.ENDED]) not in (CLOSED, RESET):
            return False
        self.release(row)
        return True

    def _blank(self, row: int) -> None:
        start = HEADER_WORDS + row * ROW_WORDS
        self._words[start + record.NUMBER] = 0  # first: from here on the keeper does not read it
        for word in range(start, start + ROW_WORDS):
            self._words[word] = 0
        self._freed.append(row)


_make_rows: Final = _native.compiled_or(Rows, "Rows")


class Scoreboard:
    """One worker's scoreboard, mapped into this process.

    The worker claims and frees rows, from one thread or several; the keeper only reads, but for
    CROWDED, a row's KEEP, the ENDED of one that it has taken, and the retire words of a worker that
    has died and left fork children.
    """

    def __init__(self, fd: int, rows: int = 0, *, wary: bool = False) -> None:
        """Map the memfd `fd`, which may be closed afterwards.

        rows: how many it was made with; 0: that is not known, and is read from it.
        wary: it came from a process that runs user code.  One that is not sealed, as those of
        earlier versions, is not mapped then: whoever has it could end this process by SIGBUS.

        Raises OSError, and Unfit when this is no scoreboard.
        """
        sealed = not wary or bool(has_seals(fd) & fcntl.F_SEAL_SHRINK)
        # A file that can be sealed and is not is no earlier version's.
        size = sealed_size(fd, SEALS if wary and sealed else 0)
        if wary and not has_seals(fd) & fcntl.F_SEAL_SEAL:
            raise Unfit("a scoreboard came without its seals")
        if size < HEADER_WORDS * _WORD:
            raise Unfit(f"a scoreboard came that has {size} bytes")
        if sealed:
            self._map = mmap.mmap(fd, size)
            self._words = memoryview(self._map).cast("Q")
            self._read_ends: Callable[[], tuple[int, ...]] = partial(_ENDS.unpack_from, self._map)
        else:
            memory = _unsealed.Memory(fd)
            self._map = cast("mmap.mmap", memory)
            self._words = words = cast("memoryview", _unsealed.Words(memory, 0, size // _WORD))
            self._read_ends = lambda: (words[ACCEPTED], words[CLOSED], words[RESET], words[LOST])
        self.rows: Final = rows or self._words[_ROWS]
        start = (HEADER_WORDS + self.rows * ROW_WORDS) * _WORD
        if self.rows > _MOST_ROWS or size not in (start, _shelves.end(start, self.rows)):
            raise Unfit(f"a scoreboard came that has {size} bytes for {self.rows} rows")
        self._shelves = _shelves.Shelves(self._map, self.rows, start) if size > start else None
        #: Which of them are free.
        self.places: Final = (_make_rows if sealed else Rows)(self._words, self.rows)
        self._lock = threading.Lock()

    def __getitem__(self, word: int) -> int:
        """Return the header's `word`."""
        return self._words[word]

    @property
    def header(self) -> memoryview:
        """The header's words, to be looked at."""
        return self._words[:HEADER_WORDS]

    def count(self, word: int) -> int:
        """Return a counter of the header, 0 when it cannot have been counted up to that."""
        value = self._words[word]
        return value if value < _MOST_COUNTED else 0

    def add(self, word: int, amount: int = 1) -> None:
        """Add to the header's `word`."""
        with self._lock:
            self._words[word] += amount

    def is_due(self, word: int, every: float) -> bool:
        """Return whether `every` seconds have passed since it was last true of a header's `word`.

        It bounds the rate at which a worker and the processes that it forks say something together.
        Two that ask in the same microsecond may both be told so.
        """
        now = time.monotonic_ns()
        last = self._words[word]
        if last and now - last < every * 1e9:
            return False
        self._words[word] = now
        return True

    def hear(self, serial: int) -> None:
        """Show that the worker goes by the `Seats` of that serial from here on."""
        self._words[SEATS_HEARD] = serial

    @property
    def balance(self) -> int:
        """Return how many connections the worker has accepted, less those that have ended in it.

        What it was given and what was taken from it are not in it: the keeper counts those exactly.
        """
        # ACCEPTED first: who ends after this may be one that came before it.
        accepted, closed, was_reset, lost = self._read_ends()
        if max(accepted, closed, was_reset, lost) < _MOST_COUNTED:
            return accepted - closed - was_reset - lost
        count = self.count
        return count(ACCEPTED) - count(CLOSED) - count(RESET) - count(LOST)

    @property
    def attached(self) -> int:
        """Return how many connections the worker has been given."""
        words = (ATTACHED_RELOAD, ATTACHED_PARKED, ATTACHED_CRASH, ATTACHED_UPGRADE)
        return sum(self.count(word) for word in words)

    @property
    def order(self) -> Order | None:
        """Return how this worker is to give up its connections, once it is to."""
        how = self._words[RETIRE_HOW]
        if not how or how == _LOOK:
            return None
        of_all = _HOW[how - 1]
        return Order(of_all, self._words[RETIRE_AT] / 1e9, WHY_OF[of_all])

    @property
    def look(self) -> bool:
        """Return whether some connection has an order of its own, which stands elsewhere."""
        return self._words[RETIRE_HOW] == _LOOK

    @look.setter
    def look(self, look: bool) -> None:
        before, after = (0, _LOOK) if look else (_LOOK, 0)
        if self._words[RETIRE_HOW] == before:
            self._words[RETIRE_HOW] = after

    def retire(self, order: Order) -> None:
        """Tell the handlers that read this scoreboard to give up their connections."""
        self._words[RETIRE_AT] = int(min(order.deadline * 1e9, 2.0**63))
        self._words[RETIRE_HOW] = _HOW.index(order.how) + 1

    def claim(self, counter: int | None = None) -> int | None:
        """Return a free row's number, counted in the header's word; None when all are taken."""
        return self.places.claim(counter)

    @property
    def words(self) -> memoryview:
        """The memory from its first word on."""
        return self._words

    def give_back(self, row: int, counter: int | None) -> None:
        """Free a row that was claimed, as if it never had been: nobody has read anything of it.

        counter: the one that it was claimed with.
        """
        self._clear_shelf(row)
        self.places.give_back(row, counter)

    def enter(
        self,
        row: int,
        boot: int,
        minted_by: int,
        number: int,
        pid: int,
        listener: int,
        peer: str = "",
    ) -> memoryview:
        """Write a new connection's words to the row that was claimed; return them."""
        words = self.prepare(row, boot, minted_by, pid, listener, peer)
        words[record.NUMBER] = number  # last: a row with a number is one that the keeper reads
        return words

    def prepare(
        self,
        row: int,
        boot: int,
        minted_by: int,
        pid: int,
        listener: int,
        peer: str,
        *,
        epoch: int = 1,
        accepted_at: int | None = None,
        bytes_in: int = 0,
        bytes_out: int = 0,
        status: int = 0,
        keep: int = 0,
    ) -> memoryview:
        """Write a row's words but for NUMBER, without which it is none yet; return them.

        accepted_at: None: now.
        """
        start = HEADER_WORDS + row * ROW_WORDS
        now = time.monotonic_ns()
        _ROW.pack_into(
            self._map,
            (start + 1) * _WORD,
            *(minted_by, epoch, pid, status, 0, bytes_in, bytes_out),
            *(now if accepted_at is None else accepted_at, now, listener, 0, 0, keep, 0, boot),
            peer.encode(),
        )
        return self._words[start : start + ROW_WORDS]

    def release(self, row: int) -> None:
        """Count how the row's connection ended, and free the row."""
        self._clear_shelf(row)
        self.places.release(row)

    def _clear_shelf(self, row: int) -> None:
        if self._shelves is not None and (state := self.record(row)[record.STATE]):
            self._shelves.clear(row, state)

    def record(self, row: int) -> memoryview:
        """Return the row's words, to be read and written."""
        start = HEADER_WORDS + row * ROW_WORDS
        return self._words[start : start + ROW_WORDS]

    @property
    def crowded(self) -> bool:
        """Return whether connections wait for a seat, so that those which only wait should park."""
        return bool(self._words[CROWDED])

    @crowded.setter
    def crowded(self, crowded: bool) -> None:
        self._words[CROWDED] = crowded

    def beat(self) -> None:
        """Show that the worker's loop goes on."""
        self._words[BEAT] = time.monotonic_ns()

    @property
    def keeps_states(self) -> bool:
        """Return whether there is room for committed states."""
        return self._shelves is not None

    def shelf(self, row: int) -> StatePlace:
        """Return where a connection's committed states are put, for the keeper to find."""
        assert self._shelves is not None, "made without room for states"
        return self._shelves.place(row, self.record(row))

    def state(self, row: int) -> bytes | None:
        """Return what was put last, None when that is nothing.  Raises Unfit: that is nowhere."""
        word = self.record(row)[record.STATE]
        return None if self._shelves is None else self._shelves.get(word)

    def reply(self, row: int) -> bytes:
        """Return the record of the reply that the state follows, b"" where there is none.

        Raises Unfit: it is nowhere.  What it says is not looked at.
        """
        word = self.record(row)[record.STATE]
        return b"" if self._shelves is None else self._shelves.reply(word)

    def set_peer(self, row: int, peer: str) -> None:
        """Write the peer's address, cut at 64 bytes."""
        start = (HEADER_WORDS + row * ROW_WORDS + record.WORDS) * _WORD
        text = peer.encode()[: _PEER_WORDS * _WORD]
        self._map[start : start + len(text)] = text

    def peer(self, row: int) -> str:
        """Return the peer's address."""
        start = (HEADER_WORDS + row * ROW_WORDS + record.WORDS) * _WORD
        text = self._map[start : start + _PEER_WORDS * _WORD]
        return text.rstrip(b"\0").decode(errors="replace")

    def columns(self, *words: int) -> Iterator[tuple[int, ...]]:
        """Yield for each row in use its number and some of its words: `taken`, many times faster.

        NUMBER is the first of the words, whichever others are asked for.
        """
        left = self._words[OPEN]
        for first in range(0, self.rows, _CHUNK):
            if left <= 0:
                return
            rows = range(first, min(first + _CHUNK, self.rows))
            start, end = (HEADER_WORDS + row * ROW_WORDS for row in (rows.start, rows.stop))
            columns = [
                self._words[start + word : end : ROW_WORDS].tolist()
                for word in (record.NUMBER, *words)
            ]
            for found in zip(rows, *columns, strict=True):
                if found[1]:
                    left -= 1
                    yield found

    def rows_of_part(self, parts: int, part: int) -> Iterator[tuple[int, int]]:
        """Yield row and number of each connection whose number, divided by `parts`, leaves `part`.

        parts: a power of two.
        """
        left, mask = self._words[OPEN], parts - 1
        for first in range(0, self.rows, _CHUNK):
            if left <= 0:
                return
            start, end = (
                HEADER_WORDS + row * ROW_WORDS for row in (first, min(first + _CHUNK, self.rows))
            )
            numbers = self._words[start + record.NUMBER : end : ROW_WORDS].tolist()
            left -= len(numbers) - numbers.count(0)
            yield from [
                (row, number)
                for row, number in enumerate(numbers, first)
                if number & mask == part and number
            ]

    def taken(self) -> Iterator[tuple[int, Record]]:
        """Yield the number and the words of each row in use.

        A row is read while its worker may be writing it: a figure can be newer than its neighbour.
        """
        left = self._words[OPEN]
        for row in range(self.rows):
            if not left:
                return
            words = self.record(row)
            if words[record.NUMBER]:
                left -= 1
                yield row, words


def is_plausible(row: Record) -> bool:
    """Return whether a row can be what a worker writes of a connection."""
    most = (
        (record.EPOCH, LAST_EPOCH),
        (record.BOOT, LAST_BOOT),
        (record.PID, _LAST_PID),
        (record.STATUS, record.BOUND | record.AGAIN),
        (record.ENDED, record.TAKEN),
        (record.BYTES_IN, _LAST_TIME),
        (record.BYTES_OUT, _LAST_TIME),
        (record.ACCEPTED_AT, _LAST_TIME),
        (record.ACTIVE_AT, _LAST_TIME),
    )
    return all(row[word] <= limit for word, limit in most)


def connection_id(boot: int, minted_by: int, number: int) -> str:
    """Return a connection's id as people and messages see it.

    `boot` is the second in which the keeper first started, `minted_by` the serial number of the
    worker that accepted it, `number` its count there: unique through every upgrade and restart.
    """
    return f"{boot:x}-{minted_by:x}-{number:x}"


def parse_connection_id(text: str) -> tuple[int, int, int]:
    """Return (boot, minted_by, number) of a connection's id."""
    boot, minted_by, number = text.split("-")
    return int(boot, 16), int(minted_by, 16), int(number, 16)


def id_of(row: Record) -> str:
    """Return the id of a row's connection."""
    return connection_id(row[record.BOOT], row[record.MINTED_BY], row[record.NUMBER])


def keep_token(row: Record) -> int:
    """Return the word by which the keeper says that it has a handle of the row's connection.

    Of this giving of this connection: a word that comes late says nothing of the row's next one.
    """
    return token_of(row[record.MINTED_BY], row[record.NUMBER], row[record.EPOCH])


def token_of(minted_by: int, number: int, epoch: int) -> int:
    """Return the `keep_token` of a row that has these."""
    return (minted_by << 40 ^ number << 12 ^ epoch) % 2**63 | 2
