"""The process that is a node of a cluster: between its keeper, over a channel, and the brokers.

It outlives its sessions at these: what the keeper has told it stays, and is said anew in the next.
It ends when its channel is closed: when the keeper has ended, or has executed its next version.
"""

from __future__ import annotations

import asyncio
import gc
import random
import socket
import time
import traceback
from collections import Counter
from typing import Final

import msgspec

from socketkeep._base import _log
from socketkeep._base._roles import Role
from socketkeep._base._titles import set_title
from socketkeep._cluster._broker import Unusable
from socketkeep._cluster._presence import Claim
from socketkeep._cluster._session import OwnName, Session
from socketkeep._cluster._target import served
from socketkeep._config._server_options import ServeConfig
from socketkeep._names._pushing import PushOutcome
from socketkeep._wire._channel import Channel, ChannelClosed
from socketkeep._wire._messages import (
    ClusterTold,
    JoinCluster,
    Letter,
    LetterTold,
    NamesTold,
    Push,
    TakenElsewhere,
    Told,
)

#: Seconds until a broker is tried again, doubled each time, and for who has been refused.
_FIRST_DELAY: Final = 0.25
_LONGEST_DELAY: Final = 15.0
#: Seconds for which letters wait for a broker that has just gone.
AWAITED: Final = 5.0
_REPORT_EVERY: Final = 1.0
_FIRST_WORD: Final = 30.0  # seconds until the keeper has said who this is


