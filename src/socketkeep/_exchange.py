"""What a sync and an async connection have in common: all but the waiting.

The state of one connection in one worker: what was received and sent since the last commit, what
the scoreboard shows of it, whether it may be detached, and why it takes no more operations.
"""

from __future__ import annotations

import socket
from contextlib import AbstractContextManager
from time import monotonic_ns
from types import EllipsisType
from typing import TYPE_CHECKING, Any, Final, Never

from socketkeep._address import local_text, peer_text
from socketkeep._assignment import Assignment, Attached, Detached, Handover
from socketkeep._buffer import ReceiveBuffer
from socketkeep._committed import pack_state, unpack_state
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
from socketkeep._forking import Fate, drop, own
from socketkeep._holding import Held
from socketkeep._record import (
    ACTIVE_AT,
    BYTES_IN,
    BYTES_OUT,
    ENDED,
    STATUS,
    Ended,
    Status,
    blank_record,
)

if TYPE_CHECKING:  # ssl is for who uses it
    import ssl

    from socketkeep._tls import TlsSocket

#: A resumable handler that received this often and never committed is warned of.
NEVER_COMMITTED: Final = 1000
#: One system call receives at most this much, and more where a larger message is asked for.
CHUNK: Final = 65536
LARGE_CHUNK: Final = 262144

# As plain numbers: an enumeration's members cost more to look up than all else where they are used.
CLEAN: Final = int(Status.CLEAN)
READ: Final = int(Status.READ)
SENT: Final = int(Status.SENT)

# What a recv(2), or a wait for input, ended with.
NOTHING: Final = 0
ARRIVED: Final = 1
LOOK_AGAIN: Final = 2  # the connection has ended, or the server has said something
EOF: Final = 3
TIMED_OUT: Final = 4

_FAMILIES_WITH_NODELAY: Final = (socket.AF_INET, socket.AF_INET6)
_ENDED: Final = "ended: "
_WHY: Final = {
    Ended.RESET: "reset by the peer",
    Ended.DETACHED: "moved to another worker",
    Ended.RELEASED: "released by the handler",
}
_warned: Final[set[str]] = set()

#: The record of all connections that a forked child let go of; nobody writes to it.
_LET_GO: Final = blank_record()
_LET_GO[ENDED] = Ended.RELEASED


