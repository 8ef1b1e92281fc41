"""The common part of a sync and an async connection: all but the waiting.

What the handler is told, why it is refused, whether the connection may be detached; and what takes
several waits, as steps that each of the two goes through in its own way (see `_waiting`).
"""

from __future__ import annotations

import socket
import sys
import time
from abc import ABCMeta, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from types import EllipsisType, MappingProxyType
from typing import TYPE_CHECKING, Any, Final, Never, TypeAlias, TypeVar, cast

from socketkeep import _native
from socketkeep._base._address import local_text, peer_text
from socketkeep._base._errors import (
    Busy,
    Closed,
    Context,
    HandlerError,
    NotCommitted,
    PeerClosed,
    PeerReset,
    Released,
    SocketkeepError,
    SystemFailure,
    TimedOut,
    WouldBlock,
    translate,
)
from socketkeep._base._forking import Fate, drop, own
from socketkeep._base._passing import Unfit
from socketkeep._names._naming import MOST_GROUPS, Registration, check_labels, check_text
from socketkeep._stream._closing import end_for_all, end_writing
from socketkeep._stream._committed import pack_state, unpack_state
from socketkeep._stream._core import ARRIVED, CHUNK, LARGE_CHUNK, NOTHING, Core, core_of
from socketkeep._stream._deadlines import NEVER, Deadlines
from socketkeep._stream._inflow import Inflow
from socketkeep._stream._lease import (
    Attached,
    Handoff,
    Hooks,
    HowLeft,
    Lease,
    Leaving,
    Order,
    Why,
    handling,
)
from socketkeep._stream._lifecycle import Detached, LifecycleEvent, State
from socketkeep._stream._modes import Deadline
from socketkeep._stream._record import (
    ACCEPTED_AT,
    ACTIVE_AT,
    BYTES_IN,
    BYTES_OUT,
    ENDED,
    Ended,
    note_deadline,
)
from socketkeep._stream._replies import REPLY_LIMIT, Left, Replies, ReplyRecord, note_refusal
from socketkeep._stream._totals import ByteTotals, totals_of, waiting_in
from socketkeep._stream._waiting import Steps, Want

if TYPE_CHECKING:  # ssl is for who uses it
    import ssl

    from socketkeep._base._holding import Holders
    from socketkeep._base._proxy_header import ProxyHeader
    from socketkeep._base._tls_facts import TlsInfo
    from socketkeep._stream._edge_handshake import EdgeHandshake
    from socketkeep._stream._tls import Tls
    from socketkeep._stream._transport import Transport

Data: TypeAlias = bytes | bytearray | memoryview

#: An operation's limit in seconds, and its end on the monotonic clock.  (None, None): wait for as
#: long as it takes; (0.0, None): do not wait at all.
Span: TypeAlias = tuple[float | None, float | None]
AT_ONCE: Final[Span] = (0.0, None)

NAME_TAKEN: Final = "ended: another connection has its name now"

_STOPPING: Final[dict[Why, str]] = {
    "stop": "the server is stopping",
    "drain": "the server is drained",
    "reload": "its worker is replaced",
    "disconnect": "the server was told to disconnect it",
}

_NOT_LEASED: Final = Lease()
#: So many bytes are gathered; what is more goes out at once.
_MOST_GATHERED: Final = 65536


_Verb = TypeVar("_Verb", bound=Callable[..., Any])


def in_c(name: str) -> Callable[[_Verb], _Verb]:
    """Have the compiled core serve the normal course of a verb, where it runs."""

    def made(verb: _Verb) -> _Verb:
        core = _native.core
        return verb if core is None else cast("_Verb", core.Verb(name, verb, handling))

    return made


class Piece:
    """The rest of one send.

    done: bytes gone.  push: it is not the handler's own.  waits: other sends go before it, and then
    it may have to go on record.  follows: the state that a reply is followed by, ... where it is
    none.  abandoned: who sends it has been cancelled.
    """

    __slots__ = ("abandoned", "done", "follows", "push", "view", "waits")

    def __init__(
        self,
        view: memoryview,
        done: int,
        push: bool,
        waits: bool = False,
        follows: bytes | EllipsisType | None = ...,
    ) -> None:
        self.view = view
        self.done = done
        self.push = push
        self.waits = waits
        self.follows = follows
        self.abandoned = False


