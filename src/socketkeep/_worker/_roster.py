"""The connections that a worker serves: their rows, ids and leases."""

from __future__ import annotations

import itertools
import os
import socket
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final, TypedDict

from socketkeep._base import _log
from socketkeep._base._address import peer_text
from socketkeep._base._admission import HEADER_TIME, Refusal
from socketkeep._base._originals import stream_of
from socketkeep._config._chosen import park_after, receptions
from socketkeep._config._listener_settings import ListenerSettings
from socketkeep._names._naming import Registration
from socketkeep._stream import _record as record
from socketkeep._stream._lease import (
    PARKED,
    Attached,
    DrainSignal,
    Handoff,
    Hooks,
    Lease,
    Refusals,
    Registrar,
)
from socketkeep._stream._record import Ended
from socketkeep._stream._shell import Shell
from socketkeep._stream._waiting import make_orders
from socketkeep._wire import _scoreboard as scoreboard
from socketkeep._wire._messages import Attach, ConnectionDetached
from socketkeep._wire._parcels import GivenConnection, pack_parcel
from socketkeep._worker._entry import Entry
from socketkeep._worker._environment import Environment
from socketkeep._worker._front import EdgeOf
from socketkeep._worker._goodbye import Goodbye
from socketkeep._worker._handle_backup import HandleBackup
from socketkeep._worker._reattach import ANOTHER_TRY, Patience

if TYPE_CHECKING:
    from socketkeep._config._server_options import WorkerModel
    from socketkeep._wire._census import Place

_COUNTER_OF_REASON: Final[dict[Attached, int | None]] = {
    "accepted": None,  # by the keeper, which counts it
    "reload": scoreboard.ATTACHED_RELOAD,
    "upgrade": scoreboard.ATTACHED_UPGRADE,
    "parked": scoreboard.ATTACHED_PARKED,
    "crash": scoreboard.ATTACHED_CRASH,
    "pushed": scoreboard.ATTACHED_PARKED,
}

# Where a lease has what differs between the connections of one listener, and how it is made of all.
_PLACES: Final = {field: place for place, field in enumerate(Lease._fields)}
_ID: Final = _PLACES["id"]
_PEER: Final = _PLACES["peer"]
_TURN: Final = _PLACES["turn"]
_new_lease: Final[Callable[[type[Lease], list[Any]], Lease]] = tuple.__new__

#: Seconds between two lines of the log that say that a connection could not be served.
_TOLD_EVERY: Final = 10.0
#: Ids of endpoints begin here: no worker accepts so many connections.
_FIRST_ENDPOINT: Final = 1 << 48

#: Seconds from one connection's move to the next one's, where each hears by itself that it is to
#: move: what a move takes, so that no more than a few are on their way at a time.
TURN: Final[dict[WorkerModel, float]] = {"thread": 0.001, "fork": 0.005}


_NOTHING: Final = Registration()


def _keep_from_here(entry: Entry) -> None:
    """Have the handler's own waits offer the entry to the keeper."""
    entry.hooks.backup = entry.offer


class Accounts(TypedDict):
    """The accounts that `Roster` enters connections in; minted: boot, serial, listener number."""

    rows: object
    numbers: Iterator[int]
    minted: tuple[int, int, int]


def _is_plain(message: Attach) -> bool:
    """Return whether a connection has no more than its state and its counts from before."""
    return message.taken_in < 0 and not (
        message.unread
        or message.proxy
        or message.deadline
        or message.inflow_full_at
        or message.redelivered
        or message.reply
        or message.name
        or message.groups
        or message.labels
        or message.trace
    )


def _of_edge(lease: Lease, header: bytes) -> Lease:
    """Return the lease of a plain end, whose bytes the kernel does not count."""
    return lease._replace(proxy=header, passed=(0, 0))


def _registration_of(message: Attach) -> Registration | None:
    if not (message.name or message.groups or message.labels):
        return None
    return Registration(message.name, frozenset(message.groups), message.labels)


