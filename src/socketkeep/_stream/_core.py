"""The core of a connection: its descriptor, its buffer, its record.  It never waits.

Each system call that moves bytes stands here once, and so does each step that decides what a crash
leaves (see `_ledger`): both shells, `Connection` and `AsyncConnection`, go through it.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from time import monotonic_ns
from types import FunctionType
from typing import Any, Final, Protocol, cast

from socketkeep import _native
from socketkeep._base._errors import SocketkeepError
from socketkeep._stream._buffer import ReceiveBuffer
from socketkeep._stream._closing import draining, end_writing
from socketkeep._stream._lease import PARKED, Hooks, Lease
from socketkeep._stream._ledger import Ledger
from socketkeep._stream._lifecycle import RECORDED, Lifecycle, LifecycleEvent, State
from socketkeep._stream._record import (
    ACTIVE_AT,
    BYTES_IN,
    BYTES_OUT,
    ENDED,
    Ended,
    Record,
    blank_record,
)
from socketkeep._stream._transport import Transport
from socketkeep._stream._waiting import drive

#: A resumable handler that received this often and never committed is warned of.
NEVER_COMMITTED: Final = 1000
#: One system call receives at most this much, and more where a larger message is asked for.
CHUNK: Final = 65536
LARGE_CHUNK: Final = 262144

# What `fill` ended with.
NOTHING: Final = 0
ARRIVED: Final = 1
EOF: Final = 2
FAILED: Final = 3

_FAMILIES_WITH_NODELAY: Final = (int(socket.AF_INET), int(socket.AF_INET6))
_UNIX: Final = int(socket.AF_UNIX)
#: The family as a plain number: `socket.family` makes an enumeration's member of it each time.
_family_of: Final[Callable[[socket.socket], int]] = socket.SocketType.family.__get__

#: The record of all connections that a forked child let go of; nobody writes to it.
_LET_GO: Final = blank_record()
_LET_GO[ENDED] = Ended.RELEASED

_warned: Final[set[str]] = set()


class Core(Protocol):
    """A core as the shells need it.

    failure: what a receive has met and none has raised yet.  committed: the state, as msgpack.
    client_hello: how long the ClientHello of TLS is that came first of all, 0 where none did.
    """

    sock: socket.socket
    transport: Transport
    buffer: ReceiveBuffer
    life: Lifecycle
    ledger: Ledger
    record: Record
    committed: bytes | None
    failure: OSError | None
    client_hello: int

    def receive(self, most: int, /) -> bytes | None:
        """Return up to `most` bytes: of the unread ones, or else of what one recv(2) brings.

        b"" at the peer's EOF.  None: nothing is there, or `failure` is set.
        """

    def fill(self, size: int, /) -> int:
        """Receive up to `size` bytes into the buffer: NOTHING, ARRIVED, EOF or FAILED."""

    def feed(self, data: bytes, /) -> None:
        """Add what has come by another way."""

    def send(self, data: bytes | memoryview, push: bool, /) -> int:
        """Send what the kernel takes now; return how many bytes.  Raises OSError.

        push: it is not the handler's own; the ledger is told by the caller.
        """

    def hang_up(self) -> bool:
        """Send FIN over a plain transport, and discard what has come.

        Returns whether the peer has ended too, or nobody is there; then the descriptor is closed.
        """

    def commit(self, packed: bytes | None, /) -> None:
        """Note that all received so far is dealt with, and the state to go on from."""

    def export(self) -> tuple[bytes | None, bytes]:
        """Return the committed state and all bytes since the commit: what the next worker needs."""

    def become(self, event: LifecycleEvent, error: SocketkeepError | None = None, /) -> None:
        """Go on in the connection's life, and have the record tell of an end."""

    def use(self, transport: Transport, /) -> None:
        """Go on over another transport."""

    def drop_record(self) -> None:
        """In a forked child: write to the parent's record no more."""


def _client_hello_of(data: bytes) -> int:
    """Return how long the ClientHello of TLS is that these bytes begin with; 0: none.

    RFC 8446, sections 5.1 and 4.
    """
    if data[:2] != b"\x16\x03" or data[5:6] != b"\x01":
        return 0
    return 5 + int.from_bytes(data[3:5])


