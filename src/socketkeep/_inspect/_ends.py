"""`fin` and `abort`: end a connection from outside, whoever holds it, and kill nobody."""

from __future__ import annotations

import errno
import socket
from typing import Final, Literal, TypeAlias

from msgspec import Struct

from socketkeep._inspect._borrowing import borrowed
from socketkeep._inspect._diagnosis import subject_of
from socketkeep._inspect._results import HeldSocket
from socketkeep._inspect._rights import missing_right
from socketkeep._inspect._survey import holders
from socketkeep._inspect._what import own_ends, parse_what
from socketkeep._stream._closing import reset

Verb: TypeAlias = Literal["fin", "abort"]

_FIN_CAN_BE_SENT: Final = frozenset({"ESTABLISHED", "CLOSE_WAIT"})
_NEVER_CONNECTED: Final = frozenset({"CLOSED", "LISTEN", ""})


class Outcome(Struct, frozen=True):
    """The end of one socket.

    Attributes:
        subject: The socket.
        done: Whether it was ended.
        reason: The reason why it was not, "" when it was.
    """

    subject: str
    done: bool
    reason: str = ""


class Chosen(Struct, frozen=True):
    """The sockets that a verb would act on, and those that it would leave alone.

    Attributes:
        sockets: Those that it would act on.
        left: Those that it would leave alone, with the reason.
    """

    sockets: tuple[HeldSocket, ...]
    left: tuple[Outcome, ...]


def choose(what: str, verb: Verb) -> Chosen:
    """Return the connections that `what` names, as `holders` takes it, and that can be ended.

    Of an address those that have it as their own; if there are none, those whose peer has it.
    Listeners are left alone, and what no process holds.

    Args:
        what: An address, a pid, or ``pid:fd``.
        verb: "fin" or "abort".

    Raises:
        SocketkeepError: What `holders` raises.
    """
    sockets, left = [], []
    for held in own_ends(parse_what(what), holders(what).sockets):
        reason = _hindrance(held, verb)
        if reason:
            left.append(Outcome(subject_of(held), False, reason))
        else:
            sockets.append(held)
    return Chosen(tuple(sockets), tuple(left))


def fin(held: HeldSocket) -> Outcome:
    """End the sending of a connection, whoever holds it: the peer gets FIN after all that was sent.

    A handle is borrowed for it from a holder (pidfd_getfd(2)), which needs the right to trace that
    process: the same user, or root.  The holders keep their descriptors; a send in them fails with
    EPIPE, they can receive.  Never raises OSError: the outcome says why it was not done.

    Args:
        held: The socket, as `choose` has found it.
    """
    return _end(held, "fin")


def abort(held: HeldSocket) -> Outcome:
    """Reset a connection at once, whoever holds it: the peer gets RST, what was on its way is lost.

    On a Unix socket, which has no RST, the peer gets EOF.  The holders keep their descriptors, and
    find that the connection has ended.  Otherwise as `fin`.

    Args:
        held: The socket, as `choose` has found it.
    """
    return _end(held, "abort")


def _end(held: HeldSocket, verb: Verb) -> Outcome:
    reason = _hindrance(held, verb)
    if not reason:
        try:
            with borrowed(held) as sock:
                if verb == "fin":
                    sock.shutdown(socket.SHUT_WR)
                else:
                    reset(sock)
        except OSError as error:
            reason = _reason(error, held)
    return Outcome(subject_of(held), not reason, reason)


def _hindrance(held: HeldSocket, verb: Verb) -> str:
    if held.kind not in ("tcp", "unix"):
        return f"it is no connection but a {held.kind or 'socket of unknown kind'} socket"
    if held.state == "LISTEN":
        return "it is a listener, and would end for every process that has it: stop its server"
    if held.state in _NEVER_CONNECTED:
        return "it is not connected"
    if not held.holders:
        hint = f" (ss -K src {held.local} dst {held.peer})" if held.kind == "tcp" else ""
        return f"no handle can be borrowed: {held.note}{hint}"
    if verb == "fin" and (held.shut in ("send", "both") or held.state not in _FIN_CAN_BE_SENT):
        return "its FIN has been sent already" if held.shut else f"it is in state {held.state}"
    return ""


def _reason(error: OSError, held: HeldSocket) -> str:
    if error.errno == errno.EPERM:
        return missing_right(min(holder.pid for holder in held.holders))
    if error.errno == errno.ENOTCONN:
        return "it has ended meanwhile"
    return error.strerror or str(error)
