"""The post of an async worker: what its connections are called, and what is pushed.

All of it goes over the worker's channel, in the order in which it is said.  What is said in one
turn of the loop goes in one message.
"""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import Callable, Generator
from contextlib import suppress
from typing import Any, Final, Generic, TypeVar

from socketkeep._base._errors import Busy, HandlerError
from socketkeep._base._passing import SURELY_INLINE
from socketkeep._base._structs import replace
from socketkeep._names._naming import MOST_ENDPOINTS
from socketkeep._names._pushing import (
    Endpoint,
    Present,
    Published,
    Pushed,
    Pushing,
    PushOutcome,
    place,
)
from socketkeep._stream._aio import AsyncConnection
from socketkeep._wire._channel import Channel, ChannelClosed
from socketkeep._wire._messages import (
    BEGUN,
    Deliver,
    Delivered,
    Letter,
    LetterTold,
    NameTaken,
    Push,
    Registered,
    Told,
)
from socketkeep._worker._answers import present, published, pushed
from socketkeep._worker._mail import MOST_BYTES, MOST_LETTERS, Mailbox, OnPush

T = TypeVar("T")

#: So many bytes go in one message at most.
_BATCH: Final = SURELY_INLINE
#: How many pushes of this worker's may be under way.
_MOST_ASKED: Final = 65536

_GONE: Final = 0
_DELIVERED: Final = PushOutcome.DELIVERED  # a member is looked up in its class each time
_UNTOLD: Final = Pushed(PushOutcome.UNCERTAIN.text)
_UNTOLD_OF_GROUP: Final = Published()
_UNTOLD_WHO: Final = Present(complete=False)


class Guest:
    """A connection that the keeper knows by what it is called."""

    __slots__ = ("bytes", "conn", "groups", "letters", "receive")

    def __init__(self, conn: AsyncConnection) -> None:
        self.conn = conn
        #: Has the user's code have a message, and returns whether there is room; None: it is sent.
        self.receive: Callable[[bytes], bool] | None = None
        self.groups: frozenset[str] = frozenset()
        self.letters = 0  # that wait for its peer
        self.bytes = 0

    @property
    def over(self) -> bool:
        return self.conn.core.life.over

    @property
    def deaf(self) -> bool:
        return self.conn.hooks.deaf

    def registered(self) -> Registered:
        """Return what the keeper is told of it."""
        registration, lease = self.conn.registration, self.conn.lease
        assert registration is not None
        return Registered(
            *(lease.id, lease.epoch, registration.name),
            *(sorted(registration.groups), dict(registration.labels)),
        )

    def lose_name(self, name: str, *, close: bool) -> None:
        self.conn.lose_name(name, close=close)

    def put(self, message: bytes) -> bool:
        """Have the message wait in the connection's mail; return whether there is room."""
        mail = self.conn.hooks.mail
        if not isinstance(mail, Mailbox) or not mail.put(message):
            return False
        self.conn.nudge()
        return True


class _Endpoint(Guest):
    """An endpoint that is pushed to as a connection is, and is none."""

    __slots__ = ("_lost", "_post", "id", "name")

    def __init__(
        self,
        post: AsyncPost,
        receive: Callable[[bytes], bool],
        lost: Callable[[], None] | None,
        name: str,
    ) -> None:
        self.id = name
        self._lost = lost
        self.name = ""
        self.groups = frozenset()
        self._post = post
        self.receive = receive

    @property
    def over(self) -> bool:
        return False

    @property
    def deaf(self) -> bool:
        return False

    def registered(self) -> Registered:
        return Registered(self.id, 1, self.name, sorted(self.groups), {})

    def lose_name(self, name: str, *, close: bool) -> None:
        if self.name == name:
            self._post.call(self, "", self.groups)
            if self._lost is not None:
                self._lost()

    def call(self, name: str, groups: frozenset[str]) -> None:
        self._post.call(self, name, groups)


