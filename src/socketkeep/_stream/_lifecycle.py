"""The life of a connection in this process: one table of transitions, no I/O.

The table is also the only source of refusals: `Lifecycle.refusal` says why a verb is not possible
any more.  News that the table does not have for a state changes nothing: it comes late, about a
connection that has ended otherwise.
"""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING, Final

from socketkeep import _native
from socketkeep._base._errors import Closed, PeerReset, Released, SocketkeepError
from socketkeep._stream._record import Ended


class Detached(BaseException):
    """The connection has left this worker; the handler is called again in the next one.

    Raised by a receive at a safe point.  It is not an `Exception`, so that ``except Exception``
    lets it through; ``finally`` blocks run.
    """


class State(Enum):
    """The stage of a connection's life."""

    __hash__ = object.__hash__  # an enumeration's own is a call of Python's, at each step

    OPEN = "open"
    WRITE_ENDED = "write ended"
    PEER_ENDED = "peer ended"
    BOTH_ENDED = "both ended"
    STOPPED = "stopped"  # a limit of the server's, or a failure of TLS: only to be closed
    RESET = "reset"
    DETACHED = "detached"
    RELEASED = "released"
    CLOSED = "closed"


class LifecycleEvent(Enum):
    """An event in its life."""

    __hash__ = object.__hash__

    END_WRITING = "end writing"  # send_eof or shutdown
    PEER_EOF = "EOF received"
    STOP = "stop"  # see STOPPED
    RESET_BY_PEER = "reset received"
    DETACH = "detach"  # to another worker, or to be parked
    RELEASE = "release"  # by release or give, or in a forked child
    CLOSE = "close"  # by close or abort


#: The states that are no end, by whether this side's writing has ended, and the peer's.
_STILL_ALIVE: Final = {
    (False, False): State.OPEN,
    (True, False): State.WRITE_ENDED,
    (False, True): State.PEER_ENDED,
    (True, True): State.BOTH_ENDED,
}
_ALIVE: Final = tuple(_STILL_ALIVE.values())

TRANSITIONS: Final[dict[tuple[State, LifecycleEvent], State]] = {
    (State.OPEN, LifecycleEvent.END_WRITING): State.WRITE_ENDED,
    (State.OPEN, LifecycleEvent.PEER_EOF): State.PEER_ENDED,
    (State.WRITE_ENDED, LifecycleEvent.PEER_EOF): State.BOTH_ENDED,
    (State.PEER_ENDED, LifecycleEvent.END_WRITING): State.BOTH_ENDED,
    **{
        (state, LifecycleEvent.STOP): State.STOPPED
        for state in (*_ALIVE, State.STOPPED, State.RESET)
    },
    **{(state, LifecycleEvent.RESET_BY_PEER): State.RESET for state in (*_ALIVE, State.STOPPED)},
    # What came before a reset can still be read, in the next worker as in this one.
    **{(state, LifecycleEvent.DETACH): State.DETACHED for state in (*_ALIVE, State.RESET)},
    **{
        (state, LifecycleEvent.RELEASE): State.RELEASED
        for state in (*_ALIVE, State.STOPPED, State.RESET)
    },
    (State.DETACHED, LifecycleEvent.RELEASE): State.RELEASED,  # in a forked child
    **{
        (state, LifecycleEvent.CLOSE): State.CLOSED
        for state in (*_ALIVE, State.STOPPED, State.RESET)
    },
}

#: What the connection's record says of what has happened.
RECORDED: Final[dict[LifecycleEvent, Ended]] = {
    LifecycleEvent.RESET_BY_PEER: Ended.RESET,
    LifecycleEvent.DETACH: Ended.DETACHED,
    LifecycleEvent.RELEASE: Ended.RELEASED,
    LifecycleEvent.CLOSE: Ended.CLOSED,
}

_DETACHED: Final = "the connection was detached from this worker"
_LEFT: Final = (
    "refused: the connection was detached from this worker, and its handler is called again in the "
    "next one"
)
_NO_MORE_SENDING: Final = "refused: this side has ended its sending"
_ENDED: Final = "ended: "
_WHY: Final = {
    Ended.RESET: "reset by the peer",
    Ended.DETACHED: "moved to another worker",
    Ended.RELEASED: "released by the handler",
}


class Flags:
    """The flags of the state that are asked most often, and its end; see `Lifecycle`."""

    __slots__ = ("_end", "_error", "over", "peer_ended", "sends", "write_ended")

    def __init__(self) -> None:
        self.over = self.peer_ended = self.write_ended = False
        self.sends = True
        self._end: State | None = None
        self._error: SocketkeepError | None = None


if TYPE_CHECKING:
    _Flags = Flags
else:
    _Flags = _native.compiled_or(Flags, "Flags")


class Lifecycle(_Flags):
    """The state of one connection, and what follows from it.

    peer_ended, write_ended: what had happened before it was over.  over: no operation is possible
    any more, but to let go.  sends: a send is possible.  Each changes once, never back, and an end
    is one attribute of its own: so a thread that learns of EOF cannot undo what another that closes
    has said.
    """

    __slots__ = ()

    @property
    def state(self) -> State:
        """Return where it is."""
        return self._end or _STILL_ALIVE[self.write_ended, self.peer_ended]

    def step(self, event: LifecycleEvent, error: SocketkeepError | None = None) -> bool:
        """Go where the table says; return False where it says nothing.

        error: what the operations that follow are refused with, a new one each time; needed with
        STOP alone.
        """
        state = self._end or _STILL_ALIVE[self.write_ended, self.peer_ended]
        after = TRANSITIONS.get((state, event))
        if after is None:
            return False
        if event is LifecycleEvent.PEER_EOF:
            self.peer_ended = True
        elif event is LifecycleEvent.END_WRITING:
            self.write_ended = True
            self.sends = False
        else:
            self._error = error
            self._end = after
            self.sends = False
            self.over = True
        return True

    def refusal(self, operation: str) -> SocketkeepError | Detached | None:
        """Return why `operation` is not possible, None where it is.

        What it says of the operation is for the caller to add.
        """
        sends = operation == "send"
        match self.state:
            case State.OPEN | State.PEER_ENDED:
                return None
            case State.WRITE_ENDED | State.BOTH_ENDED:
                return Closed(_NO_MORE_SENDING) if sends else None
            case State.DETACHED:
                return Released(_LEFT) if sends else Detached(_DETACHED)
            case State.RESET:
                return PeerReset()
            case State.RELEASED:
                return Released("" if self._error is None else self._error.reason)
            case State.CLOSED:
                return Closed()
            case State.STOPPED:
                assert self._error is not None
                return self._error

    def why_over(self, recorded: Ended) -> str:
        """Return in words why the connection is at its end, of which its record says `recorded`."""
        if recorded in _WHY:
            return _WHY[recorded]
        if self._error is not None and self._error.reason.startswith(_ENDED):
            return self._error.reason.removeprefix(_ENDED)
        return "the peer ended it" if self.peer_ended else "the handler ended it"
