"""What C makes of an accepted connection is what Python would have made."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields
from typing import Any
from weakref import ref

import pytest

from socketkeep import AsyncConnection, Connection, resumable
from socketkeep._base._forking import disown, let_go_of
from socketkeep._config._server_options import WorkerModel
from socketkeep._native import core
from socketkeep._stream import _record as record
from socketkeep._wire._scoreboard import ACCEPTED, OPEN
from socketkeep._worker._accepting import Door
from socketkeep._worker._casting import have_cast
from socketkeep._worker._entry import Entry
from socketkeep._worker._reactor import make_reactor
from socketkeep._worker._roster import Roster
from tests.worker.fakes import Place, a_place

pytestmark = pytest.mark.skipif(core is None, reason="there is no compiled core")

_OF_THE_CORE = ("committed", "failure", "client_hello", "_came", "_gone", "_receives", "_retains")


def plain(conn: object) -> None: ...
@resumable
def kept(conn: object) -> None: ...


def make(entry: Entry) -> None:
    entry.conn = conn = Connection(entry.sock, lease=entry.lease, hooks=entry.hooks)
    disown(conn)


def make_async(entry: Entry) -> None:
    entry.hooks.reactor = make_reactor()
    entry.conn = conn = AsyncConnection(entry.sock, lease=entry.lease, hooks=entry.hooks)
    conn.end_tending()


def slots(made: object) -> dict[str, Any]:
    names = (name for kind in type(made).__mro__ for name in getattr(kind, "__slots__", ()))
    return {name: getattr(made, name) for name in names if name != "__weakref__"}


def shown(entry: Entry) -> dict[str, Any]:
    """Return all that an entry and its connection are, but for what differs between two."""
    conn = entry.conn
    assert isinstance(conn, Connection | AsyncConnection)
    whole = {f"conn.{name}": value for name, value in slots(conn).items()}
    whole |= {f"entry.{each.name}": getattr(entry, each.name) for each in fields(entry)}
    whole |= {f"hooks.{each.name}": getattr(entry.hooks, each.name) for each in fields(entry.hooks)}
    whole |= {f"core.{name}": getattr(conn.core, name) for name in _OF_THE_CORE}
    whole |= {f"transport.{name}": value for name, value in slots(conn.core.transport).items()}
    assert conn.core.sock is entry.sock is whole["transport.sock"]
    assert whole["transport.input_fd"] == entry.sock.fileno()
    assert conn.lease is entry.lease
    assert conn.hooks is entry.hooks
    assert conn.core.ledger.record is conn.core.record is entry.record is entry.hooks.record
    assert entry.record[record.ENDED] == record.NOT_YET
    buffer, life = conn.core.buffer, conn.core.life
    whole["buffer"] = buffer.size, buffer.untouched, buffer.overflowed
    whole["life"] = life.state, life.sends, life.over, life.peer_ended
    whole["lease"] = entry.lease._replace(id="", peer="", turn=0.0)
    whole["sock"] = entry.sock.gettimeout(), entry.sock.family, entry.sock.type, entry.sock.proto
    whole["row"] = list(entry.record[record.WAITING : record.BYTES_OUT + 1])
    if isinstance(conn, AsyncConnection):
        waiter = conn._waiter
        names = ("pending", "watching", "ordered", "claimed", "tended", "unwaited", "came", "_loop")
        whole["waiter"] = [getattr(waiter, name) for name in names]
    own = ("core", "_reading", "_sending_lock", "_waiter", "lease", "hooks", "_peer")
    for name in (
        *(f"conn.{each}" for each in own),
        *(f"entry.{each}" for each in ("row", "record", "sock", "lease", "hooks", "peer", "conn")),
        *("hooks.record", "transport.sock", "transport.input_fd"),
    ):
        whole.pop(name, None)
    return whole


class Scene:
    """One listener's door, by which C makes what comes."""

    def __init__(self, place: Place, make_one: Any = make, *, owned: bool = True) -> None:
        self.place = place
        self.make = make_one
        self.listener = place.environment.listeners[0]
        self.roster = Roster(place.environment, None)
        self.door = Door(self.listener, 0)
        self._owned = owned

    def cast(self) -> Entry | tuple[socket.socket, str] | None:
        have_cast([(self.listener, self.door)], self.roster, self.make, owned=self._owned)
        return self.door.accept()

    def enter(self) -> Entry:
        """As in Python alone."""
        accepted = Door(self.listener, 0).accept()
        assert isinstance(accepted, tuple)
        entry = self.roster.accepted(accepted[0], 0, accepted[1])
        assert entry is not None
        self.make(entry)
        return entry