class StreamCore:
    """The core in Python; see `Core`."""

    __slots__ = (
        "_came",
        "_gone",
        "_lease",
        "_receives",
        "_retains",
        "_shelf",
        "_source",
        "buffer",
        "client_hello",
        "committed",
        "failure",
        "ledger",
        "life",
        "record",
        "sock",
        "transport",
    )

    _make_life = Lifecycle
    _make_ledger = Ledger

    def __init__(
        self, transport: Transport, buffer: ReceiveBuffer | None, lease: Lease, hooks: Hooks
    ) -> None:
        """buffer: None for one that takes from the kernel what is received."""
        if buffer is None:
            buffer = _make_buffer(retain=lease.resumable, replay_limit=lease.replay_limit)
        self.sock = transport.sock
        self.transport = transport
        self._source = transport.source
        self.buffer = buffer
        self.life = self._make_life()
        self.ledger = ledger = self._make_ledger(hooks.record)
        self.record: Record = hooks.record
        self.client_hello = 0
        self._came, self._gone = hooks.record[BYTES_IN], hooks.record[BYTES_OUT]
        self.failure: OSError | None = None
        self.committed = lease.state
        self._lease = lease
        self._shelf = hooks.shelf
        self._receives = 0 if lease.resumable else -1  # -1: none is missing a commit
        self._retains = lease.resumable and not transport.peeks
        self.record[ACTIVE_AT] = monotonic_ns()
        if transport.peeks:
            if lease.redelivered:
                ledger.dispute(transport.waiting())
                ledger.again = not lease.unread
            ledger.bound = transport.binds
            ledger.show()
        if hooks.shelf is not None and (lease.state is not None or lease.reply):
            hooks.shelf.put(lease.state, lease.reply)
        if lease.unread:
            buffer.feed(lease.unread)
            ledger.reading()

    def receive(self, most: int, /) -> bytes | None:
        buffer = self.buffer
        if buffer.size:
            return buffer.take(most)
        data = self._take_in(CHUNK)
        if data:
            if len(data) > most:
                buffer.feed(data)
                return buffer.take(most)
            if self._retains:
                buffer.pass_by(data)
        return data

    def fill(self, size: int, /) -> int:
        data = self._take_in(size)
        if data:
            self.buffer.feed(data)
            return ARRIVED
        if data is not None:
            return EOF
        return NOTHING if self.failure is None else FAILED

    def _take_in(self, size: int) -> bytes | None:
        """Receive what is there: the one recv(2) there is.  b"" at EOF, None where none came."""
        if not self.ledger.read:
            self.ledger.reading()
        try:
            data = self._source.recv(size)
        except (BlockingIOError, InterruptedError):
            self._found_nothing()
            return None
        except OSError as error:
            self._found_nothing()
            self.failure = error
            return None
        if not data:
            self._found_nothing()
            return data if self._peer_ended() else None
        if not self._came:
            self.client_hello = _client_hello_of(data)
        self._came += len(data)
        self.record[BYTES_IN] = self._came
        self.record[ACTIVE_AT] = monotonic_ns()
        if self._receives >= 0:
            self._receives += 1
            if self._receives == NEVER_COMMITTED:
                self._warn_of_no_commit()
        if self.transport.ended:
            self.life.step(LifecycleEvent.PEER_EOF)
        return data

    def _peer_ended(self) -> bool:
        """Note an EOF; return False where it stands for a failure, which is then noted."""
        try:
            self.transport.at_eof()
        except OSError as error:
            self.failure = error
            return False
        self.life.step(LifecycleEvent.PEER_EOF)
        return True

    def _found_nothing(self) -> None:
        if self.buffer.untouched:
            self.ledger.read_nothing()

    def feed(self, data: bytes, /) -> None:
        self.buffer.feed(data)
        self._came += len(data)
        self.record[BYTES_IN] = self._came
        if self.transport.ended:
            self.life.step(LifecycleEvent.PEER_EOF)

    def send(self, data: bytes | memoryview, push: bool, /) -> int:
        if not push and not self.ledger.sent:
            self.ledger.sending()
        try:
            count = self._source.send(data)
        except (BlockingIOError, InterruptedError):
            return 0
        self._gone += count
        self.record[BYTES_OUT] = self._gone
        self.record[ACTIVE_AT] = monotonic_ns()
        return count

    def hang_up(self) -> bool:
        sock = self.sock
        ended = not end_writing(sock) or self.life.peer_ended or drive(draining(sock, 0.0))
        if ended:
            sock.close()
        return ended

    def commit(self, packed: bytes | None, /) -> None:
        if self._shelf is not None and packed != self.committed:
            self._shelf.put(packed)  # before the status says that it is there
        self.committed = packed
        self._receives = -1
        buffer = self.buffer
        left_kernel = buffer.commit()
        self.ledger.bound = self.transport.binds
        self.ledger.commit(unread=buffer.size > 0, left_kernel=left_kernel)

    def export(self) -> tuple[bytes | None, bytes]:
        return self.committed, self.buffer.replay()

    def become(self, event: LifecycleEvent, error: SocketkeepError | None = None, /) -> None:
        if self.life.step(event, error):
            recorded = RECORDED.get(event)
            # Of these what ended it before counts.
            first = event in (LifecycleEvent.CLOSE, LifecycleEvent.RELEASE)
            if recorded is not None and not (first and self.record[ENDED]):
                self.record[ENDED] = recorded

    def use(self, transport: Transport, /) -> None:
        self.transport = transport
        self._source = transport.source
        self.ledger.bound = transport.binds
        self.ledger.show()

    def drop_record(self) -> None:
        self.record = self.ledger.record = _LET_GO

    def _warn_of_no_commit(self) -> None:
        # With only receives it may be a sink; whoever answers and never commits has forgotten it.
        listener = self._lease.listener
        if not (self._lease.resumable and self.ledger.sent) or listener in _warned:
            return
        _warned.add(listener)
        import logging

        logging.getLogger("socketkeep").warning(
            "the resumable handler of connection %s on %s has received %d times, has sent, and "
            "never committed: call conn.commit() where a message is dealt with, or the "
            "connection cannot be kept",
            self._lease.id,
            listener or "no listener",
            NEVER_COMMITTED,
        )