class AsyncPost:
    """The registrar of a worker's connections, and the office of its handlers."""

    def __init__(
        self,
        channel: Channel,
        gone: Callable[[], None],
        mint: Callable[[], str],
        on_push: OnPush | None = None,
    ) -> None:
        """gone: called when the keeper has gone.  mint: returns an id of no connection's.

        on_push: the service's.
        """
        self._channel = channel
        self._on_push = on_push
        self._gone = gone
        self._mint = mint
        self.loop: Final = asyncio.get_running_loop()
        self._guests: dict[str, Guest] = {}
        self._groups: dict[str, dict[str, Guest]] = {}
        self._letters: list[Letter] = []  # to be sent to the keeper
        self._size = 0
        self._answers: list[LetterTold] = []
        self._number = 0
        self._asked: dict[int, _AwaitedPush[Any]] = {}
        self._soon = False
        self._thread = threading.get_ident()
        self._pid = os.getpid()

    def open(self) -> None:
        """Let handlers push, from here on."""
        place.office = self

    def close(self) -> None:
        """Let nobody push any more."""
        place.office = None
        self._give_up()

    # What the connections are called.

    def changed(self, conn: AsyncConnection) -> None:
        if threading.get_ident() != self._thread or os.getpid() != self._pid:
            raise HandlerError(
                "refused: what an async connection is called is set in the loop's thread, in the"
                " worker's process"
            )
        conn.hooks.registered = True
        self._register(self._note(conn))

    def _register(self, guest: Guest) -> None:
        self.flush()
        with suppress(ChannelClosed):
            self._channel.send_now(guest.registered())

    def endpoint(
        self, receive: Callable[[bytes], bool], lost: Callable[[], None] | None = None
    ) -> Endpoint:
        return _Endpoint(self, receive, lost, self._mint())

    def call(self, endpoint: _Endpoint, name: str, groups: frozenset[str]) -> None:
        """Have an endpoint be called so.  Raises Busy."""
        if not (name or groups):
            if self._guests.pop(endpoint.id, None) is None:
                return
        elif endpoint.id not in self._guests:
            if sum(isinstance(each, _Endpoint) for each in self._guests.values()) >= MOST_ENDPOINTS:
                raise Busy(f"refused: a worker has at most {MOST_ENDPOINTS} endpoints")
            self._guests[endpoint.id] = endpoint
        endpoint.name = name
        self._enter_groups(endpoint.id, endpoint, groups)
        self._register(endpoint)

    def attached(self, conn: AsyncConnection) -> None:
        """A connection that has names is served here from now on."""
        conn.hooks.registered = True
        self._note(conn)

    def left(self, name: str) -> None:
        """A connection has ended here, or is about to leave: what is not answered is not done."""
        guest = self._guests.pop(name, None)
        if guest is not None:
            self._enter_groups(name, guest, frozenset())
            self.flush()

    def announce(self) -> None:
        """Tell another keeper what there is."""
        for guest in tuple(self._guests.values()):
            self._register(guest)

    def _note(self, conn: AsyncConnection) -> Guest:
        name = conn.lease.id
        guest = self._guests.get(name)
        if guest is None:
            guest = self._guests[name] = Guest(conn)
        guest.conn = conn
        if self._on_push is not None and conn.hooks.mail is None:
            conn.hooks.mail = Mailbox(self._on_push)
        if self._on_push is not None:
            guest.receive = guest.put
        assert conn.registration is not None
        self._enter_groups(name, guest, conn.registration.groups)
        return guest

    def _enter_groups(self, name: str, guest: Guest, groups: frozenset[str]) -> None:
        for group in guest.groups - groups:
            members = self._groups[group]
            del members[name]
            if not members:
                del self._groups[group]
        for group in groups - guest.groups:
            self._groups.setdefault(group, {})[name] = guest
        guest.groups = groups

    # What the keeper says.

    def obey(self, message: Deliver | NameTaken | Told) -> None:
        match message:
            case Deliver(letters=letters):
                for letter in letters:
                    if letter.group:
                        self._deliver_to_all(letter)
                    else:
                        self._deliver(letter)
            case Told(answers=answers):
                for answer in answers:
                    asked = self._asked.pop(answer.number, None)
                    if asked is not None:
                        asked.answer(answer)
            case NameTaken(id=name, name=taken, close=close):
                guest = self._guests.get(name)
                if guest is not None:
                    guest.lose_name(taken, close=close)

    def _deliver(self, letter: Letter) -> None:
        guest = self._guests.get(letter.to)
        if guest is None or guest.over:
            self._answer(letter.number, _GONE)
            return
        if time.monotonic_ns() >= letter.until:
            self._answer(letter.number, PushOutcome.TIMED_OUT)
            return
        outcome = self._send(guest, letter, lambda sent: self._sent(letter, sent))
        # Where it waits for room and this process stands still, nobody can tell how much has gone.
        self._answer(letter.number, BEGUN if outcome is None else outcome)

    def _sent(self, letter: Letter, sent: bool) -> None:
        if sent:
            self._answer(letter.number, PushOutcome.DELIVERED)
        else:
            late = time.monotonic_ns() >= letter.until
            self._answer(letter.number, PushOutcome.TIMED_OUT if late else _GONE)

    def _deliver_to_all(self, letter: Letter) -> None:
        delivered = failed = 0
        late = time.monotonic_ns() >= letter.until
        for guest in tuple(self._groups.get(letter.to, {}).values()):
            if guest.over:
                continue
            outcome = PushOutcome.TIMED_OUT if late else self._send(guest, letter, _nobody_asks)
            if outcome is _DELIVERED or outcome is None:
                delivered += 1
            else:
                failed += 1
        self._put_answer(LetterTold(letter.number, PushOutcome.DELIVERED, "", 0, delivered, failed))

    def _send(
        self, guest: Guest, letter: Letter, told: Callable[[bool], None]
    ) -> PushOutcome | None:
        """Send a letter to one peer; return what has become of it, None: `told` will be told."""
        if guest.deaf:
            return PushOutcome.NOT_CONNECTED
        if guest.receive is not None:
            return _DELIVERED if guest.receive(letter.data) else PushOutcome.FULL
        size = len(letter.data)
        if guest.letters >= MOST_LETTERS or guest.bytes + size > MOST_BYTES:
            return PushOutcome.FULL
        try:
            piece = guest.conn.push(letter.data)
        except Busy:
            return PushOutcome.FULL
        except OSError:
            return PushOutcome.NOT_CONNECTED
        if piece is None:
            return _DELIVERED
        guest.letters += 1
        guest.bytes += size

        def done(sent: bool) -> None:
            guest.letters -= 1
            guest.bytes -= size
            told(sent)

        # To a group it is handed over when it is in the queue: it stays there.
        until = float("inf") if letter.group else letter.until / 1e9
        guest.conn.push_rest(piece, until, done)
        return None

    def _answer(self, number: int, outcome: int) -> None:
        self._put_answer(LetterTold(number, outcome))

    def _put_answer(self, answer: LetterTold) -> None:
        self._answers.append(answer)
        self._flush_soon()

    # What handlers ask for.

    def push(self, name: str, data: bytes, until: int) -> Pushing[Pushed]:
        return self._ask(Letter(0, name, data, until), pushed, _UNTOLD)

    def publish(self, group: str, data: bytes, until: int) -> Pushing[Published]:
        return self._ask(Letter(0, group, data, until, group=True), published, _UNTOLD_OF_GROUP)

    def who(self, text: str, until: int) -> Pushing[Present]:
        return self._ask(Letter(0, text, b"", until, asks=True), present, _UNTOLD_WHO)

    def _ask(self, letter: Letter, told: Callable[[LetterTold], T], untold: T) -> Pushing[T]:
        if os.getpid() != self._pid:
            raise HandlerError("refused: a process that a handler has forked cannot push")
        if threading.get_ident() != self._thread:
            return _FromThread(self.loop, lambda: self._post(letter, told, untold))
        return self._post(letter, told, untold)

    def _post(self, letter: Letter, told: Callable[[LetterTold], T], untold: T) -> _AwaitedPush[T]:
        if len(self._asked) >= _MOST_ASKED:
            raise Busy(f"refused: {_MOST_ASKED} pushes of this worker are under way: wait for some")
        self._number = number = self._number + 1
        self._asked[number] = asked = _AwaitedPush(self.loop, told, untold)
        self._letters.append(replace(letter, number=number))
        self._size += len(letter.data)
        if self._size >= _BATCH:
            self.flush()
        else:
            self._flush_soon()
        return asked

    # The channel.

    def _flush_soon(self) -> None:
        if not self._soon:
            self._soon = True
            self.loop.call_soon(self.flush)

    def flush(self) -> None:
        """Send what is to be said; first what has been delivered."""
        self._soon = False
        try:
            if self._answers:
                answers, self._answers = self._answers, []
                self._channel.send_now(Delivered(answers))
            self._send_letters()
        except ChannelClosed:
            self.loop.call_soon(self._gone)

    def _send_letters(self) -> None:
        letters, self._letters = self._letters, []
        self._size = 0
        if not letters:
            return
        try:
            self._channel.send_now(Push(letters))
        except OSError:  # no memfd for a large one: this process is at its limit of descriptors
            for letter in letters:
                self._asked.pop(letter.number).answer(LetterTold(letter.number, PushOutcome.FULL))

    def keeper_gone(self) -> None:
        """Whoever was to tell what becomes of pushes has gone."""
        self._give_up()

    def _give_up(self) -> None:
        asked, self._asked = self._asked, {}
        for each in asked.values():
            each.give_up()


