"""The clients of a soak: of all kinds, each of which looks at every byte that it gets.

They stay for many answers, the named ones for the whole of it, and come back when they have left or
were cut.  What those of a server and kind saw is in a `Tally`.
"""

from __future__ import annotations

import asyncio
import random
import time
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, TypeAlias

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import WebSocketException

if TYPE_CHECKING:
    from tests.soak.crowd import Crowd

#: Seconds in which each answer has come, whatever happens meanwhile.
PATIENCE: Final = 40.0
#: Answers after which a client leaves, to come back as a new connection.
STAYS: Final = (40, 160)
#: Seconds for which an answer may be out and not committed yet, on a machine that is busy.
JUST_ANSWERED: Final = 0.5

Streams: TypeAlias = tuple[asyncio.StreamReader, asyncio.StreamWriter]
Opening: TypeAlias = Callable[[], Coroutine[None, None, Streams]]


class WrongAnswer(Exception):
    """What came is not what was asked for."""


@dataclass(slots=True)
class Tally:
    """What the clients of one kind saw.

    repeated, cut: as documented limits have it.  faults: all else that no client should see.
    longest: seconds that an answer took.
    """

    clients: int = 0
    connections: int = 0
    answers: int = 0
    repeated: int = 0
    cut: int = 0
    longest: float = 0.0
    faults: list[str] = field(default_factory=list)


@dataclass(slots=True)
class Place:
    """Whose client it is, of what kind, and how fast it asks: seconds between two questions."""

    site: str
    kind: str
    number: int
    pause: float
    drawn: random.Random


