"""The post of a sync worker: lines to the keeper, one for each connection that is called something.

A handler that blocks, in a thread or a process of its own, cannot be spoken to over the worker's
channel: what is pushed comes by the connection's line, which wakes a receive as an order of the
server's does, and is sent in it.  A process that pushes has a line of its own for that.
"""

from __future__ import annotations

import os
import select
import threading
import time
from collections import deque
from collections.abc import Callable, Generator
from contextlib import suppress
from functools import partial
from typing import Any, Final, Generic, TypeVar
from weakref import WeakValueDictionary

from socketkeep._base import _log
from socketkeep._base._errors import Busy, HandlerError, SocketkeepError, translate
from socketkeep._base._structs import replace
from socketkeep._names._pushing import Endpoint, Present, Published, Pushed, Pushing, PushOutcome
from socketkeep._stream import _record as record
from socketkeep._stream._connection import Connection
from socketkeep._stream._lease import DrainSignal, Order, handling
from socketkeep._stream._record import Record
from socketkeep._stream._waiting import make_orders
from socketkeep._wire._channel import Channel, ChannelClosed, channel_pair
from socketkeep._wire._messages import (
    ABSENT,
    BEGUN,
    ConnectionEnded,
    Deliver,
    Delivered,
    Letter,
    LetterTold,
    NameTaken,
    OpenLine,
    Push,
    Registered,
    Told,
)
from socketkeep._worker._answers import present, published, pushed
from socketkeep._worker._entry import Entry
from socketkeep._worker._environment import Environment
from socketkeep._worker._mail import Mailbox, OnPush

T = TypeVar("T")

#: Seconds, beyond a letter's time, in which the keeper says what has become of it.
_GRACE: Final = 3.0
#: Seconds after which a thread that waits for another one's look at the line looks at its own.
_MOMENT: Final = 0.01
#: Seconds after which a line is opened anew that is still broken, or again.
_LOOK_AGAIN: Final = 0.5


class ConnectionLine:
    """The line of one connection, and its drain signal: what wakes a receive and is then heard.

    wake_fd: readable when the worker has its order, or something is pushed.
    """

    def __init__(
        self,
        drain_signal: DrainSignal,
        channel: Channel,
        reopen: Callable[[ConnectionLine, Connection], None],
        on_push: OnPush | None = None,
    ) -> None:
        """reopen: called in a receive while the line is broken, to lead it to another keeper."""
        self.drain_signal = drain_signal
        self._reopen = reopen
        self._reopen_at = 0.0  # not before that, when it is broken
        self._mail = None if on_push is None else Mailbox(on_push)
        self.broken = False
        self._channel = channel
        self._letters: deque[Letter | NameTaken] = deque()
        self._poller = select.epoll()
        self._poller.register(drain_signal.wake_fd, select.EPOLLIN)
        self._poller.register(channel.fileno(), select.EPOLLIN)
        self._bell = -1  # readable while there is mail that was taken outside of a receive
        if self._mail is not None:
            self._bell = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
            self._poller.register(self._bell, select.EPOLLIN)

    @property
    def wake_fd(self) -> int:
        return self._poller.fileno()

    @property
    def order(self) -> Order | None:
        return self.drain_signal.order

    def asked(self, record: Record) -> Order | None:
        return self.drain_signal.asked(record)

    @property
    def crowded(self) -> bool:
        return self.drain_signal.crowded

    @property
    def full(self) -> bool:
        return self.drain_signal.full

    def is_awaited(self) -> bool:
        return self.drain_signal.is_awaited()

    def woken(self) -> None:
        self.drain_signal.woken()
        self.listen()

    @property
    def channel(self) -> Channel:
        """Return the lines over which pushes come."""
        return self._channel

    def listen(self) -> None:
        """Take what has come."""
        if self.broken:
            return
        try:
            while (packet := self._channel.receive()) is not None:
                match packet.message:
                    case Deliver(letters=letters):
                        for letter in letters:
                            self._take(letter)
                    case NameTaken() as message:
                        self._letters.append(message)
                packet.close()
        except ChannelClosed:  # the keeper has gone, or was out of descriptors
            self.broken = True
            self._poller.unregister(self._channel.fileno())

    def lead_to(self, channel: Channel) -> None:
        """Take what is pushed from that channel from here on: the one that there was is broken."""
        self._channel.close()
        self._channel = channel
        self._poller.register(channel.fileno(), select.EPOLLIN)
        self.broken = False

    @property
    def waiting(self) -> bool:
        return bool(self._letters) or (self._mail is not None and self._mail.waiting)

    def _take(self, letter: Letter) -> None:
        """Take a letter: with an `on_push` that is all that is told, else it is to be sent."""
        if self._mail is None:
            self._letters.append(letter)
        elif time.monotonic_ns() >= letter.until:
            self._answer(letter, PushOutcome.TIMED_OUT)
        else:
            taken = self._mail.put(letter.data)
            self._answer(letter, PushOutcome.DELIVERED if taken else PushOutcome.FULL)

    def _answer(self, letter: Letter, outcome: int) -> None:
        with suppress(ChannelClosed, OSError):
            self._channel.send_now(Delivered([LetterTold(letter.number, outcome)]))

    def deliver(self, conn: Any) -> BaseException | None:
        """Send what has come; return why the connection is to end, if it is.

        In a receive, by who has the connection to itself for receiving.
        """
        assert isinstance(conn, Connection)
        while self._letters:
            letter = self._letters.popleft()
            if isinstance(letter, NameTaken):
                if (error := conn.lose_name(letter.name, close=letter.close)) is not None:
                    return error
                continue
            outcome: int = PushOutcome.TIMED_OUT
            if time.monotonic_ns() < letter.until:
                try:
                    begun = partial(self._answer, letter, BEGUN)
                    if conn.push(letter.data, letter.until / 1e9, begun):
                        outcome = PushOutcome.DELIVERED
                except Busy:
                    outcome = PushOutcome.FULL
                except SocketkeepError:
                    outcome = PushOutcome.NOT_CONNECTED  # its handler meets the error
            self._answer(letter, outcome)
        if self._mail is not None:
            with suppress(BlockingIOError):
                os.eventfd_read(self._bell)
            self._mail.deliver(conn)
        # What had come by it is answered first, by the number that its keeper gave it.
        if self.broken and time.monotonic() >= self._reopen_at:
            self._reopen_at = time.monotonic() + _LOOK_AGAIN
            self._reopen(self, conn)
        return None

    def send_own(self, conn: Any) -> None:
        """Send what has come while the handler waits for what becomes of a push of its own.

        Where there is an `on_push` the next receive is woken for it.
        """
        if self._mail is None:
            self.deliver(conn)
        elif self._mail.waiting:
            os.eventfd_write(self._bell, 1)

    async def hear(self, conn: Any) -> None:
        self.deliver(conn)

    def close(self) -> None:
        if self._bell >= 0:
            os.close(self._bell)
        self._poller.close()
        self._channel.close()


