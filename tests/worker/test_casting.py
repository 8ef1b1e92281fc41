"""What C makes of an accepted connection is what Python would have made."""

from __future__ import annotations

import asyncio
import gc
import os
import resource
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any
from weakref import ref

import msgspec
import pytest

from socketkeep import AsyncConnection, Connection, Truncated, resumable
from socketkeep.proxy import InetAddress, ProxyHeader, ProxyTls
from tests.harness.configuration import Model
from tests.harness.seam import Row, counted
from tests.native.cores import compiled
from tests.wire.sending import ABSENT, message
from tests.worker.fakes import (
    CastingDoor,
    Place,
    a_place,
    is_entry,
    make_reactor,
    make_sync,
    passed_on,
    told_of_forks,
)

pytestmark = pytest.mark.skipif(compiled is None, reason="there is no compiled core")

_OF_THE_CORE = ("committed", "failure", "client_hello", "_came", "_gone", "_receives", "_retains")


def plain(conn: object) -> None: ...
@resumable
def kept(conn: object) -> None: ...


def make_async(entry: Any) -> None:
    entry.hooks.reactor = make_reactor()
    entry.conn = conn = AsyncConnection(entry.sock, lease=entry.lease, hooks=entry.hooks)
    conn.end_tending()


def slots(made: object) -> dict[str, Any]:
    names = (name for kind in type(made).__mro__ for name in getattr(kind, "__slots__", ()))
    return {name: getattr(made, name) for name in names if name != "__weakref__"}


def shown(entry: Any) -> dict[str, Any]:
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
    assert Row(entry.record).ended == "not yet"
    buffer, life = conn.core.buffer, conn.core.life
    whole["buffer"] = buffer.size, buffer.untouched, buffer.overflowed
    whole["life"] = life.state, life.sends, life.over, life.peer_ended
    whole["lease"] = entry.lease._replace(id="", peer="", turn=0.0)
    whole["sock"] = entry.sock.gettimeout(), entry.sock.family, entry.sock.type, entry.sock.proto
    whole["row"] = [
        Row(entry.record).waiting,
        Row(entry.record).bytes_in,
        Row(entry.record).bytes_out,
    ]
    if isinstance(conn, AsyncConnection):
        waiter = conn._waiter
        names = ("pending", "watching", "ordered", "claimed", "tended", "unwaited", "came", "_loop")
        whole["waiter"] = [getattr(waiter, name) for name in names]
    own = ("core", "_reading", "_sending_lock", "_waiter", "lease", "hooks", "_peer")
    for name in (
        *(f"conn.{each}" for each in own),
        *(f"entry.{each}" for each in ("row", "record", "handle", "lease", "hooks", "conn")),
        *("hooks.record", "transport.sock", "transport.input_fd"),
    ):
        whole.pop(name, None)
    return whole


class Scene(CastingDoor):
    """One listener's door, by which C makes what comes."""

    def __init__(self, place: Place, make_one: Any = make_sync, *, owned: bool = True) -> None:
        super().__init__(place, make_one, owned=owned)
        self.place = place

    def cast(self) -> Any:
        self.arm()
        return self.accept()


@contextmanager
def a_scene(handler: Any, model: Model, make_one: Any = make_sync, **options: Any) -> Iterator[Any]:
    with a_place(handler, model, **options) as place:
        yield Scene(place, make_one, owned=model != "async")


def both(scene: Scene) -> tuple[Any, Any]:
    with socket.create_connection(scene.listener.getsockname()[:2]) as peer:
        made = scene.accept_in_python()
        with socket.create_connection(scene.listener.getsockname()[:2]) as second:
            cast = scene.cast()
            assert is_entry(cast)
            assert made.peer == "{}:{}".format(*peer.getsockname())
            assert cast.peer == cast.lease.peer == "{}:{}".format(*second.getsockname())
    return made, cast


@contextmanager
def _connected(scene: Scene) -> Iterator[tuple[socket.socket, Any]]:
    """Give a peer, and the entry that C has made of its connection."""
    with socket.create_connection(scene.listener.getsockname()[:2]) as peer:
        yield peer, scene.cast()


