"""The post: what is pushed, from its sender to the owner of the connection, and back who has it.

A letter to a connection waits here while nobody has that, goes to the worker that has it, and is
answered by that worker when it has been delivered.  The worker answers before it gives up or ends a
connection, over the same channel: so what is not answered when that is heard was not delivered, and
waits for the next owner.  A letter to a group goes once to each worker that has somebody in it.
"""

from __future__ import annotations

import socket
from collections import Counter, deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from itertools import chain, islice
from operator import itemgetter
from typing import Final, Literal, Protocol

from socketkeep._base import _log
from socketkeep._base._passing import SURELY_INLINE
from socketkeep._keeper.loop._reactor import Reactor, ReactorTimer
from socketkeep._keeper.tables._names import NamedConnection, NameTable, SavedName
from socketkeep._keeper.tables._state import KeepOpen, SavedLetter, SavedLine, SavedPost
from socketkeep._keeper.workers._screening import Nonsense
from socketkeep._keeper.workers._workers import Link, Worker, restored_link
from socketkeep._names._pushing import PushOutcome
from socketkeep._wire._channel import Channel, Packet
from socketkeep._wire._messages import (
    BEGUN,
    ClusterTold,
    ConnectionDetached,
    Deliver,
    Letter,
    LetterTold,
    Message,
    NameTaken,
    PresenceTold,
    Registered,
    Told,
)

#: What may wait for one connection, and in all.
MOST_LETTERS: Final = 1000
MOST_BYTES: Final = 1 << 20
MOST_LETTERS_IN_ALL: Final = 100_000
MOST_BYTES_IN_ALL: Final = 1 << 26
#: Members of one group that are told to who asks for them.
MOST_FOUND: Final = 1000
#: Seconds between two looks for letters whose time is over.
_LOOK_EVERY: Final = 0.25
#: Nanoseconds that a worker has to answer after a letter's time is over.
_GRACE: Final = 1_000_000_000
_RETRY: Final = 0.1
#: Of lines, beyond two for each connection that a worker can have.
_MORE_LINES: Final = 16
#: Packets that may wait for a sender which does not read what becomes of its letters.
_MOST_UNREAD: Final = 1024


class Sender(Protocol):
    """A sender of letters, which is told what becomes of them."""

    def tell(self, answer: LetterTold) -> None: ...


class ParkedPusher(Protocol):
    """The way to send to a connection that is parked."""

    def push(self, name: str, data: bytes, told: Callable[[bool], None]) -> bool | None:
        """Send it, if the connection is parked; return whether that has been done.

        None: some of it waits for room, and `told` will be told whether it has gone.
        """

    def close(self, name: str, why: str) -> None:
        """End the connection, if no worker has it."""

    def is_held(self, name: str) -> bool:
        """Return whether the keeper has a handle of it."""


class Elsewhere(Protocol):
    """The other nodes of a cluster.  label: of this node; pid: of the process that is in it."""

    @property
    def label(self) -> str: ...
    @property
    def cluster(self) -> str: ...
    @property
    def state(self) -> ClusterTold: ...
    @property
    def pid(self) -> int: ...

    def push(self, letter: Letter, told: Callable[[LetterTold], None]) -> None:
        """Have a letter delivered to whoever has the name, or is in the group, there.

        told: called once with what has become of it; its number is not the letter's.
        """


@dataclass(slots=True, eq=False)
class _Publication:
    """A letter to a group, as its sender sees it; left: how many parts are not answered."""

    sender: Sender | None
    number: int
    left: int = 1
    delivered: int = 0
    failed: int = 0

    def count(self, delivered: int, failed: int) -> None:
        self.delivered += delivered
        self.failed += failed
        self.left -= 1
        if self.left == 0 and self.sender is not None:
            told = LetterTold(
                *(self.number, PushOutcome.DELIVERED, "", 0), self.delivered, self.failed
            )
            self.sender.tell(told)


@dataclass(slots=True, eq=False)
class _Pending:
    """A letter to one connection.  publication: that it is a part of."""

    to: str
    data: bytes
    until: int
    sender: Sender | None
    number: int
    publication: _Publication | None = None

    def tell(self, outcome: PushOutcome, epoch: int) -> None:
        if self.publication is not None:
            delivered = outcome is PushOutcome.DELIVERED
            self.publication.count(int(delivered), int(not delivered))
        elif self.sender is not None:
            self.sender.tell(LetterTold(self.number, outcome, self.to, epoch))