class SyncPost:
    """The registrar of a sync worker's connections, and the office of its handlers."""

    def __init__(self, environment: Environment, has_keeper: Callable[[], bool]) -> None:
        """has_keeper: returns whether there is one to speak to, and looks for another."""
        self._environment = environment
        self._has_keeper = has_keeper
        self._reopening = threading.Lock()
        self._pid = 0  # of the process that has what follows
        self._lock = threading.Condition()
        self._line: Channel | None = None
        self._number = 0
        self._asked: WeakValueDictionary[int, _BlockingPush[Any]] = WeakValueDictionary()
        self._hears = False  # a thread waits at the line
        self.loop = None

    def endpoint(
        self, receive: Callable[[bytes], bool], lost: Callable[[], None] | None = None
    ) -> Endpoint:
        raise HandlerError("refused: an endpoint is for async workers: give -k async")

    # What the connections are called.

    def changed(self, conn: Connection) -> None:
        line = conn.hooks.mail
        try:
            if not isinstance(line, ConnectionLine):
                self._open_line(conn)
            elif line.broken:
                self._reopen_line(line, conn)
            else:
                self._say(_registered(conn))
        except ChannelClosed:
            pass  # it is said to the next keeper when the line is opened anew
        except OSError as error:
            raise translate(error, operation="name", peer=conn.peer) from error
        conn.hooks.registered = True

    def attached(self, conn: Connection) -> None:
        """A connection is served here from now on."""
        if conn.registration is not None:
            self.changed(conn)

    def left_line(self, conn: Connection) -> None:
        line = conn.hooks.mail
        if isinstance(line, ConnectionLine):
            conn.use_line(None, line.drain_signal, self._orders(line.drain_signal))
            line.close()

    def left(self, entry: Entry, conn: Connection) -> None:
        """A connection has left its handler: what is not answered is not done."""
        if not entry.hooks.registered:
            return
        if entry.record[record.ENDED] not in (record.DETACHED, record.TAKEN):
            entry.hooks.registered = False
            with suppress(ChannelClosed, OSError):
                self._environment.channel.send_now(
                    ConnectionEnded([(entry.lease.id, entry.lease.epoch)])
                )
        self.left_line(conn)

    def _open_line(self, conn: Connection) -> None:
        drain_signal = conn.hooks.drain_signal
        assert drain_signal is not None
        channel = self._register_by_line(conn)
        on_push = self._environment.handler.on_push
        line = ConnectionLine(drain_signal, channel, self._reopen_line, on_push)
        conn.use_line(line, line, self._orders(line))

    def _reopen_line(self, line: ConnectionLine, conn: Connection) -> None:
        """Lead a broken line to the keeper that there is now, if there is one."""
        with self._reopening:
            # Another thread of the handler's, which calls the connection otherwise, may be first.
            if line.broken and self._has_keeper():
                try:
                    line.lead_to(self._register_by_line(conn))
                except OSError as error:  # out of descriptors
                    _log.debug("a line cannot be opened yet", id=conn.lease.id, error=error)

    def _register_by_line(self, conn: Connection) -> Channel:
        """Say what the connection is called; return this end of a line of its own.

        It is broken already where there is no keeper.
        """
        ours, theirs = channel_pair()
        channel = Channel(ours)
        try:
            with theirs, suppress(ChannelClosed):
                self._say(_registered(conn, theirs.fileno()))
        except OSError:
            channel.close()
            raise
        return channel

    def _say(self, message: Registered | OpenLine) -> None:
        """Tell the keeper, or the next.  Raises ChannelClosed."""
        channel = self._environment.channel
        try:
            channel.send_now(message)
        except ChannelClosed:
            if not self._has_keeper():
                raise
            channel.send_now(message)

    def _orders(self, drain_signal: DrainSignal) -> Any:
        return make_orders(drain_signal.wake_fd, self._environment.scoreboard.header)

    # What handlers ask for.

    def push(self, name: str, data: bytes, until: int) -> Pushing[Pushed]:
        return self._ask(Letter(0, name, data, until), pushed)

    def publish(self, group: str, data: bytes, until: int) -> Pushing[Published]:
        return self._ask(Letter(0, group, data, until, group=True), published)

    def who(self, text: str, until: int) -> Pushing[Present]:
        return self._ask(Letter(0, text, b"", until, asks=True), present)

    def _ask(self, letter: Letter, told: Callable[[LetterTold], T]) -> Pushing[T]:
        self._stand_in()
        with self._lock:
            line = self._line or self._open()
            self._number = number = self._number + 1
            asked = _BlockingPush(self, number, letter, told)
            self._asked[number] = asked
            try:
                self._take_answers(line)
                line.send_now(Push([replace(letter, number=number)]))
            except ChannelClosed:
                self._lose_line()
            except OSError as error:
                del self._asked[number]
                raise translate(error, operation="push") from error
            return asked

    def _stand_in(self) -> None:
        """In a forked child, have a line of its own: the parent has that which there was."""
        if self._pid != os.getpid():
            self._lock = threading.Condition()
            if self._line is not None:
                self._line.close()
            self._line = None
            self._asked = WeakValueDictionary()
            self._hears = False
            self._pid = os.getpid()

    def _open(self) -> Channel:
        try:
            ours, theirs = channel_pair()
            with theirs:
                self._say(OpenLine(theirs.fileno()))
        except ChannelClosed:
            pass  # what is sent finds nobody, and is told to be uncertain
        except OSError as error:
            raise translate(error, operation="push") from error
        self._line = Channel(ours)
        return self._line

    def _take_answers(self, line: Channel) -> None:
        while (packet := line.receive()) is not None:
            if isinstance(packet.message, Told):
                for answer in packet.message.answers:
                    asked = self._asked.pop(answer.number, None)
                    if asked is not None:
                        asked.answer = answer
            packet.close()

    def _lose_line(self) -> None:
        """Nobody will tell what becomes of what was asked."""
        line, self._line = self._line, None
        if line is not None:
            line.close()
        for asked in tuple(self._asked.values()):
            asked.answer = LetterTold(asked.number, PushOutcome.UNCERTAIN)
        self._asked.clear()

    def wait_for(self, asked: _BlockingPush[Any]) -> LetterTold:
        """Wait until it is known what has become of a letter.

        It may be for the connection of the handler that waits.
        """
        conn = handling.get()
        mail = conn.hooks.mail if isinstance(conn, Connection) else None
        own = mail if isinstance(mail, ConnectionLine) and not mail.broken else None
        end = asked.letter.until / 1e9 + _GRACE
        with self._lock:
            while asked.answer is None:
                left = end - time.monotonic()
                line = self._line
                if left <= 0 or line is None:
                    return LetterTold(asked.number, PushOutcome.UNCERTAIN)
                if self._hears:
                    self._lock.wait(left if own is None else min(left, _MOMENT))
                    if own is not None:
                        own.listen()
                        own.send_own(conn)
                    continue
                self._hears = True
                self._lock.release()
                try:
                    poller = select.poll()
                    poller.register(line.fileno(), select.POLLIN)
                    if own is not None:
                        poller.register(own.channel.fileno(), select.POLLIN)
                    poller.poll(left * 1000)
                    if own is not None:
                        own.listen()
                        own.send_own(conn)
                        own = None if own.broken else own
                finally:
                    self._lock.acquire()
                    self._hears = False
                try:
                    if self._line is line:
                        self._take_answers(line)
                except ChannelClosed:
                    self._lose_line()
                self._lock.notify_all()
            return asked.answer


def _registered(conn: Connection, line: int = ABSENT) -> Registered:
    lease, registration = conn.lease, conn.registration
    assert registration is not None
    return Registered(
        *(lease.id, lease.epoch, registration.name),
        *(sorted(registration.groups), dict(registration.labels), line),
    )


class _BlockingPush(Generic[T]):
    """A push that is under way."""

    def __init__(
        self, post: SyncPost, number: int, letter: Letter, told: Callable[[LetterTold], T]
    ) -> None:
        self.number = number
        self.letter = letter
        self.answer: LetterTold | None = None
        self._post = post
        self._told = told

    def __await__(self) -> Generator[Any, None, T]:
        raise HandlerError("refused: a sync handler's push is not awaited: `push(...).result()`")

    def result(self) -> T:
        return self._told(self.answer or self._post.wait_for(self))
