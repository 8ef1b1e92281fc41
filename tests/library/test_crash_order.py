"""What a crash would leave at each instant: never a status that says more than is so.

*Clean* means that no byte taken from the kernel is uncommitted and that the committed state is on
the shelf.  A crash may come between any two steps, so each step is watched: each write to the
record and to the shelf, and each system call, before and after.

Where replies are on record the same is asked of what the next worker would make of what is left:
input, state and output are where they were before the reply, or all where they are after it.
"""

from __future__ import annotations

import asyncio
import socket
import time
from contextlib import suppress
from typing import Any, NamedTuple

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from socketkeep import AsyncConnection, Connection, StateTooLarge, TimedOut, WouldBlock
from tests.harness.seam import Leased, Row, WatchedWords, be_handler_of, leased, left_of_reply
from tests.library.conftest import KINDS, Pair, both, done, make


class Scene:
    """A connection's record, shelf and socket, and what the keeper would make of them."""

    def __init__(self, ours: socket.socket) -> None:
        self.sock = WatchedSocket(ours, self)
        self.record = WatchedWords(lambda status: self.step(f"status {status}"))
        self.row = Row(self.record)
        self.shelf = WatchedShelf(self)
        self.put: list[bytes | None] = []
        self.taken = 0  # bytes that have left the kernel
        self.seen = 0  # bytes that this process knows of
        self.dealt_with = 0  # of them, when the handler last committed
        self.redelivers = False
        self.sending = self.uncommitted_send = False
        self.committed: tuple[bytes | None, ...] = (None,)  # two while a commit is not finished
        self.steps: list[str] = []
        self.out = b""
        self.most = 1 << 20  # that one send takes
        self.points: tuple[Point, ...] = ()  # where replies on record may leave it; none: not so

    def lease(self, **fields: Any) -> Leased:
        self.redelivers = "redeliver" in fields
        return leased(resumable=True, record=self.record, shelf=self.shelf, **fields)

    def step(self, what: str) -> None:
        """Look at what a crash at this instant would leave."""
        self.steps.append(what)
        status = self.row.status
        story = f"after {' / '.join(self.steps[-8:])}"
        if status == "clean":
            assert self.taken == self.dealt_with, f"clean with bytes that are nowhere {story}"
            assert self.seen == self.dealt_with, f"clean with bytes that were acted on {story}"
            assert self.shelf.state in self.committed, f"clean without the state {story}"
        if self.points:
            assert self.resumed() in self.points, f"neither before nor after a reply {story}"
        elif self.redelivers:
            assert self.taken <= self.dealt_with, f"taken before the commit {story}"
        if self.sending or self.uncommitted_send:
            assert status == "sent", f"{status} with bytes out {story}"

    def resumed(self) -> Point:
        """Return where the next worker would go on from."""
        reply = self.shelf.reply
        data, answered = left_of_reply(reply, self.sock) if reply else (b"", 0)
        return Point(self.taken + answered, self.shelf.state, self.out + data)


class Point(NamedTuple):
    """Input that is dealt with, the state, and all that the peer gets."""

    taken: int
    state: bytes | None
    out: bytes


class WatchedShelf:
    def __init__(self, scene: Scene) -> None:
        self._scene = scene
        self.state: bytes | None = None
        self.reply = b""

    def put(self, state: bytes | None, reply: bytes = b"") -> None:
        self._scene.step("before the shelf")
        self.state, self.reply = state, reply
        self._scene.put.append(state)
        self._scene.step("shelf")


class WatchedSocket(socket.socket):
    def __init__(self, sock: socket.socket, scene: Scene) -> None:
        super().__init__(fileno=sock.detach())
        self._scene = scene

    def recv(self, size: int, flags: int = 0) -> bytes:
        scene = self._scene
        data = super().recv(size, flags)
        if not flags & socket.MSG_PEEK:
            scene.taken += len(data)
        scene.seen = max(scene.seen, scene.taken + len(data) * bool(flags & socket.MSG_PEEK))
        scene.step("recv")
        return data

    def send(self, data: Any, flags: int = 0) -> int:
        self._scene.sending = True
        self._scene.step("before send")
        count = super().send(data[: self._scene.most], flags)
        self._scene.out += bytes(data[:count])
        self._scene.step("send")
        self._scene.sending = False
        return count


STATES = st.sampled_from([None, 0, "some", {"seen": [1, 2, 3]}])
ACTIONS = st.lists(
    st.one_of(
        st.tuples(st.just("peer"), st.binary(min_size=1, max_size=12)),
        st.tuples(st.just("take"), st.integers(1, 8)),
        st.tuples(st.just("send"), st.binary(min_size=1, max_size=5)),
        st.tuples(st.just("push"), st.binary(min_size=1, max_size=5)),
        st.tuples(st.just("commit"), STATES),
        st.tuples(st.just("gather"), st.none()),
    ),
    max_size=30,
)


