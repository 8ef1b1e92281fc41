"""The errors of the library: one family, and the one place where an `OSError` becomes a member.

Each error is also the standard exception that its users catch already, and carries what a log line
needs: which operation, on which connection, how long it took and how many bytes had been done.
"""

from __future__ import annotations

import errno
import socket
from typing import Any, ClassVar, Final, TypedDict, Unpack

_RECEIVES: Final = ("recv", "lines", "frames", "netstrings")
_PREPOSITIONS: Final = dict.fromkeys(_RECEIVES, "from") | {"send": "to", "connect": "to"}
_PARTICIPLES: Final = dict.fromkeys(_RECEIVES, "received") | {"send": "sent"}


class Context(TypedDict, total=False):
    """The facts of an operation that failed; the meanings stand in `SocketkeepError`."""

    operation: str
    address: str
    peer: str
    elapsed: float | None
    limit: float | None
    bytes_done: int
    bytes_wanted: int | None


class SocketkeepError(Exception):
    """Anything that Socketkeep itself raises, but for `Detached`.

    Errors of this family can be pickled.

    Attributes:
        operation: The operation ("recv_exactly", "send", "listen", ...), "" when it was nothing
            with a socket.
        address: This side's address as text, "" when not known.
        peer: The other side's address as text, "" when not known.
        elapsed: Seconds since the operation began, None where time played no part.
        limit: The seconds that it was given, None where time played no part.
        bytes_done: The bytes of the operation that had been done.  They are not lost: what was
            received is still in the buffer, what was sent is sent.
        bytes_wanted: The bytes that it was asked for, None when it has no fixed number.
        remedy: The thing to do about errors of this class, in Markdown.
        peers_fault: The deed of the peer, in words, where an error of this class says nothing
            against the code that receives, else "".
    """

    default_reason: ClassVar[str] = "failed"
    remedy: ClassVar[str] = "Read the text: it says what to do."
    peers_fault: ClassVar[str] = ""

    def __init__(self, reason: str = "", **context: Unpack[Context]) -> None:
        self.reason: str = reason or self.default_reason
        super().__init__(self.reason)
        self.operation: str = context.get("operation", "")
        self.address: str = context.get("address", "")
        self.peer: str = context.get("peer", "")
        self.elapsed: float | None = context.get("elapsed")
        self.limit: float | None = context.get("limit")
        self.bytes_done: int = context.get("bytes_done", 0)
        self.bytes_wanted: int | None = context.get("bytes_wanted")

    def __str__(self) -> str:
        if not self.operation:
            return self.reason
        verb = self.operation.partition("_")[0]
        other = self.peer or self.address
        text = self.operation
        if other:
            text += f" {_PREPOSITIONS.get(verb, 'on')} {other}"
        text += f" {self.reason}"
        if self.limit is not None and self.elapsed is not None:
            text += f" after {self.elapsed:.2f} s (limit {self.limit:g} s)"
        participle = _PARTICIPLES.get(verb)
        if participle and self.bytes_wanted is not None:
            text += f", {self.bytes_done} of {self.bytes_wanted} bytes {participle}"
        elif participle and self.bytes_done:
            text += f", {self.bytes_done} bytes {participle}"
        return text

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self), self.reason, self.__dict__)


class SystemFailure(SocketkeepError, OSError):
    """The part of the family that is also an OSError: `errno` says what the system said, if it did.

    Raised as itself when the system refuses for a reason that has no class of its own.
    """

    default_errno: ClassVar[int] = 0
    remedy = "See errno(3) for what `errno` means, and the operation's manual page for why."

    def __init__(
        self, reason: str = "", *, code: int | None = None, **context: Unpack[Context]
    ) -> None:
        super().__init__(reason, **context)
        self.errno: int = self.default_errno if code is None else code
        self.strerror: str = self.reason

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self), self.reason, self.__dict__, self.errno)


def _rebuild(
    kind: type[SocketkeepError], reason: str, fields: dict[str, Any], code: int | None = None
) -> SocketkeepError:
    error = kind(reason)
    error.__dict__.update(fields)
    if isinstance(error, SystemFailure) and code is not None:
        error.errno = code
    return error


# By the limits the caller set.


class WouldBlock(SystemFailure, BlockingIOError):
    """The operation cannot finish now and the mode says not to wait.  Calling it again goes on."""

    default_reason = "would block"
    default_errno: ClassVar[int] = errno.EAGAIN
    remedy = (
        "Call it again when the socket is ready, or give it time: a `Timeout`, or `Blocking()`."
    )


