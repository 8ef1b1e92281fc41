"""A server's side of a connection: what it lends and orders, and the row in which it looks.

The tests of everything above the library speak of these in words: a lease, an order to move, a row
that is clean.  Nothing else in the tests names the modules in which they are kept.
"""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Callable
from contextvars import Token
from typing import Any, Final, Literal, Self, TypedDict

from socketkeep._stream import _buffer, _core, _lease, _record, _replies, _totals
from socketkeep._wire import _scoreboard

How = Literal["move", "close", "finish"]
Words = _record.Record

#: As many words as a row has of its own.
WORDS: Final = _record.WORDS
#: As many as a scoreboard has in its header, and for each row with the name of its peer.
HEADER_WORDS: Final = _scoreboard.HEADER_WORDS
ROW_WORDS: Final = _scoreboard.ROW_WORDS
#: How often a connection can have been given to a worker, at the most.
LAST_EPOCH: Final = _scoreboard.LAST_EPOCH
#: What the record of a reply and its bytes may have beside the state.
REPLY_LIMIT: Final = _replies.REPLY_LIMIT
#: So many receives without a commit are warned of.
NEVER_COMMITTED: Final = _core.NEVER_COMMITTED
#: The word of a row that says how often its connection has been given to a worker.
EPOCH: Final = _record.EPOCH
#: The one that says how it ended, in `Row.ended` in words.
ENDED: Final = _record.ENDED
#: What nobody may do with the memory of a scoreboard.
BOARD_SEALS: Final = _scoreboard.SEALS
#: All that a connection may have done since its last commit.
STATUSES: Final = ("clean", "read", "sent", "bound")
#: All the ends that a row may tell of, the first of them none.
ENDS: Final[tuple[str, ...]] = tuple(end.name.lower().replace("_", " ") for end in _record.Ended)
_KEEPING: Final = {
    _record.NOT_OFFERED: "not offered",
    _record.OFFERED: "offered",
    _record.NOT_KEPT: "not kept",
}