def commit(scene: Scene, conn: Connection | AsyncConnection, state: object) -> None:
    new = None if state is None else msgspec.msgpack.encode(state)
    done = scene.seen - len(conn.unread)
    # The state before this commit will do for as long as nothing has been done on it.
    idle = scene.dealt_with == done and not scene.uncommitted_send
    scene.committed = (scene.shelf.state, new) if idle else (new,)
    scene.dealt_with = done
    scene.uncommitted_send = False
    conn.commit(state)
    scene.committed = (new,)
    scene.step("committed")


REPLIES = st.lists(
    st.one_of(
        st.tuples(st.just("peer"), st.binary(min_size=1, max_size=12)),
        st.tuples(st.just("take"), st.integers(1, 8)),
        st.tuples(st.just("reply"), st.tuples(st.binary(max_size=600), STATES)),
        st.tuples(st.just("push"), st.binary(min_size=1, max_size=9)),
        st.tuples(st.just("commit"), STATES),
        st.tuples(st.just("most"), st.integers(1, 300)),
    ),
    max_size=20,
)


def before_reply(scene: Scene, conn: Connection | AsyncConnection, value: Any, what: str) -> None:
    """Note where the connection may be from here on, until `after_reply`."""
    (here,) = scene.points
    data, state = {"push": (value, ...), "commit": (b"", value)}.get(what, value)
    new = here.state
    if state is not ...:
        new = None if state is None else msgspec.msgpack.encode(state)
        scene.dealt_with = scene.seen - len(conn.unread)
        scene.committed = (here.state, new)
    scene.points = (here, Point(scene.dealt_with, new, here.out + data))


def after_reply(scene: Scene, what: str) -> None:
    scene.points = scene.points[1:]
    scene.committed = (scene.points[0].state,)
    scene.step(what)


@both
@given(actions=REPLIES)
def test_replies_at_each_instant(kind: str, actions: list[tuple[str, Any]]) -> None:
    async def scenario() -> None:
        ours, peer = KINDS["tcp"]()
        scene = Scene(ours)
        with peer, scene.sock:
            conn = make(kind, scene.sock, scene.lease(redeliver=True))
            scene.points = (Point(0, None, b""),)
            for action, value in [("reply", (b"", None)), *actions]:
                if action == "peer":
                    peer.sendall(value)
                    continue
                if action == "take":
                    with suppress(WouldBlock):
                        await done(conn.recv(value, timeout=0))
                    continue
                if action == "most":
                    scene.most = value
                    continue
                before_reply(scene, conn, value, action)
                be_handler_of(None if action == "push" else conn)
                if action == "push":
                    await done(conn.send(value))
                elif action == "commit":
                    conn.commit(value)
                else:
                    await done(conn.reply(*value))
                after_reply(scene, action)
            assert peer_gets(peer, len(scene.out)) == scene.points[0].out
            await done(conn.abort())

    asyncio.run(scenario())


def peer_gets(peer: socket.socket, size: int) -> bytes:
    return peer.recv(size, socket.MSG_WAITALL) if size else b""


REDELIVERY: list[dict[str, bool]] = [{}, {"redeliver": True}]


@both
@pytest.mark.parametrize("net", ["tcp", "unix"])
@pytest.mark.parametrize("fields", REDELIVERY)
@given(actions=ACTIONS)
def test_at_each_instant(
    kind: str, net: str, fields: dict[str, bool], actions: list[tuple[str, Any]]
) -> None:
    async def scenario() -> None:
        ours, peer = KINDS[net]()
        scene = Scene(ours)
        with peer, scene.sock:
            conn = make(kind, scene.sock, scene.lease(**fields))
            for action, value in actions:
                out = conn.bytes_sent
                if action == "peer":
                    peer.sendall(value)
                elif action == "take":
                    with suppress(WouldBlock):
                        await done(conn.recv(value, timeout=0))
                elif action == "commit":
                    commit(scene, conn, value)
                    continue
                elif action == "gather":
                    conn.gather()
                else:
                    be_handler_of(conn if action == "send" else None)
                    await done(conn.send(value))
                scene.uncommitted_send |= action != "push" and conn.bytes_sent > out
                scene.step(action)
            await done(conn.abort())

    asyncio.run(scenario())