class TimedOut(SystemFailure, TimeoutError):
    """The operation did not finish within its limit.  Calling it again goes on: nothing is lost."""

    default_reason = "timed out"
    default_errno: ClassVar[int] = errno.ETIMEDOUT
    remedy = (
        "Call it again to go on, with more time if the peer is only slow; or `close` the "
        "connection."
    )


class LimitExceeded(SocketkeepError, ValueError):
    """A message is longer than its bound.  What came of it is still unread, none of it is sent."""

    default_reason = "failed: the message is longer than its bound"
    peers_fault = "the peer's message is longer than its bound"
    remedy = (
        "Raise `max` if such messages are meant to come; otherwise the peer does not keep to "
        "the protocol: `close` the connection."
    )


# By the peer, or the network.


class Malformed(SocketkeepError, ValueError):
    """The peer sent no message of the kind that was asked for.  The bytes are still unread."""

    default_reason = "failed: the message is malformed"
    peers_fault = "the peer's message is malformed"
    remedy = (
        "Look at `unread`: the peer speaks another protocol, or an earlier message was read "
        "wrongly. The stream cannot be picked up again: `close` the connection."
    )


class PeerClosed(SystemFailure, BrokenPipeError, EOFError):
    """The peer ended the connection where more was expected of it, or takes no more bytes."""

    default_reason = "failed: the peer closed the connection"
    default_errno: ClassVar[int] = errno.EPIPE
    remedy = "Nothing more will come, or can be sent: deal with what is in `unread`, and `close`."


class Truncated(PeerClosed):
    """A TLS connection's EOF came without the peer's word that it is the end (close_notify).

    The peer was cut short, or somebody between cut it short: what came may not be all.
    """

    default_reason = "failed: the peer's bytes ended without the end of TLS: some may be missing"
    remedy = (
        "Trust only messages that are whole by their own framing. Some peers never send "
        "close_notify; where the protocol says itself what is whole, this is a plain EOF."
    )


class PeerReset(SystemFailure, ConnectionResetError):
    """The peer, or something between, reset the connection.  Bytes on their way are lost."""

    default_reason = "failed: the peer reset the connection"
    default_errno: ClassVar[int] = errno.ECONNRESET
    remedy = (
        "Connect anew, and do again what the peer has not confirmed. A peer resets when it "
        "dies, when it closes with unread bytes, and when a firewall has forgotten the "
        "connection."
    )


class Refused(SystemFailure, ConnectionRefusedError):
    """Nobody listens at the address."""

    default_reason = "was refused: nobody listens there"
    default_errno: ClassVar[int] = errno.ECONNREFUSED
    remedy = (
        "See whether the server runs, and listens at this address: `ss -ltn`, `socketkeep "
        "listeners`."
    )


class Unreachable(SystemFailure):
    """The network says that the peer cannot be reached."""

    default_reason = "failed: the peer cannot be reached"
    default_errno: ClassVar[int] = errno.EHOSTUNREACH
    remedy = (
        "See whether the address is right, and whether there is a route to it: `ip route get "
        "ADDRESS`."
    )


class Unresolved(SystemFailure, socket.gaierror):
    """The name has no address, or no name server could tell.  `errno` is a code of socket.EAI_*."""

    default_reason = "failed: the name cannot be resolved"
    default_errno: ClassVar[int] = socket.EAI_NONAME
    remedy = "See whether the name is written right, and what `getent ahosts NAME` says."


# By this side.


class Closed(SystemFailure):
    """This side has ended the connection: by `close` or `abort`, or a limit of the server's."""

    default_reason = "failed: the connection was closed by this side"
    default_errno: ClassVar[int] = errno.EBADF
    remedy = (
        "Do not use a connection after `close` or `abort`. If the text names a limit of the "
        "server's, raise that."
    )


class Released(SystemFailure):
    """This process let go of the connection: by `release`, or because it was detached."""

    default_reason = "failed: this process has released the connection"
    default_errno: ClassVar[int] = errno.EBADF
    remedy = (
        "Do not use a connection after `release`, nor in a forked child that was not given "
        "it: `fork(give=[conn])`, or `inherit = True`."
    )


class Busy(SocketkeepError, RuntimeError):
    """Two tasks or threads receive from one connection at once; each byte can go to one only."""

    default_reason = "refused: another receive on this connection is not finished"
    remedy = "Let one task or thread receive and pass on what it gets, or give each a connection."


