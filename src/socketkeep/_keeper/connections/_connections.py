"""Connections as the keeper has them: what workers say of theirs, and those that it holds."""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Final, Literal

import msgspec

from socketkeep._base import _log
from socketkeep._base._admission import HEADER_TIME, Refusal, counter_of
from socketkeep._base._passing import Unfit, close_without_waiting
from socketkeep._config._chosen import limit_seconds, receptions
from socketkeep._config._server_options import ServeConfig, listener_settings
from socketkeep._keeper.connections._moves import Moves
from socketkeep._keeper.connections._parking import Parking, says_something
from socketkeep._keeper.connections._porch import Porch
from socketkeep._keeper.connections._post import Port, Post
from socketkeep._keeper.connections._queues import Queues
from socketkeep._keeper.connections._receipts import Receipts
from socketkeep._keeper.loop._closer import LingeringCloser
from socketkeep._keeper.loop._reactor import Reactor, ReactorTimer
from socketkeep._keeper.tables._connection_table import (
    ON_ITS_WAY,
    ConnectionTable,
    HeldConnection,
)
from socketkeep._keeper.tables._crash_policy import judge
from socketkeep._keeper.tables._names import SavedName
from socketkeep._keeper.tables._ownership import Ownership, OwnershipState, Stale
from socketkeep._keeper.tables._packing import WORTH_IT
from socketkeep._keeper.tables._state import (
    KeepOpen,
    SavedConnection,
    SavedConnections,
    SavedPost,
)
from socketkeep._keeper.workers._screening import Nonsense, Screening
from socketkeep._keeper.workers._workers import Worker
from socketkeep._names._naming import MOST_ENDPOINTS
from socketkeep._net._accept_errors import Exhausted
from socketkeep._net._listener import Listener
from socketkeep._stream import _record as record
from socketkeep._stream._closing import reset
from socketkeep._stream._last_words import mark
from socketkeep._stream._record import Ended as End
from socketkeep._stream._record import Record
from socketkeep._stream._replies import checked
from socketkeep._stream._totals import waiting_in
from socketkeep._wire._census import Place
from socketkeep._wire._channel import Packet
from socketkeep._wire._descriptors import PLAIN_END, connection_place, pair_maker
from socketkeep._wire._doorkeeper import Doorkeeper
from socketkeep._wire._messages import (
    ABSENT,
    Acknowledged,
    Attached,
    AttachRefused,
    BytesPassed,
    ConnectionDetached,
    ConnectionEnded,
    Delivered,
    Keep,
    OpenLine,
    Orphaned,
    Push,
    Registered,
    StartTls,
)
from socketkeep._wire._parcels import pack_parcel, read_parcel
from socketkeep._wire._scoreboard import connection_id, id_of, keep_token

if TYPE_CHECKING:  # for who is behind a proxy
    from socketkeep._net._proxied import Reception

_ACKNOWLEDGED: Final = b"\1"
#: Bytes received and not dealt with that the keeper holds of all connections together, at most.
_MOST_UNREAD: Final = 512 * 1024 * 1024
_FEW_UNREAD: Final = 65536
#: What a row's word may say of a time or an amount, so that the next worker can add to it.
_LARGEST: Final = 2**63 - 1
#: What a handoff says that is of no use once it has been taken.
_OF_NO_USE: Final = (("row", -1), ("active_at", 0), ("connection", ABSENT), ("answer", ABSENT))
#: In a connection's id, who accepted it: the serial number of no worker, of which none is 0 and
#: none comes near to this.
_KEEPER: Final = 2**32 - 1
#: How often an edge is asked again, since more has come to the worker's side meanwhile.
_MOST_QUESTIONS: Final = 100
#: How many are accepted here in a row that are not to be served, or not yet.
_NOT_SERVED_AT_ONCE: Final = 64