def test_the_state_is_put_before_the_status_and_only_when_it_changed(tcp: Pair) -> None:
    scene = Scene(tcp[0])
    with Connection(scene.sock, **scene.lease()) as conn:
        scene.row.status = "read"  # as if something had been received
        scene.steps.clear()
        for state in (1, 1, 2, None, None, 2):
            commit(scene, conn, state)
        tcp[1].close()
    assert [msgspec.msgpack.decode(put) if put else put for put in scene.put] == [1, 2, None, 2]
    assert scene.steps[:3] == ["before the shelf", "shelf", "status clean"]


def test_the_state_it_came_with_is_on_the_shelf_at_once(tcp: Pair) -> None:
    scene = Scene(tcp[0])
    state = msgspec.msgpack.encode("before")
    scene.committed = (None, state)
    with Connection(scene.sock, **scene.lease(state=state)) as conn:
        assert scene.put == [state]
        conn.commit("before")
        assert scene.put == [state]
        tcp[1].close()


def test_a_state_that_is_refused_changes_nothing(tcp: Pair) -> None:
    scene = Scene(tcp[0])
    with Connection(scene.sock, **scene.lease()) as conn:
        commit(scene, conn, 1)
        with pytest.raises(StateTooLarge):
            conn.commit(bytes(70_000))
        assert (conn.state, len(scene.put)) == (1, 1)
        tcp[1].close()


def test_a_commit_while_a_push_goes_out_is_at_no_instant_clean(tcp: Pair) -> None:
    scene = Scene(tcp[0])
    with Connection(scene.sock, **scene.lease()) as conn:
        tcp[1].sendall(b"x")
        assert conn.recv() == b"x"
        conn.core.ledger.push_begins()  # as the thread that pushes does, before its bytes go out
        scene.steps.clear()
        commit(scene, conn, 1)
        assert "status clean" not in scene.steps
        conn.core.ledger.push_ends()
        assert scene.row.status == "clean"
        tcp[1].close()


def test_a_receive_that_finds_nothing_leaves_the_connection_clean_at_each_instant(
    pair: Pair,
) -> None:
    """A worker that is killed just then has done nothing to it."""

    async def main() -> None:
        scene = Scene(pair[0])
        conn = AsyncConnection(scene.sock, **scene.lease())
        for number in range(2):
            receiving = asyncio.create_task(conn.recv())
            await asyncio.sleep(0)
            assert scene.row.waiting
            assert "status read" not in scene.steps
            pair[1].sendall(b"x")
            assert await receiving == b"x"
            commit(scene, conn, number)
            scene.steps.clear()
        pair[1].close()
        await conn.close()

    asyncio.run(main())


# Entrusting a connection to the keeper.


class FakeBackup:
    def __init__(self, *after: float | None) -> None:
        self.at = time.monotonic()
        self._after = list(after)
        self.offers: list[float] = []

    def offer(self) -> float | None:
        now = time.monotonic()
        self.offers.append(now)
        after = self._after.pop(0)
        return None if after is None else now + after


def test_a_receive_that_waits_offers_until_it_is_told_to_stop(pair: Pair) -> None:
    backup = FakeBackup(0.05, 0.05, None)
    lease = leased(resumable=True, backup=backup)
    conn = Connection(pair[0], **lease)
    with pytest.raises(TimedOut):
        conn.recv(timeout=0.3)
    assert len(backup.offers) == 3
    assert all(b - a >= 0.05 for a, b in zip(backup.offers, backup.offers[1:], strict=False))
    assert lease["hooks"].backup is None


def test_no_offer_before_its_time(pair: Pair) -> None:
    backup = FakeBackup(None)
    backup.at += 0.2
    conn = Connection(pair[0], **leased(resumable=True, backup=backup))
    with pytest.raises(TimedOut):
        conn.recv(timeout=0.05)
    assert backup.offers == []
    with pytest.raises(TimedOut):
        conn.recv(timeout=0.3)
    assert len(backup.offers) == 1
    assert backup.offers[0] >= backup.at


def test_no_offer_for_what_does_not_wait(pair: Pair) -> None:
    backup = FakeBackup()
    conn = Connection(pair[0], **leased(resumable=True, backup=backup))
    with pytest.raises(WouldBlock):
        conn.recv(timeout=0)
    conn.send(b"x")
    assert backup.offers == []


def test_bytes_come_through_while_it_is_offered(pair: Pair) -> None:
    backup = FakeBackup(60.0)
    conn = Connection(pair[0], **leased(resumable=True, backup=backup))
    pair[1].sendall(b"x")
    assert conn.recv() == b"x"
    assert len(backup.offers) == 1
    assert backup.at > time.monotonic() + 50
