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
from socketkeep._stream._lifecycle import LifecycleEvent, State
from socketkeep._stream._transport import Transport
from tests.harness.seam import WORDS, Row, buffer_of, leased

Make: TypeAlias = Callable[..., Core]
CORES: Final[dict[str, Make]] = {"python": StreamCore}
if make_core is not StreamCore:
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
        self.status_when_called: list[str] = []
        self.row: Row

    @property
    def source(self) -> Scripted:
        return self

    def recv(self, size: int, /) -> bytes:
        self.asked.append(size)
        self.status_when_called.append(self.row.status)
        if not self.comes:
            raise BlockingIOError
        come = self.comes.pop(0)
        if isinstance(come, OSError):
            raise come
        self.comes[:0] = [come[size:]] if come[size:] else []
        return come[:size]

    def send(self, data: bytes | memoryview, /) -> int:
        self.status_when_called.append(self.row.status)
        if not self.room:
            raise BlockingIOError
        part = bytes(data[: self.room])
        self.room -= len(part)
        self.sent += part
        return len(part)


class Shelf:
    def __init__(self, row: Row) -> None:
        self.row = row
        self.put_at: list[tuple[bytes | None, str]] = []

    def put(self, state: bytes | None, reply: bytes = b"") -> None:
        self.put_at.append((state, self.row.status))


class Bench:
    """A core on a transport that is written in the test."""

    def __init__(self, make: Make, transport: Scripted, **fields: Any) -> None:
        self.row = transport.row = Row()
        self.shelf = Shelf(self.row)
        self.transport = transport
        fields = {"resumable": True, "replay_limit": 100} | fields
        given = leased(record=self.row.words, shelf=self.shelf, **fields)
        self.core = make(transport, buffer_of(given), given["lease"], given["hooks"])

    @property
    def status(self) -> str:
        return self.row.status


@pytest.fixture(params=list(CORES))
def make(request: pytest.FixtureRequest) -> Make:
    return CORES[request.param]


def test_what_comes_is_returned_at_once_and_retained(make: Make) -> None:
    bench = Bench(make, Scripted(b"hello"))
    assert bench.core.receive(CHUNK) == b"hello"
    assert bench.core.buffer.size == 0
    assert bench.core.export() == (None, b"hello")
    assert bench.row.bytes_in == 5
    assert bench.status == "read"


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
    assert bench.transport.status_when_called == ["read", "read"]
    assert bench.status == "clean"
    assert bench.core.failure is None


def test_nothing_came_but_something_is_uncommitted(make: Make) -> None:
    bench = Bench(make, Scripted(b"ab"))
    assert bench.core.fill(10) == ARRIVED
    assert bench.core.fill(10) == NOTHING
    assert bench.status == "read"


def test_fill_adds_to_what_is_unread(make: Make) -> None:
    bench = Bench(make, Scripted(b"abcdef"))
    assert bench.core.fill(4) == ARRIVED
    assert bench.core.fill(4) == ARRIVED
    assert bench.core.buffer.unread == b"abcdef"
    assert bench.transport.asked == [4, 4]
    assert bench.row.bytes_in == 6


def test_the_peers_end(make: Make) -> None:
    bench = Bench(make, Scripted(b"", b""))
    assert bench.core.receive(10) == b""
    assert bench.core.life.state is State.PEER_ENDED
    assert bench.core.fill(10) == EOF
    assert bench.row.ended == "not yet"
    assert bench.status == "clean"


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
    expected = "clean" if push else "sent"
    assert bench.transport.status_when_called == [expected, expected]
    assert bench.transport.sent == b"hell"
    assert bench.row.bytes_out == 4
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
    assert bench.shelf.put_at == [(b"one", "read")]
    assert bench.status == "clean"
    assert bench.core.export() == (b"one", b"")
    bench.core.commit(b"one")
    assert len(bench.shelf.put_at) == 1, "it has not changed"
    bench.core.commit(None)
    assert bench.shelf.put_at[-1] == (None, "clean")


def test_a_commit_with_unread_bytes_is_not_clean(make: Make) -> None:
    bench = Bench(make, Scripted(b"abcd"))
    bench.core.receive(2)
    bench.core.commit(None)
    assert bench.status == "read"
    assert bench.core.export() == (None, b"cd")


def test_it_begins_with_what_the_worker_before_left(make: Make) -> None:
    before = time.monotonic_ns()
    bench = Bench(make, Scripted(b"more"), state=b"state", unread=b"half")
    assert bench.shelf.put_at == [(b"state", "clean")]
    assert bench.status == "read"
    assert bench.row.active_at >= before
    assert bench.core.receive(100) == b"half"
    assert bench.core.receive(100) == b"more"
    assert bench.core.export() == (b"state", b"halfmore")


def test_its_ends_are_recorded_and_the_first_counts(make: Make) -> None:
    bench = Bench(make, Scripted())
    bench.core.become(LifecycleEvent.STOP, Closed("ended: idle"))
    assert bench.row.ended == "not yet"
    bench.core.become(LifecycleEvent.RESET_BY_PEER)
    assert bench.row.ended == "reset"
    bench.core.become(LifecycleEvent.CLOSE)
    assert bench.row.ended == "reset"


def test_another_transport_may_bind_it_to_the_process(make: Make) -> None:
    class Binding(Scripted):
        binds = True

    bench = Bench(make, Scripted(b"plain"))
    assert bench.core.receive(10) == b"plain"
    other = Binding(b"ciphered")
    other.row = bench.row
    bench.core.use(other)
    assert bench.status == "bound"
    assert bench.core.receive(100) == b"ciphered"
    bench.core.commit(None)
    assert bench.status == "bound"


def test_a_forked_child_that_lets_go_writes_to_the_record_no_more(make: Make) -> None:
    bench = Bench(make, Scripted(b"x"))
    bench.core.drop_record()
    before = [bench.row.words[word] for word in range(WORDS)]
    bench.core.become(LifecycleEvent.CLOSE)
    assert [bench.row.words[word] for word in range(WORDS)] == before


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