class Client(ABC):
    """One that connects, asks again and again, and comes back.

    waits: connected, answered, and asking nothing, since all of its server are to wait.  nudged: so
    that it rests no longer.  stays: whether it has a connection while it waits.  leaves: whether it
    goes and comes of its own accord.
    """

    stays = True
    leaves = True
    port: int | None = None  # of its end of the connection

    def __init__(self, place: Place) -> None:
        self.site = place.site
        self.kind = place.kind
        self.place = place
        self.waits = False
        self.is_stale = False
        self.nudged = asyncio.Event()
        self.task: asyncio.Task[None] | None = None
        self.count = 0  # of questions on this connection
        self._asking = False  # an answer is owed
        self._answered_at = 0.0
        self._said: bytes | None = None  # the last answer
        self._answers: asyncio.Queue[bytes | None] = asyncio.Queue()

    def __str__(self) -> str:
        return f"{self.kind} {self.place.number}"

    # What each kind says for itself.

    @abstractmethod
    def connected(self) -> AbstractAsyncContextManager[None]:
        """Be connected, for the time of the block."""

    @abstractmethod
    def answers(self) -> AsyncIterator[bytes]:
        """Yield the answers that come, until the server ends the connection."""

    @abstractmethod
    async def put(self, question: bytes) -> None:
        """Send a question."""

    def question(self) -> bytes:
        """Return the next question; no two of one client are the same."""
        return b"%d-%d-%s" % (self.place.number, self.count, b"x" * self.place.drawn.randrange(200))

    def wanted(self, question: bytes) -> bytes:
        """Return the answer to it."""
        return b"%d %s" % (self.count, question)

    async def greet(self, listening: asyncio.Task[None]) -> None:
        """Say what is to be said before the first question: nothing."""
        del listening

    # The life of each.

    async def live(self, crowd: Crowd) -> None:
        """Connect and ask, again and again, until all is over."""
        while not crowd.over:
            try:
                await self.visit(crowd)
            except WrongAnswer as error:
                crowd.say(self, str(error))
            except TimeoutError as error:
                crowd.say(self, f"not connected or answered within {PATIENCE:g} s: {error}")
            except (OSError, EOFError, WebSocketException) as error:
                self._cut(crowd, error)
            self.waits = False
            if not crowd.over:
                await asyncio.sleep(0.05)  # so that a server that is gone is not flooded

    async def visit(self, crowd: Crowd) -> None:
        """Connect, and stay for as long as this one stays."""
        self.count, self._said, self._asking = 0, None, True
        self._answers = asyncio.Queue()
        async with asyncio.timeout(PATIENCE) as patience, self.connected():
            patience.reschedule(None)
            crowd.tally(self).connections += 1
            listening = asyncio.create_task(self._listen())
            try:
                await self.greet(listening)
                self.is_stale = False
                await self.talk(crowd, listening)
            finally:
                listening.cancel()
                with suppress(asyncio.CancelledError, OSError, EOFError, WebSocketException):
                    await listening

    async def talk(self, crowd: Crowd, listening: asyncio.Task[None]) -> None:
        """Ask as often as this one stays for."""
        left = self.place.drawn.randint(*STAYS) if self.leaves else -1
        while not crowd.over and left:
            await self.ask(crowd, listening)
            left -= 1
            if crowd.pausing(self.site):
                if self.is_stale:
                    return
                await self._wait(crowd, listening)
            await self._rest(listening)

    async def ask(self, crowd: Crowd, listening: asyncio.Task[None]) -> None:
        """Ask once; raises WrongAnswer."""
        self.count += 1
        self._asking = True
        question = self.question()
        wanted, began = self.wanted(question), time.monotonic()
        await self.put(question)
        answer = await self.answer(listening)
        tally = crowd.tally(self)
        while answer == self._said != wanted and crowd.may_repeat(self):
            tally.repeated += 1
            answer = await self.answer(listening)
        if answer != wanted:
            said = self._said or b""
            raise WrongAnswer(f"{answer[:60]!r} in place of {wanted[:60]!r}, after {said[:60]!r}")
        self._answered_at = time.monotonic()
        tally.longest = max(tally.longest, self._answered_at - began)
        tally.answers += 1
        self._said, self._asking = answer, False

    async def answer(self, listening: asyncio.Task[None]) -> bytes:
        """Return what comes next."""
        answer = await asyncio.wait_for(self._answers.get(), PATIENCE)
        if answer is None:
            await listening  # raises why
            raise EOFError("the server ended the connection")
        return answer

    async def _listen(self) -> None:
        try:
            async for answer in self.answers():
                self._answers.put_nowait(answer)
        finally:
            self._answers.put_nowait(None)

    async def _rest(self, listening: asyncio.Task[None]) -> None:
        nudge = asyncio.create_task(self.nudged.wait())
        seconds = self.place.drawn.expovariate(1 / self.place.pause)
        await asyncio.wait({listening, nudge}, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        nudge.cancel()
        await self._is_open(listening)

    async def _is_open(self, listening: asyncio.Task[None]) -> None:
        if listening.done():
            await listening
            raise EOFError("the server ended the connection")

    async def _wait(self, crowd: Crowd, listening: asyncio.Task[None]) -> None:
        self.waits = True
        await crowd.moved()
        resumed = asyncio.create_task(crowd.wait_while(lambda: crowd.pausing(self.site)))
        await asyncio.wait({listening, resumed}, return_when=asyncio.FIRST_COMPLETED)
        resumed.cancel()
        self.waits = False
        await self._is_open(listening)

    def _cut(self, crowd: Crowd, error: BaseException) -> None:
        if crowd.over and not self._asking:
            return
        busy = self._asking or time.monotonic() - self._answered_at < JUST_ANSWERED
        if crowd.may_be_cut(self, busy=busy, young=self._said is None):
            crowd.tally(self).cut += 1
            return
        when = "while an answer was owed" if self._asking else "while it waited"
        crowd.say(self, f"cut {when}, after {self.count} questions: {error!r}")


class _OnStreams(Client):
    """A client on a reader and a writer of asyncio's."""

    def __init__(self, place: Place, opening: Opening) -> None:
        super().__init__(place)
        self._opening = opening

    @asynccontextmanager
    async def connected(self) -> AsyncIterator[None]:
        self.port = None
        self._reader, self._writer = await self._opening()
        own = self._writer.get_extra_info("sockname")
        self.port = own[1] if isinstance(own, tuple) else None
        try:
            yield
        finally:
            self._writer.close()
            with suppress(OSError):
                await self._writer.wait_closed()


class Lines(_OnStreams):
    """A client of the line protocol: a line, and the answer ``COUNT LINE``."""

    async def answers(self) -> AsyncIterator[bytes]:
        while line := await self._reader.readline():
            if not line.endswith(b"\n"):
                raise EOFError(f"ended in the middle of a line: {line[:60]!r}")
            yield line[:-1]

    async def put(self, question: bytes) -> None:
        self._writer.write(question + b"\n")
        await self._writer.drain()


class Short(Lines):
    """One that asks once, says that it sends no more, and reads to the end."""

    stays = False

    async def visit(self, crowd: Crowd) -> None:
        if crowd.pausing(self.site):
            self.waits = True
            await crowd.moved()
            await crowd.wait_while(lambda: crowd.pausing(self.site))
            self.waits = False
        await super().visit(crowd)
        with suppress(TimeoutError):
            seconds = self.place.drawn.expovariate(1 / self.place.pause)
            await asyncio.wait_for(self.nudged.wait(), seconds)

    async def talk(self, crowd: Crowd, listening: asyncio.Task[None]) -> None:
        await self.ask(crowd, listening)
        self._asking = True  # the end is owed
        self._writer.write_eof()
        await asyncio.wait_for(listening, PATIENCE)


class Named(Lines):
    """One that has a name, to which is pushed; it stays until it is sent away."""

    leaves = False

    def __init__(self, place: Place, opening: Opening) -> None:
        super().__init__(place, opening)
        self.name = f"{place.site}-{place.number}"
        self.heard: list[int] = []

    async def greet(self, listening: asyncio.Task[None]) -> None:
        await self.put(b"name " + self.name.encode())
        answer = await self.answer(listening)
        if answer != b"named":
            raise WrongAnswer(f"{answer[:60]!r} in place of b'named'")

    async def answers(self) -> AsyncIterator[bytes]:
        async for line in super().answers():
            verb, _, number = line.partition(b" ")
            if verb == b"push":
                self.heard.append(int(number))
            else:
                yield line


class Http(_OnStreams):
    """A client of HTTP/1.1 on a connection that stays: what it posts comes back reversed."""

    async def answers(self) -> AsyncIterator[bytes]:
        while True:
            try:
                head = await self._reader.readuntil(b"\r\n\r\n")
            except asyncio.IncompleteReadError as error:
                if error.partial:
                    raise EOFError(f"ended in a head: {error.partial[:60]!r}") from None
                return
            status, *lines = head.decode("latin-1").split("\r\n")
            fields = dict(line.lower().split(": ", 1) for line in lines if line)
            if status.split()[1] != "200" or "content-length" not in fields:
                raise EOFError(f"answered {head[:200]!r}")
            yield await self._reader.readexactly(int(fields["content-length"]))

    async def put(self, question: bytes) -> None:
        head = b"POST / HTTP/1.1\r\nhost: soak\r\ncontent-length: %d\r\n\r\n" % len(question)
        self._writer.write(head + question)
        await self._writer.drain()

    def question(self) -> bytes:
        return super().question() * self.place.drawn.choice((1, 1, 1, 60))

    def wanted(self, question: bytes) -> bytes:
        return question[::-1]


class WebSocket(Client):
    """A client whose messages are counted by the application."""

    def __init__(self, place: Place, url: str, *, compressed: bool) -> None:
        super().__init__(place)
        self._url = url
        self._compression = "deflate" if compressed else None
        self._socket: ClientConnection

    @asynccontextmanager
    async def connected(self) -> AsyncIterator[None]:
        async with connect(
            self._url,
            compression=self._compression,
            ping_interval=None,
            open_timeout=PATIENCE,
            proxy=None,
        ) as self._socket:
            yield

    async def answers(self) -> AsyncIterator[bytes]:
        async for message in self._socket:
            yield message.encode() if isinstance(message, str) else message

    async def put(self, question: bytes) -> None:
        await self._socket.send(question.decode())