@dataclass(slots=True, eq=False)
class _Box:
    """The letters of one connection: those that its owner has, in order, and those that wait.

    Those that it has come before those that wait.
    """

    handed: dict[int, _Pending] = field(default_factory=dict)
    waiting: deque[_Pending] = field(default_factory=deque)
    missed: list[int] = field(default_factory=list)  # of `handed`: the owner did not have it then
    begun: set[int] = field(default_factory=set)  # of `handed`: some may have been sent
    letters: int = 0
    bytes: int = 0


@dataclass(slots=True, eq=False)
class _Spread:
    """A letter to a group that a worker has."""

    group: str
    data: bytes
    until: int
    publication: _Publication


class Port:
    """A place to which post goes: what goes there is sent together, once a turn of the loop.

    A worker's channel, or a line: one of a connection that a sync worker serves, or of a process
    that pushes.  key: by which its letters are known for its, over an upgrade, too: of a channel
    the worker's serial number, of a line a number below 0.  name: the id of a line's connection.
    """

    def __init__(
        self, post: Post, serial: int, link: Link, key: int | None = None, name: str = ""
    ) -> None:
        self.serial = serial
        self.key = serial if key is None else key
        self.name = name
        self.link = link
        self.spreads: dict[int, _Spread] = {}
        self._post = post
        self._letters: list[Letter] = []
        self._answers: list[LetterTold] = []

    def tell(self, answer: LetterTold) -> None:
        """Tell the worker what has become of a letter of its own."""
        if not self._answers:
            self._post.flush_soon(self)
        self._answers.append(answer)

    def put(self, letter: Letter) -> None:
        """Have the worker deliver it."""
        if not self._letters:
            self._post.flush_soon(self)
        self._letters.append(letter)

    def flush(self) -> None:
        """Send what there is."""
        answers, self._answers = self._answers, []
        if answers and self.link.waiting < _MOST_UNREAD:
            self.link.send(Told(answers))
        # What was taken back meanwhile is not for this worker any more.
        letters = [each for each in self._letters if self._post.is_handed(self, each)]
        self._letters = []
        while letters:
            size = count = 0
            while count < len(letters) and size < SURELY_INLINE:
                size += len(letters[count].data)
                count += 1
            if not self._send(Deliver(letters[:count])):
                self._letters = letters
                self._post.flush_later(self)
                return
            del letters[:count]

    def _send(self, message: Message) -> bool:
        try:
            self.link.send(message)
        except OSError:  # no descriptor for the memfd of a large one: this process is at its limit
            return False
        return True