class Node:
    """One node: what it has, and what waits."""

    def __init__(self, channel: Channel, join: JoinCluster) -> None:
        self.config = msgspec.json.decode(join.config, type=ServeConfig)
        self.id = join.node
        self.label = join.label
        self.cluster = join.cluster
        self.target = served(self.config.target)
        self.names: dict[str, OwnName] = {}
        self.groups: set[str] = set()
        self.claims: dict[str, Claim] = {}
        self._channel = channel
        self._loop = asyncio.get_running_loop()
        self._session: Session | None = None
        self._counts: Counter[str] = Counter()
        self._waiting: dict[int, asyncio.TimerHandle] = {}  # by the number of a letter
        self._letters: dict[int, Letter] = {}
        self._away_since = self._loop.time()
        self._state = ClusterTold("connecting", since=time.monotonic())
        self._said: ClusterTold | None = None
        self._answers: list[LetterTold] = []
        self._arrived: list[Letter] = []
        self._soon = False
        self._over = asyncio.Event()

    async def run(self) -> None:
        """Be in the cluster until the keeper has gone."""
        self._loop.add_reader(self._channel.fileno(), self._hear)
        self._hear()
        staying = self._loop.create_task(self._stay())
        reporting = self._loop.create_task(self._report())
        over = self._loop.create_task(self._over.wait())
        await asyncio.wait((staying, reporting, over), return_when=asyncio.FIRST_COMPLETED)
        self._loop.remove_reader(self._channel.fileno())
        if self._session is not None and over.done():
            await self._session.leave()
        for task in (staying, reporting, over):
            task.cancel()
        for result in await asyncio.gather(staying, reporting, return_exceptions=True):
            if isinstance(result, Exception):
                raise result

    async def _stay(self) -> None:
        delay = _FIRST_DELAY
        while True:
            session = Session(self)
            try:
                await session.hold()
            except Unusable as error:
                was_in, self._session = self._session is session, None
                delay = _FIRST_DELAY if was_in else min(2 * delay, _LONGEST_DELAY)
                self._left(str(error), refused=error.refused, was_in=was_in)
                session.end()
            # Not all nodes at one moment, when a broker comes back.
            await asyncio.sleep(delay * random.uniform(0.5, 1.0))

    def _left(self, error: str, *, refused: bool, was_in: bool) -> None:
        state = "refused" if refused else "away"
        if was_in:
            self._away_since = self._loop.time()
        if state != self._state.state or error != self._state.error:
            since = self._state.since if self._state.state == state else time.monotonic()
            self._state = ClusterTold(state, error=error, since=since)
            _log.error("cluster left" if was_in else "cluster not joined", error=error)
        self._say_state()

    # What sessions say.

    def joined(self, session: Session) -> None:
        """A session is there."""
        self._session = session
        self._counts["sessions"] += 1
        self._state = ClusterTold("connected", session.server, since=time.monotonic())
        nodes = len(session.nodes)
        _log.info("cluster joined", cluster=self.cluster, broker=session.server, nodes=nodes)
        self._say_state()
        for number in tuple(self._waiting):
            self._waiting.pop(number).cancel()
            session.push(self._letters.pop(number))

    def seen(self) -> None:
        """The nodes that there are have been looked at."""
        self._say_state()

    def count(self, what: str, more: int = 1) -> None:
        """Count something that people are told."""
        self._counts[what] += more

    def deliver(self, letter: Letter) -> None:
        """Have the keeper deliver what has come."""
        self._arrived.append(letter)
        self._flush_soon()

    def tell(self, told: LetterTold) -> None:
        """Tell the keeper what has become of a letter of its."""
        self._answers.append(told)
        self._flush_soon()

    def taken(self, name: str, own: OwnName, by: str) -> None:
        """Another node has a name that was here."""
        self.count("taken")
        _log.info("name taken over", name=name, id=own.id, by=by)
        self._send(TakenElsewhere(own.id, name, by))

    # What the keeper says.

    def _hear(self) -> None:
        try:
            while (packet := self._channel.receive()) is not None:
                packet.close()
                match packet.message:
                    case Push(letters=letters):
                        for letter in letters:
                            self.push(letter)
                    case Told(answers=answers):
                        for answer in answers:
                            if self._session is not None:
                                self._session.answered(answer)
                    case NamesTold() as news:
                        self._learn(news)
        except ChannelClosed:
            self._over.set()

    def _learn(self, news: NamesTold) -> None:
        session = self._session
        for name, connection, epoch, at in news.names:
            self.names[name] = OwnName(connection, epoch, at, fresh=session is not None)
        for name in news.gone:
            self.names.pop(name, None)
        self.groups.update(news.groups)
        self.groups.difference_update(news.groups_gone)
        if session is None:
            return
        for name, *_ in news.names:
            session.name_changed(name)
        for name in news.gone:
            session.name_changed(name)
        for group in (*news.groups, *news.groups_gone):
            session.group_changed(group)

    def push(self, letter: Letter) -> None:
        """Have a letter delivered at another node, or have it wait for a while."""
        if self._session is not None:
            self._session.push(letter)
            return
        left = letter.until / 1e9 - time.monotonic()
        patience = self._away_since + AWAITED - self._loop.time()
        if patience <= 0 or self._state.state == "refused":
            self._unreachable(letter, PushOutcome.UNREACHABLE)
            return
        outcome = PushOutcome.TIMED_OUT if left <= patience else PushOutcome.UNREACHABLE
        self._letters[letter.number] = letter
        self._waiting[letter.number] = self._loop.call_later(
            min(left, patience), self._give_up, letter.number, outcome
        )

    def _give_up(self, number: int, outcome: PushOutcome) -> None:
        del self._waiting[number]
        self._unreachable(self._letters.pop(number), outcome)

    def _unreachable(self, letter: Letter, outcome: PushOutcome) -> None:
        self.count(f"out {outcome.text}")
        failed = int(letter.group)
        self.tell(LetterTold(letter.number, outcome, failed=failed, silent=int(letter.asks)))

    # The channel.

    def _flush_soon(self) -> None:
        if not self._soon:
            self._soon = True
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._soon = False
        answers, self._answers = self._answers, []
        arrived, self._arrived = self._arrived, []
        if answers:
            self._send(Told(answers))
        if arrived:
            self._send(Push(arrived))

    def _send(self, message: Told | Push | TakenElsewhere | ClusterTold) -> None:
        try:
            self._channel.send_now(message)
        except ChannelClosed:
            self._over.set()

    def _say_state(self) -> None:
        nodes = sorted(self._session.nodes.values()) if self._session is not None else []
        told = msgspec.structs.replace(self._state, nodes=nodes, counts=dict(self._counts))
        if told != self._said:
            self._said = told
            self._send(told)

    async def _report(self) -> None:
        while True:
            await asyncio.sleep(_REPORT_EVERY)
            self._say_state()


def main(fd: int) -> int:
    """Be a node until the keeper has gone; return the exit code."""
    channel = Channel(socket.socket(fileno=fd))
    packet = _first(channel)
    if packet is None:
        return 0
    config = msgspec.json.decode(packet.config, type=ServeConfig)
    _log.configure(config.log_level, config.log_format, config.log_file)
    set_title(Role.CLUSTER, f"[{packet.cluster}]")

    async def be() -> None:
        await Node(channel, packet).run()

    gc.freeze()  # what is loaded stays: no collection need look at it
    try:
        asyncio.run(be())
    except Exception as error:
        _log.error(
            "internal error, please report it",
            error_text="".join(traceback.format_exception(error)),
        )
        return 1
    return 0


def _first(channel: Channel) -> JoinCluster | None:
    """Return the keeper's first message; None when it has gone, or says nothing."""
    import select

    poller = select.poll()
    poller.register(channel.fileno(), select.POLLIN)
    until = time.monotonic() + _FIRST_WORD
    while time.monotonic() < until:
        poller.poll(_FIRST_WORD * 1000)
        try:
            packet = channel.receive()
        except ChannelClosed:
            return None
        if packet is not None:
            packet.close()
            if isinstance(packet.message, JoinCluster):
                return packet.message
    return None
