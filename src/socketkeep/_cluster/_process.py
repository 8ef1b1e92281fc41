"""`--cluster`: the process that is in a cluster, as the keeper sees it.

A process of its own, so that a broker that is slow, away or hostile can delay nothing here.  What
it does not answer in time is told to be uncertain.
"""

from __future__ import annotations

import os
import select
import signal
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice
from typing import Final

import msgspec

from socketkeep._base import _log
from socketkeep._cluster._target import cluster_name
from socketkeep._config._server_options import ServeConfig
from socketkeep._keeper.connections._post import (
    MOST_BYTES_IN_ALL,
    MOST_FOUND,
    MOST_LETTERS_IN_ALL,
    Post,
)
from socketkeep._keeper.loop._children import ChildWatch
from socketkeep._keeper.loop._reactor import Reactor, ReactorTimer
from socketkeep._keeper.loop._system import Exit, System
from socketkeep._keeper.workers._workers import Link
from socketkeep._names._naming import MESSAGE_LIMIT, is_fit
from socketkeep._names._pushing import PushOutcome
from socketkeep._wire._channel import Channel, Packet, channel_pair
from socketkeep._wire._messages import (
    ClusterTold,
    JoinCluster,
    Letter,
    LetterTold,
    NamesTold,
    PresenceTold,
    Push,
    TakenElsewhere,
    Told,
)

_FIRST_DELAY: Final = 0.1  # seconds until it is started again, doubled each time
_LONGEST_DELAY: Final = 30.0
_LONG_ENOUGH: Final = 10.0  # a life of so long, and the next delay is the first one
_EXIT_TIME: Final = 2.0  # seconds that it has to say good-bye to the others
#: Seconds, beyond a letter's time, in which it answers; and how often late ones are looked for.
_GRACE: Final = 3.0
_LOOK_EVERY: Final = 0.5
#: Names in one message, and messages that may wait for it while it does not read.
_NAMES_AT_ONCE: Final = 256
_MOST_UNREAD: Final = 64
#: Bytes of letters in one message.
_BATCH: Final = 60_000
_LARGEST: Final = 1 << 63
_LONGEST_TEXT: Final = 400
#: Nodes, and places, of what it reports that are believed.
_MOST_TOLD: Final = 10_000


@dataclass(slots=True, eq=False)
class _Asked:
    """A letter that is at other nodes."""

    letter: Letter
    told: Callable[[LetterTold], None]


class _Answerer:
    """The sender on another node, which is told what has become here of its letters."""

    def __init__(self, cluster: ClusterProcess) -> None:
        self._cluster = cluster

    def tell(self, answer: LetterTold) -> None:
        self._cluster.answer(answer)