class Row:
    """A row of the scoreboard, in words; what is set here is in the row at once."""

    def __init__(self, words: Words | None = None) -> None:
        """Look at these words; without them at a row of its own."""
        self.words: Words = _record.blank_record() if words is None else words

    @property
    def status(self) -> str:
        """`clean`, `read`, `sent` or `bound`; behind it `again`, where it is delivered again.

        `again` alone: it is to be, and nothing of it has been received yet.
        """
        word = self.words[_record.STATUS]
        status = STATUSES[word & ~_record.AGAIN]
        if not word & _record.AGAIN:
            return status
        return "again" if status == "clean" else f"{status} again"

    @status.setter
    def status(self, words: str) -> None:
        self.words[_record.STATUS] = status_word(words)

    @property
    def ended(self) -> str:
        """`not yet`, `closed`, `reset`, `detached`, `released` or `taken`."""
        return ENDS[self.words[_record.ENDED]]

    @ended.setter
    def ended(self, end: str) -> None:
        self.words[_record.ENDED] = ENDS.index(end)

    @property
    def waiting(self) -> bool:
        """Return whether the handler waits for input."""
        return bool(self.words[_record.WAITING])

    @property
    def bytes_in(self) -> int:
        """The bytes that have been received."""
        return self.words[_record.BYTES_IN]

    @bytes_in.setter
    def bytes_in(self, count: int) -> None:
        self.words[_record.BYTES_IN] = count

    @property
    def bytes_out(self) -> int:
        """The bytes that have been sent."""
        return self.words[_record.BYTES_OUT]

    @bytes_out.setter
    def bytes_out(self, count: int) -> None:
        self.words[_record.BYTES_OUT] = count

    @property
    def handler_errors(self) -> int:
        """How often its handler has failed."""
        return self.words[_record.HANDLER_ERRORS]

    @handler_errors.setter
    def handler_errors(self, count: int) -> None:
        self.words[_record.HANDLER_ERRORS] = count

    @property
    def state_at(self) -> int:
        """The word that says where its committed state stands."""
        return self.words[_record.STATE]

    @state_at.setter
    def state_at(self, word: int) -> None:
        self.words[_record.STATE] = word

    @property
    def pid(self) -> int:
        """The process that serves it."""
        return self.words[_record.PID]

    @pid.setter
    def pid(self, pid: int) -> None:
        self.words[_record.PID] = pid

    @property
    def accepted_at(self) -> int:
        """When it was accepted, in nanoseconds of the monotonic clock."""
        return self.words[_record.ACCEPTED_AT]

    @accepted_at.setter
    def accepted_at(self, nanoseconds: int) -> None:
        self.words[_record.ACCEPTED_AT] = nanoseconds

    @property
    def active_at(self) -> int:
        """When it last received or sent, in nanoseconds of the monotonic clock."""
        return self.words[_record.ACTIVE_AT]

    @property
    def epoch(self) -> int:
        """How often it has been given to a worker."""
        return self.words[_record.EPOCH]

    @epoch.setter
    def epoch(self, epoch: int) -> None:
        self.words[_record.EPOCH] = epoch

    @property
    def number(self) -> int:
        """Its number among those of the worker that accepted it; 0: the row is free."""
        return self.words[_record.NUMBER]

    @number.setter
    def number(self, number: int) -> None:
        self.words[_record.NUMBER] = number

    @property
    def keep(self) -> str:
        """`not offered`, `offered`, `not kept` or `kept`: whether the keeper has a handle.

        `kept before`: it had one of the connection that the row was given to before.
        """
        word = self.words[_record.KEEP]
        if word == _scoreboard.keep_token(self.words):
            return "kept"
        return _KEEPING.get(word, "kept before")

    @keep.setter
    def keep(self, word: str) -> None:
        if word == "kept":
            self.words[_record.KEEP] = _scoreboard.keep_token(self.words)
        else:
            self.words[_record.KEEP] = next(n for n, each in _KEEPING.items() if each == word)

    def name(self, boot: int, minted_by: int, number: int) -> None:
        """Have the row be that of the connection whose id these make."""
        self.words[_record.BOOT], self.words[_record.MINTED_BY] = boot, minted_by
        self.number = number

    @property
    def named(self) -> tuple[int, int, int]:
        """The keeper's boot, the worker and the number that make its id."""
        return self.words[_record.BOOT], self.words[_record.MINTED_BY], self.number


def status_word(words: str) -> int:
    """Return the number that a row has for a status in words."""
    status, _, again = words.partition(" ")
    if status == "again":
        return _record.AGAIN
    return STATUSES.index(status) | (_record.AGAIN if again else 0)


def status_words(number: int) -> str:
    """Return the words for a number that a row may have as its status."""
    row = Row()
    row.words[_record.STATUS] = number
    return row.status


def shared_words() -> memoryview:
    """Return the words of a row as a worker has them: in memory, not in a list."""
    return memoryview(bytearray(8 * WORDS)).cast("Q")


def without_times(words: Words) -> list[int]:
    """Return the words of a row but for the one that says when it was last active."""
    return [words[word] for word in range(WORDS) if word != _record.ACTIVE_AT]


class WatchedWords(list[int]):
    """The words of a row without a server, which tell of each status that is written."""

    def __init__(self, told: Callable[[str], None]) -> None:
        super().__init__([0] * WORDS)
        self._told = told

    def __setitem__(self, word: Any, value: Any) -> None:
        super().__setitem__(word, value)
        if word == _record.STATUS:
            self._told(status_words(value))


def make_board(rows: int, *, states: bool = False) -> tuple[int, _scoreboard.Scoreboard]:
    """Return a scoreboard, and a descriptor of its memory."""
    fd = _scoreboard.create_memfd(rows, states=states)
    return fd, _scoreboard.Scoreboard(fd)