class Connections:
    """The keeper's side of detaching, parking, keeping and attaching: one way for all of them.

    `shake_hands` is called with what a worker wants of an edge, and the packet to take it from,
    `ask_bytes` with the facts of a connection, to be told how much of it has passed there;
    `hear` with what comes by a line of the post's.  `keep_row` and `let_go_of_row` are called with
    a worker that has died, and a row of it by which a connection goes on.
    """

    shake_hands: Callable[[Packet, StartTls], None]
    ask_bytes: Callable[[bytes, Callable[[BytesPassed | None], None]], None]
    hear: Callable[[Worker, Packet, Port], None]
    keep_row: Callable[[Worker, int], bool]
    let_go_of_row: Callable[[Worker, int], None]

    def __init__(
        self,
        reactor: Reactor,
        config: ServeConfig,
        listeners: Sequence[str],
        queues: Queues,
        closer: LingeringCloser,
        targets: Callable[[], Iterable[Worker]],
        changed: Callable[[], None],
        screening: Screening,
        newcomer: Callable[[], HeldConnection | None],
        boot: int,
        hosts: Callable[[], Iterable[Worker]],
        doorkeeper: Doorkeeper | None = None,
        on_taken: Callable[[], Literal["close", "keep"]] = lambda: "close",
        on_push: Callable[[], bool] = lambda: False,
    ) -> None:
        """on_taken: returns what becomes of a connection whose name another one takes.

        on_push: returns whether pushes are for the user's code.
        """
        self._doorkeeper = doorkeeper
        self._rate_timer: ReactorTimer | None = None
        self._reactor = reactor
        self._screening = screening
        self._config = config
        self._boot = boot
        self._minted = 0
        self._listeners = listeners
        self._queues = queues
        self._closer = closer
        self._changed = changed
        self._throttle = _log.Throttle()
        self._stopping = False
        self._asking: dict[str, HeldConnection] = {}  # of which an edge is to tell how much passed
        self._park_after = limit_seconds(config.park_after, 0.0) or 0.0
        self.totals: Counter[str] = Counter()
        self.condemned: set[str] = set()  # they end, whatever becomes of their workers
        self.upgraded = 0  # the last generation that came with a new version of the package
        self.connection_table: Final = ConnectionTable(doorkeeper)
        screening.known = self.connection_table.held
        self.moves: Final = Moves(
            reactor,
            self.connection_table,
            targets,
            newcomer,
            queues.__len__,
            self._moved,
            self._close,
            config.orphan_timeout,
            keeps=config.keep == "crash",
            hosts=hosts,
            # Where connections are counted each is with the keeper until its worker counts it.
            takes_for_attached=doorkeeper is None and not config.max_connections,
        )
        self._receipts = Receipts(reactor, self.moves)
        settings = listener_settings(config, len(listeners))
        self._login_timeouts = [each.login_timeout for each in settings]
        self.parking: Final = Parking(
            reactor,
            self._woken,
            self._close,
            config.idle_timeout,
            [each.first_bytes_timeout for each in settings],
            self._note_overdue,
        )
        self.post: Final = Post(reactor, _Unowned(self, on_push), on_taken)
        self.moves.post = self.post
        self.post.on_called = self._called
        self._renamed: dict[str, None] = {}
        self._receptions = receptions(settings)
        self._of_edges = [each.of_edges for each in settings]
        self.porch: Final = Porch(reactor, self._reception, self._admit, self._refuse)

    def use(self, config: ServeConfig, doorkeeper: Doorkeeper | None) -> None:
        """Go by these options from now on, with the connections that are here included."""
        self._config = config
        if doorkeeper is not self._doorkeeper:
            self._doorkeeper = doorkeeper
            self.connection_table.use(doorkeeper)
        self._park_after = limit_seconds(config.park_after, 0.0) or 0.0
        settings = listener_settings(config, len(self._listeners))
        self._login_timeouts = [each.login_timeout for each in settings]
        self.parking.use(config.idle_timeout, [each.first_bytes_timeout for each in settings])
        self.moves.use(
            config.orphan_timeout,
            takes_for_attached=self._doorkeeper is None and not config.max_connections,
        )

    def __len__(self) -> int:
        """Return how many no worker serves now."""
        resting = len(self.parking) + len(self.porch) + len(self._asking)
        return len(self.moves) + resting + len(self._queues)

    @property
    def waiting(self) -> int:
        """Return how many wait for a seat."""
        return self.moves.waiting + len(self._queues)

    def take_in(self, listeners: Collection[Listener], most: int) -> None:
        """The server ends: take what is in these listeners' queues, `most` in each at most."""
        try:
            self._queues.take_in(listeners, most)
        except Exhausted:
            self._out_of_descriptors()

    def wind_up(self, *, resumes: bool, all_served: bool = False) -> None:
        """The server stops: close what no worker has, and what comes, but who has sent something.

        That, and those of the accept queues, workers are still to serve.  resumes: whether they can
        go on with a connection that another worker has had.  all_served: they are to do so with
        each of these.
        """
        all_served = all_served and resumes

        def stays(held: HeldConnection) -> bool:
            if held.why == "accepted" or all_served:
                return True
            return resumes and (bool(held.handoff.unread) or says_something(held.sock))

        self.porch.stop()
        self.moves.end(stays)
        if all_served:
            self.parking.wake_all()
        self.parking.stop(close=not resumes)

    def stop(self) -> None:
        """The server stops: close what no worker has, and what comes from now on."""
        self._stopping = True
        self.porch.stop()
        self.parking.stop(close=True)
        self.moves.stop()
        for asked in self._asking.values():
            asked.ownership.stopped()
            self._close(asked, "closed", "the server stopped")
        self._asking.clear()
        while self._queues and (held := self.accept()) is not None:
            held.ownership.stopped()
            self._close(held, "closed", "the server stopped")

    def end_unstored(self) -> None:
        """The server leaves: end what is parked and was not stored, for want of room."""
        for held in self.parking:
            if not held.stored_as:
                self.parking.close(held, "the server stopped")

    def snapshot(self, keep: KeepOpen) -> SavedConnections:
        """Return what the next version of the keeper goes on from."""
        self._receipts.give_all()
        parked = [*self.parking, *self.porch]
        others = [
            held
            for held in self.connection_table
            if held.ownership.state is not OwnershipState.PARKED
        ]
        waiting, unanswered = self.moves.snapshot()
        return SavedConnections(
            held=[held.snapshot(keep) for held in (*parked, *others)],
            waiting=[*waiting, *self._asking],
            unanswered=unanswered,
            totals=dict(self.totals),
            waits=self.moves.waits.snapshot(),
            upgraded=self.upgraded,
        )

    def restore(self, saved: SavedConnections) -> None:
        """Take over the connections that an earlier version held."""
        self.totals = Counter(saved.totals)
        self.upgraded = saved.upgraded
        self.moves.waits.restore(saved.waits)
        moving = []
        waiting = dict.fromkeys(saved.waiting)
        for each in saved.held:
            held = HeldConnection.restored(each)
            self.connection_table.put(held)
            if held.ownership.state is OwnershipState.PARKED:
                self._rest(held)
            elif held.id in waiting and held.why == "crash" and _edge_counts(held):
                del waiting[held.id]
                self._asking[held.id] = held
            elif held.ownership.state is OwnershipState.MOVING:
                moving.append(held)
        self.moves.restore(moving, waiting, saved.unanswered)
        self._reactor.call_soon(self._ask_edges)  # by then they are restored, too

    def believe(self, sock: socket.socket) -> None:
        """Take an end of a pair for an edge's, as the keeper has that has stored it."""
        if connection_place(sock.fileno()) == PLAIN_END:
            self._screening.believe_maker(pair_maker(sock.fileno()))

    def restore_unowned(self, saved: SavedConnection, sock: socket.socket, listener: int) -> None:
        """Take back from the service manager's store a connection that no worker had."""
        held = HeldConnection.restored(saved, sock)
        held.handoff = handoff = msgspec.structs.replace(held.handoff, listener=listener)
        if handoff.name or handoff.groups or handoff.labels:
            called = handoff.name, handoff.groups, handoff.labels
            self.post.learn_stored(SavedName(handoff.id, saved.epoch, None, *called, version=0))
        held.ownership.worker = None
        self.connection_table.put(held)
        if held.ownership.state is OwnershipState.PARKED:
            self._rest(held)
        else:
            self.moves.put(held)

    def restore_owned(
        self,
        ghost: Worker,
        number: int,
        sock: socket.socket,
        listener: int,
        stored_as: int,
        header: bytes = b"",
        header_as: int = 0,
    ) -> None:
        """Take back a connection of which a worker that has died has left the row `number`."""
        held = self.restore_living(ghost, number, sock, listener, stored_as, header, header_as)
        self._owner_died(ghost, held, ghost.scoreboard.record(number))

    def restore_living(
        self,
        worker: Worker,
        number: int,
        sock: socket.socket,
        listener: int,
        stored_as: int,
        header: bytes = b"",
        header_as: int = 0,
    ) -> HeldConnection:
        """Take back a handle of a connection that an adopted worker serves, in its row `number`."""
        row = worker.scoreboard.record(number)
        peer = worker.scoreboard.peer(number)
        handoff = self._handoff(id_of(row), row, listener, peer, None, header)
        ownership = Ownership(OwnershipState.OWNED, row[record.EPOCH], worker.serial)
        held = HeldConnection(handoff, sock, ownership, since=self._reactor.clock(), row=number)
        held.stored_as = stored_as
        held.header_as = header_as
        self.connection_table.put(held)
        return held

    def end(self, sock: socket.socket) -> None:
        """End a connection of which nobody holds the account any more."""
        self._closer.close(sock, self._changed)

    def _moved(self) -> None:
        self._receipts.go_on()
        self._changed()

    # What workers say.

    def take(self, worker: Worker, packet: Packet, handoff: ConnectionDetached | None) -> None:
        """A worker detached a connection: hold it, say so, and park it or find another worker.

        When not all of the descriptors arrived (this process is at its limit) the worker is told
        that, and still has it.
        """
        if packet.truncated:
            self._out_of_descriptors()
        held = None
        if handoff is not None and not packet.truncated:
            held = self._detached(worker, packet, handoff)
        if handoff is None or held is None:
            # One that waits at a pipe sees EOF there, once the packet is closed, and does not mind
            # this.
            name, epoch = (handoff.id, handoff.epoch) if handoff else ("", 0)
            worker.link.send(Acknowledged(name, epoch, taken=False))
            return
        worker.departures += 1
        # Who gave no descriptor knows that there is one here, and does not wait for an answer.
        if handoff.connection != ABSENT:
            pipe = packet.take(handoff.answer) if handoff.answer != ABSENT else ABSENT
            receipt = handoff.id, handoff.epoch, handoff.row, handoff.parked
            self.connection_table.when_stored(partial(self._acknowledge, worker, pipe, *receipt))
        # Of no use any more, and objects of its own in each that is parked.
        for name, value in _OF_NO_USE:
            msgspec.structs.force_setattr(handoff, name, value)
        msgspec.structs.force_setattr(handoff, "id", held.id)
        self.post.learn(worker, handoff)
        self.post.taken_back(held.id)
        if held.ownership.state is OwnershipState.PARKED:
            self._rest(held)
            self.post.parked(held.id)
            self._reactor.call_soon(self.moves.dispatch)  # its seat is free
        else:
            held.why = "upgrade" if worker.generation < self.upgraded else "reload"
            self._move_on(held)

    def take_parcel(self, worker: Worker, payload: bytes) -> bool:
        """A worker parks a connection of which there is a handle here, with nothing else to it.

        False: it is not so, nothing has been done, and this is a message as any other.
        """
        table = self.connection_table
        if (
            len(payload) >= WORTH_IT
            or table.store is not None
            or self._doorkeeper is not None
            or worker.adopted is not None
            or worker.link.waiting
        ):
            return False
        found = read_parcel(payload, table.held, worker.scoreboard.rows, len(self._listeners))
        if found is None:
            return False
        held, epoch, active_at = found
        owner = held.ownership
        if owner.worker != worker.serial or owner.epoch != epoch or self.post.knows(held.id):
            return False
        owner.parked(epoch)
        worker.departures += 1
        table.disown(held, worker.serial)
        held.parcel = payload
        held.redelivered = False
        now = self._reactor.clock()
        held.since = min(now, max(active_at / 1e9, now - self._park_after))
        self.parking.put(held, timed=False)
        self._reactor.call_soon(self.moves.dispatch)  # its seat is free
        return True

    def _acknowledge(
        self, worker: Worker, pipe: int, name: str, epoch: int, row: int, parked: bool
    ) -> None:
        """Tell the worker that what it gave up is held, also if this keeper dies now."""
        if row >= 0 and worker.link.open:
            words = worker.scoreboard.record(row)
            if (id_of(words), words[record.EPOCH]) == (name, epoch):
                words[record.ENDED] = End.TAKEN
        if pipe == ABSENT:
            self._receipts.give(worker, name, epoch, parked=parked)
            return
        # The sender died, or has filled the pipe meanwhile: it is held all the same.
        with contextlib.suppress(OSError):
            os.write(pipe, _ACKNOWLEDGED)
        os.close(pipe)

    def _move_on(self, held: HeldConnection) -> None:
        """Give it to a worker once what is said of it is stored: two could go on with it else."""
        if self.connection_table.store is None:
            self._move_now(held)
        else:
            self.connection_table.when_stored(partial(self._move_now, held))

    def _move_now(self, held: HeldConnection) -> None:
        same = self.connection_table.get(held.id) is held
        if same and held.ownership.state is OwnershipState.MOVING:
            self.moves.put(held)

    def attached(self, worker: Worker, message: Attached) -> None:
        """A worker holds the connection that it was sent."""
        self.moves.attached(worker, message)

    def refused(self, worker: Worker, message: AttachRefused) -> None:
        """A worker cannot take the connection that it was sent."""
        self.moves.refused(worker, message)

    def keep(self, worker: Worker, packet: Packet, message: Keep) -> None:
        """A worker entrusts a handle of a connection that it serves; say so in its row."""
        row = worker.scoreboard.record(message.row)
        token = keep_token(row)
        name = id_of(row)
        if packet.truncated or (name, row[record.EPOCH]) != (message.id, message.epoch):
            if packet.truncated:
                self._out_of_descriptors()  # the worker, not answered, offers it again
            return
        held = self.connection_table.get(name)
        if held is None:
            self._require_its_own(worker, name, message.connection)
            listener = worker.listener(message.listener)
            handoff = self._handoff(name, row, listener, message.peer, None, message.proxy)
            ownership = Ownership(OwnershipState.OWNED, message.epoch, worker.serial)
            sock = socket.socket(fileno=packet.take(message.connection))
            now = self._reactor.clock()
            self.connection_table.put(
                HeldConnection(handoff, sock, ownership, since=now, row=message.row)
            )
        elif held.ownership.worker != worker.serial:
            self._refuse_stale(worker, name, "not with this worker")
            return

        def kept() -> None:
            if worker.link.open and keep_token(row) == token:
                row[record.KEEP] = token

        self.connection_table.when_stored(kept)

    def start_tls(self, worker: Worker, packet: Packet, message: StartTls) -> None:
        """A worker wants TLS on a connection: from here on it is the edge's.

        Its plain end comes to be held here as any connection does.  Where this process is at its
        limit of descriptors, or no edge is there, the worker sees the end of the pair.
        """
        held = self.connection_table.get(message.id)
        if held is not None:
            if (held.ownership.worker, held.ownership.epoch) != (worker.serial, message.epoch):
                self._refuse_stale(worker, message.id, "not with this worker")
                return
            held.ownership.ended(message.epoch)
            self.connection_table.disown(held, worker.serial)
            self.connection_table.forget(held)
            close_without_waiting(held.sock.detach())
        elif not self._screening.may_have(worker, message.id):
            raise Nonsense(f"{message.id} is no connection of its own")
        if packet.truncated:
            self._out_of_descriptors()
        else:
            listener = worker.listener(message.listener)
            self.shake_hands(packet, msgspec.structs.replace(message, listener=listener))

    def unfit(self, worker: Worker, packet: Packet) -> None:
        """The descriptor of a connection was none: a handler has closed it, and a file has its
        number."""
        match packet.message:
            case ConnectionDetached(id=name, epoch=epoch):
                worker.link.send(Acknowledged(name, epoch, taken=False))
            case Keep(row=row):
                # Or it would be offered again and again.
                worker.scoreboard.record(row)[record.KEEP] = record.NOT_KEPT

    def ended(self, worker: Worker, message: ConnectionEnded) -> None:
        """A worker ended connections of which it had entrusted a handle."""
        for name, epoch in message.connections:
            held = self.connection_table.get(name)
            known = self.post.names.get(name)
            if known is not None and (known.owner, known.epoch) == (worker.serial, epoch):
                self.post.ended(name)
            try:
                if held is None or held.ownership.worker != worker.serial:
                    continue  # its offer did not arrive
                held.ownership.ended(epoch)
            except Stale as error:
                self._refuse_stale(worker, name, str(error))
                continue
            self.connection_table.disown(held, worker.serial)
            self.connection_table.forget(held)
            close_without_waiting(held.sock.detach())

    def _called(self, name: str) -> None:
        """A connection is called otherwise: have that stored, once for all that is said now."""
        if self.connection_table.store is not None:
            if not self._renamed:
                self._reactor.call_soon(self._store_called)
            self._renamed[name] = None

    def _store_called(self) -> None:
        renamed, self._renamed = self._renamed, {}
        store = self.connection_table.store
        for name in renamed:
            held = self.connection_table.get(name)
            if store is not None and held is not None:
                store.call(held)

    def register(self, worker: Worker, packet: Packet, message: Registered) -> None:
        """A worker says what a connection that it serves is called."""
        held = self.connection_table.get(message.id)
        if held is not None:
            if (held.ownership.worker, held.ownership.epoch) != (worker.serial, message.epoch):
                self._refuse_stale(worker, message.id, "not with this worker")
                return
        elif not self._screening.may_have(worker, message.id):
            raise Nonsense(f"{message.id} is no connection of its own")
        most = worker.scoreboard.rows + worker.arriving + MOST_ENDPOINTS
        if self.post.names.count_of(worker.serial) > most:
            raise Nonsense("it has more connections with names than connections")
        if message.line != ABSENT:
            self._open_line(worker, packet, message.line, message.id)
        self.post.register(worker, message)

    def open_line(self, worker: Worker, packet: Packet, message: OpenLine) -> None:
        """A process of a worker's has opened a line to push by."""
        if packet.truncated:
            self._out_of_descriptors()
        else:
            self._open_line(worker, packet, message.line, "")

    def _open_line(self, worker: Worker, packet: Packet, line: int, name: str) -> None:
        sock = socket.socket(fileno=packet.take(line))
        try:
            self.post.open_line(
                worker, sock, lambda port, said: self.hear(worker, said, port), name
            )
        except BaseException:
            sock.close()
            raise

    def restore_post(self, saved: SavedPost, workers: Iterable[Worker]) -> None:
        """Go on with the post of an earlier version, when the workers and all else are there."""
        self.post.restore(
            saved, workers, lambda worker, port, packet: self.hear(worker, packet, port)
        )

    def push(self, worker: Worker, message: Push, via: Port | None) -> None:
        """A worker has letters for others; via: the line by which they came."""
        self.post.push(via or self.post.port(worker), message.letters)

    def delivered(self, worker: Worker, message: Delivered) -> None:
        """A worker says what has become of letters."""
        self.post.answered(worker, message.answers)

    def close_unowned(self, name: str, why: str) -> None:
        """End a connection that no worker has."""
        held = self.connection_table.get(name)
        if held is None or self.parking.close(held, why) or self.porch.close(held):
            return
        self.moves.close(held, why)

    def orphaned(self, worker: Worker, message: Orphaned) -> None:
        """The process that a `fork` worker had for a connection has died, and was reaped."""
        held = self.connection_table.get(message.id)
        if held is not None and held.ownership.worker != worker.serial:
            return  # it was given up before
        worker.departures += 1
        if held is None:
            self.post.ended(message.id)
            return  # its offer did not arrive
        if (
            held.ownership.epoch != message.epoch
            or held.ownership.state is not OwnershipState.OWNED
        ):
            self._refuse_stale(worker, message.id, "of another lease")
            return
        try:
            reply = checked(message.reply)
        except Unfit:
            self._lose(worker, held)
            worker.tell_fates()
            return
        handoff = held.handoff
        handoff = ConnectionDetached(
            handoff.id,
            message.epoch,
            handoff.listener,
            handoff.peer,
            message.state,
            b"",
            handoff.accepted_at,
            message.bytes_in,
            message.bytes_out,
            deadline=message.deadline,
            proxy=handoff.proxy,
            reply=reply,
        )
        self._judge(worker, held, message.status, handoff)
        worker.tell_fates()

    def seat_freed(self) -> None:
        """A worker has room for one of those that wait."""
        self._reactor.call_soon(self.moves.dispatch)

    def worker_died(self, worker: Worker) -> None:
        """A worker was reaped: what it did not acknowledge it never touched; the rest is judged.

        What children that it forked go on serving is theirs, see `process_died`.
        """
        self._look_for_arrived(worker)
        self._never_attached(worker, self.moves.worker_died(worker))
        self._owners_died(worker, lambda pid: pid not in worker.fork_children)
        self.post.worker_died(worker.serial)

    def process_died(self, worker: Worker, pid: int) -> None:
        """A child of a `fork` worker that is dead itself was reaped."""
        self._owners_died(worker, pid.__eq__)

    # What the keeper accepts in the workers' place.

    def accept(self) -> HeldConnection | None:
        """Accept a connection that is to be given to a worker; None: nobody waits, or no room."""
        for _ in range(_NOT_SERVED_AT_ONCE):
            try:
                accepted = self._queues.accept(besides=self._too_early())
            except Exhausted:
                self._out_of_descriptors()
                return None
            if accepted is None:
                return None
            if self._doorkeeper is not None:
                self._doorkeeper.accepted(accepted[1])
            held = self._meet(*accepted)
            if held is not None:
                return held
        return None

    def _new_handoff(self, listener: int, peer: str) -> ConnectionDetached:
        """Return what is said of a connection that no worker has had."""
        # Workers count what they accept; this process counts by the clock, so that no number comes
        # twice, whichever version of the keeper goes on from here.
        self._minted = max(self._minted + 1, time.monotonic_ns() // 1000)
        name = connection_id(self._boot, _KEEPER, self._minted)
        now = time.monotonic_ns()
        patience = self._login_timeouts[listener]
        deadline = now + int(patience * 1e9) if patience else 0
        return ConnectionDetached(name, 1, listener, peer, None, b"", now, 0, 0, deadline=deadline)

    def _too_early(self) -> Collection[int]:
        """Return the listeners whose rate has the next connection wait.

        What was taken in at the end does not wait.
        """
        doorkeeper = self._doorkeeper
        if doorkeeper is None or not doorkeeper.paces or self._queues:
            return ()
        waits = {n: wait for n in range(len(self._listeners)) if (wait := doorkeeper.wait(n))}
        if waits and not (self._rate_timer and self._rate_timer.pending):
            wait = min(waits.values())
            self._rate_timer = self._reactor.call_later(wait, self.moves.dispatch)
        return waits.keys()

    def _meet(self, sock: socket.socket, listener: int, peer: str) -> HeldConnection | None:
        """Hold a connection that was accepted here; None: it is not to be served, or not yet."""
        reception = self._receptions[listener]
        arrival = place = None
        try:
            if reception is not None:
                arrival = reception.begin(sock, peer)
            if reception is None or arrival is not None:
                place = self._let_in((arrival and arrival.peer) or peer, listener)
        except Refusal as refusal:
            self._note_refused(refusal, listener, (arrival and arrival.peer) or peer)
            self._turn_away(sock)
            return None
        handoff = self._new_handoff(listener, peer)
        state = OwnershipState.MOVING
        if arrival is not None:
            handoff = msgspec.structs.replace(
                handoff, peer=arrival.peer or peer, proxy=arrival.raw, unread=arrival.unread
            )
        elif reception is not None:
            latest = int((self._reactor.clock() + HEADER_TIME) * 1e9)
            handoff, state = (
                msgspec.structs.replace(handoff, header_by=latest),
                OwnershipState.PARKED,
            )
        held = HeldConnection(
            handoff, sock, Ownership(state, 1, None), since=self._reactor.clock(), why="accepted"
        )
        if arrival is not None:
            self._count_along(held)
        held.counted = place
        self.totals["accepted"] += 1
        self.connection_table.put(held)
        if state is OwnershipState.PARKED:
            self.porch.put(held)
            return None
        return held

    # PROXY headers.

    def _count_along(self, held: HeldConnection) -> None:
        """Have it be known of what an edge passes on how many bytes have: none so far."""
        if self._of_edges[held.handoff.listener]:
            held.handoff = msgspec.structs.replace(held.handoff, written=0, taken_in=0)

    def _reception(self, listener: int) -> Reception:
        # Of a connection that waits for a header: the worker of another keeper may have said so.
        found = self._receptions[listener]
        if found is None:
            from socketkeep._net._proxied import Reception  # for who is behind a proxy

            found = Reception(required=True, networks=())
        return found

    def _rest(self, held: HeldConnection) -> None:
        """Watch a connection that waits: for its header, or for anything."""
        if held.handoff.header_by:
            held.why = "accepted"
            self.porch.put(held)
        else:
            self.parking.put(held)

    def _woken(self, held: HeldConnection) -> None:
        """Something has come for a parked connection: find a worker for it."""
        if self.connection_table.store is None:
            self.moves.put(held)
        else:
            self.connection_table.woken(held)
            self._move_on(held)

    def _admit(self, held: HeldConnection) -> None:
        """A connection's header is there: a handler may have it, if its client may come in."""
        self._count_along(held)
        try:
            held.counted = self._let_in(held.handoff.peer, held.handoff.listener)
        except Refusal as refusal:
            self._note_refused(refusal, held.handoff.listener, held.handoff.peer)
            held.ownership.stopped()
            self.totals["closed"] += 1
            self.connection_table.forget(held)
            self._turn_away(held.sock)
            held.ownership.drained()
            self._changed()
            return
        self.connection_table.put(held)
        self._move_on(held)

    def _let_in(self, peer: str, listener: int) -> Place | None:
        """Let in who is within the limits of its address.  Raises Refusal."""
        doorkeeper = self._doorkeeper
        return None if doorkeeper is None else doorkeeper.admit(peer, listener)

    def _turn_away(self, sock: socket.socket) -> None:
        if self._doorkeeper is None:
            sock.close()
        else:
            self._doorkeeper.turn_away(sock)

    def _refuse(self, held: HeldConnection, refusal: Refusal | None) -> None:
        """End a connection that no handler has had; None: the server stops."""
        if refusal is not None:
            self._note_refused(refusal, held.handoff.listener, held.handoff.peer)
        self.totals["closed"] += 1
        self.connection_table.forget(held)
        close_without_waiting(held.sock.detach())
        held.ownership.drained()
        self._changed()

    def _note_refused(self, refusal: Refusal, listener: int, peer: str) -> None:
        self.totals[counter_of(refusal.reason)] += 1
        self._throttle.info(
            "connection refused",
            kind=refusal.reason,
            reason=refusal.reason,
            peer=peer,
            listener=self._listeners[listener],
            why=str(refusal),
        )

    def _note_overdue(self, held: HeldConnection, why: str) -> None:
        self.totals["overdue"] += 1
        self._throttle.info(
            "connection timed out",
            kind=why,
            listener=self._listeners[held.handoff.listener],
            why=why.removeprefix("ended: "),
            **held.label,
        )

    # What follows from it.

    def _look_for_arrived(self, worker: Worker) -> None:
        """Find the rows of what the worker was taken to have; what has none it never received."""
        owned = self.connection_table.owned_by(worker.serial)
        sent = {held.id: held for held in owned if held.row == ON_ITS_WAY}
        if not sent:
            return
        for number, row in worker.scoreboard.taken():
            held = sent.get(id_of(row))
            if held is not None and row[record.EPOCH] == held.ownership.epoch:
                held.row = number
                del sent[held.id]
        for held in sent.values():
            held.ownership.receiver_died()
            self.moves.take_back(worker, held)

    def _never_attached(self, worker: Worker, names: set[str]) -> None:
        """The worker may have made rows for them, and died before it said so: none is lost."""
        if names:
            # One pass: a worker killed while it claimed a row has all its rows looked through.
            for _, row in worker.scoreboard.taken():
                if row[record.ENDED] == End.NOT_YET and id_of(row) in names:
                    row[record.ENDED] = End.DETACHED

    def _detached(
        self, worker: Worker, packet: Packet, handoff: ConnectionDetached
    ) -> HeldConnection | None:
        """Return the connection that the worker gave up; None when it was not the worker's."""
        held = self.connection_table.get(handoff.id)
        now = self._reactor.clock()
        if held is None and handoff.connection == ABSENT:
            self._throttle.error(
                "refused a connection without a descriptor",
                kind="no descriptor",
                id=handoff.id,
                **worker.label,
            )
            return None
        if not self._has_room(handoff):
            self._throttle.warning("no room for more unread bytes", most=_MOST_UNREAD)
            return None
        if held is None:
            self._require_its_own(worker, handoff.id, handoff.connection)
            ownership = Ownership(OwnershipState.OWNED, handoff.epoch, worker.serial)
            sock = socket.socket(fileno=packet.take(handoff.connection))
            held = HeldConnection(handoff, sock, ownership, since=now)
            self._step_detached(held, handoff)
            if worker.guests:
                worker.guests.discard(handoff.id)
        else:
            try:
                if held.ownership.worker != worker.serial:
                    raise Stale("not with this worker")
                self._step_detached(held, handoff)
            except Stale as error:
                self._refuse_stale(worker, held.id, str(error))
                return None
            held.handoff = handoff
            self.connection_table.disown(held, worker.serial)
        held.redelivered = handoff.redelivered
        self.connection_table.put(held)
        # Idle since it was active, or since its handler began to wait, whichever was later.
        held.since = min(now, max(handoff.active_at / 1e9, now - self._park_after))
        return held

    def _has_room(self, handoff: ConnectionDetached) -> bool:
        """Return whether the bytes that come with it are not too many, with those that are here."""
        size = len(handoff.unread)
        if size <= _FEW_UNREAD:
            return True
        return size + sum(held.unread_size for held in self.connection_table) <= _MOST_UNREAD

    def _require_its_own(self, worker: Worker, name: str, connection: int) -> None:
        if not self._screening.may_have(worker, name):
            raise Nonsense(f"{name} is no connection of its own")
        if self.connection_table.has_socket(connection):
            raise Nonsense(f"{name} is a connection that is held under another id")

    def _refuse_stale(self, worker: Worker, name: str, error: str) -> None:
        self._throttle.error(
            "refused a stale message", kind="stale", id=name, error=error, **worker.label
        )

    def _step_detached(self, held: HeldConnection, handoff: ConnectionDetached) -> None:
        if handoff.parked:
            held.ownership.parked(handoff.epoch)
        else:
            held.ownership.detached(handoff.epoch)

    def _owners_died(self, worker: Worker, of: Callable[[int], bool]) -> None:
        """Processes of a worker were reaped: judge what they owned, each by itself."""
        for held in self.connection_table.owned_by(worker.serial):
            try:
                if not 0 <= held.row < worker.scoreboard.rows:
                    raise Unfit("it has no row")
                row = worker.scoreboard.record(held.row)
                if of(row[record.PID]):
                    self._owner_died(worker, held, row)
            except Exception as error:
                if not isinstance(error, Unfit):
                    self._reactor.failed(error)
                self._lose(worker, held)
                if 0 <= held.row < worker.scoreboard.rows:
                    row = worker.scoreboard.record(held.row)
                    if id_of(row) == held.id:
                        row[record.ENDED] = End.DETACHED  # it is counted here

    def _lose(self, worker: Worker, held: HeldConnection) -> None:
        """End a connection of which its worker has left no account that makes sense."""
        worker.note_lost("no_account", **held.label)
        self.connection_table.disown(held, worker.serial)
        if held.id in self.connection_table:
            self.post.ended(held.id)
            self.totals["lost"] += 1
            self.connection_table.forget(held)
            self._closer.close(held.sock, self._changed)

    def _owner_died(self, worker: Worker, held: HeldConnection, row: Record) -> None:
        left = (End.NOT_YET, End.DETACHED, End.TAKEN)
        if row[record.ENDED] not in left or id_of(row) != held.id:
            # It was ended, and only the word of it did not come.
            self.post.ended(held.id)
            held.ownership.ended(held.ownership.epoch)
            self.connection_table.disown(held, worker.serial)
            self.connection_table.forget(held)
            self._closer.close(held.sock, self._changed)
            return
        state = worker.scoreboard.state(held.row)
        reply = checked(worker.scoreboard.reply(held.row))
        before = held.handoff
        about = held.id, row, before.listener, before.peer, state
        handoff: ConnectionDetached | bytes | None = None
        if not (reply or before.proxy):
            handoff = self._parcel(*about, held.row)
        if handoff is None:
            handoff = self._handoff(*about, before.proxy, reply)
        row[record.ENDED] = End.DETACHED  # settled here, whatever becomes of it
        self._judge(worker, held, row[record.STATUS], handoff, in_row=True)

    def _judge(
        self,
        worker: Worker,
        held: HeldConnection,
        status: int,
        handoff: ConnectionDetached | bytes,
        *,
        in_row: bool = False,
    ) -> None:
        """Resume a connection whose owner died, or end it.

        handoff: a parcel, where that says all.
        in_row: the owner was the worker, and what it had of it stands in its row.
        """
        held.ownership.owner_died()
        self.connection_table.disown(held, worker.serial)
        if isinstance(handoff, bytes):
            held.parcel = handoff
        else:
            held.handoff = handoff
        now = self._reactor.clock()
        fate, held.deaths = judge(
            status, worker.policy, held.deaths, now, self._config.poison_limit
        )
        because = "uncommitted"
        if self._config.keep != "crash":
            # The handle here is from when it was parked: no promise goes by it.
            fate, because = "close", "not_kept"
        if held.id in self.condemned:
            fate, because = "close", "told_to_end"
        if fate in ("resume", "redeliver") and not self._stopping:
            held.ownership.resumed()
            self.post.taken_back(held.id, uncertain=True)
            held.why = "crash"
            held.redelivered = fate == "redeliver"
            row = held.row
            if in_row and self.keep_row(worker, row):
                self.connection_table.tell_by_row(held, lambda: self.let_go_of_row(worker, row))
            self.connection_table.put(held)
            if worker.policy.redeliver and _edge_counts(held):
                self._asking[held.id] = held
                self._ask_edge(held, _MOST_QUESTIONS)
            else:
                self._move_on(held)
            if held.id not in self._asking and _is_reply_unknown(held):
                worker.note_lost("reply_unknown", **held.label)
            else:
                worker.fates["redelivered" if fate == "redeliver" else "resumed"] += 1
            return
        held.ownership.condemned()
        self.post.taken_back(held.id, uncertain=True)
        self.post.ended(held.id)
        if fate == "poison":
            _log.error("poisoned", deaths=len(held.deaths), **held.label)
            self.totals["poisoned"] += 1
            worker.fates["lost_poisoned"] += 1
        elif fate in ("resume", "redeliver"):
            worker.note_lost("stopping", **held.label)
        else:
            worker.note_lost(because, **held.label)
        if fate in ("poison", "reset"):
            self.totals["lost"] += 1
            self.connection_table.forget(held)
            reset(held.sock)
            held.ownership.drained()
        else:
            self._close(held, "lost", "its worker died")

    def _ask_edges(self) -> None:
        for held in tuple(self._asking.values()):
            self._ask_edge(held, _MOST_QUESTIONS)

    def _ask_edge(self, held: HeldConnection, left: int) -> None:
        """Find out from the edge how much has passed, and then go on with the connection.

        One whose reply was on its way cannot go on without that, and is ended.
        What waits here is looked at before and after: the same both times, it was as much when the
        edge answered, since nobody takes of it.
        """

        def told(passed: BytesPassed | None) -> None:
            if self._asking.get(held.id) is not held:
                return  # the server has stopped
            settled = waiting_in(held.sock) == before
            if passed is not None and not settled and left:
                self._ask_edge(held, left - 1)
                return
            del self._asking[held.id]
            if passed is not None and settled and passed.given >= before:
                held.handoff = msgspec.structs.replace(
                    held.handoff,
                    written=passed.taken + passed.waiting,
                    taken_in=passed.given - before,
                )
            if _is_reply_unknown(held):
                held.ownership.expired()
                mark(held.sock, "reset")  # its client is not to take it for an orderly end
                self._close(held, "lost", "how much of its reply has gone out is not known")
                return
            self._move_on(held)

        before = waiting_in(held.sock)
        self.ask_bytes(held.handoff.proxy, told)

    def _close(self, held: HeldConnection, counted: Literal["closed", "lost"], why: str) -> None:
        """End a connection that no worker has, in an orderly way."""

        def drained() -> None:
            held.ownership.drained()
            self._changed()

        known = self.post.names.get(held.id)
        self.post.ended(held.id)
        self.connection_table.forget(held)
        self.totals[counted] += 1
        if self._config.access_log:
            handoff = held.handoff
            _log.info(
                "connection",
                **held.label,
                listener=self._listeners[handoff.listener],
                duration=self._reactor.clock() - handoff.accepted_at / 1e9,
                bytes_in=handoff.bytes_in,
                bytes_out=handoff.bytes_out,
                ended="closed",
                why=why,
                **({"name": known.name} if known is not None and known.name else {}),
                **({"labels": dict(known.labels)} if known is not None and known.labels else {}),
            )
        self._closer.close(held.sock, drained)
        self._changed()

    def _parcel(
        self, name: str, row: Record, listener: int, peer: str, state: bytes | None, number: int
    ) -> bytes | None:
        """Return what a row says as a parcel; None: it is more than fits in one."""
        bytes_in = row[record.BYTES_IN]
        amounts = row[record.ACCEPTED_AT], bytes_in, row[record.BYTES_OUT], row[record.ACTIVE_AT]
        if not bytes_in or max(amounts) > _LARGEST or record.deadline_in(row):
            return None
        parcel = pack_parcel(name, row[record.EPOCH], listener, peer, state, *amounts, number)
        return None if parcel is None or len(parcel) >= WORTH_IT else parcel

    def _handoff(
        self,
        name: str,
        row: Record,
        listener: int,
        peer: str,
        state: bytes | None,
        proxy: bytes,
        reply: bytes = b"",
    ) -> ConnectionDetached:
        return ConnectionDetached(
            id=name,
            epoch=row[record.EPOCH],
            listener=listener,
            peer=peer,
            state=state,
            unread=b"",
            accepted_at=min(row[record.ACCEPTED_AT], _LARGEST),
            bytes_in=min(row[record.BYTES_IN], _LARGEST),
            bytes_out=min(row[record.BYTES_OUT], _LARGEST),
            proxy=proxy,
            deadline=record.deadline_in(row),
            reply=reply,
        )

    def _out_of_descriptors(self) -> None:
        self._throttle.warning("out of file descriptors", process="keeper", wanted="a connection")


def _edge_counts(held: HeldConnection) -> bool:
    """Return whether how much has passed is to be asked of an edge: nobody else has counted it."""
    if not held.proxy:
        return False
    return held.handoff.taken_in < 0 and held.sock.family == socket.AF_UNIX


def _is_reply_unknown(held: HeldConnection) -> bool:
    """Return whether a reply was on its way of which no edge has told how much has gone out."""
    return _edge_counts(held) and bool(held.handoff.reply)


class _Unowned:
    """The connections that no worker has, as the post sees them."""

    def __init__(self, connections: Connections, on_push: Callable[[], bool]) -> None:
        self._connections = connections
        self._on_push = on_push

    def push(self, name: str, data: bytes, told: Callable[[bool], None]) -> bool | None:
        held = self._connections.connection_table.get(name)
        if held is None:
            return False
        if self._on_push():
            self._connections.parking.wake(held)
            return False
        return self._connections.parking.push(held, data, told)

    def close(self, name: str, why: str) -> None:
        self._connections.close_unowned(name, why)

    def is_held(self, name: str) -> bool:
        return name in self._connections.connection_table