class Exchange(Held):
    """The base of `Connection` and `AsyncConnection`.  Not for use on its own."""

    __slots__ = (
        "__weakref__",
        "_assignment",
        "_buffer",
        "_committed",
        "_decoded",
        "_detached",
        "_eof",
        "_failure",
        "_fd",
        "_inherit",
        "_local",
        "_over",
        "_peer",
        "_pushes",
        "_receives",
        "_record",
        "_sent",
        "_sock",
        "_taken",
        "_tls",
        "_write_ended",
    )

    def __init__(self, sock: socket.socket, *, assignment: Assignment | None = None) -> None:
        sock.setblocking(False)
        if sock.family in _FAMILIES_WITH_NODELAY:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._assignment = assigned = assignment or Assignment()
        self._sock = sock
        self._fd = sock.fileno()
        self._record = record = assigned.record
        self._buffer = ReceiveBuffer(retain=assigned.resumable, replay_limit=assigned.replay_limit)
        self._committed: bytes | None = assigned.state
        self._decoded: Any = ...
        self._peer = peer_text(sock)
        self._local = ""
        self._eof = False  # the peer's EOF has been received
        self._failure: OSError | None = None  # a failed recv(2) that no receive has raised yet
        self._write_ended = False  # send_eof or shutdown has been called
        self._over: SocketkeepError | None = None  # why no operation is possible any more
        self._detached = False
        self._sent = False  # the handler has sent since its last commit
        self._pushes = 0  # sends from elsewhere that are going out
        self._taken = False  # bytes have left the kernel since the last commit
        self._receives = 0  # -1: a commit has been seen
        record[ACTIVE_AT] = monotonic_ns()
        if assigned.unread:
            self._buffer.feed(assigned.unread)
            self._taken = True
            record[STATUS] = READ
        self._inherit = False
        self._tls: TlsSocket | None = None  # the socket, once start_tls has been called
        own(self)

    def __reduce__(self) -> Never:
        raise TypeError(
            f"a {type(self).__name__} cannot be pickled: pass it to another process with "
            "conn.give(channel), and get it there with take(channel)"
        )

    def __repr__(self) -> str:
        state = "" if self._over is None else f" {Ended(self.ended).name.lower()}"
        return f"<{type(self).__name__} {self.id or self._fd} peer={self._peer}{state}>"

    @property
    def id(self) -> str:
        """The connection's id in the server's logs and commands, "" without a server."""
        return self._assignment.id

    @property
    def peer(self) -> str:
        """The peer's address: ``10.0.0.7:4242``, ``[::1]:4242``, ``unix:pid=1234``."""
        return self._peer

    @property
    def local(self) -> str:
        """This side's address, in the same forms."""
        if not self._local:
            self._local = local_text(self._sock)
        return self._local

    @property
    def listener(self) -> str:
        """The address of the listener that accepted the connection, "" without a server."""
        return self._assignment.listener

    @property
    def attached(self) -> Attached:
        """Why the handler is called: "accepted", "reload", "parked", "upgrade" or "crash"."""
        return self._assignment.attached

    @property
    def state(self) -> Any:
        """What the last commit left, a copy decoded to the type that the handler names.

        None on a connection on which nothing was committed.  Raises StateMismatch when what an
        earlier version of the code committed does not fit the type.
        """
        if isinstance(self._decoded, EllipsisType):
            packed = self._committed
            of_type = self._assignment.state_type
            self._decoded = None if packed is None else unpack_state(packed, of_type)
        return self._decoded

    @property
    def unread(self) -> bytes:
        """A copy of the bytes that were received and no receive has returned yet."""
        return self._buffer.unread

    @property
    def ended(self) -> Ended:
        """How the connection ended for this process; `Ended.NOT_YET` while it is open."""
        return Ended(self._record[ENDED])

    @property
    def tls(self) -> ssl.SSLObject | None:
        """What is known of TLS (version, cipher, certificate, ALPN); None without it.

        To be asked, not to be used: reading, writing and the handshake are the connection's.
        """
        return None if self._tls is None else self._tls.engine.object

    def _tls_ended(self) -> None:
        """Note the peer's close_notify, which need not be followed by EOF."""
        self._eof = True

    def fileno(self) -> int:
        """Return the descriptor's number, -1 once it is closed.

        It is non-blocking.  Reading from it directly misses what is in `unread`.
        """
        return self._sock.fileno()

    def commit(self, state: object = None) -> None:
        """Say that all received so far is dealt with, and that `state` is what to go on from.

        state: anything msgspec encodes, at most 64 KiB encoded.  It is encoded now: later changes
        to the object do not count.  None, the default, leaves no state: `conn.state` is None in
        the next call.

        Raises StateTooLarge or StateNotEncodable; then nothing is committed.
        """
        packed = None if state is None else pack_state(state)
        self._committed = packed
        self._decoded = ...
        self._receives = -1
        self._buffer.commit()
        self._sent = False
        self._taken = taken = self._buffer.size > 0
        self._record[STATUS] = READ if taken else CLEAN
        if self._pushes:
            self._show_status()

    def _show_status(self) -> None:
        """Write the status to the scoreboard, when pushes may be going out.

        A thread that pushes writes it too.  Each looks again after it has written, so that the
        last to write has seen what the others changed.
        """
        while True:
            status = CLEAN
            if self._sent or self._pushes:
                status = SENT
            elif self._taken:
                status = READ
            self._record[STATUS] = status
            if status == (SENT if self._sent or self._pushes else READ if self._taken else CLEAN):
                return

    def _taking(self) -> None:
        """Note, before a system call takes bytes from the kernel, that it does.

        Before, so that a crash between the two is not taken for clean.
        """
        if not self._taken:
            self._taken = True
            if not self._sent:
                self._record[STATUS] = READ
                if self._pushes:
                    self._show_status()

    def _took_nothing(self) -> None:
        """Take back `_taking`: no byte came."""
        if self._buffer.untouched:
            self._taken = False
            self._show_status()

    def _take_in(self, size: int) -> int:
        """Receive what is there, up to `size` bytes, into the buffer: the one recv(2) there is.

        Returns NOTHING when nothing is there, ARRIVED, or LOOK_AGAIN: then `_eof` or `_failure` is
        set.
        """
        if not self._taken:
            self._taking()
        try:
            data = self._sock.recv(size)
        except (BlockingIOError, InterruptedError):
            self._took_nothing()
            return NOTHING
        except OSError as error:
            self._took_nothing()
            self._failure = error
            return LOOK_AGAIN
        if not data:
            self._took_nothing()
            self._eof = True
            return LOOK_AGAIN
        self._buffer.feed(data)
        record = self._record
        record[BYTES_IN] += len(data)
        record[ACTIVE_AT] = monotonic_ns()
        if self._receives >= 0:
            self._receives += 1
            if self._receives == NEVER_COMMITTED:
                self._warn_of_no_commit()
        return ARRIVED

    def _raise_failure(self, operation: str) -> None:
        """Raise what `_take_in` met."""
        failure, self._failure = self._failure, None
        if failure is not None:
            raise self._failed(failure, operation, self._buffer.size) from failure

    def _warn_of_no_commit(self) -> None:
        # With only receives it may be a sink; whoever answers and never commits has forgotten it.
        listener = self._assignment.listener
        if not (self._assignment.resumable and self._sent) or listener in _warned:
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
        return free and not self._sent and not self._buffer.overflowed

    def _closable(self) -> bool:
        """Whether nothing would be lost by closing, as far as this side knows."""
        return self._assignment.resumable and not self._sent and self._buffer.untouched

    def _leave(self) -> None:
        """Mark the connection detached: from here on no byte is received or sent."""
        self._detached = True
        self._over = Released(
            "refused: the connection was detached from this worker, and its handler is called "
            "again in the next one"
        )
        self._record[ENDED] = Ended.DETACHED

    def hand_over(self) -> Handover:
        """Return all that the next worker needs.  For the server, after `Detached`."""
        return Handover(sock=self._sock, state=self._committed, unread=self._buffer.replay())

    def _refusal(self, operation: str) -> BaseException:
        """Return the exception for an operation on a connection that is over."""
        over = self._over
        assert over is not None
        if self._detached and operation != "send":
            return Detached("the connection was detached from this worker")
        return type(over)(over.reason, **self._context(operation))

    @property
    def inherit(self) -> bool:
        """Whether forked children keep the connection; by default they let go of it.

        Where they do, each process has a handle, a mode and unread bytes of its own; the connection
        ends when one says `close` or all have let go.  A program that is executed has nothing of
        it, `inherit` or not: `subprocess` passes descriptors with ``pass_fds``.
        """
        return self._inherit

    @inherit.setter
    def inherit(self, inherit: bool) -> None:
        self._inherit = inherit

    def _after_fork(self, fate: Fate, why: Released) -> socket.socket | None:
        """In a forked child: let go of the descriptor, or be fit for use here."""
        if (fate != "none" or self._inherit) and not self._detached:
            self._pushes = 0
            if self._tls is not None:
                self._pushes = 1
                self._tls.reset_after_fork()
            self._reset_after_fork()
            return self._sock
        drop(self._sock)
        self._record = _LET_GO  # its own is memory that the parent goes on writing
        self._over = why
        self._reset_after_fork()
        return None

    def _claimed(self, operation: str) -> AbstractContextManager[None]:
        raise NotImplementedError

    def _give_up(self, reason: str = "") -> None:
        raise NotImplementedError

    def _reset_after_fork(self) -> None:
        """Let go, in a forked child, of what belongs to the parent's threads or loop."""
        raise NotImplementedError

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