@pytest.mark.parametrize("model", ["prefork", "thread"])
@pytest.mark.parametrize("handler", [plain, kept])
def test_all_is_as_if_python_had_made_it(model: Model, handler: Any) -> None:
    with a_scene(handler, model, idle_timeout=7) as scene:
        made, cast = both(scene)
        assert shown(cast) == shown(made)
        assert (made.lease.id, cast.lease.id) == ("b007-9-1", "b007-9-2")
        assert cast.lease.turn == cast.row * (0.001 if model == "thread" else 0)
        board = scene.place.board
        assert (counted(board, "accepted"), counted(board, "open")) == (2, 2)
        assert board.peer(cast.row) == cast.peer
        assert ref(cast.conn) in told_of_forks(), "it is told of forks"
        for entry in (made, cast):
            assert isinstance(entry.conn, Connection)
            entry.conn.close(linger=0)
            scene.settlement.settle(entry)
        assert counted(board, "open") == 0


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


def test_a_record_is_the_words_of_its_row() -> None:
    with a_scene(plain, "prefork") as scene:
        made, cast = both(scene)
        made.conn.close(linger=0)
        record, row = cast.record, scene.place.board.record(cast.row)
        record[7] = 1 << 63
        row[6] = 5
        assert [record[word] for word in range(16)] == row[:16].tolist()
        for word in (16, -1):
            with pytest.raises(IndexError, match="16 words"):
                record[word]
            with pytest.raises(IndexError, match="16 words"):
                record[word] = 0
        with pytest.raises(OverflowError):
            record[7] = -1
        with pytest.raises(TypeError, match="keeps its words"):
            del record[7]
        again = type(cast.conn.core.ledger)(record)
        assert again.record is record, "who goes on with the entry has the same one"
        again.sending()
        assert Row(row).status == "sent"
        cast.conn.close(linger=0)
        assert Row(record).ended == "closed"


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_what_a_lease_tells_is_made_when_it_is_asked_for(host: str) -> None:
    with a_place(plain, "thread") as place:
        scene = Scene(place)
        with socket.create_server((host, 0), family=_FAMILY[host]) as listener:
            scene.listener, made = listener, scene.listener
            with made, socket.create_connection(listener.getsockname()[:2]) as peer:
                cast = scene.cast()
                port = peer.getsockname()[1]
        told = f"127.0.0.1:{port}" if host == "127.0.0.1" else f"[::1]:{port}"
        assert (cast.lease.id, cast.lease.peer, cast.peer) == ("b007-9-1", told, told)
        assert cast.conn.peer == told
        later = cast.lease._replace(attached="reload", state=b"1")
        assert (later.id, later.peer, later.turn) == ("b007-9-1", told, cast.lease.turn)
        assert (later.attached, later.state, cast.lease.attached) == ("reload", b"1", "accepted")
        for name in ("_fields", "nothing"):
            assert not hasattr(cast.lease, name)
        cast.conn.close(linger=0)
        assert cast.conn.peer == told


_FAMILY = {"127.0.0.1": socket.AF_INET, "::1": socket.AF_INET6}


def test_its_socket_is_made_when_it_is_asked_for() -> None:
    with a_scene(plain, "prefork") as scene, _connected(scene) as (peer, cast):
        number = cast.conn.core.transport.input_fd
        assert cast.sock is cast.conn.core.sock is cast.conn.core._source
        assert cast.sock.fileno() == number
        peer.close()
        assert cast.conn.recv() == b""
        cast.conn.close(linger=0)
        assert cast.sock.fileno() == -1


def test_a_connection_that_has_ended_has_a_closed_socket() -> None:
    with a_scene(plain, "prefork") as scene, _connected(scene) as (peer, cast):
        peer.shutdown(socket.SHUT_WR)
        assert cast.conn.recv() == b""
        cast.conn.close()
        assert peer.recv(1) == b""
        assert cast.sock.fileno() == -1
        assert cast.conn.core.transport.input_fd == -1


