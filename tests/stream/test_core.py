"""The core alone, without a socket: what it receives and sends is written in the test.

`CORES` has each core that there is; all of them are to do the same.
"""

from __future__ import annotations

import errno
import logging
import socket
import time
from collections.abc import Callable
from typing import Any, Final, TypeAlias, cast

import pytest

from socketkeep import AsyncConnection, Closed, Connection
from socketkeep._native import core
from socketkeep._stream._buffer import ReceiveBuffer
from socketkeep._stream._core import (
    ARRIVED,
    CHUNK,
    EOF,
    FAILED,
    NEVER_COMMITTED,
    NOTHING,
    Core,
    StreamCore,
    make_core,
)
from socketkeep._stream._lease import Hooks, Lease
from socketkeep._stream._lifecycle import Event, State
from socketkeep._stream._record import (
    ACTIVE_AT,
    BYTES_IN,
    BYTES_OUT,
    ENDED,
    STATUS,
    WORDS,
    Ended,
    Status,
)
from socketkeep._stream._transport import Transport

Make: TypeAlias = Callable[[Transport, ReceiveBuffer, Lease, Hooks], Core]
CORES: Final[dict[str, Make]] = {"python": StreamCore}
if core is not None:
    CORES["compiled"] = make_core


class Scripted(Transport):
    """Receives what it is told to, and takes as much as it is told to."""

    def __init__(self, *comes: bytes | OSError, room: int = 1 << 20) -> None:
        self.sock = cast("socket.socket", None)
        self.input_fd = -1
        self.comes = list(comes)
        self.asked: list[int] = []
        self.room = room
        self.sent = b""
        self.status_when_called: list[int] = []
        self.record: Any = None

    @property
    def source(self) -> Scripted:
        return self

    def recv(self, size: int, /) -> bytes:
        self.asked.append(size)
        self.status_when_called.append(self.record[STATUS])
        if not self.comes:
            raise BlockingIOError
        come = self.comes.pop(0)
        if isinstance(come, OSError):
            raise come
        self.comes[:0] = [come[size:]] if come[size:] else []
        return come[:size]

    def send(self, data: bytes | memoryview, /) -> int:
        self.status_when_called.append(self.record[STATUS])
        if not self.room:
            raise BlockingIOError
        part = bytes(data[: self.room])
        self.room -= len(part)
        self.sent += part
        return len(part)


class Shelf:
    def __init__(self, record: list[int]) -> None:
        self.record = record
        self.put_at: list[tuple[bytes | None, int]] = []

    def put(self, state: bytes | None, reply: bytes = b"") -> None:
        self.put_at.append((state, self.record[STATUS]))


class Bench:
    """A core on a transport that is written in the test."""

    def __init__(self, make: Make, transport: Scripted, **fields: Any) -> None:
        self.record = [0] * WORDS
        self.shelf = Shelf(self.record)
        self.transport = transport
        transport.record = self.record
        lease = Lease(**{"resumable": True, "replay_limit": 100} | fields)
        buffer = ReceiveBuffer(retain=lease.resumable, replay_limit=lease.replay_limit)
        self.core = make(transport, buffer, lease, Hooks(record=self.record, shelf=self.shelf))

    @property
    def status(self) -> Status:
        return Status(self.record[STATUS])


@pytest.fixture(params=list(CORES))
def make(request: pytest.FixtureRequest) -> Make:
    return CORES[request.param]


def test_what_comes_is_returned_at_once_and_retained(make: Make) -> None:
    bench = Bench(make, Scripted(b"hello"))
    assert bench.core.receive(CHUNK) == b"hello"
    assert bench.core.buffer.size == 0
    assert bench.core.export() == (None, b"hello")
    assert bench.record[BYTES_IN] == 5
    assert bench.status is Status.READ


def test_what_is_more_than_is_wanted_stays_unread(make: Make) -> None:
    bench = Bench(make, Scripted(b"hello"))
    assert bench.core.receive(2) == b"he"
    assert bench.transport.asked == [CHUNK]
    assert bench.core.receive(100) == b"llo"
    assert bench.transport.asked == [CHUNK], "not before what is unread is gone"


def test_it_says_read_before_it_receives_and_takes_that_back(make: Make) -> None:
    bench = Bench(make, Scripted())
    assert bench.core.receive(10) is None
    assert bench.core.fill(10) == NOTHING
    assert bench.transport.status_when_called == [Status.READ, Status.READ]
    assert bench.status is Status.CLEAN
    assert bench.core.failure is None


def test_nothing_came_but_something_is_uncommitted(make: Make) -> None:
    bench = Bench(make, Scripted(b"ab"))
    assert bench.core.fill(10) == ARRIVED
    assert bench.core.fill(10) == NOTHING
    assert bench.status is Status.READ


def test_fill_adds_to_what_is_unread(make: Make) -> None:
    bench = Bench(make, Scripted(b"abcdef"))
    assert bench.core.fill(4) == ARRIVED
    assert bench.core.fill(4) == ARRIVED
    assert bench.core.buffer.unread == b"abcdef"
    assert bench.transport.asked == [4, 4]
    assert bench.record[BYTES_IN] == 6