def counted(board: _scoreboard.Scoreboard, what: str) -> int:
    """Return one of a worker's counts: `open`, or one that the commands tell of."""
    return board[_scoreboard.OPEN if what == "open" else _scoreboard.COUNTERS[what]]


def all_counted(board: _scoreboard.Scoreboard) -> dict[str, int]:
    """Return all of a worker's counts that are not 0."""
    return {name: board[word] for name, word in _scoreboard.COUNTERS.items() if board[word]}


def board_in(fd: int, *, wary: bool = False) -> _scoreboard.Scoreboard:
    """Return the scoreboard that is in this memory.  wary: of who made it, as the keeper is."""
    return _scoreboard.Scoreboard(fd, wary=wary)


def count_accepted(board: _scoreboard.Scoreboard) -> None:
    """Count one more connection that the worker has accepted."""
    board.add(_scoreboard.ACCEPTED)


def beat(board: _scoreboard.Scoreboard, seconds: float) -> None:
    """Show that a worker's loop goes on, at this moment of the monotonic clock."""
    board.header[_scoreboard.BEAT] = int(seconds * 1e9)


def connection_name(boot: int, minted_by: int, number: int) -> str:
    """Return the id of a connection."""
    return _scoreboard.connection_id(boot, minted_by, number)


def parts_of_name(name: str) -> tuple[int, int, int]:
    """Return what an id is made of: the keeper's boot, the worker and the number."""
    return _scoreboard.parse_connection_id(name)


class KeptRow:
    """The one row of a scoreboard, which outlives the workers that serve its connection."""

    def __init__(self) -> None:
        fd, self._board = make_board(1, states=True)
        os.close(fd)
        row = self._board.claim()
        assert row is not None
        self._row = row
        self.row = Row(self._board.enter(row, 1, 1, 1, 1, 0))

    @property
    def state(self) -> bytes | None:
        """The committed state."""
        return self._board.state(self._row)

    @property
    def reply(self) -> bytes:
        """The record of the last reply; empty: there is none."""
        return self._board.reply(self._row)

    def commit(self, state: bytes | None, reply: bytes) -> None:
        """Write what a worker has written, as it was."""
        self._board.shelf(self._row).put(state, reply)

    def leased(self, **fields: Any) -> Leased:
        """Return what a worker gives with the connection of this row, crash-safe."""
        fields = {"id": "1-1-1", "resumable": True, "redeliver": True} | fields
        return leased(record=self.row.words, shelf=self._board.shelf(self._row), **fields)

    def after_a_crash(self, **fields: Any) -> Leased:
        """Return the same for the worker after one that has died."""
        left = {"state": self.state, "reply": self.reply}
        return self.leased(attached="crash", redelivered=True, **left, **fields)


def buffer(**options: Any) -> _buffer.ReceiveBuffer:
    """Return the buffer of a connection that has received nothing yet."""
    return _buffer.ReceiveBuffer(**options)


def core_on(sock: socket.socket, given: Leased) -> Any:
    """Return the core, compiled where that runs, of a connection that is leased so."""
    return _core.core_of(sock, given["lease"], given["hooks"])


def core_in_python(sock: socket.socket, given: Leased) -> Any:
    """Return the core that Python alone makes of a connection that is leased so."""
    transport = _core.core_of(sock, **leased()).transport
    return _core.StreamCore(transport, buffer_of(given), given["lease"], given["hooks"])


def forget_warnings() -> None:
    """Have all be told anew that was told once: of no commits, and of replies without a record."""
    _core._warned.clear()
    _replies._told.clear()


def totals_of(sock: socket.socket) -> _totals.ByteTotals | None:
    """Return how much the kernel has moved of a connection; None: it does not count."""
    return _totals.totals_of(sock)


def totals(written: int, taken: int, waiting: int, *, over: bool = False) -> _totals.ByteTotals:
    """Return such totals: sent and acknowledged or queued, taken from the kernel, and yet to be."""
    return _totals.ByteTotals(written, taken, waiting, over)