class Shell(metaclass=ABCMeta):
    """The base of `Connection` and `AsyncConnection`.  Not for use on its own.

    core, lease, hooks: for the server.
    """

    __slots__ = (
        "__weakref__",
        "_deadlines",
        "_decoded",
        "_gathered",
        "_inflow",
        "_inherit",
        "_local",
        "_parked",
        "_peer",
        "_replies",
        "_saying",
        "_sent_before",
        "_told",
        "_unsent",
        "core",
        "hooks",
        "lease",
        "registration",
    )

    def __init__(
        self, sock: socket.socket, inherit: bool, lease: Lease | None, hooks: Hooks | None
    ) -> None:
        self.lease = lease = lease or _NOT_LEASED
        self.hooks = hooks = hooks or Hooks()
        self.core: Core = core_of(sock, lease, hooks)
        self._decoded: Any = ...
        self._peer = "" if lease.peer else peer_text(sock)
        self._local = ""
        self._parked = False  # detached to wait with the keeper, not to go to another worker
        self._unsent: tuple[Data, int] | None = None  # an unfinished send's data, and bytes gone
        self._gathered: bytearray | None = None  # what is to go out together; None: nothing is
        self._sent_before = self.core.record[BYTES_OUT]
        self._saying = False  # the last word is being said, before which it does not end
        self._told: Why | None = None  # why it is to end, as the peer has been told
        self._replies: Replies | None = None  # from the first that is to be on record
        self._deadlines: Deadlines | None = None
        if lease.deadline is not None or lease.first_bytes_timeout is not None:
            self._deadlines = self._deadlines_of(lease)
            note_deadline(self.core.record, lease.deadline)
        self._inflow: Inflow | None = None
        if lease.receive_rate:
            received = self.core.record[BYTES_IN]
            self._inflow = Inflow(lease.receive_rate, received, lease.inflow_full_at)
        self._inherit = inherit
        self.registration = lease.registration  # for the server
        if hooks.reactor is None:
            own(self)

    def __reduce__(self) -> Never:
        raise TypeError(
            f"a {type(self).__name__} cannot be pickled: pass it to another process with "
            "conn.give(channel), and get it there with take(channel)"
        )

    def __repr__(self) -> str:
        core = self.core
        state = f" {self.ended.name.lower()}" if core.life.over else ""
        name = self.id or core.transport.input_fd
        return f"<{type(self).__name__} {name} peer={self.peer}{state}>"

    @property
    def id(self) -> str:
        """The connection's id in the server's logs and commands, "" without a server."""
        return self.lease.id

    @property
    def peer(self) -> str:
        """The peer's address: ``10.0.0.7:4242``, ``[::1]:4242``, ``unix:pid=1234``."""
        return self._peer or self.lease.peer

    @property
    def local(self) -> str:
        """This side's address, in the same forms."""
        if not self._local:
            self._local = self._proxied_local() or local_text(self.core.sock)
        return self._local

    def _proxied_local(self) -> str:
        if not self.lease.proxy:
            return ""
        from socketkeep._base._proxy_header import destination_text  # for who is behind a proxy
        from socketkeep._base._tls_facts import whole_header

        return destination_text(whole_header(self.lease.proxy))

    @property
    def proxy(self) -> ProxyHeader | None:
        """The PROXY header that the connection began with; None where there was none.

        `peer` and `local` are the client's own then, unless the header does not tell them (LOCAL,
        UNKNOWN): they are those of the connection to the proxy.  The rest stands here: TLS, ALPN,
        the name that was asked for, the proxy's id of the connection.  It moves with the connection
        and outlives crashes as its state does.
        """
        if not self.lease.proxy:
            return None
        from socketkeep._base._tls_facts import facts_in, whole_header  # for who is behind a proxy

        tls = facts_in(self.lease.proxy)
        if tls is None:
            return whole_header(self.lease.proxy)
        return whole_header(tls.proxied) if tls.proxied else None

    @property
    def listener(self) -> str:
        """The address of the listener that accepted the connection, "" without a server."""
        return self.lease.listener

    @property
    def attached(self) -> Attached:
        """The reason of the call: "accepted", "reload", "parked", "pushed", "upgrade", "crash".

        "parked" when something has come while it was parked, "pushed" when it was pushed to.
        """
        return self.lease.attached

    @property
    def redelivered(self) -> bool:
        """Return whether a worker died with the connection and what it had received comes again.

        What is received then may have been dealt with already, in whole or in part, and some of the
        reply may be out.  True until all that the dead worker may have seen is committed.  Only
        with ``@resumable(redeliver=True)``; False otherwise.
        """
        return self.core.ledger.disputed

    @property
    def unacknowledged(self) -> int:
        """Return how many bytes that were sent the peer's system has not acknowledged yet.

        The kernel's own count, whoever sent them: after a crash it tells what of the dead worker's
        reply is still on its way.  0: all that was sent has arrived in the peer's system; that its
        program has read it is not promised.  Over TLS they are bytes of ciphertext.  On a Unix
        socket it is the memory that holds what the peer's program has not read, more than the bytes
        themselves.  What a send that waits has not yet given to the kernel is not in it.  0 when
        the connection is closed here.
        """
        if self.core.sock.fileno() < 0:
            return 0
        import fcntl  # for who asks
        import termios

        count = fcntl.ioctl(self.core.sock, termios.TIOCOUTQ, bytes(4))
        return int.from_bytes(count, sys.byteorder)

    @property
    def state(self) -> Any:
        """The state that the last commit left, a copy decoded to the type that the handler names.

        It is None on a connection on which nothing was committed.

        Raises:
            StateMismatch: The state that an earlier version of the code committed does not fit the
                type.
        """
        if isinstance(self._decoded, EllipsisType):
            packed = self.core.committed
            of_type = self.lease.state_type
            self._decoded = None if packed is None else unpack_state(packed, of_type)
        return self._decoded

    @property
    def unread(self) -> bytes:
        """A copy of the bytes that were received and no receive has returned yet."""
        return self.core.buffer.unread

    @property
    def ended(self) -> Ended:
        """Return how the connection ended for this process; `Ended.NOT_YET` while it is open."""
        return Ended(self.core.record[ENDED])

    @property
    def tls(self) -> TlsInfo | None:
        """Return what is known of TLS (version, cipher, certificate, ALPN); None without it.

        Of TLS that this process has it is the `ssl.SSLObject`, of a listener's (`tls=`) what the
        server's edge tells of it, by the same names, and the client's name for the server (SNI).
        To be asked, not to be used: reading, writing and the handshake are the connection's.
        """
        own = self.core.transport.tls
        if own is not None or not self.lease.proxy:
            return own
        from socketkeep._base._tls_facts import facts_in  # for who is behind the edge

        return facts_in(self.lease.proxy)

    @property
    def deadline(self) -> Deadline | None:
        """The moment at which the connection ends, whatever passes over it; None: none is set.

        Set it to ``Deadline.after(10)`` where the peer has ten seconds for something that takes
        several messages, such as a login, and to None when that is done.  A server's
        ``--login-timeout`` has set it when a connection is accepted.  It goes where the connection
        goes: to the next worker, also after a crash, and to wait with the keeper.

        Once it has passed, the receive or send that waits raises `Closed`, as does each that comes
        after it, and a server closes the connection.  A handler that is busy with something else is
        not interrupted.

        Raises:
            TypeError: It is no `Deadline`.
        """
        deadlines = self._deadlines
        return None if deadlines is None or deadlines.at is None else Deadline(deadlines.at)

    @deadline.setter
    def deadline(self, deadline: Deadline | None) -> None:
        if deadline is not None and not isinstance(deadline, Deadline):
            raise TypeError(f"a deadline is Deadline.after(seconds) or None, not {deadline!r}")
        at = None if deadline is None or not deadline.at < NEVER else deadline.at
        if self._deadlines is not None:
            self._deadlines.at = at
        elif at is not None:
            self._deadlines = Deadlines(at, None, None)
        note_deadline(self.core.record, at)
        self._deadline_changed()

    @property
    def leaving(self) -> Leaving | None:
        """Return why the server is to end the connection, and by when; None: it is not, so far.

        For a handler that is to see it by itself; ``Service(handler, on_leaving=f)`` has `f` called
        at a receive.  What is sent until then still goes out.  A connection that moves to another
        worker is not left.  In `prefork` it is known when the handler has come to a receive.
        """
        order = self._given_order()
        if order is None or (order.how == "move" and self._moves_away()):
            return None
        return Leaving(order.why, Deadline(order.deadline))

    @property
    def name(self) -> str:
        """The name by which `socketkeep.push` finds the connection, "" for none.

        Set it once it is known, to at most 128 printable characters.  One connection of a server
        has a name: a second one that is given it takes it over, and the first then has none, and is
        ended with ``Service(handler, on_taken="close")``, as by default, or goes on with "keep".
        Name, groups and labels go where the connection goes: to the next worker, to wait with the
        keeper, through a crash and an upgrade.  Without a server they are noted here and nothing
        more.

        Raises:
            TypeError: It is no text.
            ValueError: It cannot be a name.
            Closed: The connection is over; so with the other errors that say why it is.
        """
        return "" if self.registration is None else self.registration.name

    @name.setter
    def name(self, name: str) -> None:
        name = check_text("a name", name) if name else ""
        known = self._registration("name")
        self._register(Registration(name, known.groups, known.labels))

    @property
    def groups(self) -> frozenset[str]:
        """The groups that the connection has joined."""
        return frozenset() if self.registration is None else self.registration.groups

    def join(self, group: str) -> None:
        """Be in a group, which gets what `socketkeep.publish` sends to it.

        There is a group as long as somebody is in it.  A connection is in 64 at most.

        Args:
            group: The group's name, at most 128 printable characters.

        Raises:
            TypeError: It is no text.
            ValueError: It cannot be a name, or is one group too many.
            Closed: The connection is over; so with the other errors that say why it is.
        """
        known = self._registration("join")
        groups = known.groups | {check_text("a group", group)}
        if len(groups) > MOST_GROUPS:
            raise ValueError(f"a connection is in at most {MOST_GROUPS} groups: leave one first")
        self._register(Registration(known.name, groups, known.labels))

    def leave(self, group: str) -> None:
        """Be in `group` no more; nothing happens where it was not in it."""
        known = self._registration("leave")
        if group in known.groups:
            self._register(Registration(known.name, known.groups - {group}, known.labels))

    @property
    def labels(self) -> Mapping[str, str]:
        """The labels that ``socketkeep connections`` and the live page show.

        Set a new mapping of texts to texts: ``conn.labels = {"firmware": "2.1"}``; at most 16, of
        at most 128 printable characters each.

        Raises:
            TypeError: It is no mapping of texts.
            ValueError: There are too many, or one cannot be a label.
        """
        return MappingProxyType({} if self.registration is None else dict(self.registration.labels))

    @labels.setter
    def labels(self, labels: Mapping[str, str]) -> None:
        known = self._registration("labels")
        self._register(Registration(known.name, known.groups, check_labels(labels)))

    def _registration(self, operation: str) -> Registration:
        """Return what is known before it changes; raise why the connection is over."""
        if self.core.life.over:
            raise self._refusal(operation)
        return self.registration or Registration()

    def _unname(self, name: str) -> bool:
        """Have no name any more, if it is this one; return whether it was."""
        known = self.registration
        if known is None or known.name != name:
            return False
        self.registration = Registration("", known.groups, known.labels)
        return True

    def _register(self, registration: Registration) -> None:
        self.registration = registration
        if self.hooks.registrar is not None:
            self.hooks.registrar.changed(self)

    def fileno(self) -> int:
        """Return the descriptor's number, -1 once it is closed.

        It is non-blocking.  Reading from it directly misses what is in `unread`.
        """
        return self.core.sock.fileno()

    @property
    def inherit(self) -> bool:
        """Return whether forked children keep the connection; by default they let go of it.

        Where they do, each process has a handle, a mode and unread bytes of its own; the connection
        ends when one says `close` or all have let go.  A program that is executed has nothing of
        it, `inherit` or not: `subprocess` passes descriptors with ``pass_fds``.
        """
        return self._inherit

    @inherit.setter
    def inherit(self, inherit: bool) -> None:
        self._inherit = inherit

    def holders(self) -> Holders:
        """Return every process and descriptor that holds this socket, this one among them.

        The connection ends when the last of them is closed.  It reads the descriptors of all
        processes in /proc: milliseconds, not microseconds.  Not seen are processes that
        `Holders.unreadable` counts, those of another container (pid namespace), and a descriptor
        that is on its way to a process.

        Raises:
            Closed: This process does not hold it any more.
            SystemFailure: There is no /proc (ENOSYS).
        """
        from socketkeep._base._holding import holders_of  # reading /proc takes longer than this

        return holders_of(self.fileno())

    @property
    def handles(self) -> int:
        """Return how many descriptors of this socket `holders` finds; each look counts anew."""
        return len(self.holders())

    # Commits, and safe points.

    @property
    def received(self) -> int:
        """The bytes that have been received and committed since the connection's beginning.

        With `id` it names the message at hand: ``f"{conn.id}-{conn.received}"``, asked before its
        commit, is the same when the message comes again, in whichever worker, and no other
        message's.  So a database that has done what that id asked for need not do it twice.

        On TCP it is the kernel's own count, and holds after a crash, as does the edge's where a
        listener has TLS.  Elsewhere (a Unix socket, `start_tls`) it is this side's: after a crash
        it may say more than has come, and a message that comes again then has another id.  Where
        the handler is not resumable every byte that a receive has returned counts.

        Raises:
            NotCommitted: More than the replay limit was received since the last commit, and nobody
                knows how much.
        """
        core, buffer = self.core, self.core.buffer
        if self._replies is not None and not self._replies.refusal:
            return self._replies.received
        if buffer.overflowed:
            raise NotCommitted(
                "refused: more than the replay limit was received since the last commit: commit "
                "more often, or raise --replay-limit",
                **self._context("received"),
            )
        held = len(buffer.replay()) if self.lease.resumable else buffer.size
        if core.transport.tls is not None or (totals := self._totals("received")) is None:
            taken = core.record[BYTES_IN] - core.transport.kept
        else:
            taken = totals.taken
        return taken - held

    @in_c("commit")
    def commit(self, state: object = None) -> None:
        """Say that all received so far is dealt with, and that `state` is what to go on from.

        What is gathered goes out first, see `gather`.  After an error nothing is committed.

        Args:
            state: Anything that msgspec encodes, at most 64 KiB encoded.  It is encoded now: later
                changes to the object do not count.  None leaves no state: `conn.state` is None in
                the next call.

        Raises:
            StateTooLarge: It encodes to more than 64 KiB.
            StateNotEncodable: It is not made of what msgspec encodes.
        """
        packed = None if state is None else pack_state(state)
        if self._gathered:
            self._send_before_commit()
        if self._replies is None:
            self._committed(packed)
        else:
            self._commit_on_record(packed)

    def _commit_on_record(self, packed: bytes | None) -> None:
        """Commit so that a death leaves all of it or nothing, unless something is going out."""
        replies = self._replies
        if replies is not None and not (replies.unfinished or self.core.ledger.pushes):
            replies.record(b"", packed)
        self._committed(packed)

    def _committed(self, packed: bytes | None) -> None:
        """Commit, and the last reply, if there is one, has gone out or is none of this."""
        if self._replies is not None:
            self._replies.unfinished = False
        self.core.commit(packed)
        self._decoded = ...

    def commit_but(self, ahead: bytes, state: object = None) -> None:
        """Commit as `commit` does, but for `ahead`, the last bytes that were taken.

        For the server's adapters, whose code has not dealt with all that they have received.
        """
        packed = None if state is None else pack_state(state)
        with self._unread_again(ahead):
            self.core.commit(packed)
        self._decoded = ...

    @contextmanager
    def _unread_again(self, ahead: bytes) -> Iterator[None]:
        """Have `ahead`, the last bytes that were taken, count as unread."""
        buffer = self.core.buffer
        if ahead:
            # There twice until the commit is done: no moment is clean while they are nowhere else.
            buffer.feed(ahead + (buffer.take(buffer.size) or b""))
        try:
            yield
        finally:
            if ahead:
                buffer.take(len(ahead))

    # Replies.

    def _put_on_record(self, view: Data, push: bool, follows: bytes | EllipsisType | None) -> None:
        """Have what is about to go out outlive this process, where that can be and is wanted.

        follows: the state that a reply is followed by, ... where it is none.
        """
        replies = self._replies
        if isinstance(follows, EllipsisType):
            if replies is not None:
                if replies.unfinished:
                    replies.withdraw()
                if push:
                    replies.record_push(bytes(view))
            return
        core = self.core
        if not core.transport.peeks:
            return
        if replies is None:
            replies = self._replies = Replies(core, self.hooks.shelf, self._totals("send"))
        refusal = replies.record(bytes(view), follows)
        if refusal:
            note_refusal(refusal, self.lease)

    def has_record_for(self, size: int) -> bool:
        """Return whether a reply that has so many bytes, its state included, is put on record.

        For our own protocols, to be asked when nothing is going out.
        """
        if not self.core.transport.peeks:
            return False
        if self._replies is None:
            self._replies = Replies(self.core, self.hooks.shelf, self._totals("send"))
        return not self._replies.refusal and size < REPLY_LIMIT

    def _totals(self, operation: str) -> ByteTotals | None:
        try:
            return totals_of(self.core.sock) or self._counted_along()
        except OSError as error:
            raise self._failed(error, operation) from error

    def _counted_along(self) -> ByteTotals | None:
        """Return the totals of an edge's plain end; None: they are not known.  Raises OSError."""
        core, passed = self.core, self.lease.passed
        if passed is None or not core.transport.peeks:
            return None
        written = passed[0] + core.record[BYTES_OUT] - self._sent_before
        return ByteTotals(written, passed[1] + core.transport.taken, waiting_in(core.sock))

    def _left_of_reply(self) -> Left | None:
        """Return what a worker that died has left of its last reply, None: nothing.

        Raises Unfit when what it has left cannot be.
        """
        if not self.lease.reply:
            return None
        totals, passed = self._totals("send"), self.lease.passed
        if totals is None and passed is not None:
            totals = ByteTotals(*passed, waiting_in(self.core.sock))
        if totals is None:
            raise Unfit("the record of a reply came with a connection that has no totals")
        left = ReplyRecord.unpack(self.lease.reply).left(totals)
        return left if left.data or left.answered else None

    def _reply_completed(self, left: Left) -> None:
        """Take what was answered."""
        core = self.core
        if left.answered:
            core.ledger.reading()
            try:
                core.transport.discard(left.answered)
            except OSError as error:
                raise self._failed(error, "send") from error
        core.ledger.commit(unread=core.buffer.size > 0, left_kernel=left.answered)

    def gather(self) -> None:
        """From here on, send together what is sent while received bytes are unread.

        A peer that asks many things at once then gets the answers in a few sends, not in one each.
        A `send` keeps its bytes back, up to 64 KiB in all, as long as the handler has unread bytes
        to go on with.  They go out before the connection waits for more input, with the first send
        that finds nothing unread, and before `commit`, `park`, `send_eof`, `close`, `release`,
        `start_tls`, `give` and `fork`; any of these may wait, and raise, as `send` does.  `abort`
        drops them.  So who gathers comes back to a receive soon: while he does other things,
        what he has sent may not have gone out.

        Bytes that are kept back do not count as sent: where the connection is moved, or its worker
        dies, before they have gone out, they never were, and what they answer was not committed.
        Sends from elsewhere, and those that a receive waits beside, are never kept back.
        """
        if self._gathered is None:
            self._gathered = bytearray()

    def _keeps_back(self, data: Data) -> bool:
        """Keep the bytes of a send for later if they may be; return whether they are."""
        held = self._gathered
        if held is None or not self.core.buffer.size or self._unsent is not None:
            return False
        view = memoryview(data).cast("B")
        if len(held) + len(view) > _MOST_GATHERED:
            return False
        held += view
        return True

    def _keep_rest(self, data: Data, piece: Piece) -> None:
        """Note what is left of a send of `data` that was not finished."""
        if piece.done < 0:  # of what was gathered before it
            self._gathered = bytearray(piece.view[: -piece.done])
        else:
            self._unsent = (data, piece.done)

    def _movable(self) -> bool:
        """Return whether this is a safe point, given that the handler stands at a receive.

        To be asked last: an adapter commits when it is, and has then left.
        """
        core = self.core
        # The keys of TLS stay with the process.
        mail = self.hooks.mail
        if mail is not None and mail.waiting:
            return False
        free = self.lease.resumable and core.transport.moves
        if free and self.hooks.yields is not None and not self.hooks.yields():
            return False
        return free and not core.ledger.sent and not core.buffer.overflowed

    def _moves_away(self) -> bool:
        """Return whether an order to move will be obeyed, at one safe point or another."""
        return self.lease.resumable and self.core.transport.moves

    def _is_to_be_told(self, order: Order) -> bool:
        """Return whether the service has a last word for the peer, and this is the moment."""
        if self.hooks.farewell is None or self._told == order.why or self.core.life.over:
            return False
        return order.how != "move" or not self._moves_away()

    def _check_parking(self, operation: str) -> bool:
        """Return whether the handler, which stands at no receive, may have the connection parked.

        Raises NotCommitted where a commit is missing.
        """
        core = self.core
        if not self.lease.resumable or not core.transport.moves:
            return False
        if not self._movable():
            raise NotCommitted(**self._context(operation))
        return not (core.buffer.size or core.life.peer_ended or core.failure)

    def _closable(self) -> bool:
        """Return whether nothing would be lost by closing, as far as this side knows."""
        core = self.core
        return self.lease.resumable and not core.ledger.sent and core.buffer.untouched

    def _ends(self, order: Order) -> bool:
        """Return whether an order is to end the connection, as it waits for input."""
        if self._saying:
            return False
        if order.how == "end" and not self.lease.resumable:
            return not self.core.buffer.size
        return order.how in ("close", "end") and self._closable()

    def _idle_at(self, since: float) -> float | None:
        """Return when a wait that began at `since` is idle too long, on the monotonic clock.

        Not from the last byte on: a handler that worked for long before it waits is not idle.
        """
        limit = self.lease.idle_timeout
        return None if limit is None else max(self.core.record[ACTIVE_AT] / 1e9, since) + limit

    def _deadlines_of(self, lease: Lease) -> Deadlines | None:
        """Return those that the server has set, as far as they are still of any matter."""
        record, first_by = self.core.record, None
        if lease.first_bytes_timeout is not None and not record[BYTES_IN]:
            first_by = record[ACCEPTED_AT] / 1e9 + lease.first_bytes_timeout
        if lease.deadline is None and first_by is None:
            return None
        return Deadlines(lease.deadline, first_by, lease.first_bytes_timeout)

    def _inflow_full_at(self) -> float:
        """Return what the next holder goes on from, 0.0 where there is no rate."""
        if self._inflow is None:
            return 0.0
        self._inflow.room(time.monotonic(), self.core.record[BYTES_IN])
        return self._inflow.full_at

    def _look_at_deadlines(self, operation: str) -> Closed | None:
        """Return the error if one of the deadlines has passed."""
        deadlines = self._deadlines
        if deadlines is None or self.core.life.over:
            return None
        passed = deadlines.look(time.monotonic(), self.core.record[BYTES_IN])
        return self._end(passed, operation) if passed else None

    def _leave(self, *, parked: bool = False) -> None:
        """Mark the connection detached: from here on no byte is received or sent."""
        self._parked = parked
        self._gathered = None  # what it answers comes again
        self.core.transport.let_go()
        self.core.become(LifecycleEvent.DETACH)

    # For the server.

    @property
    def bytes_sent(self) -> int:
        """Return how many bytes have gone out.  For the server."""
        return self.core.record[BYTES_OUT]

    def hand_over(self) -> Handoff:
        """Return all that the next worker needs.  For the server, after `Detached`."""
        core = self.core
        state, unread = core.export()
        deadlines = self._deadlines
        at = None if deadlines is None else deadlines.at
        disputed, full_at = core.ledger.disputed, self._inflow_full_at()
        known, passed = self.registration, None
        if self.lease.passed is not None and (totals := self._counted_along()) is not None:
            passed = totals.written, totals.taken
        return Handoff(
            *(core.sock, state, unread, self._parked, disputed, at, full_at, known, passed),
            self.hooks.trace,
        )

    @property
    def how_left(self) -> HowLeft:
        """Return how it has left its handler, whose call is over.  For the server."""
        if self.core.record[ENDED] != Ended.DETACHED:
            return "ended"
        return "parked" if self._parked else "moved"

    @property
    def overdue(self) -> str:
        """Return which of its deadlines has ended it, in words; "": none has.  For the server."""
        return "" if self._deadlines is None else self._deadlines.passed

    def why_over(self) -> str:
        """Return in words why the connection is at its end.  For the server, after the handler."""
        return self.core.life.why_over(self.ended)

    # Errors.

    def _refusal(self, operation: str) -> BaseException:
        """Return the exception for an operation on a connection that is over."""
        error, refusals = self.core.life.refusal(operation), self.hooks.refusals
        assert error is not None
        if not isinstance(error, Detached):
            error = type(error)(error.reason, **self._context(operation))
        return error if refusals is None else refusals.refused(self, operation, error)

    def _end(self, reason: str, operation: str) -> Closed:
        """Note that a limit of the server's ends the connection, and return the error that says so.

        The descriptor stays open: the server closes it in an orderly way when the handler is done.
        """
        error = Closed(reason)
        self.core.become(LifecycleEvent.STOP, error)
        return Closed(error.reason, **self._context(operation))

    def _out_of_time(self, order: Order | None, operation: str) -> Closed:
        if order is not None and order.why == "disconnect":
            return self._stopping(order, operation)
        return self._end("ended: the server's time for it to finish is over", operation)

    def _stopping(self, order: Order, operation: str) -> Closed:
        return self._end(f"ended: {_STOPPING[order.why]}", operation)

    def _failed(self, error: OSError, operation: str, done: int = 0) -> SystemFailure:
        """Return the library's error for a system call's."""
        translated = translate(error, **self._context(operation, done))
        if isinstance(translated, PeerReset):
            self.core.become(LifecycleEvent.RESET_BY_PEER)
        elif self.core.transport.broken:
            self.core.become(LifecycleEvent.STOP, type(translated)(translated.reason))
        return translated

    def _cut_short(self, operation: str, wanted: int | None) -> Never:
        """Raise the error for an EOF in the middle of what was asked for."""
        error = PeerClosed(**self._context(operation, self.core.buffer.size, wanted))
        refusals = self.hooks.refusals
        raise error if refusals is None else refusals.refused(self, operation, error)

    def _refusal_at_end(self, operation: str) -> BaseException | None:
        """Return what is raised to a receive that has met EOF, None: it may be told."""
        if self.core.life.over:  # it was no EOF of the peer's: another thread has closed
            return self._refusal(operation)
        refusals = self.hooks.refusals
        return None if refusals is None else refusals.at_end(self, operation)

    def _at_end_of(self, operation: str) -> Callable[[], None]:
        """Return what says at EOF that there is no further message, or raises that it is cut."""

        def at_end() -> None:
            if self.core.buffer.size:
                self._cut_short(operation, None)

        return at_end

    def _located(self, error: SocketkeepError, operation: str) -> SocketkeepError:
        """Say in an error of the framing's which operation on which connection it was."""
        error.operation = operation
        error.address = self.local
        error.peer = self.peer
        return error

    def _unfinished(
        self, operation: str, done: int, wanted: int | None, span: Span
    ) -> WouldBlock | TimedOut:
        """Return the error for an operation that its limit does not let go on."""
        limit, end = span
        context = self._context(operation, done, wanted)
        if end is None or limit is None:
            return WouldBlock(**context)
        context["elapsed"] = time.monotonic() - end + limit
        context["limit"] = limit
        return TimedOut(**context)

    def _context(self, operation: str, done: int = 0, wanted: int | None = None) -> Context:
        return {
            "operation": operation,
            "address": self.local,
            "peer": self.peer,
            "bytes_done": done,
            "bytes_wanted": wanted,
        }

    # What takes several waits.

    def _receiving(
        self,
        operation: str,
        take: Callable[[int], bytes | None],
        bound: int,
        wanted: int | None,
        patient: bool,
    ) -> Steps[bytes | None]:
        """Receive until `take(bound)` finds in the buffer what it wants; None when EOF is before.

        patient: it may wait.
        """
        core, inflow = self.core, self._inflow
        size = whole = size_of(wanted)
        while True:
            self._look(operation)
            if core.life.peer_ended:
                if (error := self._refusal_at_end(operation)) is not None:
                    raise error
                return None
            stopping = self._order_to_end(operation)
            if inflow is not None and stopping is None:
                room = inflow.room(time.monotonic(), core.record[BYTES_IN])
                # Of TLS a record is taken whole: nobody tells of the rest of one.
                size = whole if core.transport.tls is not None else min(whole, room)
                if not room:
                    if not patient:
                        raise self._unfinished(operation, core.buffer.size, wanted, AT_ONCE)
                    gone = yield Want(core.transport.input_fd, "pause", inflow.next)
                    if not gone:
                        continue
                    size = whole
            came = NOTHING
            if stopping is not None or not patient or self._tries():
                came = core.fill(size)
                if came == ARRIVED and patient:
                    self._helped(core.buffer.size)
            if came == NOTHING:
                if stopping is not None:
                    raise self._stopping(stopping, operation)
                if not patient:
                    raise self._unfinished(operation, core.buffer.size, wanted, AT_ONCE)
                core.transport.before_wait()
                if (yield Want(core.transport.input_fd, "read")):
                    came = core.fill(size)
            if came == ARRIVED:
                data = take(bound)
                if data is not None:
                    return data

    def _fetch(
        self, take: Callable[[int], bytes | None], bound: int, wanted: int | None
    ) -> bytes | None:
        """Receive once; return what is wanted, None if it has not come whole."""
        return take(bound) if self.core.fill(size_of(wanted)) == ARRIVED else None

    def _look(self, operation: str) -> None:
        """Raise why the connection takes no more receives, or what one has met."""
        core = self.core
        if core.life.over:
            raise self._refusal(operation)
        failure = core.failure
        if failure is not None:
            core.failure = None
            core.transport.check(failure)
            raise self._failed(failure, operation, core.buffer.size) from failure
        if self._deadlines is not None and (late := self._look_at_deadlines(operation)) is not None:
            raise late

    def _is_over(self) -> bool:
        """Return whether a receive is refused: what came before a reset may still be read."""
        life = self.core.life
        return life.over and not (life.state is State.RESET and self.core.buffer.size > 0)

    def _begin_send(
        self,
        data: Data,
        push: bool,
        *,
        waits: bool = False,
        follows: bytes | EllipsisType | None = ...,
    ) -> Piece | None:
        """Send what the kernel takes now of `data`, or of what an unfinished send left of it.

        Returns what is left, None when all has gone.  waits: other sends go before.  follows: it is
        a reply, and this the state that follows.  What was gathered goes before `data`: it counts
        below 0 in what is done.
        """
        core = self.core
        done = 0
        if self._unsent is not None:
            (before, gone), self._unsent = self._unsent, None
            if before is data or before == data:
                done = gone
        view = data if type(data) is bytes and not done else memoryview(data).cast("B")[done:]
        if self._gathered and not push:
            held, self._gathered = self._gathered, bytearray()
            done = -len(held)
            view = bytes(held + view)
        if waits:
            return Piece(memoryview(view), done, push, waits, follows)
        if self._replies is not None or follows is not ...:
            self._put_on_record(view, push, follows)
        try:
            count = core.send(view, push)
        except OSError as error:
            raise self._failed(error, "send", max(0, done)) from error
        if count == len(view) and not core.transport.pending:
            return None
        return Piece(memoryview(view)[count:], done + count, push)

    def _sending(self, piece: Piece) -> Steps[None]:
        """Send the rest of `piece`.  Raises OSError."""
        core = self.core
        if piece.waits:
            piece.waits = False
            if self._replies is not None or piece.follows is not ...:
                self._put_on_record(piece.view, piece.push, piece.follows)
        while piece.view or core.transport.pending:
            count = core.send(piece.view, piece.push)
            piece.done += count
            piece.view = piece.view[count:]
            if piece.view or core.transport.pending:
                yield Want(core.sock.fileno(), "write")

    def _flushing(self, end: float | None = None) -> Steps[None]:
        """Send what is pending, until `end` at most.  Raises OSError."""
        core = self.core
        while not core.transport.flush():
            if not (yield Want(core.sock.fileno(), "write", end)):
                return

    def _tls_steps(
        self,
        context: ssl.SSLContext | None,
        server_side: bool,
        server_hostname: str | None,
        patient: bool,
    ) -> Steps[None]:
        """Return the steps of `start_tls`."""
        if context is None:
            return self._starting_tls_in_edge(patient)
        return self._starting_tls(self._begin_tls(context, server_side, server_hostname), patient)

    def _begin_tls(
        self, context: ssl.SSLContext, server_side: bool, server_hostname: str | None
    ) -> Tls:
        """Put TLS between the connection and its socket, unless a start_tls before has done so."""
        from socketkeep._stream._tls import Engine, Tls

        core = self.core
        tls = core.transport
        if isinstance(tls, Tls):
            if tls.established:
                raise self._has_tls()
            return tls
        if self.tls is not None:
            raise self._has_tls()
        if tls.peeks:
            raise HandlerError(
                "refused: the handler has its input redelivered after a crash, and the keys of TLS "
                "do not outlive one: take redeliver=True off the handler",
                **self._context("start_tls"),
            )
        if self._unsent is not None:
            raise Busy("refused: a send is not finished", **self._context("start_tls"))
        engine = Engine(context, server_side=server_side, server_hostname=server_hostname)
        # What has been received already is of the handshake: taken for plain, it would be trusted
        # as if it had come by TLS.
        engine.feed(core.buffer.take(core.buffer.size) or b"")
        tls = Tls(core.sock, engine)
        core.use(tls)
        return tls

    def _starting_tls(self, tls: Tls, patient: bool) -> Steps[None]:
        """Go on with the handshake until it is done."""
        core = self.core
        while True:
            if core.life.over:
                raise self._refusal("start_tls")
            if (stopping := self._order_to_end("start_tls")) is not None:
                raise self._stopping(stopping, "start_tls")
            try:
                direction = tls.handshake()
                if direction is None:
                    early = tls.early()  # came along with the handshake's last message
                    break
            except OSError as error:
                raise self._failed(error, "start_tls") from error
            if not patient:
                raise self._unfinished("start_tls", 0, None, AT_ONCE)
            yield Want(core.sock.fileno(), direction)
        if early or tls.ended:
            core.feed(early)

    def _has_tls(self) -> Closed:
        return Closed("refused: the connection has TLS already", **self._context("start_tls"))

    def _starting_tls_in_edge(self, patient: bool) -> Steps[None]:
        """Have the edge shake hands, and go on over the pair's end that it leaves here."""
        from socketkeep._stream._edge_handshake import EdgeHandshake  # for who begins TLS

        core = self.core
        handshake = core.transport
        if not isinstance(handshake, EdgeHandshake):
            handshake = self._ask_edge()
        while True:
            if core.life.over:
                raise self._refusal("start_tls")
            if (stopping := self._order_to_end("start_tls")) is not None:
                raise self._stopping(stopping, "start_tls")
            try:
                header = handshake.header()
            except OSError as error:
                raise self._failed(error, "start_tls") from error
            if header is not None:
                break
            if not patient:
                raise self._unfinished("start_tls", 0, None, AT_ONCE)
            yield Want(handshake.input_fd, "read")
        self._leave_descriptor()
        front, before, plain = self.hooks.front, core.sock, handshake.plain
        assert front is not None
        self.lease = self.lease._replace(proxy=header)
        core.sock = plain
        core.use(self._over_plain_end(plain))
        front.done(plain, header)
        before.close()
        self._renew_waits()

    def _over_plain_end(self, plain: socket.socket) -> Transport:
        if not self.lease.redeliver:
            from socketkeep._stream._last_words import PlainEnd

            return PlainEnd(plain)
        from socketkeep._stream._peek import Peeked, PeekedBuffer

        if self._replies is not None:
            self._replies.forget()
            self._replies = None
        peeked = Peeked(plain, b"")
        assert isinstance(self.core.buffer, PeekedBuffer)
        self.core.buffer.look_at(peeked)
        return peeked

    def _takes_uncommitted(self) -> bool:
        """Return whether bytes, besides the unread ones, were taken since the last commit."""
        buffer = self.core.buffer
        return buffer.overflowed or len(buffer.replay()) > buffer.size

    def _ask_edge(self) -> EdgeHandshake:
        from socketkeep._stream._edge_handshake import EdgeHandshake

        core, front = self.core, self.hooks.front
        if self.tls is not None:
            raise self._has_tls()
        if front is None:
            raise HandlerError(
                "refused: there is no TLS to begin: give start_tls a context, or the listener "
                "tls=CERTIFICATE,key=KEY,start-tls=on",
                **self._context("start_tls"),
            )
        if self._unsent is not None:
            raise Busy("refused: a send is not finished", **self._context("start_tls"))
        core.transport.absorb()
        if self.lease.resumable and (core.ledger.sent or self._takes_uncommitted()):
            raise NotCommitted(
                "refused: the handler has sent or received since its last commit: commit first, "
                "so that no plaintext comes again as if TLS had brought it",
                **self._context("start_tls"),
            )
        # What has been received already is of the handshake: taken for plain, it would be trusted
        # as if it had come by TLS.
        unread = core.buffer.take(core.buffer.size) or b""
        core.commit(core.committed)
        plain, far = socket.socketpair()
        with far:
            try:
                front.ask(core.sock, far, unread)
            except OSError as error:
                plain.close()
                raise self._failed(error, "start_tls") from error
        self._leave_descriptor()
        core.transport.let_go()
        handshake = EdgeHandshake(core.sock, plain)
        core.use(handshake)
        self._renew_waits()
        return handshake

    def _ending(self, end: float) -> Steps[bool]:
        """End the writing in an orderly way, as far as there is room until `end`.

        Returns whether the peer has ended too, or nobody is there.
        """
        core = self.core
        try:
            piece = self._begin_send(b"", False) if self._gathered else None
            for want in () if piece is None else self._sending(piece):
                if not (yield want._replace(until=end)):
                    break
        except OSError:
            pass  # there is nobody to take it
        core.transport.finish()
        try:
            if not core.transport.flush() and time.monotonic() < end:
                yield from self._flushing(end)
        except OSError:
            pass  # there is nobody to take it
        return not end_writing(core.sock) or core.life.peer_ended

    def _close_socket(self, ended: bool) -> None:
        """Close the descriptor.  ended: both directions have, for every holder."""
        core = self.core
        if ended and core.transport.tls is None:  # TLS has an end of its own, which is not EOF
            core.sock.close()
        else:
            end_for_all(core.sock)

    # What each shell does in its own way.

    @abstractmethod
    def _given_order(self) -> Order | None:
        """Return the server's order, if it has given one."""

    @abstractmethod
    def _order_to_end(self, operation: str) -> Order | None:
        """Obey the server's order, before a wait; return it if it is to end what only waits."""

    @abstractmethod
    def _tries(self) -> bool:
        """Return whether a receive looks for bytes before it waits."""

    def _helped(self, size: int) -> None:  # noqa: B027 - one of the two has it
        """Note that so many bytes came to a receive that did not wait for them."""

    @abstractmethod
    def _claimed(self, operation: str) -> AbstractContextManager[None]:
        """Keep other threads or tasks off.

        Raises Busy when one is on it, and what is to be said when the connection is over.
        """

    @abstractmethod
    def _send_before_commit(self) -> None:
        """Send what is gathered."""

    @abstractmethod
    def _deadline_changed(self) -> None:
        """Wait by the deadlines as they now are."""

    @abstractmethod
    def _give_up(self, reason: str = "") -> None:
        """Release this handle at once.  reason: what later calls are told."""

    def _leave_descriptor(self) -> None:  # noqa: B027 - one of the two has it
        """Watch the transport's descriptor no more: another is to take its place."""

    def _renew_waits(self) -> None:  # noqa: B027 - one of the two has it
        """Note that the transport has another descriptor."""

    @abstractmethod
    def _reset_after_fork(self) -> None:
        """Let go, in a forked child, of what belongs to the parent's threads or loop."""

    def _after_fork(self, fate: Fate, why: Released) -> socket.socket | None:
        """In a forked child: let go of the descriptor, or be fit for use here."""
        core = self.core
        kept = (fate != "none" or self._inherit) and core.life.state is not State.DETACHED
        core.transport.after_fork(kept=kept)
        if fate != "given":
            self._gathered = None  # the parent sends it
        if kept:
            core.ledger.pushes = 0
        else:
            drop(core.sock)
            core.drop_record()
            core.life.step(LifecycleEvent.RELEASE, why)
        self._reset_after_fork()
        return core.sock if kept else None


def size_of(wanted: int | None) -> int:
    """Return how much one system call receives where so many bytes are asked for."""
    return CHUNK if wanted is None or wanted <= CHUNK else LARGE_CHUNK