def test_nobody_has_it_and_it_is_closed() -> None:
    with a_scene(plain, "prefork") as scene, _connected(scene) as (peer, cast):
        scene.place.board.places.give_back(cast.row, None)
        del cast
        gc.collect()
        assert peer.recv(1) == b""


def test_a_descriptor_that_was_closed_by_its_number_is_no_socket() -> None:
    with a_scene(plain, "prefork") as scene:
        before = _sockets()
        with _connected(scene) as (peer, cast):
            (number,) = _sockets() - before - {peer.fileno()}
            os.close(number)
            assert cast.sock.fileno() == -1
            assert cast.conn.core.transport.input_fd == -1
            cast.conn.close(linger=0)


def _sockets() -> set[int]:
    """Return this process's descriptors of sockets."""
    links = {each: Path("/proc/self/fd", each) for each in os.listdir("/proc/self/fd")}
    open_now = {each: link for each, link in links.items() if link.is_symlink()}
    return {int(each) for each, link in open_now.items() if "socket" in str(link.readlink())}


GIVEN = message(
    *("Attach", "b007-3-10", 5, "parked", 0, "10.0.0.7:4242"),
    *(b"\x07", b"", 123, 1000, 2000, ABSENT),
    kept=True,
    returnable=True,
)


@contextmanager
def accepted_by(scene: Scene) -> Iterator[int]:
    """Yield a descriptor of a connection that somebody else has accepted, and who has it blocks."""
    with socket.create_connection(scene.listener.getsockname()[:2]):
        scene.listener.settimeout(10)
        accepted, _ = scene.listener.accept()
        scene.listener.settimeout(0)
        with accepted:
            accepted.setblocking(True)
            accepted.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, 7)
            yield os.dup(accepted.fileno())


def given(scene: Scene, told: Any) -> Any:
    """Have the roster be given a connection; return its entry, and all that is the same in it."""
    with accepted_by(scene) as fd:
        entry: Any = scene.roster.attached(told, fd)
        assert is_entry(entry)
        if entry.conn is None:
            scene.make(entry)
        whole = shown(entry)
        whole["sock"] = whole["sock"][:3]  # but for the protocol, which Python asks the kernel for
        shelf = whole.pop("hooks.shelf")
        whole["committed"] = shelf is not None, scene.place.board.state(entry.row)
        row = Row(entry.record)
        whole["told"] = row.named, row.epoch, row.status, row.pid, row.accepted_at, row.keep
        options = (
            (socket.SOL_SOCKET, socket.SO_RCVLOWAT),
            (socket.IPPROTO_TCP, socket.TCP_NODELAY),
        )
        whole["options"] = [entry.sock.getsockopt(*option) for option in options]
        whole["blocks"] = os.get_blocking(entry.sock.fileno())
        whole["peer"] = entry.peer, entry.lease.peer, scene.place.board.peer(entry.row)
        whole["id"] = entry.lease.id
        return entry, whole


@pytest.mark.parametrize("model", ["prefork", "thread"])
@pytest.mark.parametrize("keep", ["reload", "crash"])
@pytest.mark.parametrize("why", ["parked", "reload", "crash"])
@pytest.mark.parametrize("state", [None, b"\x07"])
def test_what_is_given_is_as_if_python_had_made_it(
    model: Model, keep: str, why: str, state: bytes | None
) -> None:
    told = msgspec.structs.replace(GIVEN, attached=why, state=state)
    with a_scene(kept, model, keep=keep) as scene:
        made, by_python = given(scene, told)
        scene.arm()
        cast, by_c = given(scene, told)
        lowat = by_python["options"][0], by_c["options"][0]
        if why != "crash":  # C says it anew of all that was not parked
            by_python["options"][0] = by_c["options"][0]
        assert by_c == by_python
        assert lowat == (7 if why != "crash" else 1, 7 if why == "parked" else 1)
        assert by_c["peer"] == ("10.0.0.7:4242",) * 3
        assert cast.conn.state == (None if state is None else 7)
        assert ref(cast.conn) in told_of_forks()
        for entry in (made, cast):
            entry.conn.close(linger=0)
            scene.settlement.settle(entry)
        assert counted(scene.place.board, "open") == 0


