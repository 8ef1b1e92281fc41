"""Why a connection takes no more operations: how it ended or left, and the errors that say so."""

from __future__ import annotations

from typing import Final, Never

from socketkeep._errors import (
    Closed,
    Context,
    PeerClosed,
    PeerReset,
    Released,
    SocketkeepError,
    SystemFailure,
    translate,
)
from socketkeep._stream._assignment import Detached, Handover
from socketkeep._stream._identity import Identity
from socketkeep._stream._record import ENDED, Ended

_ENDED: Final = "ended: "
#: What is raised is a new one each time, see `_refusal`.
_LEFT: Final = Released(
    "refused: the connection was detached from this worker, and its handler is called again in the "
    "next one"
)
_WHY: Final = {
    Ended.RESET: "reset by the peer",
    Ended.DETACHED: "moved to another worker",
    Ended.RELEASED: "released by the handler",
}


class Ending(Identity):
    """The base of `Exchange` that knows its ends."""

    __slots__ = ()

    def _leave(self, *, parked: bool = False) -> None:
        """Mark the connection detached: from here on no byte is received or sent."""
        self._detached = True
        self._parked = parked
        if self._peeking is not None:
            self._peeking.let_go()
        self._over = _LEFT
        self._record[ENDED] = Ended.DETACHED

    def hand_over(self) -> Handover:
        """Return all that the next worker needs.  For the server, after `Detached`."""
        disputed = self._peeking is not None and self._peeking.disputed
        return Handover(self._sock, self._committed, self._buffer.replay(), self._parked, disputed)

    def _refusal(self, operation: str) -> BaseException:
        """Return the exception for an operation on a connection that is over."""
        over = self._over
        assert over is not None
        if self._detached and operation != "send":
            return Detached("the connection was detached from this worker")
        return type(over)(over.reason, **self._context(operation))

    def why_over(self) -> str:
        """Return in words why the connection is at its end.  For the server, after the handler."""
        ended, over = self.ended, self._over
        if ended in _WHY:
            return _WHY[ended]
        if over is not None and over.reason.startswith(_ENDED):
            return over.reason.removeprefix(_ENDED)
        return "the peer ended it" if self._eof else "the handler ended it"

    def _end(self, reason: str, operation: str) -> Closed:
        """Note that a limit of the server's ends the connection, and return the error that says so.

        The descriptor stays open: the server closes it in an orderly way when the handler is done.
        """
        self._over = error = Closed(reason)
        return Closed(error.reason, **self._context(operation))

    def _failed(self, error: OSError, operation: str, done: int = 0) -> SystemFailure:
        """Return the library's error for a system call's."""
        translated = translate(error, **self._context(operation, done))
        if isinstance(translated, PeerReset):
            self._record[ENDED] = Ended.RESET
            self._over = PeerReset()
        elif self._tls is not None and self._tls.broken:
            self._over = type(translated)(translated.reason)
        return translated

    def _cut_short(self, operation: str, wanted: int | None) -> Never:
        """Raise the error for an EOF in the middle of what was asked for."""
        raise PeerClosed(**self._context(operation, self._buffer.size, wanted))

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