class NotCommitted(SocketkeepError, RuntimeError):
    """The message at hand has to be committed first: it could not be gone on from, or named.

    For `park`, `start_tls` in the server's edge, and `received`.
    """

    default_reason = (
        "refused: the handler has sent, or received more than the replay limit, since its last "
        "commit: commit first"
    )
    remedy = "Call `conn.commit()` when the message is dealt with, and then `conn.park()`."


class StateTooLarge(SocketkeepError, ValueError):
    """The state given to `commit` encodes to more than the limit.  Nothing was committed."""

    remedy = "Commit what identifies the state, a key, and keep the rest elsewhere."


class StateNotEncodable(SocketkeepError, TypeError):
    """The state given to `commit` is not made of what msgspec encodes.  Nothing was committed."""

    remedy = "Commit numbers, text, bytes, lists, dicts, dataclasses or `msgspec.Struct`s."


class StateMismatch(SocketkeepError, ValueError):
    """The committed state does not decode to the type that the handler names."""

    remedy = (
        "Give new fields of the state's type a default, and do not change the type of an old one."
    )


class HandlerError(SocketkeepError, TypeError):
    """An object given as a handler is not one; the text says why."""

    remedy = "Give a function of one connection, or a `Service` with one."


class AddressError(SocketkeepError, ValueError):
    """An address is not written as it should be; the text says how."""

    remedy = "Write `host:port`, `[::1]:port` or `unix:/path`; a listener also takes `fd://N`."


class ListenError(SystemFailure):
    """The address cannot be listened on; the text says why, and names the address."""

    remedy = (
        "Do as the text says: mostly another process listens there (`ss -ltnp`), or the port "
        "needs a privilege."
    )


class OutOfResources(SystemFailure):
    """The process or the system is out of descriptors or memory; the same call may work later."""

    default_reason = "failed: out of file descriptors or memory"
    default_errno: ClassVar[int] = errno.EMFILE
    remedy = (
        "Close what is not needed, raise the limit (`ulimit -n`, `LimitNOFILE=`), and try "
        "again later."
    )


ANY: Final = "*"

#: (errno, operation) -> the error to raise.  An operation's own row goes before `ANY`.
TABLE: Final[dict[tuple[int, str], type[SystemFailure]]] = {
    (errno.EAGAIN, ANY): WouldBlock,
    (errno.EWOULDBLOCK, ANY): WouldBlock,
    (errno.EAGAIN, "fork"): OutOfResources,
    (errno.EINPROGRESS, "connect"): WouldBlock,
    (errno.EALREADY, "connect"): WouldBlock,
    (errno.ETIMEDOUT, ANY): TimedOut,
    (errno.ECONNRESET, ANY): PeerReset,
    (errno.ECONNABORTED, ANY): PeerReset,
    (errno.ENETRESET, ANY): PeerReset,
    (errno.EPIPE, ANY): PeerClosed,
    (errno.ESHUTDOWN, ANY): PeerClosed,
    (errno.ENOTCONN, ANY): PeerClosed,
    (errno.ECONNREFUSED, ANY): Refused,
    (errno.EHOSTUNREACH, ANY): Unreachable,
    (errno.ENETUNREACH, ANY): Unreachable,
    (errno.ENETDOWN, ANY): Unreachable,
    (errno.EHOSTDOWN, ANY): Unreachable,
    (errno.EBADF, ANY): Closed,
    (errno.ENOTSOCK, ANY): Closed,
    (errno.EMFILE, ANY): OutOfResources,
    (errno.ENFILE, ANY): OutOfResources,
    (errno.ENOBUFS, ANY): OutOfResources,
    (errno.ENOMEM, ANY): OutOfResources,
}

#: What the system says when it has no descriptor or memory, whatever was asked of it.
OUT_OF_RESOURCES: Final = frozenset(
    code for (code, operation), kind in TABLE.items() if kind is OutOfResources and operation == ANY
)


def translate(error: OSError, **context: Unpack[Context]) -> SystemFailure:
    """Return the error of the family that stands for `error` in the operation of `context`.

    The one boundary: nothing else in the library turns a system error into one of its own.
    """
    if isinstance(error, SystemFailure):  # of TLS, which says what went wrong, but not where
        return type(error)(error.reason, code=error.errno, **context)
    code = error.errno or 0
    operation = context.get("operation", "")
    kind = TABLE.get((code, operation)) or TABLE.get((code, ANY))
    if kind is None:
        return SystemFailure(f"failed: {error.strerror or error}", code=code, **context)
    return kind(code=code, **context)
