"""The outcome of a handler: which exceptions are failures of the code, which the net's."""

from __future__ import annotations

from collections.abc import Coroutine, Iterator
from typing import Final

from socketkeep._base import _log
from socketkeep._base._errors import (
    Closed,
    HandlerError,
    PeerClosed,
    PeerReset,
    SocketkeepError,
    TimedOut,
    Unreachable,
)
from socketkeep._base._tracebacks import users_place, users_traceback
from socketkeep._stream import _record as record
from socketkeep._stream._lease import Runaway
from socketkeep._stream._lifecycle import Detached
from socketkeep._stream._shell import Shell
from socketkeep._worker._entry import Entry

_throttle: Final = _log.Throttle()
#: Of peers that are turned away again and again each reason is told, but not each peer: as with
#: nginx and its like the log of all connections is another one.
_ended_throttle: Final = _log.Throttle(most=10)
_ALERT: Final = 7  # bytes of a record with one
#: What befalls a connection in the ordinary way: of no interest to whoever reads the log.
_NETS: Final = (PeerReset, PeerClosed, Closed, Unreachable)


def note_exception(error: BaseException, conn: Shell, entry: Entry) -> None:
    """Log and count an exception that ended a handler; the connection is then closed by the caller.

    What the peer or the server did to this very connection (reset, EOF, timeout, too long a
    message, no TLS, the end of the graceful time) is no failure of the handler; the same about a
    connection of its own is.  A time limit of the handler's own that it lets pass is its way to
    end.  Of the peer's faults and of such limits one line is told, at info and at a bounded rate: a
    scanner would fill the log with errors that nobody can mend.
    """
    if isinstance(error, SystemExit | Detached):
        return  # sys.exit() in a handler ends that handler
    parts = list(_parts(error))
    if not parts:
        return
    if spoke_tls(conn) and all(
        isinstance(part, SocketkeepError) and _is_about(part, conn) for part in parts
    ):
        return  # `note_tls` says it better
    if all(isinstance(part, _NETS) and _is_about(part, conn) for part in parts):
        _log.debug("handler ended", id=conn.id, peer=conn.peer, error=str(parts[0]))
        return
    reasons = [_ordinary(part, conn) for part in parts]
    if all(reasons):
        told = next(n for n, part in enumerate(parts) if not isinstance(part, _NETS))
        entry.why = reasons[told]
        _ended_throttle.info(
            "handler ended",
            kind=reasons[told],
            id=conn.id,
            peer=conn.peer,
            error=str(parts[told]) or reasons[told],
            at=users_place(parts[told]),
        )
        return
    entry.why = "the handler failed"
    entry.record[record.HANDLER_ERRORS] += 1
    _log.error("handler failed", id=conn.id, peer=conn.peer, traceback=users_traceback(error))


def is_failure(error: BaseException, conn: Shell) -> bool:
    """Return whether it is an `Exception`, and what `note_exception` calls the code's failure."""
    parts = [part for part in _parts(error) if isinstance(part, Exception)]
    if spoke_tls(conn) and all(isinstance(part, SocketkeepError) for part in parts):
        return False
    return not all(_ordinary(part, conn) for part in parts)


def spoke_tls(conn: Shell) -> bool:
    """Return whether the peer began TLS, and nothing came of it.

    A handler may speak TLS by itself, or pass it on: then more comes than the alert by which a
    client gives up, RFC 8446, section 6.
    """
    core = conn.core
    hello = core.client_hello
    return bool(hello) and core.record[record.BYTES_IN] <= hello + _ALERT and conn.tls is None


def note_tls(conn: Shell, entry: Entry) -> None:
    """Say at a bounded rate that the peer spoke TLS to a listener that has none, if it did."""
    if not spoke_tls(conn):
        return
    entry.why = "the peer spoke TLS, which this listener has not"
    _throttle.info(
        "TLS on a plain listener",
        kind="TLS on a plain listener",
        id=conn.id,
        peer=conn.peer,
        listener=conn.listener,
    )


def _parts(error: BaseException) -> Iterator[BaseException]:
    """Return what an exception says, the parts of groups one by one, without what is no news."""
    if isinstance(error, BaseExceptionGroup):
        for part in error.exceptions:
            yield from _parts(part)
    elif not isinstance(error, Detached | Runaway):  # the latter has been told
        yield error


def _ordinary(error: BaseException, conn: Shell) -> str:
    """Return why a connection ends by what is no failure of the handler; "" when it is one."""
    if type(error) is TimeoutError and not error.args:
        # As asyncio.timeout, wait_for and their like raise it.  The system's own has an errno.
        return "the handler's time limit passed"
    if isinstance(error, SocketkeepError) and _is_about(error, conn):
        if isinstance(error, TimedOut):
            return "the peer took too long"
        if isinstance(error, _NETS):
            return conn.why_over()
        if not error.operation.startswith("send"):  # there it is the handler's own message
            return error.peers_fault
    return ""


def note_end(conn: Shell, entry: Entry) -> None:
    """Note for the access log what the connection is called, and why it ends.

    When its handler has ended.
    """
    if conn.registration is not None:
        entry.name, entry.labels = conn.name, dict(conn.labels)
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


def was_detached(conn: Shell) -> bool:
    """Return whether the connection has left its handler, however the handler took it."""
    return conn.core.record[record.ENDED] == record.DETACHED


def _is_about(error: SocketkeepError, conn: Shell) -> bool:
    return error.peer == conn.peer and error.address == conn.local