class Post:
    """Knows what connections are called, and has letters delivered to them.

    on_taken: returns what becomes of a connection whose name another one takes.
    """

    def __init__(
        self,
        reactor: Reactor,
        parked: ParkedPusher,
        on_taken: Callable[[], Literal["close", "keep"]],
    ) -> None:
        self.names: Final = NameTable()
        self.elsewhere: Elsewhere | None = None
        self.on_called: Callable[[str], None] = _ignored  # with the id of what is called otherwise
        self.totals: Counter[str] = Counter()
        self._reactor = reactor
        self._parked = parked
        self._on_taken = on_taken
        self._ports: dict[int, Port] = {}  # of async workers
        self._lines: dict[str, Port] = {}  # by the id of their connections
        self._askers: dict[int, Port] = {}  # lines of processes that push, by key
        self._keys = 0
        self._boxes: dict[str, _Box] = {}
        self._at: dict[int, NamedConnection] = {}  # by the number of a letter that a worker has
        self._number = 0
        self._letters = 0
        self._bytes = 0
        self._to_flush: dict[Port, None] = {}
        self._look: ReactorTimer | None = None

    # What workers say.

    def register(self, worker: Worker, message: Registered) -> None:
        """A worker says what a connection of its is called; the caller knows that it is."""
        if worker.model == "async":
            self.port(worker)
        known = self.names.get(message.id)
        if known is None:
            known = NamedConnection(message.id, message.epoch, worker.serial)
        elif known.owner != worker.serial:
            self.names.move(known, worker.serial, message.epoch)
        before = self.names.put(
            known, message.name, frozenset(message.groups), dict(message.labels)
        )
        self.on_called(known.id)
        if before is not None:
            self.on_called(before.id)
            _log.info("name taken over", name=message.name, id=message.id, before=before.id)
            self._take_name(before, message.name)
        if not known.has_any:
            self.ended(known.id)
            return
        box = self._boxes.get(known.id)
        if box is not None and box.missed:  # it was to leave, and is served on
            missed = [box.handed.pop(number) for number in box.missed]
            for number in box.missed:
                self._at.pop(number, None)
            box.missed = []
            box.waiting.extendleft(reversed(missed))
        self._hand_over(known)

    def push(self, sender: Sender, letters: Iterable[Letter], *, here: bool = False) -> None:
        """Have letters delivered, in their order.

        here: they come from another node, and go to no other.
        """
        elsewhere = None if here else self.elsewhere
        for letter in letters:
            if letter.asks:
                self._tell_who(sender, letter, elsewhere)
                continue
            if letter.group:
                self._publish(sender, letter, elsewhere)
                continue
            known = self.names.named(letter.to)
            if known is not None:
                self._deliver(
                    known, _Pending(known.id, letter.data, letter.until, sender, letter.number)
                )
            elif elsewhere is not None:
                elsewhere.push(letter, partial(_tell_on, sender, letter.number))
            else:
                self.totals[PushOutcome.NOT_CONNECTED.text] += 1
                sender.tell(LetterTold(letter.number, PushOutcome.NOT_CONNECTED))

    def _tell_who(self, sender: Sender, letter: Letter, elsewhere: Elsewhere | None) -> None:
        ours = self.present(letter.to)

        def told(theirs: LetterTold) -> None:
            found = [*ours, *theirs.found]
            silent = max(theirs.silent, int(theirs.outcome != PushOutcome.DELIVERED))
            sender.tell(
                LetterTold(letter.number, PushOutcome.DELIVERED, found=found, silent=silent)
            )

        if elsewhere is None:
            told(LetterTold(0, PushOutcome.DELIVERED))
        else:
            elsewhere.push(letter, told)

    def present(self, text: str) -> list[PresenceTold]:
        """Return who has that name here, and who is in the group of that name."""
        named = self.names.named(text)
        members = self.names.members(text).values()
        inside = list(islice(chain.from_iterable(each.values() for each in members), MOST_FOUND))
        found = [PresenceTold("", each.id, each.epoch, each.name, True) for each in inside]
        if named is not None and named not in inside:
            found.insert(0, PresenceTold("", named.id, named.epoch, named.name))
        return found

    def taken_elsewhere(self, connection: str, name: str) -> None:
        """A connection of another node has the name that this one had."""
        known = self.names.get(connection)
        if known is not None and known.name == name:
            self.names.put(known, "", known.groups, known.labels)
            self._take_name(known, name)

    def learn(self, worker: Worker, handoff: ConnectionDetached) -> None:
        """Note what a connection is called that another keeper's worker has given up."""
        named = handoff.name or handoff.groups or handoff.labels
        if named and self.names.get(handoff.id) is None:
            known = NamedConnection(handoff.id, handoff.epoch, worker.serial)
            if handoff.name and self.names.named(handoff.name) is None:
                self.names.put(known, handoff.name, frozenset(handoff.groups), handoff.labels)
            else:
                self.names.put(known, "", frozenset(handoff.groups), handoff.labels)

    def learn_stored(self, saved: SavedName) -> None:
        """Note what a connection is called of which nobody has been told yet who has it."""
        known = self.names.get(saved.id)
        if known is not None:  # its worker, which lives, has said it
            known.version = max(known.version, saved.version + 1)
            return
        known = NamedConnection(saved.id, saved.epoch, None)
        name = "" if self.names.named(saved.name) is not None else saved.name
        self.names.put(known, name, frozenset(saved.groups), saved.labels)
        known.version = max(known.version, saved.version)

    def restored(self, name: str, owner: int | None, epoch: int) -> None:
        """A connection was taken back from the store, and is with that worker."""
        known = self.names.get(name)
        if known is not None and known.owner is None:
            self.names.move(known, owner, epoch)

    def answered(self, worker: Worker, answers: Iterable[LetterTold]) -> None:
        """A worker says what has become of letters that it has."""
        port = self._ports.get(worker.serial)
        for answer in answers:
            number = answer.number
            spread = port.spreads.pop(number, None) if port is not None else None
            if spread is not None:
                self.totals[PushOutcome.DELIVERED.text] += answer.delivered
                self.totals[PushOutcome.FULL.text] += answer.failed
                spread.publication.count(answer.delivered, answer.failed)
                continue
            known = self._at.get(number)
            if known is None or known.owner != worker.serial:
                continue  # it was taken back, or its time was over
            box = self._boxes[known.id]
            if answer.outcome == 0:  # it is about to say that the connection has left or ended
                box.missed.append(number)
                continue
            if answer.outcome == BEGUN:
                box.begun.add(number)
                continue
            del self._at[number]
            box.begun.discard(number)
            self._settle(known, box, box.handed.pop(number), PushOutcome(answer.outcome))

    # What becomes of the connections.

    def flush_to(self, worker: Worker) -> None:
        """Send what is to be sent to a worker: what it is given next is not to have it."""
        port = self._ports.get(worker.serial)
        if port is not None and self._to_flush.pop(port, self) is not self:
            port.flush()

    def given(self, name: str, worker: Worker, epoch: int) -> None:
        """A connection was sent to a worker: it has it from here on, unless it refuses it."""
        known = self.names.get(name)
        if known is not None:
            self.names.move(known, worker.serial, epoch)
            known.given_at = self._number
            if worker.model == "async":
                self.port(worker)
            self._hand_over(known)

    def knows(self, name: str) -> bool:
        """Return whether the connection is called anything, or has a line."""
        return name in self._lines or name in self.names.by_id

    def taken_back(self, name: str, *, uncertain: bool = False) -> None:
        """Nobody has the connection now.

        uncertain: its owner has died, and may have sent what it had not answered.
        """
        self._close_line(name)
        known = self.names.get(name)
        if known is None or known.owner is None:
            return
        port = self._ports.get(known.owner)
        spreads = [] if port is None else port.spreads.items()
        missed = {
            number: _Pending(name, each.data, each.until, None, 0, each.publication)
            for number, each in spreads
            if each.group in known.groups and number > known.given_at
        }
        self.names.move(known, None, known.epoch)
        box = self._boxes.get(name)
        if not missed and box is None:
            return
        box = self._box(name)
        for pending in missed.values():
            assert pending.publication is not None
            pending.publication.left += 1
            self._enter(box, pending)
        # In the order in which they were sent to the owner, which their numbers are.
        again = [each for _, each in sorted((box.handed | missed).items(), key=itemgetter(0))]
        for number in box.handed:
            self._at.pop(number, None)
        box.handed = {}
        box.missed = []
        box.begun.clear()
        if uncertain:
            for pending in again:
                self._settle(known, box, pending, PushOutcome.UNCERTAIN)
        else:
            box.waiting.extendleft(reversed(again))
        self._look_soon()

    def parked(self, name: str) -> None:
        """The connection is parked: it can be pushed to here."""
        known = self.names.get(name)
        if known is not None:
            self._push_to_parked(known)

    def ended(self, name: str) -> None:
        """The connection has ended."""
        self._close_line(name)
        known = self.names.get(name)
        if known is None:
            return
        self.names.forget(known)
        box = self._boxes.get(name)
        if box is not None:
            for number in box.handed:
                self._at.pop(number, None)
            for pending in (*box.handed.values(), *box.waiting):
                self._settle(known, box, pending, PushOutcome.NOT_CONNECTED)
            self._boxes.pop(name, None)

    def worker_died(self, serial: int) -> None:
        """A worker was reaped: what it still has has ended with it.

        Not what a process has that it has forked: that one's line tells of its end.
        """
        for known in self.names.owned_by(serial):
            if known.id in self._lines:
                continue
            self.taken_back(known.id, uncertain=True)
            self.ended(known.id)
        port = self._ports.pop(serial, None)
        if port is not None:
            self._to_flush.pop(port, None)
            for spread in port.spreads.values():
                spread.publication.count(0, 0)

    # Lines.

    def open_line(
        self, worker: Worker, sock: socket.socket, hear: Callable[[Port, Packet], None], name: str
    ) -> None:
        """A sync worker has opened a line, for a connection of its or to push.  Raises Nonsense."""
        if self.count_lines(worker.serial) > 2 * worker.scoreboard.rows + _MORE_LINES:
            raise Nonsense("it opens more lines than it can have connections")
        self._keys -= 1
        port = self._line(worker, SavedLine(self._keys, worker.serial, name), hear, sock)
        if name:
            self._close_line(name)
            self._lines[name] = port
        else:
            self._askers[port.key] = port

    def count_lines(self, serial: int) -> int:
        """Return how many lines a worker has."""
        return sum(
            port.serial == serial for port in (*self._lines.values(), *self._askers.values())
        )

    def _line(
        self,
        worker: Worker,
        saved: SavedLine,
        hear: Callable[[Port, Packet], None],
        sock: socket.socket | None = None,
    ) -> Port:
        """Make a line's port, for a new line or for one of before an upgrade."""

        def heard(packet: Packet) -> None:
            hear(port, packet)

        def closed() -> None:
            worker.link.drain()  # what it has said of the connection comes first
            self._line_closed(port)

        def garbled(_why: str) -> None:
            port.link.close()
            closed()

        if sock is None:
            link = restored_link(self._reactor, saved.link, heard, closed, garbled)
        else:
            link = Link(self._reactor, Channel(sock, wary=True), heard, closed, garbled)
        port = Port(self, worker.serial, link, saved.key, saved.name)
        return port

    def _line_closed(self, port: Port) -> None:
        """The far end has gone: a process has ended, or let go of the connection."""
        self._askers.pop(port.key, None)
        known = self.names.get(port.name)
        if self._lines.get(port.name) is not port or known is None:
            return
        del self._lines[port.name]
        if not self._parked.is_held(port.name):  # else it is known what became of it, or will be
            self.taken_back(port.name, uncertain=True)
            self.ended(port.name)

    def _close_line(self, name: str) -> None:
        """Hear what has come by a connection's line, and close it."""
        port = self._lines.pop(name, None)
        if port is not None:
            port.link.when_closed(_nothing)
            port.link.drain()
            port.link.close()
            self._to_flush.pop(port, None)

    def port(self, worker: Worker) -> Port:
        """Return the worker's place in the post."""
        port = self._ports.get(worker.serial)
        if port is None:
            port = self._ports[worker.serial] = Port(self, worker.serial, worker.link)
        return port

    # From one version of the keeper to the next.

    def snapshot(self, keep: KeepOpen) -> SavedPost:
        """Return what the next version of the keeper goes on from.

        What becomes of letters to groups that are under way is not known from here on.
        """
        for port in self._ports.values():
            spreads, port.spreads = port.spreads, {}
            for spread in spreads.values():
                self._give_up(port, spread)
        letters = [
            SavedLetter(
                *(name, pending.data, pending.until, number),
                *(sender.key if isinstance(sender := pending.sender, Port) else None,),
                pending.number,
            )
            for name, box in self._boxes.items()
            for number, pending in (
                *box.handed.items(),
                *((0, each) for each in box.waiting),
            )
        ]
        for box in self._boxes.values():
            for pending in (*box.handed.values(), *box.waiting):
                if pending.publication is not None:
                    pending.publication.count(0, 1)
                    pending.publication = None
        self.flush()
        lines = [
            SavedLine(port.key, port.serial, port.name, port.link.snapshot(keep))
            for port in (*self._lines.values(), *self._askers.values())
            if port.link.open
        ]
        return SavedPost(self.names.snapshot(), letters, self._number, lines)

    def flush(self) -> None:
        """Send all that is to be sent."""
        ports, self._to_flush = self._to_flush, {}
        for port in ports:
            port.flush()

    def restore(
        self,
        saved: SavedPost,
        workers: Iterable[Worker],
        hear: Callable[[Worker, Port, Packet], None],
    ) -> None:
        """Go on from what an earlier version knew; `workers` are those that there are.

        hear: called with what comes by a line.
        """
        self.names.restore(saved.names)
        self._number = saved.number
        by_serial = {worker.serial: worker for worker in workers}
        for line in saved.lines:
            self._keys = min(self._keys, line.key)
            if (owner := by_serial.get(line.worker)) is not None:
                port = self._line(owner, line, partial(hear, owner))
                if line.name:
                    self._lines[line.name] = port
                else:
                    self._askers[line.key] = port
        for worker in by_serial.values():
            if worker.model == "async":
                self.port(worker)
        for each in saved.letters:
            known = self.names.get(each.to)
            if known is None:
                continue
            sender = None
            if each.sender is not None:
                sender = self._ports.get(each.sender) or self._askers.get(each.sender)
            pending = _Pending(each.to, each.data, each.until, sender, each.number)
            box = self._box(each.to)
            self._enter(box, pending)
            if each.handed:
                box.handed[each.handed] = pending
                self._at[each.handed] = known
            else:
                box.waiting.append(pending)
        self._look_soon()

    # Delivering.

    def _publish(self, sender: Sender, letter: Letter, elsewhere: Elsewhere | None) -> None:
        publication = _Publication(sender, letter.number)
        if elsewhere is not None:
            publication.left += 1
            elsewhere.push(letter, lambda told: publication.count(told.delivered, told.failed))
        for owner, members in tuple(self.names.members(letter.to).items()):
            port = None if owner is None else self._ports.get(owner)
            if port is None:
                for known in tuple(members.values()):
                    publication.left += 1
                    self._deliver(
                        known, _Pending(known.id, letter.data, letter.until, None, 0, publication)
                    )
                continue
            publication.left += 1
            number = self._next()
            port.spreads[number] = _Spread(letter.to, letter.data, letter.until, publication)
            port.put(Letter(number, letter.to, letter.data, letter.until, group=True))
            self._look_soon()
        publication.count(0, 0)

    def _deliver(self, known: NamedConnection, pending: _Pending) -> None:
        box = self._box(known.id)
        size = len(pending.data)
        full = box.letters >= MOST_LETTERS or box.bytes + size > MOST_BYTES
        if full or self._letters >= MOST_LETTERS_IN_ALL or self._bytes + size > MOST_BYTES_IN_ALL:
            self._drop_if_empty(known.id, box)
            self._tell(pending, PushOutcome.FULL, known.epoch)
            return
        self._enter(box, pending)
        box.waiting.append(pending)
        if known.owner is None:
            self._push_to_parked(known)
        else:
            self._hand_over(known)

    def _port_of(self, known: NamedConnection) -> Port | None:
        """Return where the owner of a connection has its post, None: it has not said yet."""
        if known.owner is None:
            return None
        return self._lines.get(known.id) or self._ports.get(known.owner)

    def _hand_over(self, known: NamedConnection) -> None:
        """Give the owner what waits for the connection."""
        box, port = self._boxes.get(known.id), self._port_of(known)
        if box is None or port is None:
            return
        while box.waiting:
            pending = box.waiting.popleft()
            number = self._next()
            box.handed[number] = pending
            self._at[number] = known
            port.put(Letter(number, known.id, pending.data, pending.until))
        self._look_soon()

    def _push_to_parked(self, known: NamedConnection) -> None:
        while (box := self._boxes.get(known.id)) and box.waiting and not box.handed:
            pending = box.waiting[0]
            if self._now() >= pending.until:
                box.waiting.popleft()
                self._settle(known, box, pending, PushOutcome.TIMED_OUT)
                continue
            number = self._next()
            told = partial(self._has_gone, known, number)
            sent = self._parked.push(known.id, pending.data, told)
            if sent is False:
                break
            box.waiting.popleft()
            if sent:
                self._settle(known, box, pending, PushOutcome.DELIVERED)
            else:
                box.handed[number] = pending
        self._look_soon()

    def _has_gone(self, known: NamedConnection, number: int, sent: bool) -> None:
        """Note that what waited for room at a parked connection has gone, or cannot."""
        box = self._boxes.get(known.id)
        pending = None if box is None else box.handed.pop(number, None)
        if box is not None and pending is not None:
            outcome = PushOutcome.DELIVERED if sent else PushOutcome.UNCERTAIN
            self._settle(known, box, pending, outcome)
            self._push_to_parked(known)

    def _take_name(self, known: NamedConnection, name: str) -> None:
        close = self._on_taken() == "close"
        port = self._port_of(known)
        if port is not None:
            self.flush()
            port.link.send(NameTaken(known.id, known.epoch, name, close))
        elif close and known.owner is None:
            self._parked.close(known.id, "its name was taken over")
        if not known.has_any and self.names.get(known.id) is known:
            self.ended(known.id)

    # Accounts.

    def _now(self) -> int:
        return int(self._reactor.clock() * 1e9)

    def _next(self) -> int:
        self._number += 1
        return self._number

    def _box(self, name: str) -> _Box:
        box = self._boxes.get(name)
        if box is None:
            box = self._boxes[name] = _Box()
        return box

    def _enter(self, box: _Box, pending: _Pending) -> None:
        size = len(pending.data)
        box.letters += 1
        box.bytes += size
        self._letters += 1
        self._bytes += size

    def _settle(
        self, known: NamedConnection, box: _Box, pending: _Pending, outcome: PushOutcome
    ) -> None:
        """Tell the sender, of a letter that is in neither list of the box any more."""
        size = len(pending.data)
        box.letters -= 1
        box.bytes -= size
        self._letters -= 1
        self._bytes -= size
        self._drop_if_empty(known.id, box)
        self._tell(pending, outcome, known.epoch)

    def _drop_if_empty(self, name: str, box: _Box) -> None:
        if not box.letters:
            self._boxes.pop(name, None)

    def _tell(self, pending: _Pending, outcome: PushOutcome, epoch: int) -> None:
        self.totals[outcome.text] += 1
        pending.tell(outcome, epoch)

    # Sending, and time.

    def is_handed(self, port: Port, letter: Letter) -> bool:
        """Return whether a letter is still the port's to deliver."""
        if letter.group:
            return letter.number in port.spreads
        known = self._at.get(letter.number)
        return known is not None and known.owner == port.serial

    def flush_soon(self, port: Port) -> None:
        """Have what a port has to say sent at the end of the loop's turn."""
        self._to_flush[port] = None
        self._reactor.call_soon(self.flush)

    def flush_later(self, port: Port) -> None:
        """Have it sent in a while: the system had no room."""
        self._to_flush[port] = None
        self._reactor.call_later(_RETRY, self.flush)

    def _look_soon(self) -> None:
        if self._look is not None and self._look.pending:
            return
        if self._boxes or any(port.spreads for port in self._ports.values()):
            self._look = self._reactor.call_later(_LOOK_EVERY, self._look_for_late)

    def _look_for_late(self) -> None:
        """Tell the senders of letters whose time is over."""
        now = self._now()
        self._hear_late(now)
        for name, box in tuple(self._boxes.items()):
            known = self.names.get(name)
            if known is None:
                continue
            if any(each.until <= now for each in box.waiting):
                late = [each for each in box.waiting if each.until <= now]
                box.waiting = deque(each for each in box.waiting if each.until > now)
                for pending in late:
                    self._settle(known, box, pending, PushOutcome.TIMED_OUT)
            # Of one that is parked the rest is going out, and the connection ends if it cannot.
            late_handed = [
                number
                for number, each in box.handed.items()
                if number in self._at and each.until + _GRACE <= now
            ]
            for number in late_handed:
                del self._at[number]
                # What an owner has not begun with in time it never does.
                outcome = PushOutcome.UNCERTAIN if number in box.begun else PushOutcome.TIMED_OUT
                box.begun.discard(number)
                if number in box.missed:
                    box.missed.remove(number)
                self._settle(known, box, box.handed.pop(number), outcome)
        for port in self._ports.values():
            for number, spread in tuple(port.spreads.items()):
                if spread.until + _GRACE <= now:
                    del port.spreads[number]
                    self._give_up(port, spread)
        self._look_soon()

    def _hear_late(self, now: int) -> None:
        """Hear those out that are late: this process may have stood still."""
        late: dict[Port, None] = {}
        for name, box in self._boxes.items():
            known = self.names.get(name)
            port = None if known is None else self._port_of(known)
            if port is not None and any(e.until + _GRACE <= now for e in box.handed.values()):
                late[port] = None
        for port in self._ports.values():
            if any(each.until + _GRACE <= now for each in port.spreads.values()):
                late[port] = None
        for port in late:
            port.link.drain()

    def _give_up(self, port: Port, spread: _Spread) -> None:
        members = len(self.names.members(spread.group).get(port.serial, ()))
        self.totals[PushOutcome.UNCERTAIN.text] += members
        spread.publication.count(0, members)


def _tell_on(sender: Sender, number: int, told: LetterTold) -> None:
    sender.tell(LetterTold(number, told.outcome, told.id, told.epoch, node=told.node))


def _ignored(_name: str) -> None:
    """Nobody stores it."""


def _nothing() -> None:
    """Do nothing: the far end of the line is known already."""