def test_an_async_connection_that_is_given_is_too() -> None:
    async def body() -> None:
        with a_scene(kept, "async", make_async, keep="crash") as scene:
            made, by_python = given(scene, GIVEN)
            scene.arm()
            cast, by_c = given(scene, GIVEN)
            reactors = [whole.pop("hooks.reactor") for whole in (by_python, by_c)]
            assert by_c == by_python
            for entry in (made, cast):
                await entry.conn.close(linger=0)
            for reactor in reactors:
                reactor.close()

    asyncio.run(body())


@pytest.mark.parametrize(
    "fields",
    [
        {"unread": b"half"},
        {"deadline": 2**62},
        {"name": "a name"},
        {"trace": "a trace"},
        {"taken_in": 3, "written": 4},
    ],
)
def test_what_has_more_from_before_python_makes(fields: dict[str, Any]) -> None:
    with a_scene(kept, "prefork") as scene, accepted_by(scene) as fd:
        scene.arm()
        entry: Any = scene.roster.attached(msgspec.structs.replace(GIVEN, **fields), fd)
        assert is_entry(entry)
        assert entry.conn is None
        entry.sock.close()


@pytest.mark.parametrize("wrong", [{"id": "b007-3"}, {"id": "none"}, {"epoch": -1}])
def test_what_cannot_be_made_leaves_nothing(wrong: dict[str, Any]) -> None:
    with a_scene(kept, "prefork") as scene:
        scene.arm()
        with accepted_by(scene) as fd:
            assert scene.roster.attached(msgspec.structs.replace(GIVEN, **wrong), fd) is None
            with pytest.raises(OSError, match="Bad file descriptor"):
                os.fstat(fd)
        board = scene.place.board
        assert (counted(board, "open"), counted(board, "attached_parked")) == (0, 0)
        assert list(board.taken()) == []
        assert counted(board, "unserved") == 1


def test_a_descriptor_that_is_none_leaves_nothing() -> None:
    with a_scene(kept, "prefork") as scene:
        scene.arm()
        read, write = os.pipe()
        os.close(write)
        assert scene.roster.attached(GIVEN, read) is None
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(read)
        assert counted(scene.place.board, "open") == 0


def test_what_one_does_the_next_does_not_have() -> None:
    with a_scene(plain, "prefork") as scene:
        address = scene.listener.getsockname()[:2]
        with socket.create_connection(address) as one, socket.create_connection(address) as other:
            first, second = scene.cast(), scene.accept()
            assert is_entry(first)
            assert is_entry(second)
            assert isinstance(first.conn, Connection)
            assert isinstance(second.conn, Connection)
            one.sendall(b"one")
            first.conn.mode = first.conn.mode
            first.conn.gather()
            first.hooks.refused = 5
            assert first.conn.recv() == b"one"
            first.conn.send(b"1")
            assert (second.conn._gathered, second.hooks.refused) == (None, 0)
            assert Row(second.record).bytes_in == 0
            first.conn.close(linger=0)
            other.sendall(b"other")
            assert second.conn.recv() == b"other"
            second.conn.close(linger=0)


def test_what_has_a_question_is_left_to_python() -> None:
    with a_scene(plain, "prefork", rows=1) as scene:
        address = scene.listener.getsockname()[:2]
        assert scene.cast() is None, "nobody has come"
        with socket.create_connection(address), socket.create_connection(address):
            first, second = scene.accept(), scene.accept()
            assert is_entry(first)
            assert isinstance(second, tuple), "there is no row for it"
            second[0].close()
            first.sock.close()
        assert counted(scene.place.board, "open") == 1


@pytest.mark.parametrize("options", [{"login_timeout": 5}, {"keep": "crash"}])
def test_where_more_differs_python_makes_it(options: dict[str, Any]) -> None:
    with (
        a_scene(kept, "prefork", **options) as scene,
        socket.create_connection(scene.listener.getsockname()[:2]),
    ):
        accepted = scene.cast()
        assert isinstance(accepted, tuple)
        accepted[0].close()