def _with_c() -> Callable[[Transport, ReceiveBuffer | None, Lease, Hooks], Core]:
    """Return what makes the core that runs: in C its normal course, and all else as above.

    C has the parts and four methods.  It calls these here by `_slow_...`, where the transport is
    not the socket itself.
    """
    if _native.core is None:
        return StreamCore
    fast, whole = _native.core.FastCore, vars(StreamCore)
    body: dict[str, Any] = {
        name: each for name, each in whole.items() if isinstance(each, FunctionType)
    }
    taken = [name for name in body if name in vars(fast)]
    body |= {f"_slow_{name}": body.pop(name) for name in taken}
    body |= {"__slots__": (), "close_socket": staticmethod(socket.SocketType.close)}
    body |= {"closed_state": State.CLOSED}
    body |= {"_make_life": Lifecycle, "_make_ledger": _native.core.Ledger}
    made: Any = type("CompiledCore", (fast,), body)
    return cast("Callable[[Transport, ReceiveBuffer | None, Lease, Hooks], Core]", made)


make_core: Final = _with_c()
_make_buffer: Final = _native.compiled_or(ReceiveBuffer, "ReceiveBuffer")


def core_of(sock: socket.socket, lease: Lease, hooks: Hooks) -> Core:
    """Return a core on a connected socket, whose description is non-blocking from here on."""
    if not lease.id or sock.gettimeout() != 0.0:  # a server has made it so
        sock.setblocking(False)
    if (
        lease.nodelay
        and lease.attached not in PARKED
        and _family_of(sock) in _FAMILIES_WITH_NODELAY
    ):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if lease.redeliver:
        from socketkeep._stream._peek import Peeked, PeekedBuffer  # for who asks for it

        peeked = Peeked(sock, lease.unread)
        return StreamCore(peeked, PeekedBuffer(peeked), lease, hooks)
    if lease.attached == "crash":  # who died with it may have left it raised
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, 1)
    transport = Transport(sock)
    if lease.proxy and _family_of(sock) == _UNIX:
        from socketkeep._stream._last_words import PlainEnd  # for whose TLS is in the edge

        transport = PlainEnd(sock)
    if lease.reply:  # of a generation that redelivered, and to be completed first
        return StreamCore(transport, None, lease, hooks)
    return make_core(transport, None, lease, hooks)
