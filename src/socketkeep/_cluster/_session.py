"""One session at a broker: from the connect to its end, whatever ends it.

A session has a lease of presence for as long as it lasts; without one it ends, and with it all
subscriptions: a node that the others count as gone gets nothing any more.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Coroutine
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

import msgspec
import nats.errors
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription
from nats.js.errors import APIError

from socketkeep._base import _log
from socketkeep._cluster._broker import Unusable, address_of, connect, reason_of
from socketkeep._cluster._notes import (
    ANSWERS,
    NOTES,
    Answer,
    Ask,
    Envelope,
    Hello,
    NameEntry,
    NodeEntry,
    Note,
    Sent,
    Took,
    packed,
)
from socketkeep._cluster._presence import Claim, PresenceBucket
from socketkeep._cluster._subjects import Subjects
from socketkeep._config._server_options import ServeConfig
from socketkeep._names._naming import MESSAGE_LIMIT, is_fit
from socketkeep._names._pushing import LONGEST_PATIENCE, PushOutcome
from socketkeep._version import VERSION
from socketkeep._wire._messages import Letter, LetterTold, PresenceTold

#: Seconds, beyond a letter's time, in which another node says what has become of it.
GRACE: Final = 1.0
#: How often it is asked again who has a name, where a node says that it has it no more.
_MOST_TRIES: Final = 5
_TRY_AGAIN: Final = 0.02
_TELL_AGAIN: Final = 1.0
_TELLINGS: Final = 5
_CLAIMERS: Final = 32
_RETRY: Final = 1.0
_RENEW_AGAIN: Final = 0.2
#: Seconds after which what was sent to a group, and is not here, has been sent before the SUB.
_ON_ITS_WAY: Final = 0.25
_CLOSING: Final = 2.0
_LEAVING: Final = 0.5
#: Replies to groups that are known to be on their way, so that one to `Sent` is not given, too.
_MOST_SEEN: Final = 4096
_MOST_FOUND: Final = 10_000
#: Failures of the brokers, or of the way to them, that are met by trying again.
_FAILURES: Final = (nats.errors.Error, APIError, OSError, TimeoutError)


@dataclass(slots=True)
class OwnName:
    """A name that a connection of this node has.

    at: since when.  fresh: it was named while the session lasted.  lost: another node has it.
    """

    id: str
    epoch: int
    at: float
    fresh: bool = False
    lost: bool = False


class Home(Protocol):
    """The node of a session, which outlives it."""

    names: dict[str, OwnName]
    groups: set[str]
    claims: dict[str, Claim]
    id: str
    label: str
    cluster: str
    target: str
    config: ServeConfig

    def count(self, what: str, more: int = 1) -> None: ...
    def deliver(self, letter: Letter) -> None: ...
    def push(self, letter: Letter) -> None: ...
    def tell(self, told: LetterTold) -> None: ...
    def taken(self, name: str, own: OwnName, by: str) -> None: ...
    def joined(self, session: Session) -> None: ...
    def seen(self) -> None: ...


@dataclass(slots=True, eq=False)
class _PushUnderWay:
    """A letter that is at other nodes.

    expects: the nodes that are to answer, of one to a group or one that asks.
    """

    letter: Letter
    expects: set[str] = field(default_factory=set)
    delivered: int = 0
    failed: int = 0
    found: list[PresenceTold] = field(default_factory=list)
    tries: int = 0
    sent: bool = False
    timer: asyncio.TimerHandle | None = None


class Session:
    """A node's place at a broker."""

    def __init__(self, home: Home) -> None:
        self._home = home
        self._subjects = Subjects(home.cluster)
        self._loop = asyncio.get_running_loop()
        self._client: Client
        self._presence: PresenceBucket
        self._inbox = ""
        self._number = 0
        self._outbox: deque[tuple[str, bytes, str, _PushUnderWay | None]] = deque()
        self._to_send = asyncio.Event()
        self._asked: dict[int, _PushUnderWay] = {}
        self._told: dict[int, asyncio.Future[None]] = {}  # who was told that a name is taken
        self._replies: dict[int, str] = {}  # of letters that the keeper has, where the answer goes
        self._groups_seen: dict[str, None] = {}
        self._subscribed: dict[str, Subscription] = {}  # by subject
        self._dirty: asyncio.Queue[str] = asyncio.Queue()
        self._queued: set[str] = set()
        self._busy: set[str] = set()
        self._settled = asyncio.Event()
        self._settled.set()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._trouble = ""
        self.server = ""
        self.nodes: dict[str, str] = {}

    # Its life.

    async def hold(self) -> None:
        """Join, and stay as long as that goes.  Raises Unusable in the end, which says why."""
        closed = asyncio.Event()

        async def on_closed() -> None:
            closed.set()

        home = self._home
        self._client = await connect(
            home.config, home.label, home.config.cluster_lease, on_closed, self._on_trouble
        )
        try:
            await self._join()
            home.joined(self)
            await self._stay(closed)
        finally:
            for task in self._tasks:
                task.cancel()
            with suppress(*_FAILURES):
                async with asyncio.timeout(_CLOSING):
                    await self._client.close()

    async def _join(self) -> None:
        home, url = self._home, self._client.connected_url
        self.server = address_of(url.geturl()) if url is not None else ""
        entry = NodeEntry(home.label, home.target, VERSION)
        self._presence = PresenceBucket(self._client, self._subjects, home.id, entry)
        try:
            self.nodes = await self._presence.join(home.config.cluster_lease)
            self._renewed_at = self._loop.time()
            self._inbox = self._client.new_inbox()
            await self._client.subscribe(f"{self._inbox}.*", cb=self._on_reply)
            await self._client.subscribe(self._subjects.node(home.id), cb=self._on_note)
            await self._client.subscribe(self._subjects.all_nodes, cb=self._on_note)
        except _FAILURES as error:
            raise Unusable(f"the cluster cannot be joined: {reason_of(error)}") from None
        self._put(self._subjects.all_nodes, Hello(home.id, home.label))
        for group in home.groups:
            self.group_changed(group)
        for name in home.names.keys() | home.claims.keys():
            self.name_changed(name)

    async def _stay(self, closed: asyncio.Event) -> None:
        works = (self._send(), self._renew(), *(self._claim_names() for _ in range(_CLAIMERS)))
        tasks = [self._start(work) for work in works]
        ended = self._start(closed.wait())
        done, _ = await asyncio.wait((*tasks, ended), return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            error = task.exception()
            if isinstance(error, Unusable):
                raise error
            if error is not None and not isinstance(error, _FAILURES):
                raise error
            if error is not None:
                self._trouble = self._trouble or reason_of(error)
        why = f": {self._trouble}" if self._trouble else ""
        raise Unusable(f"the connection to {self.server} has ended{why}")

    def _start(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _on_trouble(self, error: Exception) -> None:
        self._trouble = reason_of(error)
        _log.debug("broker", error=self._trouble)

    async def leave(self) -> None:
        """Give up the names that are to be given up, and the lease."""
        with suppress(*_FAILURES):
            async with asyncio.timeout(_LEAVING):
                await self._settled.wait()
        with suppress(*_FAILURES):
            async with asyncio.timeout(_LEAVING):
                await self._presence.leave()

    def end(self) -> None:
        """Give up what was asked: what has gone may be delivered or not, the rest waits on."""
        asked, self._asked = self._asked, {}
        for each in asked.values():
            if each.sent:
                self._finish(each, PushOutcome.UNCERTAIN)
            else:
                if each.timer is not None:
                    each.timer.cancel()
                self._home.push(each.letter)
        self._replies.clear()
        for own in self._home.names.values():
            own.fresh = False

    # The lease.

    async def _renew(self) -> None:
        lease = self._presence.lease
        pause = lease / 3
        while True:
            await asyncio.sleep(pause)
            began = self._loop.time()
            left = self._renewed_at + lease - began
            if left <= 0:
                raise Unusable("the lease could not be renewed: JetStream does not answer")
            try:
                async with asyncio.timeout(min(left, lease / 3)):
                    await self._presence.renew()
                    found = await self._presence.nodes()
            except _FAILURES as error:
                self._trouble = reason_of(error)
                pause = _RENEW_AGAIN
                continue
            self._renewed_at, pause = began, lease / 3
            gone = self.nodes.keys() - found.keys()
            first = min(self.nodes) != min(found, default="")
            self.nodes = {**found, self._home.id: self._home.label}
            for node in gone:
                self._gone(node)
            if (gone or first) and min(self.nodes) == self._home.id:
                self._start(self._sweep())
            self._home.seen()

    def _gone(self, node: str) -> None:
        for number, asked in tuple(self._asked.items()):
            if node in asked.expects:
                self._heard_of_group(number, asked, node, 0, 1, [])

    async def _sweep(self) -> None:
        with suppress(*_FAILURES):
            self._home.count("swept", await self._presence.sweep())

    # Names and groups of this node.

    def name_changed(self, name: str) -> None:
        """Have a name claimed, or given up."""
        if name not in self._queued:
            self._settled.clear()
            self._queued.add(name)
            self._dirty.put_nowait(name)

    def group_changed(self, group: str) -> None:
        """Listen for a group, or do not any more."""
        self._start(self._listen_for_group(group))

    async def _listen_for_group(self, group: str) -> None:
        subject = self._subjects.group(group)
        with suppress(*_FAILURES):
            await self._listen(subject, group in self._home.groups, "")

    async def _listen(self, subject: str, wanted: bool, queue: str) -> None:
        if wanted and subject not in self._subscribed:
            made = self._client.subscribe(subject, queue=queue, cb=self._on_note)
            self._subscribed[subject] = await made
        elif not wanted and (there := self._subscribed.pop(subject, None)) is not None:
            await there.unsubscribe()

    async def _claim_names(self) -> None:
        while True:
            name = await self._dirty.get()
            if name in self._busy:  # what claims it looks again
                continue
            self._busy.add(name)
            try:
                while name in self._queued:
                    self._queued.discard(name)
                    await self._claim(name)
            except _FAILURES as error:
                self._trouble = reason_of(error)
                self._loop.call_later(_RETRY, self.name_changed, name)
            finally:
                self._busy.discard(name)
                if not self._queued and not self._busy:
                    self._settled.set()

    async def _claim(self, name: str) -> None:
        home, subject = self._home, self._subjects.name(name)
        own, before = home.names.get(name), home.claims.get(name)
        if own is None or own.lost:
            await self._listen(subject, False, "")
            if before is not None:
                await self._presence.give_up(name, before)
                home.claims.pop(name, None)
            return
        # One of those that listen gets a message: while a name changes hands there are two.
        await self._listen(subject, True, "owner")
        if before is not None and before.id == own.id and own.fresh:
            return
        mine = NameEntry(home.id, home.label, own.id, own.epoch, own.at)
        claim, other = await self._presence.claim(name, mine, before, self.nodes, fresh=own.fresh)
        if claim is None:
            home.claims.pop(name, None)
            await self._listen(subject, False, "")
            own.lost = True
            home.taken(name, own, other.label if other is not None else "")
            return
        home.claims[name] = claim
        home.count("claims")
        if other is not None:
            self._start(self._tell_taken(name, other))
        if home.names.get(name) is not own:
            self._queued.add(name)

    async def _tell_taken(self, name: str, other: NameEntry) -> None:
        """Have the node that had the name hear that it has it no more."""
        note = Took(name, other.id, self._home.label)
        for _ in range(_TELLINGS):
            number = self._next()
            heard = self._told[number] = self._loop.create_future()
            self._put(self._subjects.node(other.node), note, f"{self._inbox}.{number}")
            try:
                async with asyncio.timeout(_TELL_AGAIN):
                    await heard
                return
            except TimeoutError:
                if other.node not in self.nodes:
                    return
            finally:
                self._told.pop(number, None)

    # Letters of this node.

    def push(self, letter: Letter) -> None:
        """Have a letter delivered at another node."""
        number, asked = self._next(), _PushUnderWay(letter)
        self._asked[number] = asked
        left = max(0.0, letter.until / 1e9 - time.monotonic())
        asked.timer = self._loop.call_later(left + GRACE, self._late, number)
        reply = f"{self._inbox}.{number}"
        if not letter.asks and not letter.group:
            self._put_envelope(self._subjects.name(letter.to), asked, reply)
            return
        asked.expects = self.nodes.keys() - {self._home.id}
        if letter.asks:
            self._start(self._look_up(letter.to, asked, number))
            self._put(self._subjects.all_nodes, Ask(letter.to, int(left * 1e9)), reply, asked)
            return
        self._put_envelope(self._subjects.group(letter.to), asked, reply)
        self._put(self._subjects.all_nodes, Sent(letter.to), reply, asked)
        if not asked.expects:
            asked.sent = True
            self._asked.pop(number)
            self._finish(asked, PushOutcome.DELIVERED)

    async def _look_up(self, text: str, asked: _PushUnderWay, number: int) -> None:
        """Find who has a name, in case that node does not answer."""
        with suppress(*_FAILURES):
            there = await self._presence.holder(text)
            if there is not None and there.node in self.nodes and there.node != self._home.id:
                asked.found.append(PresenceTold(there.label, there.id, there.epoch, text))
        if not asked.expects and self._asked.pop(number, None) is not None:
            self._finish(asked, PushOutcome.DELIVERED)

    def _late(self, number: int) -> None:
        asked = self._asked.pop(number, None)
        if asked is None:
            return
        if asked.expects:
            asked.failed += len(asked.expects)
            self._finish(asked, PushOutcome.DELIVERED)
        else:
            self._finish(asked, PushOutcome.UNCERTAIN if asked.sent else PushOutcome.TIMED_OUT)

    def _finish(
        self, asked: _PushUnderWay, outcome: int, name: str = "", epoch: int = 0, node: str = ""
    ) -> None:
        if asked.timer is not None:
            asked.timer.cancel()
        letter = asked.letter
        if letter.asks or letter.group:
            silent = len(asked.expects)
            if outcome != PushOutcome.DELIVERED:
                silent = max(1, silent)
                asked.failed += silent
            found = _without_doubles(asked.found)
            told = LetterTold(
                *(letter.number, outcome, "", 0, asked.delivered, asked.failed, ""),
                *(found, silent),
            )
        else:
            told = LetterTold(letter.number, outcome, name, epoch, node=node)
            self._home.count(f"out {PushOutcome(outcome).text}")
        self._home.tell(told)

    async def _on_reply(self, msg: Msg) -> None:
        tail = msg.subject.rpartition(".")[2]
        number = int(tail) if tail.isdecimal() else 0
        told = self._told.get(number)
        if told is not None and not told.done():
            told.set_result(None)
            return
        asked = self._asked.get(number)
        if asked is None:
            return
        if msg.headers and msg.headers.get("Status") == "503":  # nobody listens there
            del self._asked[number]
            of_one = not (asked.letter.group or asked.letter.asks)
            asked.expects.clear()
            self._finish(asked, PushOutcome.NOT_CONNECTED if of_one else PushOutcome.DELIVERED)
            return
        try:
            answer = ANSWERS.decode(msg.data)
        except msgspec.MsgspecError:
            return
        if asked.letter.group or asked.letter.asks:
            found = [
                PresenceTold(answer.label, each.id, each.epoch, each.name, each.member)
                for each in answer.found
            ]
            self._heard_of_group(number, asked, answer.node, answer.delivered, answer.failed, found)
            return
        if answer.outcome == 0 and asked.tries < _MOST_TRIES:
            asked.tries += 1
            self._loop.call_later(_TRY_AGAIN * asked.tries, self._try_again, number)
            return
        del self._asked[number]
        if answer.outcome not in PushOutcome.__members__.values():
            self._finish(asked, PushOutcome.NOT_CONNECTED)
        else:
            self._finish(asked, answer.outcome, answer.id, answer.epoch, answer.label)

    def _heard_of_group(
        self,
        number: int,
        asked: _PushUnderWay,
        node: str,
        delivered: int,
        failed: int,
        found: list[PresenceTold],
    ) -> None:
        if node not in asked.expects and not delivered and not found:
            return
        asked.expects.discard(node)
        asked.delivered += delivered
        asked.failed += failed
        if len(asked.found) < _MOST_FOUND:
            asked.found += found
        if not asked.expects and self._asked.pop(number, None) is not None:
            self._finish(asked, PushOutcome.DELIVERED)

    def _try_again(self, number: int) -> None:
        asked = self._asked.get(number)
        if asked is not None:
            asked.sent = False
            subject = self._subjects.name(asked.letter.to)
            self._put_envelope(subject, asked, f"{self._inbox}.{number}")

    # What other nodes say.

    async def _on_note(self, msg: Msg) -> None:
        try:
            note = NOTES.decode(msg.data)
        except msgspec.MsgspecError:
            self._home.count("unreadable")
            return
        match note:
            case Envelope():
                self._deliver(note, msg.reply)
            case Hello(node=node, label=label):
                if node not in self.nodes:
                    self.nodes = {**self.nodes, node: label}
                    self._home.seen()
            case Sent(group=group):
                wait = _ON_ITS_WAY if self._subjects.group(group) in self._subscribed else 0.0
                self._loop.call_later(wait, self._not_got, msg.reply)
            case Ask(text=text, left=left):
                if is_fit(text):
                    number = self._expect_answer(msg.reply)
                    self._home.deliver(Letter(number, text, b"", _until(left), asks=True))
            case Took(name=name, id=id, label=label):
                own = self._home.names.get(name)
                if own is not None and own.id == id and not own.lost:
                    own.lost = True
                    self._home.claims.pop(name, None)
                    self._home.taken(name, own, label)
                    self.name_changed(name)
                self._put(msg.reply, Answer(self._home.id, self._home.label))

    def _not_got(self, reply: str) -> None:
        """Answer for what was sent to a group, unless it has come here."""
        if reply not in self._groups_seen:
            self._put(reply, Answer(self._home.id, self._home.label))

    def _deliver(self, envelope: Envelope, reply: str) -> None:
        if not is_fit(envelope.to) or len(envelope.data) > MESSAGE_LIMIT:
            self._home.count("unreadable")
            return
        if envelope.group:
            self._groups_seen[reply] = None
            if len(self._groups_seen) > _MOST_SEEN:
                del self._groups_seen[next(iter(self._groups_seen))]
        number = self._expect_answer(reply)
        self._home.count("in")
        until = _until(envelope.left)
        self._home.deliver(Letter(number, envelope.to, envelope.data, until, group=envelope.group))

    def _expect_answer(self, reply: str) -> int:
        number = self._next()
        self._replies[number] = reply
        return number

    def answered(self, told: LetterTold) -> None:
        """The keeper says what has become of a letter of another node."""
        reply = self._replies.pop(told.number, "")
        if not reply:
            return
        outcome = told.outcome
        if outcome == PushOutcome.NOT_CONNECTED and not told.id:
            outcome = 0
        self._put(
            reply,
            Answer(
                *(self._home.id, self._home.label, outcome, told.id, told.epoch),
                *(told.delivered, told.failed, told.found),
            ),
        )

    # Sending.

    def _next(self) -> int:
        self._number += 1
        return self._number

    def _put(
        self, subject: str, note: Note | Answer, reply: str = "", asked: _PushUnderWay | None = None
    ) -> None:
        if subject:
            self._outbox.append((subject, packed(note), reply, asked))
            self._to_send.set()

    def _put_envelope(self, subject: str, asked: _PushUnderWay, reply: str) -> None:
        letter = asked.letter
        left = max(0, letter.until - time.monotonic_ns())
        self._put(subject, Envelope(letter.to, letter.data, left, letter.group), reply, asked)

    async def _send(self) -> None:
        """Send what there is to send, in its order."""
        while True:
            await self._to_send.wait()
            self._to_send.clear()
            while self._outbox:
                subject, data, reply, asked = self._outbox.popleft()
                if asked is not None:
                    if time.monotonic_ns() >= asked.letter.until and not asked.sent:
                        continue  # it is told so when its grace is over
                    asked.sent = True
                await self._client.publish(subject, data, reply=reply)


def _until(left: int) -> int:
    most = int(LONGEST_PATIENCE * 1e9)
    return time.monotonic_ns() + max(0, min(left, most))


def _without_doubles(found: list[PresenceTold]) -> list[PresenceTold]:
    """Return each connection once; what its own node said of it counts."""
    last = {(each.node, each.id): each for each in found}
    return list(last.values())
