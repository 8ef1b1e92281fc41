"""What a connection is, apart from what passes over it: its fields, and what it tells of itself."""

from __future__ import annotations

import socket
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from time import monotonic_ns
from types import EllipsisType
from typing import TYPE_CHECKING, Any, Final, Never, Protocol

from socketkeep._base._address import local_text, peer_text
from socketkeep._base._errors import Released
from socketkeep._base._forking import Fate, drop, own
from socketkeep._base._holding import Held
from socketkeep._stream._assignment import Assignment, Attached
from socketkeep._stream._buffer import ReceiveBuffer
from socketkeep._stream._committed import unpack_state
from socketkeep._stream._ledger import Ledger
from socketkeep._stream._lifecycle import Event, Lifecycle, State
from socketkeep._stream._record import (
    ACTIVE_AT,
    ENDED,
    Ended,
    Record,
    blank_record,
)

if TYPE_CHECKING:  # ssl is for who uses it
    import ssl

    from socketkeep._stream._peek import PeekingBuffer
    from socketkeep._stream._tls import TlsSocket

_FAMILIES_WITH_NODELAY: Final = (int(socket.AF_INET), int(socket.AF_INET6))
#: The family as a plain number: `socket.family` makes an enumeration's member of it each time.
_family_of: Final[Callable[[socket.socket], int]] = socket.SocketType.family.__get__

#: The record of all connections that a forked child let go of; nobody writes to it.
_LET_GO: Final = blank_record()
_LET_GO[ENDED] = Ended.RELEASED


class Source(Protocol):
    """What a connection's bytes are received from: its socket, or what stands before it."""

    def recv(self, size: int, /) -> bytes: ...


class Identity(Held):
    """The base of `Exchange`: all fields that sync and async have in common."""

    __slots__ = (
        "__weakref__",
        "_assignment",
        "_buffer",
        "_committed",
        "_decoded",
        "_failure",
        "_fd",
        "_inherit",
        "_input_fd",
        "_ledger",
        "_life",
        "_local",
        "_parked",
        "_peeking",
        "_peer",
        "_receives",
        "_record",
        "_sock",
        "_source",
        "_tls",
    )

    def __init__(self, sock: socket.socket, *, assignment: Assignment | None = None) -> None:
        sock.setblocking(False)
        if _family_of(sock) in _FAMILIES_WITH_NODELAY:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._assignment = assigned = assignment or Assignment()
        self._sock = sock
        self._fd = self._input_fd = sock.fileno()
        self._record: Record = assigned.record
        self._ledger = Ledger(assigned.record)
        self._buffer: ReceiveBuffer
        self._source: Source = sock
        self._peeking: PeekingBuffer | None = None
        if assigned.redeliver:
            self._peek(sock, assigned)
        else:
            limit = assigned.replay_limit
            self._buffer = ReceiveBuffer(retain=assigned.resumable, replay_limit=limit)
            if assigned.attached == "crash":
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, 1)  # see `_peek`
        self._life = Lifecycle()
        self._committed: bytes | None = assigned.state
        self._decoded: Any = ...
        self._peer = assigned.peer or peer_text(sock)
        self._local = ""
        self._failure: OSError | None = None  # a failed recv(2) that no receive has raised yet
        self._parked = False  # detached to wait with the keeper, not to go to another worker
        self._receives = 0 if assigned.resumable else -1  # -1: none is missing a commit
        self._record[ACTIVE_AT] = monotonic_ns()
        if assigned.shelf is not None and assigned.state is not None:
            assigned.shelf.put(assigned.state)
        if assigned.unread:
            self._buffer.feed(assigned.unread)
            self._ledger.reading()
        self._inherit = False
        self._tls: TlsSocket | None = None  # the socket, once start_tls has been called
        if assigned.reactor is None:
            own(self)

    def _peek(self, sock: socket.socket, assigned: Assignment) -> None:
        """Have what is received stay in the kernel until it is committed."""
        from socketkeep._stream._peek import PeekingBuffer  # for who asks for it

        self._buffer = self._peeking = peeking = PeekingBuffer(sock, assigned.unread)
        if assigned.redelivered:
            self._ledger.dispute(peeking.waiting())
            self._ledger.again = not assigned.unread
        # From a worker that took them: no kernel has them, and they would be missing.
        self._ledger.bound = bool(assigned.unread)
        self._ledger.show()
        self._source = peeking
        self._input_fd = peeking.input_fd

    def __reduce__(self) -> Never:
        raise TypeError(
            f"a {type(self).__name__} cannot be pickled: pass it to another process with "
            "conn.give(channel), and get it there with take(channel)"
        )

    def __repr__(self) -> str:
        state = f" {self.ended.name.lower()}" if self._life.over else ""
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
    def redelivered(self) -> bool:
        """Whether a worker died with the connection and what it had received comes again.

        What is received then may have been dealt with already, in whole or in part, and some of the
        reply may be out.  True until all that the dead worker may have seen is committed.  Only
        with ``@resumable(redeliver=True)``; False otherwise.
        """
        return self._ledger.disputed

    @property
    def unacknowledged(self) -> int:
        """How many bytes that were sent the peer's system has not acknowledged yet.

        The kernel's own count, whoever sent them: after a crash it tells what of the dead worker's
        reply is still on its way.  0: all that was sent has arrived in the peer's system; that its
        program has read it is not promised.  Over TLS they are bytes of ciphertext.  On a Unix
        socket it is the memory that holds what the peer's program has not read, more than the bytes
        themselves.  What a send that waits has not yet given to the kernel is not in it.  0 when
        the connection is closed here.
        """
        if self._sock.fileno() < 0:
            return 0
        import fcntl  # for who asks
        import termios

        count = fcntl.ioctl(self._sock, termios.TIOCOUTQ, bytes(4))
        return int.from_bytes(count, sys.byteorder)

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

    def fileno(self) -> int:
        """Return the descriptor's number, -1 once it is closed.

        It is non-blocking.  Reading from it directly misses what is in `unread`.
        """
        return self._sock.fileno()

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
        if (fate != "none" or self._inherit) and self._life.state is not State.DETACHED:
            self._ledger.pushes = 0
            if self._tls is not None:
                self._tls.reset_after_fork()
            if self._peeking is not None:
                self._peeking.after_fork(kept=True)
                self._input_fd = self._peeking.input_fd
            self._reset_after_fork()
            return self._sock
        if self._peeking is not None:
            self._peeking.after_fork(kept=False)
        drop(self._sock)
        # Its own is memory that the parent goes on writing.
        self._record = self._ledger.record = _LET_GO
        self._life.step(Event.RELEASE, why)
        self._reset_after_fork()
        return None

    def _claimed(self, operation: str) -> AbstractContextManager[None]:
        raise NotImplementedError

    def _give_up(self, reason: str = "") -> None:
        raise NotImplementedError

    def _reset_after_fork(self) -> None:
        """Let go, in a forked child, of what belongs to the parent's threads or loop."""
        raise NotImplementedError
