"""Why a connection takes no more operations: how it ended or left, and the errors that say so."""

from __future__ import annotations

from typing import Never

from socketkeep._base._errors import (
    Closed,
    Context,
    PeerClosed,
    PeerReset,
    SocketkeepError,
    SystemFailure,
    translate,
)
from socketkeep._stream._assignment import Handover
from socketkeep._stream._identity import Identity
from socketkeep._stream._lifecycle import RECORDED, Detached, Event
from socketkeep._stream._record import ENDED


class Ending(Identity):
    """The base of `Exchange` that knows its ends."""

    __slots__ = ()

    def _leave(self, *, parked: bool = False) -> None:
        """Mark the connection detached: from here on no byte is received or sent."""
        self._parked = parked
        if self._peeking is not None:
            self._peeking.let_go()
        self._become(Event.DETACH)

    def _become(self, event: Event, error: SocketkeepError | None = None) -> None:
        """Go on in the connection's life, and have the record tell of an end."""
        if self._life.step(event, error):
            recorded = RECORDED.get(self._life.state)
            first = event in (Event.CLOSE, Event.RELEASE)  # what ended it before counts
            if recorded is not None and not (first and self._record[ENDED]):
                self._record[ENDED] = recorded

    def hand_over(self) -> Handover:
        """Return all that the next worker needs.  For the server, after `Detached`."""
        disputed = self._ledger.disputed
        return Handover(self._sock, self._committed, self._buffer.replay(), self._parked, disputed)

    def _refusal(self, operation: str) -> BaseException:
        """Return the exception for an operation on a connection that is over."""
        error, refusals = self._life.refusal(operation), self._assignment.refusals
        assert error is not None
        if not isinstance(error, Detached):
            error = type(error)(error.reason, **self._context(operation))
        return error if refusals is None else refusals.refused(self, operation, error)

    def why_over(self) -> str:
        """Return in words why the connection is at its end.  For the server, after the handler."""
        return self._life.why_over(self.ended)

    def _end(self, reason: str, operation: str) -> Closed:
        """Note that a limit of the server's ends the connection, and return the error that says so.

        The descriptor stays open: the server closes it in an orderly way when the handler is done.
        """
        error = Closed(reason)
        self._become(Event.STOP, error)
        return Closed(error.reason, **self._context(operation))

    def _failed(self, error: OSError, operation: str, done: int = 0) -> SystemFailure:
        """Return the library's error for a system call's."""
        translated = translate(error, **self._context(operation, done))
        if isinstance(translated, PeerReset):
            self._become(Event.RESET_BY_PEER)
        elif self._tls is not None and self._tls.broken:
            self._become(Event.STOP, type(translated)(translated.reason))
        return translated

    def _cut_short(self, operation: str, wanted: int | None) -> Never:
        """Raise the error for an EOF in the middle of what was asked for."""
        error = PeerClosed(**self._context(operation, self._buffer.size, wanted))
        refusals = self._assignment.refusals
        raise error if refusals is None else refusals.refused(self, operation, error)

    def _locate(self, error: SocketkeepError, operation: str) -> SocketkeepError:
        """Say in an error of the framing's which operation on which connection it was."""
        error.operation = operation
        error.address = self.local
        error.peer = self._peer
        return error

    def _context(self, operation: str, done: int = 0, wanted: int | None = None) -> Context:
        return {
            "operation": operation,
            "address": self.local,
            "peer": self._peer,
            "bytes_done": done,
            "bytes_wanted": wanted,
        }