class Roster:
    """Makes an entry of each connection accepted or attached."""

    def __init__(self, environment: Environment, drain_signal: DrainSignal | None) -> None:
        self.refusals: Refusals | None = None
        self.registrar: Registrar | None = None
        self._environment = environment
        self._drain_signal = drain_signal
        on_leaving = environment.handler.on_leaving
        self._farewell = None if on_leaving is None else Goodbye(on_leaving)
        self._orders = None
        if drain_signal is not None:
            self._orders = make_orders(drain_signal.wake_fd, environment.scoreboard.header)
        self._numbers = itertools.count(1)
        self._endpoints = itertools.count(_FIRST_ENDPOINT)
        self._pid = os.getpid()
        config = environment.config
        resumable = environment.handler.resumable and config.keep != "none"
        self._resumable = resumable
        self._keeps = resumable and environment.scoreboard.keeps_states
        self._redeliver = self._keeps and environment.handler.redeliver
        self._series = scoreboard.connection_id(environment.boot, environment.serial, 0)[:-1]
        self._pace = TURN.get(environment.model, 0.0)
        self._park_after = park_after(config, environment.model) if resumable else None
        self._settings = settings = environment.settings
        self._receptions = receptions(settings)
        self._starts_tls = {n for n, said in enumerate(settings) if said.tls and said.tls.asked}
        self.offered: Callable[[Entry], None] = _keep_from_here
        self._leases = [list(self._lease_of(n, said)) for n, said in enumerate(settings)]
        self._throttle = _log.Throttle()
        self._doorkeeper = environment.doorkeeper
        self._casts: dict[int, Callable[..., Entry]] = {}  # by listener

    def mint(self) -> str:
        """Return a new id, for an endpoint, which is no connection."""
        return f"{self._series}{next(self._endpoints):x}"

    def accepted(self, sock: socket.socket, listener: int, peer: str = "") -> Entry | None:
        """Enter a new connection; None when that cannot be, and it is the caller's still.

        One whose PROXY header has not come yet is not to be served: its `header_by` says so.

        peer: its address if known.
        """
        reception = arrival = place = None
        doorkeeper = self._doorkeeper
        try:
            reception = self._receptions[listener]
            if reception is not None:
                arrival = reception.begin(sock, peer)
            if doorkeeper is not None and (reception is None or arrival is not None):
                place = doorkeeper.admit((arrival and arrival.peer) or peer, listener)
        except Refusal as refusal:
            self.note_refused(refusal, listener, (arrival and arrival.peer) or peer)
            if doorkeeper is not None:
                doorkeeper.turn_away(sock)
            return None
        except Exception as error:
            self.note_unserved(error, peer)
            return None
        board = self._environment.scoreboard
        row = board.claim(scoreboard.ACCEPTED)
        if row is None:
            self._uncount(place)
            return None
        try:
            entry = self._enter(row, sock, listener, (arrival and arrival.peer) or peer)
            entry.counted = place
            if arrival is not None and self._settings[listener].of_edges:
                entry.lease = _of_edge(entry.lease, arrival.raw)
            elif arrival is not None:
                entry.lease = entry.lease._replace(proxy=arrival.raw)
            elif reception is not None:
                entry.header_by = time.monotonic_ns() + int(HEADER_TIME * 1e9)
            return entry
        except Exception as error:
            board.give_back(row, scoreboard.ACCEPTED)
            self._uncount(place)
            self.note_unserved(error, peer)
            return None

    def makes_alike(self, listener: int) -> bool:
        """Return whether new connections of a listener differ by their rows and peers alone.

        Not those with moments of their own, from when they come, nor those that are kept.
        """
        return self.has_pattern(listener) and not self._keeps

    def has_pattern(self, listener: int) -> bool:
        """Return whether connections of a listener differ by no more than `attach_by` allows."""
        said = self._settings[listener]
        timed = said.login_timeout or said.receive_rate or said.first_bytes_timeout
        return not (self._redeliver or timed or listener in self._starts_tls)

    def attach_by(self, listener: int, attach: Callable[..., Entry]) -> None:
        """Have C make what the keeper gives of a listener's connections, where it is plain.

        attach: as `Caster.attach`; the row is claimed, and the state is put on its shelf there.
        """
        self._casts[listener] = attach

    def mould(
        self, row: int, words: memoryview, sock: socket.socket, listener: int
    ) -> tuple[Entry, str, float]:
        """Return an entry that stands for all that come by a listener, and how they differ.

        That is their ids without the number, and the seconds of `turn` for each row.
        """
        for word in range(record.WORDS):
            words[word] = 0
        # With texts of its own: they are replaced in place.
        lease = self._lease(row, f"{self._series}0", listener, "nobody")
        if self._settings[listener].of_edges:
            lease = _of_edge(lease, b"a header")
        entry = Entry(row, words, sock, lease, self._hooks(row, words), listener)
        return entry, self._series, self._pace

    def accounts(self, listener: int) -> Accounts:
        """Return where a connection of a listener is entered, for who enters them in C."""
        environment = self._environment
        return {
            "rows": environment.scoreboard.places,
            "numbers": self._numbers,
            "minted": (environment.boot, environment.serial, listener),
        }

    def asks(self, listener: int, *, headed: bool = False) -> bool:
        """Return whether more is to be known of its connections before they are served.

        headed: who asks takes the header itself that an edge has sent before.
        """
        received = self._receptions[listener] is not None and not headed
        return self._doorkeeper is not None or received

    def _uncount(self, place: Place | None) -> None:
        if place is not None and self._doorkeeper is not None:
            self._doorkeeper.leave(place)

    def _enter(self, row: int, sock: socket.socket, listener: int, peer: str) -> Entry:
        environment = self._environment
        number = next(self._numbers)
        words = environment.scoreboard.enter(
            row, environment.boot, environment.serial, number, self._pid, listener, peer
        )
        return self._entry(row, words, number, sock, listener, peer)

    def entered(self, row: int, sock: socket.socket, listener: int, peer: str) -> Entry:
        """Return the entry of a connection that has its row, for the process that serves it.

        peer: "" where it is not known yet; then the row is told, too.
        """
        board = self._environment.scoreboard
        words = board.record(row)
        if not peer:
            peer = peer_text(sock)
            board.set_peer(row, peer)
        return self._entry(row, words, words[record.NUMBER], sock, listener, peer)

    def _entry(
        self,
        row: int,
        words: memoryview,
        number: int,
        sock: socket.socket,
        listener: int,
        peer: str,
    ) -> Entry:
        environment = self._environment
        lease = self._lease(row, f"{self._series}{number:x}", listener, peer)
        if login_timeout := self._settings[listener].login_timeout:
            lease = lease._replace(deadline=time.monotonic() + login_timeout)
        hooks = self._hooks(row, words)
        entry = Entry(row, words, sock, lease, hooks, listener)
        if listener in self._starts_tls:
            hooks.front = EdgeOf(environment, entry, self.offered)
        if hooks.shelf is not None:
            at = time.monotonic() + environment.config.keep_after
            entry.offer = HandleBackup(environment.channel, entry, at)
        return entry

    def casts(self, listener: int) -> bool:
        """Return whether C makes what the keeper gives of this listener's connections."""
        return listener in self._casts

    def attached(self, message: Attach | GivenConnection, fd: int) -> Entry | None:
        """Enter a connection that another worker detached; None, and it is closed, if it cannot be.

        fd: the connection, as far as the keeper knows.
        """
        board = self._environment.scoreboard
        counter = _COUNTER_OF_REASON[message.attached]
        row = board.claim(counter)
        if row is None:
            os.close(fd)
            return None
        cast = self._casts.get(message.listener)
        try:
            if cast is not None and (isinstance(message, GivenConnection) or _is_plain(message)):
                return self._cast_again(cast, row, message, fd)
            assert isinstance(message, Attach), "it is made of more than the bytes that came"
            return self._make_again(row, message, fd)
        except Exception as error:
            board.give_back(row, counter)
            self.note_unserved(error, message.peer)
        return None

    def _cast_again(
        self, cast: Callable[..., Entry], row: int, message: Attach | GivenConnection, fd: int
    ) -> Entry:
        environment = self._environment
        entry = cast(
            *(fd, row, message.id, message.epoch, message.attached, message.peer),
            *(message.state, message.accepted_at, message.bytes_in, message.bytes_out),
            *(message.kept, message.attached in PARKED),
            environment.scoreboard.shelf(row) if self._keeps else None,
        )
        if message.returnable:
            entry.returns_to = environment.channel.keepers
        if self._doorkeeper is not None:
            entry.counted = self._doorkeeper.count(message.peer, message.listener)
        return entry

    def _make_again(self, row: int, message: Attach, fd: int) -> Entry:
        try:
            sock = stream_of(fd)
        except OSError:
            os.close(fd)
            raise
        try:
            return self._enter_again(row, message, sock)
        except BaseException:
            sock.close()
            raise

    def _enter_again(self, row: int, message: Attach, sock: socket.socket) -> Entry:
        environment = self._environment
        boot, minted_by, number = scoreboard.parse_connection_id(message.id)
        status = record.CLEAN
        # From here on, not from when it is served: this worker may die in between.
        if message.unread:
            status = record.BOUND if self._redeliver else record.READ
        elif message.redelivered and self._redeliver:
            status = record.AGAIN
        epoch = message.epoch
        words = environment.scoreboard.prepare(
            *(row, boot, minted_by, self._pid, message.listener, message.peer),
            epoch=epoch,
            accepted_at=message.accepted_at,
            bytes_in=message.bytes_in,
            bytes_out=message.bytes_out,
            status=status,
            keep=scoreboard.token_of(minted_by, number, epoch) if message.kept else 0,
        )
        lease = self._lease(
            row,
            message.id,
            message.listener,
            message.peer,
            epoch=epoch,
            attached=message.attached,
            state=message.state,
            unread=message.unread,
            redelivered=message.redelivered,
            proxy=message.proxy,
            deadline=message.deadline / 1e9 if message.deadline else None,
            inflow_full_at=message.inflow_full_at / 1e9,
            registration=_registration_of(message),
            reply=message.reply,
            passed=(message.written, message.taken_in) if message.taken_in >= 0 else None,
            trace=message.trace,
        )
        hooks = self._hooks(row, words)
        if hooks.shelf is not None:
            hooks.shelf.put(message.state, message.reply)
        words[record.NUMBER] = number  # last: a row with a number is one that the keeper reads
        entry = Entry(row, words, sock, lease, hooks, message.listener)
        if message.listener in self._starts_tls:
            hooks.front = EdgeOf(environment, entry, self.offered)
        if message.returnable:
            entry.returns_to = environment.channel.keepers
        if self._doorkeeper is not None:
            entry.counted = self._doorkeeper.count(message.peer, message.listener)
        return entry

    def again(self, entry: Entry, handoff: Handoff) -> None:
        """Have an entry served anew here, since the connection that left could not be given away.

        Its handler is called from the top, as it would be in another worker.
        """
        drain_signal = entry.hooks.drain_signal
        park_after = None
        if handoff.parked and not self._environment.channel.closed:
            # The keeper is out of descriptors, and may have one again.
            park_after = max(ANOTHER_TRY, entry.lease.park_after or 0.0)
        entry.sock = handoff.sock
        entry.why = ""
        entry.record[record.ENDED] = Ended.NOT_YET
        entry.record[record.STATUS] = record.READ if handoff.unread else record.CLEAN
        entry.lease = entry.lease._replace(
            attached="parked" if handoff.parked else "reload",
            state=handoff.state,
            unread=handoff.unread,
            park_after=park_after,
            reply=b"",
            passed=handoff.passed,
            deadline=handoff.deadline,
            inflow_full_at=handoff.inflow_full_at,
            registration=handoff.registration,
            trace=handoff.trace,
        )
        entry.hooks = replace(
            entry.hooks,
            drain_signal=None if drain_signal is None else Patience(drain_signal),
            refused=0,
            spin=None,
            abandoned=False,
            deaf=False,
            trace="",
        )

    def cannot_serve(self, entry: Entry, error: Exception) -> None:
        """End a connection on which no handler can be called: it alone, whatever it was.

        Its row is the caller's to settle.
        """
        entry.sock.close()
        entry.record[record.ENDED] = Ended.CLOSED
        entry.why = "it could not be served"
        self.note_unserved(error, entry.peer)

    def note_unserved(self, error: BaseException, peer: str = "") -> None:
        """Count a connection that could not be served, and say so at a bounded rate."""
        board = self._environment.scoreboard
        board.add(scoreboard.UNSERVED)
        if board.is_due(scoreboard.UNSERVED_TOLD, _TOLD_EVERY):
            lines = traceback.format_exception(error)
            _log.warning(
                "connections that cannot be served are closed",
                peer=peer,
                count=board[scoreboard.UNSERVED],
                traceback="".join(lines).rstrip(),
            )

    def note_refused(self, refusal: Refusal, listener: int, peer: str = "") -> None:
        """Count a connection that was refused, and say so at a bounded rate.

        It is the caller's to close.
        """
        board = self._environment.scoreboard
        board.add(scoreboard.WORD_OF_REASON[refusal.reason])
        self._throttle.info(
            "connection refused",
            kind=refusal.reason,
            reason=refusal.reason,
            peer=peer,
            listener=self._environment.listener_names[listener],
            why=str(refusal),
        )

    def note_overdue(self, conn: Shell) -> None:
        """Count a connection that one of its deadlines has ended, and say so at a bounded rate."""
        self._environment.scoreboard.add(scoreboard.OVERDUE)
        self._throttle.info(
            "connection timed out",
            kind=conn.overdue,
            id=conn.id,
            peer=conn.peer,
            listener=conn.listener,
            why=conn.overdue.removeprefix("ended: "),
        )

    def refuse_waiting(self, entry: Entry) -> None:
        """End a connection whose PROXY header nobody can wait for.

        Its row is the caller's to settle.
        """
        entry.sock.close()
        entry.record[record.ENDED] = Ended.CLOSED
        refusal = Refusal("no_room", "its PROXY header had not come, and could not be waited for")
        self.note_refused(refusal, entry.listener, entry.peer)

    def introduce(self, entry: Entry, peer: str) -> None:
        """Show who the entry's peer is, where it was not told before."""
        entry.introduced = peer
        self._environment.scoreboard.set_peer(entry.row, peer)

    def parcel(self, entry: Entry, handoff: Handoff) -> bytes | None:
        """Return what is sent to the keeper, which has a handle, of a connection to be parked.

        None: there is more to say of it than that.
        """
        if (
            handoff.unread
            or handoff.redelivered
            or handoff.deadline is not None
            or handoff.inflow_full_at
            or handoff.registration is not None
            or handoff.passed is not None
            or handoff.trace
            or entry.header_by
            or entry.lease.proxy
        ):
            return None
        lease, words = entry.lease, entry.record
        return pack_parcel(
            *(lease.id, lease.epoch, entry.listener, entry.peer, handoff.state),
            words[record.ACCEPTED_AT],
            words[record.BYTES_IN],
            words[record.BYTES_OUT],
            words[record.ACTIVE_AT],
            entry.row,
        )

    def detached(self, entry: Entry, handoff: Handoff) -> ConnectionDetached:
        """Return what is sent to the keeper with the connection's descriptor."""
        words = entry.record
        known = handoff.registration or _NOTHING
        return ConnectionDetached(
            id=entry.lease.id,
            epoch=entry.lease.epoch,
            listener=entry.listener,
            peer=entry.peer,
            state=handoff.state,
            unread=handoff.unread,
            accepted_at=words[record.ACCEPTED_AT],
            bytes_in=words[record.BYTES_IN],
            bytes_out=words[record.BYTES_OUT],
            parked=handoff.parked,
            active_at=words[record.ACTIVE_AT],
            redelivered=handoff.redelivered,
            row=entry.row,
            proxy=entry.lease.proxy,
            header_by=entry.header_by,
            deadline=0 if handoff.deadline is None else max(1, int(handoff.deadline * 1e9)),
            inflow_full_at=int(handoff.inflow_full_at * 1e9),
            written=handoff.passed[0] if handoff.passed else -1,
            taken_in=handoff.passed[1] if handoff.passed else -1,
            name=known.name,
            groups=sorted(known.groups),
            labels=dict(known.labels),
            trace=handoff.trace,
        )

    def log_begin(self, entry: Entry) -> None:
        """Write the line of a connection that is new; called where its handler is."""
        if entry.lease.attached == "accepted":
            _log.info(
                "connected", id=entry.lease.id, peer=entry.peer, listener=entry.lease.listener
            )

    def _lease(self, row: int, name: str, listener: int, peer: str, **more: Any) -> Lease:
        values = self._leases[listener].copy()
        values[_ID] = name
        values[_PEER] = peer
        values[_TURN] = row * self._pace
        for field, value in more.items():
            values[_PLACES[field]] = value
        return _new_lease(Lease, values)

    def _lease_of(self, listener: int, said: ListenerSettings) -> Lease:
        """Return what all connections of a listener are told alike."""
        return Lease(
            epoch=1,
            listener=self._environment.listener_names[listener],
            resumable=self._resumable,
            state_type=self._environment.handler.state_type,
            idle_timeout=self._environment.config.idle_timeout or None,
            replay_limit=self._environment.config.replay_limit,
            park_after=self._park_after,
            redeliver=self._redeliver,
            nodelay=said.tcp_nodelay,
            first_bytes_timeout=said.first_bytes_timeout or None,
            receive_rate=said.receive_rate,
        )

    def _hooks(self, row: int, words: memoryview) -> Hooks:
        shelf = self._environment.scoreboard.shelf(row) if self._keeps else None
        return Hooks(
            words,
            shelf,
            drain_signal=self._drain_signal,
            orders=self._orders,
            registrar=self.registrar,
            farewell=self._farewell,
            refusals=self.refusals,
            on_error=self._environment.handler.on_error,
        )