class _AwaitedPush(Generic[T]):
    """A push that is under way, in the loop's thread."""

    __slots__ = ("_future", "_told", "_untold")

    def __init__(
        self, loop: asyncio.AbstractEventLoop, told: Callable[[LetterTold], T], untold: T
    ) -> None:
        self._future: asyncio.Future[T] = loop.create_future()
        self._told = told
        self._untold = untold

    def __await__(self) -> Generator[Any, None, T]:
        return self._future.__await__()

    def result(self) -> T:
        raise HandlerError("refused: in the loop's thread a push is awaited: `await push(...)`")

    def answer(self, answer: LetterTold) -> None:
        if not self._future.done():
            self._future.set_result(self._told(answer))

    def give_up(self) -> None:
        if not self._future.done():
            self._future.set_result(self._untold)


class _FromThread(Generic[T]):
    """A push that another thread than the loop's has asked for."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, post: Callable[[], _AwaitedPush[T]]
    ) -> None:
        async def posted() -> T:
            return await post()

        self._future = asyncio.run_coroutine_threadsafe(posted(), loop)

    def __await__(self) -> Generator[Any, None, T]:
        return asyncio.wrap_future(self._future).__await__()

    def result(self) -> T:
        return self._future.result()


def _nobody_asks(_sent: bool) -> None:
    """Tell nobody: who has published is told of a letter when it is in the queue."""