def reply_in(packed: bytes) -> _replies.ReplyRecord:
    """Return what stands beside a state for a reply.  Raises ValueError where that is none."""
    return _replies.ReplyRecord.unpack(packed)


def reply_record(since: int, answered: int, sent_at: int, data: bytes) -> bytes:
    """Return what stands beside a state for a reply to the bytes from `since` to `answered`.

    sent_at: how many bytes had been sent before it.
    """
    return _replies.ReplyRecord(since, answered, sent_at, data).pack()


def left_of_reply(reply: bytes, sock: socket.socket) -> tuple[bytes, int]:
    """Return what the next worker is to send of a reply, and how much of its input is left."""
    totals = _totals.totals_of(sock)
    assert totals is not None
    return _replies.ReplyRecord.unpack(reply).left(totals)


class Leased(TypedDict):
    """What a server gives with a connection: ``Connection(sock, **leased(resumable=True))``."""

    lease: _lease.Lease
    hooks: _lease.Hooks


def leased(**fields: Any) -> Leased:
    """Return a lease and hooks with these fields, whichever of the two has them."""
    lease = {name: fields.pop(name) for name in _lease.Lease._fields if name in fields}
    return {"lease": _lease.Lease(**lease), "hooks": _lease.Hooks(**fields)}


def buffer_of(given: Leased) -> _buffer.ReceiveBuffer:
    """Return the buffer that a connection has which is leased so."""
    lease = given["lease"]
    return _buffer.ReceiveBuffer(retain=lease.resumable, replay_limit=lease.replay_limit)


def handoff(sock: socket.socket, state: bytes | None, unread: bytes = b"") -> _lease.Handoff:
    """Return what leaves a connection when it is detached."""
    return _lease.Handoff(sock, state, unread)


def row_of(served: Any) -> Row:
    """Return the row of a connection, or of what one is leased with."""
    return Row(served["hooks"].record if isinstance(served, dict) else served.core.record)


def order_to(how: How, within: float = 60.0, *, at: float | None = None) -> _lease.Order:
    """Return an order to a retiring worker's connections; after `within` seconds they are closed.

    at: the same as a moment of the monotonic clock.
    """
    return _lease.Order(how, time.monotonic() + within if at is None else at)


class HandlerCall:
    """Runs in the name of a connection's handler from now on: what it sends is no push.

    Until the context is left, as a task is at its end; or until `end`, or the end of a `with`.
    """

    def __init__(self, conn: object) -> None:
        self._token: Token[object] = _lease.handling.set(conn)

    def end(self) -> None:
        _lease.handling.reset(self._token)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()


def be_handler_of(conn: object) -> HandlerCall:
    """Run in the name of this connection's handler; of None, in that of no handler."""
    return HandlerCall(conn)


def begin_handler(conn: Any, *, aside: bool = False) -> Token[Any]:
    """Have the context be that of a connection's handler; aside: of one beside it, as on_push."""
    return _lease.handling.set(_lease.Aside(conn) if aside else conn)


class FakeDrainSignal:
    """How a worker tells its sync handlers to let go: an order arrives by a pipe."""

    def __init__(self) -> None:
        self.wake_fd, self._write_fd = os.pipe2(os.O_NONBLOCK)
        self.order: _lease.Order | None = None
        self.crowded = False
        self.full = True
        self.awaited = False
        self._next: _lease.Order | None = None

    def give(self, order: _lease.Order) -> None:
        """Issue the order: receives that wait wake and see it."""
        self._next = order
        os.write(self._write_fd, b"x")

    def crowd(self) -> None:
        """Say that others wait for a seat: receives that wait wake and see it."""
        self.crowded = True
        os.write(self._write_fd, b"x")

    def asked(self, _record: object) -> _lease.Order | None:
        return None

    def is_awaited(self) -> bool:
        return self.awaited

    def woken(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.read(self.wake_fd, 1)
            self.order = self._next

    def close(self) -> None:
        os.close(self.wake_fd)
        os.close(self._write_fd)