class ClusterProcess:
    """Keeps one running, and is the way to the other nodes for the post.

    instead_of: pid of the one that an earlier version of the keeper had; it is ended.
    node: which node this is, "": a new one.
    """

    def __init__(
        self,
        reactor: Reactor,
        system: System,
        config: ServeConfig,
        post: Post,
        name: str,
        *,
        instead_of: int = 0,
        node: str = "",
    ) -> None:
        self.node: Final = node or os.urandom(8).hex()
        self.label: Final = f"{socket.gethostname()}/{name}"
        self.cluster: Final = cluster_name(config)
        self.state = ClusterTold("connecting", since=time.monotonic())
        self._reactor = reactor
        self._system = system
        self._config = config
        self._post = post
        self._children = ChildWatch(reactor, system)
        self._throttle = _log.Throttle()
        self._pid = 0
        self._link: Link | None = None
        self._started_at = 0.0
        self._delay = _FIRST_DELAY
        self._timer: ReactorTimer | None = None
        self._number = 0
        self._asked: dict[int, _Asked] = {}
        self._bytes = 0
        self._letters: list[Letter] = []
        self._answers: list[LetterTold] = []
        self._soon = False
        self._look: ReactorTimer | None = None
        self._named_at: dict[str, tuple[str, float]] = {}  # by name: the id, and since when
        self._news_of_names: dict[str, float] = {}  # and when it came
        self._news_of_groups: set[str] = set()
        self._telling: ReactorTimer | None = None
        self._answerer = _Answerer(self)
        if instead_of:
            self._children.watch(instead_of, lambda _ended: None)
            self._children.kill(instead_of)
        for each in post.names:  # since when they have their names an earlier version knew
            if each.name:
                self._named_at[each.name] = (each.id, 0.0)
        post.elsewhere = self
        post.names.watch(self._on_news)
        self._start()

    @property
    def pid(self) -> int:
        """Of the process; 0 while there is none."""
        return self._pid

    def snapshot(self) -> tuple[int, str]:
        """Return what the next version of the server goes on from: the pid, and which node it is.

        What becomes of letters that are at other nodes is not known from here on.
        """
        self._give_up()
        return self._pid, self.node

    def close(self) -> None:
        """End the process; it has a moment to tell the other nodes."""
        self._post.elsewhere = None
        self._post.names.watch(None)
        for timer in (self._timer, self._look, self._telling):
            if timer is not None:
                timer.cancel()
        if self._link is not None:
            self._tell_news()
            self._link.close()
            self._link = None
        if self._pid:
            self._children.unwatch(self._pid)
            pidfd = os.pidfd_open(self._pid)
            try:
                poller = select.poll()
                poller.register(pidfd, select.POLLIN)
                if not poller.poll(_EXIT_TIME * 1000):
                    os.kill(self._pid, signal.SIGKILL)
            finally:
                os.close(pidfd)
            os.waitpid(self._pid, 0)
            self._pid = 0

    # The process.

    def _start(self) -> None:
        self._started_at = self._reactor.clock()
        ours, theirs = channel_pair()
        try:
            self._pid = self._system.spawn_cluster(theirs.fileno())
        except OSError as error:
            ours.close()
            self._throttle.warning("cannot start the cluster's process", error=error.strerror)
            self._again()
            return
        finally:
            theirs.close()
        self._children.watch(self._pid, self._ended)
        link = self._link = Link(
            self._reactor, Channel(ours, wary=True), self._heard, self._lost, self._garbled
        )
        config = msgspec.json.encode(self._config)
        link.send(JoinCluster(config, self.node, self.label, self.cluster))
        now = time.time()
        for name in self._post.names.all_names():
            self._news_of_names.setdefault(name, now)
        self._news_of_groups.update(self._post.names.all_groups())
        self._tell_news()

    def _lost(self) -> None:
        """It has closed its end: its own end follows."""

    def _garbled(self, why: str) -> None:
        self._throttle.error(
            "cluster process killed: what it said cannot be", kind="cluster", why=why
        )
        self._children.kill(self._pid)

    def _ended(self, ended: Exit) -> None:
        self._pid = 0
        if self._link is not None:
            self._link.drain()
            self._link.close()
            self._link = None
        self._give_up()
        if self._reactor.clock() - self._started_at >= _LONG_ENOUGH:
            self._delay = _FIRST_DELAY
        error = f"its process has ended ({ended})"
        self.state = ClusterTold("away", error=error, since=time.monotonic())
        _log.error("the cluster's process ended", exit=ended, again_in=self._delay)
        self._again()

    def _again(self) -> None:
        self._timer = self._reactor.call_later(self._delay, self._start)
        self._delay = min(2 * self._delay, _LONGEST_DELAY)

    # Letters to other nodes.

    def push(self, letter: Letter, told: Callable[[LetterTold], None]) -> None:
        """Have a letter delivered at another node, see `Elsewhere`."""
        if self._link is None:
            told(_unheard(letter, PushOutcome.UNREACHABLE))
            return
        size = len(letter.data)
        if len(self._asked) >= MOST_LETTERS_IN_ALL or self._bytes + size > MOST_BYTES_IN_ALL:
            told(_unheard(letter, PushOutcome.FULL))
            return
        self._number += 1
        sent = msgspec.structs.replace(letter, number=self._number)
        self._asked[self._number] = _Asked(sent, told)
        self._bytes += size
        self._letters.append(sent)
        self._flush_soon()
        if self._look is None or not self._look.pending:
            self._look = self._reactor.call_later(_LOOK_EVERY, self._look_for_late)

    def _look_for_late(self) -> None:
        """Tell the senders of letters of which nothing is heard: the process may stand still."""
        late = int((self._reactor.clock() - _GRACE) * 1e9)
        if any(each.letter.until <= late for each in self._asked.values()):
            if self._link is not None:
                self._link.drain()  # this process may have stood still itself
            for number, each in tuple(self._asked.items()):
                if each.letter.until <= late:
                    self._settle(number, _unheard(each.letter, PushOutcome.UNCERTAIN))
        if self._asked:
            self._look = self._reactor.call_later(_LOOK_EVERY, self._look_for_late)

    def _settle(self, number: int, told: LetterTold) -> None:
        asked = self._asked.pop(number, None)
        if asked is not None:
            self._bytes -= len(asked.letter.data)
            asked.told(told)

    def _give_up(self) -> None:
        self._letters.clear()
        self._answers.clear()
        for number, each in tuple(self._asked.items()):
            self._settle(number, _unheard(each.letter, PushOutcome.UNCERTAIN))

    # Letters of other nodes.

    def answer(self, answer: LetterTold) -> None:
        """Tell another node what has become of its letter."""
        self._answers.append(answer)
        self._flush_soon()

    def _flush_soon(self) -> None:
        if not self._soon:
            self._soon = True
            self._reactor.call_soon(self._flush)

    def _flush(self) -> None:
        self._soon = False
        answers, self._answers = self._answers, []
        letters, self._letters = self._letters, []
        if self._link is None:
            return
        try:
            if answers:
                self._link.send(Told(answers))
            while letters:
                size = count = 0
                while count < len(letters) and size < _BATCH:
                    size += len(letters[count].data)
                    count += 1
                self._link.send(Push(letters[:count]))
                del letters[:count]
        except OSError:  # no descriptor for a large one: this process is at its limit
            for letter in letters:
                self._settle(letter.number, _unheard(letter, PushOutcome.FULL))

    def _heard(self, packet: Packet) -> None:
        match packet.message:
            case Push(letters=letters):
                fit = [each for each in letters if _is_fit(each)]
                self._post.push(self._answerer, fit, here=True)
            case Told(answers=answers):
                for answer in answers:
                    if _is_believable(answer):
                        self._settle(answer.number, answer)
            case TakenElsewhere(id=id, name=name, node=node):
                _log.info("name taken over", name=name[:_LONGEST_TEXT], id=id, node=node)
                self._post.taken_elsewhere(id, name)
            case ClusterTold() as state:
                if len(state.nodes) <= _MOST_TOLD:
                    self.state = state

    # What connections here are called.

    def _on_news(self, name: str, group: str) -> None:
        if name:  # who has it is looked at when it is told: the table is being changed
            self._news_of_names[name] = time.time()
        if group:
            self._news_of_groups.add(group)
        if self._telling is None or not self._telling.pending:
            self._telling = self._reactor.call_later(0.0, self._tell_news)

    def _tell_news(self) -> None:
        """Tell what is called otherwise now; later, while what was told is not read."""
        while self._link is not None and (self._news_of_names or self._news_of_groups):
            if self._link.waiting >= _MOST_UNREAD:
                self._telling = self._reactor.call_later(_LOOK_EVERY, self._tell_news)
                return
            names: list[tuple[str, str, int, float]] = []
            gone: list[str] = []
            for name in tuple(islice(self._news_of_names, _NAMES_AT_ONCE)):
                since = self._news_of_names.pop(name)
                known = self._post.names.named(name)
                if known is None:
                    self._named_at.pop(name, None)
                    gone.append(name)
                    continue
                named, at = self._named_at.get(name, ("", 0.0))
                if named != known.id:
                    at = since
                    self._named_at[name] = (known.id, at)
                names.append((name, known.id, known.epoch, at))
            groups = [
                self._news_of_groups.pop()
                for _ in range(min(len(self._news_of_groups), _NAMES_AT_ONCE))
            ]
            there = [each for each in groups if self._post.names.members(each)]
            left = [each for each in groups if not self._post.names.members(each)]
            self._link.send(NamesTold(names, gone, there, left))


def _unheard(letter: Letter, outcome: PushOutcome) -> LetterTold:
    return LetterTold(letter.number, outcome, failed=int(letter.group), silent=int(letter.asks))


def _is_fit(letter: Letter) -> bool:
    amounts = (letter.number, letter.until)
    within = min(amounts) >= 0 and max(amounts) < _LARGEST
    return within and is_fit(letter.to) and len(letter.data) <= MESSAGE_LIMIT


def _is_believable(answer: LetterTold) -> bool:
    """Return whether an answer, which other nodes have made, can go on to workers and terminals."""
    amounts = (answer.epoch, answer.delivered, answer.failed, answer.silent)
    within = min(amounts) >= 0 and max(amounts) < _LARGEST
    texts = all(map(_is_text, (answer.id, answer.node)))
    found = len(answer.found) <= 10 * MOST_FOUND and all(map(_can_be, answer.found))
    return within and texts and found and answer.outcome in PushOutcome.__members__.values()


def _can_be(found: PresenceTold) -> bool:
    texts = (found.node, found.id, found.name)
    return 0 <= found.epoch < _LARGEST and all(map(_is_text, texts))


def _is_text(text: str) -> bool:
    return len(text) <= _LONGEST_TEXT and (not text or text.isprintable())
