"""What a handler's end means: which exceptions are failures of the code, which the net's."""

from __future__ import annotations

from collections.abc import Coroutine

from socketkeep._base import _log
from socketkeep._base._errors import (
    Closed,
    HandlerError,
    PeerClosed,
    PeerReset,
    SocketkeepError,
    TimedOut,
)
from socketkeep._stream import _record as record
from socketkeep._stream._assignment import Runaway
from socketkeep._stream._exchange import Exchange
from socketkeep._stream._lifecycle import Detached
from socketkeep._worker._entry import Entry
from socketkeep._worker._target import users_traceback


def note_exception(error: BaseException, conn: Exchange, entry: Entry) -> None:
    """Log and count an exception that ended a handler; the connection is then closed by the caller.

    What the peer or the server did to this very connection (reset, EOF, timeout, the end of the
    graceful time) is no failure of the handler; the same about a connection of its own is.
    """
    if _only_detached(error):
        return
    if isinstance(error, SystemExit):
        return  # sys.exit() in a handler ends that handler
    if isinstance(error, PeerReset | PeerClosed | Closed | TimedOut) and _is_about(error, conn):
        _log.debug("handler ended", id=conn.id, peer=conn.peer, error=str(error))
        if isinstance(error, TimedOut):
            entry.why = "the peer took too long"
        return
    entry.why = "the handler failed"
    entry.record[record.HANDLER_ERRORS] += 1
    _log.error("handler failed", id=conn.id, peer=conn.peer, traceback=users_traceback(error))


def note_end(conn: Exchange, entry: Entry) -> None:
    """Note for the access log why the connection ends, when its handler has ended."""
    if not entry.why:
        entry.why = conn.why_over()


def refuse_coroutine(returned: object, name: str) -> None:
    """Raise HandlerError for what a sync handler has returned, if nobody will ever await it."""
    if returned is not None and isinstance(returned, Coroutine):
        returned.close()
        raise HandlerError(
            f"{name} returned a coroutine, which nothing runs: a wrapper of an async handler must"
            " be async too"
        )


def was_detached(conn: Exchange) -> bool:
    """Whether the connection has left its handler, however the handler took it."""
    return conn._record[record.ENDED] == record.DETACHED


def _only_detached(error: BaseException) -> bool:
    if isinstance(error, BaseExceptionGroup):
        return all(_only_detached(part) for part in error.exceptions)
    return isinstance(error, Detached | Runaway)  # the latter has been told


def _is_about(error: SocketkeepError, conn: Exchange) -> bool:
    return error.peer == conn.peer and error.address == conn.local
