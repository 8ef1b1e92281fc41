"""One random script of operations does the same on each kind of connection.

A script is played on a sync and on an async connection, each with a pair of sockets and a record
of its own, and what is to be seen after each step is compared: what it returned or raised, what is
unread and committed, what the record says, what the peer got.  A core that is made otherwise is one
more entry of `PLAYERS`.
"""

from __future__ import annotations

import asyncio
import inspect
import socket
from collections.abc import Callable, Coroutine
from typing import Any, TypeAlias, TypeVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from socketkeep import AsyncConnection, Connection, SocketkeepError
from tests.harness.seam import be_handler_of, leased, row_of
from tests.library.conftest import KINDS

Step: TypeAlias = tuple[str, Any]
Trace: TypeAlias = list[object]
T = TypeVar("T")

#: What a peer may say: all framings, whole and broken, and in pieces.
SAID = st.one_of(
    st.binary(min_size=1, max_size=12),
    st.sampled_from([b"a\nbc\r\n", b"\n", b"3:abc,", b"9:abc", b"05:", b"\x02ab", b"\x00", b"end"]),
)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("peer"), SAID),
        st.tuples(st.just("recv"), st.integers(1, 8)),
        st.tuples(st.just("recv_into"), st.integers(1, 8)),
        st.tuples(st.just("recv_exactly"), st.integers(0, 6)),
        st.tuples(st.just("recv_until"), st.sampled_from([b"\n", b"bc", b","])),
        st.tuples(st.just("recv_frame"), st.sampled_from(["u8", "u16"])),
        st.tuples(st.just("recv_netstring"), st.just(None)),
        st.tuples(st.just("line"), st.booleans()),
        st.tuples(st.just("send"), st.binary(max_size=5)),
        st.tuples(st.just("push"), st.binary(min_size=1, max_size=5)),
        st.tuples(st.just("commit"), st.sampled_from([None, 0, "some", {"seen": [1, 2]}])),
        st.tuples(st.just("peer ends"), st.just(None)),
        st.tuples(st.just("peer resets"), st.just(None)),
        st.tuples(st.just("send_eof"), st.just(None)),
        st.tuples(st.just("close"), st.just(None)),
        st.tuples(st.just("abort"), st.just(None)),
        st.tuples(st.just("release"), st.just(None)),
    ),
    max_size=25,
)


class Scene:
    """A connection, its peer, and the trace of what they do."""

    def __init__(
        self,
        kind: str,
        fields: dict[str, object],
        make: Callable[..., Connection | AsyncConnection],
    ) -> None:
        ours, self.peer = KINDS[kind]()
        self.peer.setblocking(False)
        self.told = leased(resumable=True, replay_limit=16, **fields)
        self.conn = make(ours, **self.told)
        self.lines: dict[bool, Any] = {}
        self.trace: Trace = []

    def start(self, name: str, value: Any) -> Any:
        """Begin a step; return what it returns, which may be to be awaited."""
        conn = self.conn
        match name:
            case "peer" | "peer ends" | "peer resets":
                return self._peer_does(name, value)
            case "line":
                keepends = value
                if keepends not in self.lines:
                    self.lines[keepends] = conn.lines(8, keepends=keepends, timeout=0)
                lines = self.lines[keepends]
                return anext(lines) if hasattr(lines, "__anext__") else next(lines)
            case "send" | "push":
                be_handler_of(conn if name == "send" else None)
                return conn.send(value, timeout=0)
            case "recv_into":
                self.room = bytearray(value)
                return conn.recv_into(self.room, timeout=0)
            case "recv_netstring":
                return conn.recv_netstring(8, timeout=0)
            case "recv" | "recv_exactly":
                return getattr(conn, name)(value, timeout=0)
            case "recv_until" | "recv_frame":
                return getattr(conn, name)(value, 8, timeout=0)
            case "commit":
                return conn.commit(value)
            case "close":
                return conn.close(linger=0)
        return getattr(conn, name)()

    def _peer_does(self, name: str, value: bytes | None) -> None:
        try:
            if name == "peer":
                assert value is not None
                self.peer.send(value)
            elif name == "peer ends":
                self.peer.shutdown(socket.SHUT_WR)
            elif self.peer.fileno() >= 0:
                Connection(self.peer.dup()).abort()
        except OSError:
            return  # it has ended already, on this side or on that

    def note(self, name: str, outcome: object) -> None:
        """Add to the trace what is to be seen after a step."""
        conn, row = self.conn, row_of(self.told)
        core = conn.core
        self.trace.append(
            (
                name,
                outcome,
                conn.unread,
                conn.state,
                row.ended,
                core.life.state,
                row.status,
                row.bytes_in,
                row.bytes_out,
                conn.fileno() >= 0,
                core.ledger.sent,
                core.buffer.overflowed,
            )
        )

    def finish(self) -> Trace:
        """Note what the peer got, and let go of all."""
        try:
            got: object = self.peer.recv(1000)
        except OSError as error:
            got = type(error)
        self.trace.append(got)
        be_handler_of(None)
        self.conn.core.sock.close()
        self.peer.close()
        return self.trace


def failure(error: BaseException) -> object:
    if isinstance(error, StopIteration | StopAsyncIteration):
        return "no more"
    if isinstance(error, SocketkeepError):
        return type(error), error.reason, error.operation, error.bytes_done, error.bytes_wanted
    return type(error), str(error)


def play_sync(kind: str, fields: dict[str, object], steps: list[Step]) -> Trace:
    scene = Scene(kind, fields, Connection)
    for name, value in steps:
        try:
            outcome: object = scene.start(name, value)
        except (StopIteration, SocketkeepError, ValueError) as error:
            outcome = failure(error)
        scene.note(name, outcome)
    return scene.finish()


def play_async(kind: str, fields: dict[str, object], steps: list[Step]) -> Trace:
    async def play() -> Trace:
        scene = Scene(kind, fields, AsyncConnection)
        for name, value in steps:
            try:
                outcome: object = scene.start(name, value)
                if inspect.isawaitable(outcome):
                    outcome = await outcome
            except (StopAsyncIteration, SocketkeepError, ValueError) as error:
                outcome = failure(error)
            scene.note(name, outcome)
        scene.conn.core.transport.let_go()
        return scene.finish()

    return finished(play())


def finished(scenario: Coroutine[Any, Any, T]) -> T:
    with asyncio.Runner() as runner:
        return runner.run(scenario)


PLAYERS: dict[str, Callable[[str, dict[str, object], list[Step]], Trace]] = {
    "sync": play_sync,
    "async": play_async,
}


@pytest.mark.parametrize("fields", [{}, {"redeliver": True}], ids=["plain", "peeked"])
@pytest.mark.parametrize("kind", ["tcp", "unix"])
@given(steps=STEPS)
@settings(max_examples=60)
def test_the_same_script_leaves_the_same_trace(
    kind: str, fields: dict[str, object], steps: list[Step]
) -> None:
    first, *others = PLAYERS
    expected = PLAYERS[first](kind, fields, steps)
    for other in others:
        trace = PLAYERS[other](kind, fields, steps)
        for number, (theirs, ours) in enumerate(zip(trace, expected, strict=True)):
            assert theirs == ours, f"{other} differs from {first} at step {number}"