def header(host: str, *, tls: ProxyTls | None = None) -> bytes:
    told = ProxyHeader(source=InetAddress(host, 4242), destination=InetAddress(host, 7000), tls=tls)
    return told.encode()


FOUR = header("10.0.0.7", tls=ProxyTls(version="TLSv1.3"))
SIX = header("2001:db8::7")


def of_edge(scene: Scene, first: bytes, second: bytes) -> Iterator[Any]:
    with passed_on(scene.place, first), passed_on(scene.place, second) as near:
        yield scene.accept_in_python()
        near.sendall(b"after it")
        made = scene.cast()
        assert is_entry(made)
        yield made


def test_so_it_is_with_what_an_edge_passes_on() -> None:
    with a_scene(plain, "thread", edge=True) as scene:
        entries = of_edge(scene, FOUR, FOUR)
        made, cast = next(entries), next(entries)
        assert shown(cast) == shown(made)
        assert cast.lease.proxy == FOUR
        assert (cast.peer, scene.place.board.peer(cast.row)) == ("10.0.0.7:4242",) * 2
        assert isinstance(cast.conn, Connection)
        assert cast.conn.local == "10.0.0.7:7000"
        assert cast.conn.recv() == b"after it"
        assert not list(entries)
        made.conn.close(linger=0)
        cast.conn.close(linger=0)


def test_each_has_its_own_header() -> None:
    with a_scene(plain, "prefork", edge=True) as scene:
        scene.arm()
        with passed_on(scene.place, FOUR), passed_on(scene.place, SIX):
            four, six = scene.accept(), scene.accept()
        assert (four.lease.proxy, six.lease.proxy) == (FOUR, SIX)
        assert (four.peer, six.peer) == ("10.0.0.7:4242", "[2001:db8::7]:4242")
        for each in (four, six):
            each.conn.close(linger=0)


@pytest.mark.parametrize(
    "began",
    [
        b"",
        FOUR[:10],
        FOUR[:-1],
        b"x" + FOUR,
        ProxyHeader().encode(),
        ProxyHeader(local=True).encode(),
    ],
    ids=["none", "begun", "cut", "another", "unknown", "local"],
)
def test_of_another_header_python_is_asked(began: bytes) -> None:
    with a_scene(plain, "prefork", edge=True) as scene, passed_on(scene.place, began):
        made = scene.cast()
        assert isinstance(made, tuple)
        sock, peer = made
        assert peer == ""
        with sock:
            assert (sock.gettimeout(), sock.family) == (0.0, socket.AF_UNIX)
            if began:
                assert sock.recv(100) == began[:100], "nothing of it has been taken"


def test_what_no_row_is_for_has_its_header_still() -> None:
    with a_scene(plain, "prefork", rows=1, edge=True) as scene:
        scene.arm()
        with passed_on(scene.place, FOUR), passed_on(scene.place, FOUR):
            first, second = scene.accept(), scene.accept()
        assert is_entry(first)
        with second[0]:
            assert second[0].recv(len(FOUR)) == FOUR
        first.conn.close(linger=0)


def test_the_end_of_an_edge_and_what_is_no_connection() -> None:
    with a_scene(plain, "prefork", edge=True) as scene:
        assert scene.cast() is None, "nobody has come"
        scene.place.outlet.send(b"none")
        assert scene.accept() is None
        with passed_on(scene.place, FOUR) as near:
            made = scene.accept()
            near.bind(b"\0socketkeep/truncated/%d" % os.getpid())
        with pytest.raises(Truncated):
            made.conn.recv()
        made.conn.abort()


@contextmanager
def no_descriptor() -> Iterator[None]:
    """Have this process be at its limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    spare = os.dup(0)
    os.close(spare)
    resource.setrlimit(resource.RLIMIT_NOFILE, (spare, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_for_want_of_a_descriptor_it_waits() -> None:
    with a_scene(plain, "prefork", edge=True) as scene:
        scene.arm()
        with passed_on(scene.place, FOUR):
            with no_descriptor(), pytest.raises(Exception, match="Too many open files"):
                scene.accept()
            made = scene.accept()
        assert is_entry(made)
        made.conn.close(linger=0)