def test_the_peers_end(make: Make) -> None:
    bench = Bench(make, Scripted(b"", b""))
    assert bench.core.receive(10) == b""
    assert bench.core.life.state is State.PEER_ENDED
    assert bench.core.fill(10) == EOF
    assert bench.record[ENDED] == Ended.NOT_YET
    assert bench.status is Status.CLEAN


def test_the_end_that_the_transport_says_comes_with_the_last_bytes(make: Make) -> None:
    class Ends(Scripted):
        ended = True

    bench = Bench(make, Ends(b"last"))
    assert bench.core.receive(10) == b"last"
    assert bench.core.life.peer_ended


@pytest.mark.parametrize("how", ["receive", "fill"])
def test_a_failure_is_kept_for_who_raises_it(make: Make, how: str) -> None:
    error = OSError(errno.ECONNRESET, "reset")
    bench = Bench(make, Scripted(error))
    assert getattr(bench.core, how)(10) == (FAILED if how == "fill" else None)
    assert bench.core.failure is error
    assert not bench.core.life.over, "who raises it says what it means"


@pytest.mark.parametrize("push", [False, True])
def test_it_says_sent_before_it_sends_but_for_a_push(make: Make, push: bool) -> None:
    bench = Bench(make, Scripted(room=4))
    assert bench.core.send(b"hello", push) == 4
    assert bench.core.send(memoryview(b"o"), push) == 0, "no room"
    expected = Status.CLEAN if push else Status.SENT
    assert bench.transport.status_when_called == [expected, expected]
    assert bench.transport.sent == b"hell"
    assert bench.record[BYTES_OUT] == 4
    assert bench.core.ledger.sent is not push


def test_a_failed_send_is_raised(make: Make) -> None:
    class Broken(Scripted):
        def send(self, data: bytes | memoryview, /) -> int:
            raise BrokenPipeError

    with pytest.raises(BrokenPipeError):
        Bench(make, Broken()).core.send(b"x", False)


def test_a_commit_puts_the_state_before_it_says_clean(make: Make) -> None:
    bench = Bench(make, Scripted(b"ab"))
    bench.core.receive(10)
    bench.core.commit(b"one")
    assert bench.shelf.put_at == [(b"one", Status.READ)]
    assert bench.status is Status.CLEAN
    assert bench.core.export() == (b"one", b"")
    bench.core.commit(b"one")
    assert len(bench.shelf.put_at) == 1, "it has not changed"
    bench.core.commit(None)
    assert bench.shelf.put_at[-1] == (None, Status.CLEAN)


def test_a_commit_with_unread_bytes_is_not_clean(make: Make) -> None:
    bench = Bench(make, Scripted(b"abcd"))
    bench.core.receive(2)
    bench.core.commit(None)
    assert bench.status is Status.READ
    assert bench.core.export() == (None, b"cd")


def test_it_begins_with_what_the_worker_before_left(make: Make) -> None:
    before = time.monotonic_ns()
    bench = Bench(make, Scripted(b"more"), state=b"state", unread=b"half")
    assert bench.shelf.put_at == [(b"state", Status.CLEAN)]
    assert bench.status is Status.READ
    assert bench.record[ACTIVE_AT] >= before
    assert bench.core.receive(100) == b"half"
    assert bench.core.receive(100) == b"more"
    assert bench.core.export() == (b"state", b"halfmore")


def test_its_ends_are_recorded_and_the_first_counts(make: Make) -> None:
    bench = Bench(make, Scripted())
    bench.core.become(Event.STOP, Closed("ended: idle"))
    assert bench.record[ENDED] == Ended.NOT_YET
    bench.core.become(Event.RESET_BY_PEER)
    assert bench.record[ENDED] == Ended.RESET
    bench.core.become(Event.CLOSE)
    assert bench.record[ENDED] == Ended.RESET


def test_another_transport_may_bind_it_to_the_process(make: Make) -> None:
    class Binding(Scripted):
        binds = True

    bench = Bench(make, Scripted(b"plain"))
    assert bench.core.receive(10) == b"plain"
    other = Binding(b"ciphered")
    other.record = bench.record
    bench.core.use(other)
    assert bench.status is Status.BOUND
    assert bench.core.receive(100) == b"ciphered"
    bench.core.commit(None)
    assert bench.status is Status.BOUND


def test_a_forked_child_that_lets_go_writes_to_the_record_no_more(make: Make) -> None:
    bench = Bench(make, Scripted(b"x"))
    bench.core.drop_record()
    before = list(bench.record)
    bench.core.become(Event.CLOSE)
    assert bench.record == before


def test_who_never_commits_is_warned_of_once(make: Make, caplog: pytest.LogCaptureFixture) -> None:
    fields = {"id": "7.2", "listener": f"test:{time.monotonic_ns()}"}
    for _ in range(2):
        bench = Bench(make, Scripted(b"x" * (NEVER_COMMITTED + 1)), **fields)
        bench.core.send(b"x", False)
        with caplog.at_level(logging.WARNING):
            for _ in range(NEVER_COMMITTED + 1):
                bench.core.fill(1)
    assert [record.getMessage().count("7.2") for record in caplog.records] == [1]


@pytest.mark.parametrize("kind", [Connection, AsyncConnection])
def test_a_connection_is_a_shell_over_it_and_no_ladder(kind: type) -> None:
    ours = [each for each in kind.__mro__ if each.__module__.startswith("socketkeep")]
    assert len(ours) == 2
