"""Screening of what workers and templates say, before it is believed.

They run user code, which may say anything over their channels.  Each number that is an index, a
count, an epoch or a time, each name, and each descriptor is checked here, before the keeper changes
anything for it: what raises half-way has done half.  Nobody else is touched by what one says, since
an id is believed only of the worker that minted it or was given it.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Container, Mapping, Sequence
from typing import Final

from socketkeep._base._admission import HEADER_LIMIT
from socketkeep._base._errors import Malformed
from socketkeep._base._passing import Unfit
from socketkeep._base._proxy_header import read_header
from socketkeep._base._tls_facts import edge_tls
from socketkeep._keeper.tables._records import WorkerState
from socketkeep._keeper.workers._workers import Worker
from socketkeep._names._naming import MESSAGE_LIMIT, MOST_GROUPS, MOST_LABELS, is_fit
from socketkeep._net._listener import Listener
from socketkeep._stream._committed import STATE_LIMIT
from socketkeep._stream._record import AGAIN, BOUND
from socketkeep._wire._channel import Packet
from socketkeep._wire._descriptors import (
    ANYWHERE,
    PLAIN_END,
    connection_place,
    pair_maker,
    place_of,
    require_answer_pipe,
    require_line,
)
from socketkeep._wire._messages import (
    ABSENT,
    BEGUN,
    Attached,
    AttachRefused,
    ConnectionDetached,
    ConnectionEnded,
    Delivered,
    Free,
    Keep,
    Letter,
    OpenLine,
    Orphaned,
    Push,
    Ready,
    Registered,
    StartFailed,
    StartTls,
    Worn,
)
from socketkeep._wire._scoreboard import LAST_BOOT, LAST_EPOCH, parse_connection_id

#: As `connection_id` makes it.
_ID: Final = re.compile(r"((0|[1-9a-f][0-9a-f]{0,15})-){2}[1-9a-f][0-9a-f]{0,15}")
_LONGEST_PEER: Final = 1024
_LONGEST_TRACE: Final = 256
#: Times, in ns, and counts of bytes: below half of what a word holds, so that more can be added.
_LARGEST: Final = 2**63
#: Packets that wait for a worker which does not read, beyond those of its connections.
_MOST_WAITING: Final = 4096
#: Edges, past ones too, whose plain ends are known.
_MOST_MAKERS: Final = 1024
#: What a client may have sent of a handshake before TLS was begun: its first message, and more.
_MOST_OF_HANDSHAKE: Final = 1 << 20


class Nonsense(Exception):
    """A process that runs user code said what cannot be; it is to be ended."""


class Screening:
    """Knows what may be said to the keeper of a server: under this boot, with these listeners."""

    def __init__(
        self,
        boot: int,
        listeners: Sequence[Listener],
        *,
        plain_ends: bool = False,
        starts_tls: Collection[int] = (),
    ) -> None:
        """plain_ends: whether there are connections whose TLS is in an edge.

        starts_tls: the numbers of the listeners on whose connections a handler may begin TLS.
        """
        self._starts_tls = starts_tls
        self.known: Container[str] = ()  # ids that have been looked at
        self._boot = boot
        self._listeners = len(listeners)
        # Now: a server that stops closes them, and still takes connections back.
        self._places = {place_of(each.sock) for each in listeners if each.fileno() >= 0}
        if plain_ends:
            self._places.add(PLAIN_END)
        self.makers: dict[int, None] = {}  # pids of those that have made plain ends

    def believe_maker(self, pid: int) -> None:
        """Take plain ends for what they are that this process, an edge, makes.

        Also when it has ended: its connections, which have too, may still come back.
        """
        while len(self.makers) >= _MOST_MAKERS:
            del self.makers[next(iter(self.makers))]
        self.makers[pid] = None

    def check(self, worker: Worker, packet: Packet) -> None:
        """Raise Nonsense for what no worker can have to say, Unfit for a wrong descriptor.

        The latter may be the fault of a handler, which has closed the descriptor of its connection,
        and not of what speaks for the worker.
        """
        message = packet.message
        if message is None:
            return  # it did not arrive, and nor did some descriptors
        waiting = worker.link.waiting
        if waiting > 2 * worker.scoreboard.rows + _MOST_WAITING:
            raise Nonsense(f"it leaves {waiting} packets unread and goes on")
        match message:
            case Ready():
                if worker.state is not WorkerState.STARTING:
                    raise Nonsense(f"Ready from a worker that is {worker.state.value}")
            case ConnectionDetached():
                self._check_detached(worker, message)
                self._check_connection(worker, message.connection)
            case Keep():
                _require_id(message.id)
                self._require_listener(worker, message.listener)
                _require_epoch(message.epoch)
                _require_peer(message.peer)
                _require_header(message.proxy)
                _require(0 <= message.row < worker.scoreboard.rows, "row", message.row)
                self._check_connection(worker, message.connection)
            case StartTls():
                _require_id(message.id)
                _require_epoch(message.epoch)
                self._require_listener(worker, message.listener)
                self._require_tls_begins(worker, worker.listener(message.listener))
                _require_peer(message.peer)
                _require_header(message.proxy)
                unread = len(message.unread)
                _require(unread <= _MOST_OF_HANDSHAKE, "handshake of so many bytes:", unread)
                self._check_connection(worker, message.connection)
                if connection_place(message.plain) != PLAIN_END:
                    raise Unfit("the end of a pair was to come, not another socket")
            case Attached():
                self._require_id(message.id)
                _require(-1 <= message.row < worker.scoreboard.rows, "row", message.row)
            case AttachRefused():
                if message.id:
                    _require_id(message.id)
            case ConnectionEnded():
                for name, _ in message.connections:
                    self._require_id(name)
            case Orphaned():
                if worker.model != "fork":
                    raise Nonsense(f"Orphaned from a worker of the model {worker.model}")
                _require_id(message.id)
                _require(0 <= message.status <= BOUND | AGAIN, "status", message.status)
                _require_state(message.state)
                _require_state(message.reply)
                _require_amount(message.bytes_in, message.bytes_out, message.deadline)
            case Registered():
                _require_id(message.id)
                _require_epoch(message.epoch)
                _require_registration(message.name, message.groups, message.labels)
                if message.line != ABSENT:
                    require_line(message.line)
            case OpenLine():
                if message.line != ABSENT:
                    require_line(message.line)
            case Push():
                for letter in message.letters:
                    _require_letter(letter)
            case Delivered():
                for answer in message.answers:
                    _require_amount(answer.number, answer.delivered, answer.failed)
                    _require(0 <= answer.outcome <= BEGUN, "outcome", answer.outcome)
            case StartFailed() | Free() | Worn():
                pass
            case _:
                raise Nonsense(f"{type(message).__name__} from who never says it")

    def may_have(self, worker: Worker, name: str) -> bool:
        """Return whether a connection that the keeper has no handle of can be with the worker.

        It has accepted it, or was given it.  One that another keeper has started has of that
        keeper's connections what nobody here knows of, and none of this one's.
        """
        boot, minted_by, _ = parse_connection_id(name)
        if worker.adopted is not None:
            return boot != self._boot
        if (boot, minted_by) == (self._boot, worker.serial):
            return True
        return worker.guests is None or name in worker.guests

    def _check_detached(self, worker: Worker, message: ConnectionDetached) -> None:
        """As `check`; what most do not have is looked at where it is there, since many come."""
        self._require_id(message.id)
        _require_epoch(message.epoch)
        self._require_listener(worker, message.listener)
        _require_peer(message.peer)
        _require_state(message.state)
        if message.reply:
            _require(False, "reply of a connection that is given up:", message.reply[:20])
        _require_amount(
            *(message.accepted_at, message.active_at, message.bytes_in, message.bytes_out),
            *(message.header_by, message.deadline, message.inflow_full_at),
            *(message.written + 1, message.taken_in + 1),
        )
        if not -1 <= message.row < worker.scoreboard.rows:
            raise Nonsense(f"there can be no row {message.row}")
        if message.proxy:
            _require_header(message.proxy)
        if message.name or message.groups or message.labels:
            _require_registration(message.name, message.groups, message.labels)
        if len(message.trace) > _LONGEST_TRACE:
            raise Nonsense(f"there can be no trace of so many characters: {len(message.trace)}")
        if message.connection != ABSENT:
            self._check_connection(worker, message.connection)
        # Last: a pipe for the answer is as it is only until something else is done.
        if message.answer != ABSENT:
            try:
                require_answer_pipe(message.answer)
            except Unfit as error:
                raise Nonsense(str(error)) from None

    def _require_id(self, name: str) -> None:
        if name not in self.known:
            _require_id(name)

    def _require_tls_begins(self, worker: Worker, listener: int) -> None:
        if listener not in self._starts_tls:
            if worker.adopted is not None:  # whose keeper may have had it
                raise Unfit("TLS was to begin on a listener that has none here")
            raise Nonsense(f"there can be no TLS on the listener {listener}")

    def _require_listener(self, worker: Worker, number: int) -> None:
        known = self._listeners if worker.adopted is None else len(worker.adopted.listeners)
        if not 0 <= number < known:
            raise Nonsense(f"there can be no listener {number}")

    def _check_connection(self, worker: Worker, fd: int) -> None:
        if fd == ABSENT:
            return
        place = connection_place(fd)
        if place not in self._places and ANYWHERE not in self._places:
            raise Unfit("a connection of one of the listeners was to come, not another socket")
        if place == PLAIN_END:
            self._check_maker(worker, fd)

    def _check_maker(self, worker: Worker, fd: int) -> None:
        """Raise Unfit for an end of a pair that no edge has made.

        Where handlers begin TLS it is the workers that make the pairs.
        """
        if self._starts_tls:
            return
        maker = pair_maker(fd)
        if maker in self.makers:
            return
        if worker.adopted is None or maker == worker.pid:
            raise Unfit("a plain end of an edge was to come, not another pair")
        self.believe_maker(maker)  # an edge of the keeper before


def _require(holds: bool, what: str, value: object) -> None:
    if not holds:
        raise Nonsense(f"there can be no {what} {value}")


def _require_id(name: str) -> None:
    if _ID.fullmatch(name) is None or parse_connection_id(name)[0] > LAST_BOOT:
        raise Nonsense(f"there can be no connection {name[:60]!r}")


def _require_epoch(epoch: int) -> None:
    if not 1 <= epoch <= LAST_EPOCH:
        raise Nonsense(f"there can be no epoch {epoch}")


def _require_peer(peer: str) -> None:
    if len(peer) > _LONGEST_PEER:
        raise Nonsense(f"there can be no peer whose address has {len(peer)} characters")


def _require_header(header: bytes) -> None:
    """A header is read when its connection moves, or its worker has died: all of it, or none."""
    _require(len(header) <= HEADER_LIMIT, "PROXY header of so many bytes:", len(header))
    if not header:
        return
    try:
        found = read_header(header, limit=HEADER_LIMIT)
        if found is not None:
            edge_tls(found[0])
    except (Malformed, ValueError) as error:
        raise Nonsense(f"a PROXY header that is none: {error}") from None
    whole = found is not None and found[1] == len(header)
    _require(whole, "PROXY header that is cut, or goes on after its end:", header[:20])


def _require_state(state: bytes | None) -> None:
    if state is not None and len(state) > STATE_LIMIT:
        raise Nonsense(f"there can be no state of {len(state)} bytes")


def _require_registration(name: str, groups: Sequence[str], labels: Mapping[str, str]) -> None:
    _require(len(groups) <= MOST_GROUPS, "number of groups", len(groups))
    _require(len(labels) <= MOST_LABELS, "number of labels", len(labels))
    texts = [*groups, *labels, *labels.values()]
    for text in (*texts, name) if name else texts:
        _require(is_fit(text), "name", repr(text[:200]))


def _require_letter(letter: Letter) -> None:
    _require(is_fit(letter.to), "name", repr(letter.to[:200]))
    _require(len(letter.data) <= MESSAGE_LIMIT, "message of so many bytes:", len(letter.data))
    _require_amount(letter.number, letter.until)


def _require_amount(*amounts: int) -> None:
    if min(amounts) < 0 or max(amounts) >= _LARGEST:
        wrong = next(each for each in amounts if not 0 <= each < _LARGEST)
        raise Nonsense(f"there can be no such time or amount as {wrong}")
