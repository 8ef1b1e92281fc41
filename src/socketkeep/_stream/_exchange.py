"""What a sync and an async connection have in common: all but the waiting.

What was received and sent since the last commit, what the scoreboard shows of it, and whether the
connection may be detached.
"""

from __future__ import annotations

from time import monotonic_ns
from typing import Final

from socketkeep._base._errors import NotCommitted
from socketkeep._stream._committed import pack_state
from socketkeep._stream._ending import Ending
from socketkeep._stream._lifecycle import Event
from socketkeep._stream._record import (
    ACTIVE_AT,
    BYTES_IN,
    BYTES_OUT,
)

#: A resumable handler that received this often and never committed is warned of.
NEVER_COMMITTED: Final = 1000
#: One system call receives at most this much, and more where a larger message is asked for.
CHUNK: Final = 65536
LARGE_CHUNK: Final = 262144

# What a recv(2), or a wait for input, ended with.
NOTHING: Final = 0
ARRIVED: Final = 1
LOOK_AGAIN: Final = 2  # the connection has ended, or the server has said something
EOF: Final = 3
TIMED_OUT: Final = 4

_warned: Final[set[str]] = set()


class Exchange(Ending):
    """The base of `Connection` and `AsyncConnection`.  Not for use on its own."""

    __slots__ = ()

    def _tls_ended(self) -> None:
        """Note the peer's close_notify, which need not be followed by EOF."""
        self._become(Event.PEER_EOF)

    def commit(self, state: object = None) -> None:
        """Say that all received so far is dealt with, and that `state` is what to go on from.

        state: anything msgspec encodes, at most 64 KiB encoded.  It is encoded now: later changes
        to the object do not count.  None, the default, leaves no state: `conn.state` is None in
        the next call.

        Raises StateTooLarge or StateNotEncodable; then nothing is committed.
        """
        packed = None if state is None else pack_state(state)
        shelf = self._assignment.shelf
        if shelf is not None and packed != self._committed:
            shelf.put(packed)  # before the status says that it is there
        self._committed = packed
        self._decoded = ...
        self._receives = -1
        peeking = self._peeking
        left_kernel = 0 if peeking is None else peeking.kernel
        self._buffer.commit()
        if peeking is not None:
            left_kernel -= peeking.kernel
            if not peeking.loose:
                self._ledger.bound = False
        self._ledger.commit(unread=self._buffer.size > 0, left_kernel=left_kernel)

    def _take_in(self, size: int) -> int:
        """Receive what is there, up to `size` bytes, into the buffer: the one recv(2) there is.

        Returns NOTHING when nothing is there, ARRIVED, or LOOK_AGAIN: then EOF has come, or
        `_failure` is set.
        """
        if not self._ledger.read:
            self._ledger.reading()
        try:
            data = self._source.recv(size)
        except OSError as error:
            return self._received_nothing(error)
        if not data:
            return self._received_nothing(None)
        self._buffer.feed(data)
        self._received(len(data))
        return ARRIVED

    def _received(self, count: int) -> None:
        """Note that `count` bytes have come."""
        record = self._record
        record[BYTES_IN] += count
        record[ACTIVE_AT] = monotonic_ns()
        if self._receives >= 0:
            self._count_receive()

    def _count_receive(self) -> None:
        self._receives += 1
        if self._receives == NEVER_COMMITTED:
            self._warn_of_no_commit()

    def _received_nothing(self, error: OSError | None) -> int:
        """Note that no byte came: there was none, or EOF, where `error` is None, or a failure."""
        if self._buffer.untouched:
            self._ledger.read_nothing()
        if isinstance(error, BlockingIOError | InterruptedError):
            return NOTHING
        self._failure = error
        if error is None:
            self._become(Event.PEER_EOF)
        return LOOK_AGAIN

    def _raise_failure(self, operation: str) -> None:
        """Raise what `_take_in` met."""
        failure, self._failure = self._failure, None
        if self._peeking is not None:
            self._peeking.check(failure)
        if failure is not None:
            raise self._failed(failure, operation, self._buffer.size) from failure

    def _warn_of_no_commit(self) -> None:
        # With only receives it may be a sink; whoever answers and never commits has forgotten it.
        listener = self._assignment.listener
        if not (self._assignment.resumable and self._ledger.sent) or listener in _warned:
            return
        _warned.add(listener)
        import logging

        logging.getLogger("socketkeep").warning(
            "the resumable handler of connection %s on %s has received %d times, has sent, and "
            "never committed: call conn.commit() where a message is dealt with, or the "
            "connection cannot be kept",
            self.id,
            listener or "no listener",
            NEVER_COMMITTED,
        )

    @property
    def bytes_sent(self) -> int:
        """How many bytes have gone out.  For the server."""
        return self._record[BYTES_OUT]

    def _gave(self, count: int) -> None:
        """Note that `count` bytes went out."""
        record = self._record
        record[BYTES_OUT] += count
        record[ACTIVE_AT] = monotonic_ns()

    def _idle_at(self, since: float) -> float | None:
        """When, on the monotonic clock, a wait that began at `since` will have been idle too long.

        Not from the last byte on: a handler that worked for long before it waits is not idle.
        """
        limit = self._assignment.idle_timeout
        return None if limit is None else max(self._record[ACTIVE_AT] / 1e9, since) + limit

    def _movable(self) -> bool:
        """Whether this is a safe point, given that the handler stands at a receive."""
        # The keys of TLS stay with the process.
        free = self._assignment.resumable and self._tls is None
        return free and not self._ledger.sent and not self._buffer.overflowed

    def _check_parking(self, operation: str) -> bool:
        """Whether the handler, which stands at no receive, may have the connection parked.

        Raises NotCommitted where a commit is missing.
        """
        if not self._assignment.resumable or self._tls is not None:
            return False
        if not self._movable():
            raise NotCommitted(**self._context(operation))
        return not (self._buffer.size or self._life.peer_ended or self._failure)

    def _closable(self) -> bool:
        """Whether nothing would be lost by closing, as far as this side knows."""
        untouched = self._buffer.untouched
        return self._assignment.resumable and not self._ledger.sent and untouched
