"""Handlers that go on though their connection is over for them.

What ends a handler's call is raised in its receives: `Detached`, the end of the server's time, a
reset.  A bare ``except`` takes that for an error like others and asks again, at once and for ever:
its process computes, its seat is taken, its connection is with nobody.  So it is told three times:
by the exception itself, by one that names the handler and is no `Exception`, and then by nothing,
for it is never resumed again.
"""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from socketkeep._base import _log
from socketkeep._base._errors import PeerClosed
from socketkeep._base._tracebacks import is_ours
from socketkeep._stream import _record as record
from socketkeep._stream._lease import Runaway, handling
from socketkeep._stream._lifecycle import State
from socketkeep._stream._shell import Shell
from socketkeep._wire._scoreboard import GOES_ON_TOLD
from socketkeep._worker._environment import Environment

#: So many refused operations are as one receive of a connection that was detached: what a handler
#: does on its way out, or to a connection that the peer has ended, is not all of a loop.
_MANY: Final = 64
#: So many receives at the peer's EOF within so many seconds, and not a byte sent meanwhile, are a
#: loop that does not look at what it is told; who asks now and then may have work elsewhere.
_SPIN: Final = 1000
_SPIN_TIME: Final = 5.0
#: Seconds between two lines of the log.
_TOLD_EVERY: Final = 10.0
#: So many handlers are given up by a worker until it asks to be replaced: each keeps memory.
ENOUGH: Final = 16


@dataclass(slots=True)
class _Spin:
    """Receives at the peer's EOF, since when, and how much the handler had sent then."""

    since: float
    progress: int
    turns: int = 1


class Runaways:
    """The refusals of one worker; `end` gives a handler up.

    spared: how many receives are raised what has ended a wait of theirs that had begun before.
    """

    def __init__(
        self, environment: Environment, end: Callable[[Shell], None], *, spared: int = 0
    ) -> None:
        self._environment = environment
        self._end = end
        self._spared = spared

    def refused(self, conn: Shell, operation: str, error: BaseException) -> BaseException:
        """Return what is raised to the handler, see `Refusals`."""
        if not self._is_of_handler(conn, operation):
            return error
        receives = operation.startswith("recv") or operation == "park"
        return self._strike(
            conn,
            operation,
            error,
            _MANY if receives and conn.core.life.state is State.DETACHED else 1,
        )

    def at_end(self, conn: Shell, operation: str) -> BaseException | None:
        """Return what is raised at the peer's EOF, see `Refusals`."""
        if not self._is_of_handler(conn, operation):
            return None
        now = time.monotonic()
        progress = conn.bytes_sent
        spin: _Spin | None = conn.hooks.spin
        if spin is None or spin.progress != progress or now - spin.since > _SPIN_TIME:
            conn.hooks.spin = _Spin(now, progress)
            return None
        spin.turns += 1
        if spin.turns < _SPIN:
            return None
        error = PeerClosed(operation=operation, address=conn.local, peer=conn.peer)
        raised = self._strike(conn, operation, error, _MANY)
        return raised if raised is not error else None

    def _strike(
        self, conn: Shell, operation: str, error: BaseException, weight: int
    ) -> BaseException:
        hooks = conn.hooks
        before = hooks.refused // _MANY - self._spared
        hooks.refused += weight
        strikes = hooks.refused // _MANY - self._spared
        if strikes < 1:
            return error
        name = self._environment.handler.name
        if before < 1:
            conn.core.record[record.HANDLER_ERRORS] += 1
            self._tell(conn, operation, error)
        if strikes > 1:
            self._end(conn)
        return Runaway(
            f"{name} goes on after {_name(error)}: let that end the call, with `except Exception` "
            "where there is a bare `except`"
        )

    def _is_of_handler(self, conn: Shell, operation: str) -> bool:
        """Return whether the handler itself asks: no broadcast, and no thread of its own."""
        if handling.get() is conn:
            return True
        # A thread or a task that an async handler has receive for it is it.
        return self._environment.model == "async" and operation != "send"

    def _tell(self, conn: Shell, operation: str, error: BaseException) -> None:
        if not self._environment.scoreboard.is_due(GOES_ON_TOLD, _TOLD_EVERY):
            return
        frames = (each for each in reversed(traceback.extract_stack()) if not is_ours(each))
        frame = next(frames, None)
        _log.error(
            "handler goes on without its connection",
            handler=self._environment.handler.name,
            id=conn.id,
            peer=conn.peer,
            operation=operation,
            after=_name(error),
            at=f"{frame.filename}:{frame.lineno}" if frame else "",
            remedy="let Detached and other ends through: except Exception, not a bare except",
        )


def _name(error: BaseException) -> str:
    return f"{type(error).__name__} ({error})"