@contextmanager
def a_scene(
    handler: Any, model: WorkerModel, make_one: Any = make, **options: Any
) -> Iterator[Any]:
    with a_place(handler, model, **options) as place:
        yield Scene(place, make_one, owned=model != "async")


def both(scene: Scene) -> tuple[Entry, Entry]:
    with socket.create_connection(scene.listener.getsockname()[:2]) as peer:
        made = scene.enter()
        with socket.create_connection(scene.listener.getsockname()[:2]) as second:
            cast = scene.cast()
            assert isinstance(cast, Entry)
            assert made.peer == "{}:{}".format(*peer.getsockname())
            assert cast.peer == cast.lease.peer == "{}:{}".format(*second.getsockname())
    return made, cast


@pytest.mark.parametrize("model", ["prefork", "thread"])
@pytest.mark.parametrize("handler", [plain, kept])
def test_all_is_as_if_python_had_made_it(model: WorkerModel, handler: Any) -> None:
    with a_scene(handler, model, idle_timeout=7) as scene:
        made, cast = both(scene)
        assert shown(cast) == shown(made)
        assert (made.lease.id, cast.lease.id) == ("b007-9-1", "b007-9-2")
        assert cast.lease.turn == cast.row * (0.001 if model == "thread" else 0)
        board = scene.place.board
        assert (board[ACCEPTED], board[OPEN]) == (2, 2)
        assert board.peer(cast.row) == cast.peer
        assert ref(cast.conn) in let_go_of()[0], "it is told of forks"
        for entry in (made, cast):
            assert isinstance(entry.conn, Connection)
            entry.conn.close(linger=0)
            scene.roster.settle(entry)
        assert board[OPEN] == 0


def test_an_async_connection_is_too() -> None:
    async def body() -> None:
        with a_scene(kept, "async", make_async, idle_timeout=7) as scene:
            made, cast = both(scene)
            for entry in (made, cast):
                assert isinstance(entry.conn, AsyncConnection)
                entry.conn.begin_tending()
                assert entry.conn.end_tending()
            kinds = [shown(entry) for entry in (made, cast)]
            reactors = [kind.pop("hooks.reactor") for kind in kinds]
            assert kinds[0] == kinds[1]
            for entry in (made, cast):
                assert isinstance(entry.conn, AsyncConnection)
                await entry.conn.close(linger=0)
            for reactor in reactors:
                reactor.close()

    asyncio.run(body())


def test_what_one_does_the_next_does_not_have() -> None:
    with a_scene(plain, "prefork") as scene:
        address = scene.listener.getsockname()[:2]
        with socket.create_connection(address) as one, socket.create_connection(address) as other:
            first, second = scene.cast(), scene.door.accept()
            assert isinstance(first, Entry)
            assert isinstance(second, Entry)
            assert isinstance(first.conn, Connection)
            assert isinstance(second.conn, Connection)
            one.sendall(b"one")
            first.conn.mode = first.conn.mode
            first.conn.gather()
            first.hooks.refused = 5
            assert first.conn.recv() == b"one"
            first.conn.send(b"1")
            assert (second.conn._gathered, second.hooks.refused) == (None, 0)
            assert second.record[record.BYTES_IN] == 0
            first.conn.close(linger=0)
            other.sendall(b"other")
            assert second.conn.recv() == b"other"
            second.conn.close(linger=0)


def test_what_has_a_question_is_left_to_python() -> None:
    with a_scene(plain, "prefork", rows=1) as scene:
        address = scene.listener.getsockname()[:2]
        assert scene.cast() is None, "nobody has come"
        with socket.create_connection(address), socket.create_connection(address):
            first, second = scene.door.accept(), scene.door.accept()
            assert isinstance(first, Entry)
            assert isinstance(second, tuple), "there is no row for it"
            second[0].close()
            first.sock.close()
        assert scene.place.board[OPEN] == 1


@pytest.mark.parametrize("options", [{"login_timeout": 5}, {"keep": "crash"}])
def test_where_more_differs_python_makes_it(options: dict[str, Any]) -> None:
    with (
        a_scene(kept, "prefork", **options) as scene,
        socket.create_connection(scene.listener.getsockname()[:2]),
    ):
        accepted = scene.cast()
        assert isinstance(accepted, tuple)
        accepted[0].close()
