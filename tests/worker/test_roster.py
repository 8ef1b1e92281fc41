"""The accounts of a worker's connections."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest

from socketkeep import resumable
from tests.harness.configuration import Model
from tests.harness.lines import Lines
from tests.harness.seam import Row, all_counted, counted, handoff
from tests.wire.sending import ABSENT, message
from tests.worker.fakes import Place, a_place


@resumable
def handle(conn: object) -> None: ...


@pytest.fixture
def place() -> Iterator[Place]:
    with a_place(handle, "thread", rows=2, access_log=True, idle_timeout=7) as made:
        yield made


@pytest.fixture
def sock() -> Iterator[socket.socket]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ours


ATTACH = message(
    "Attach", "b007-3-10", 5, "reload", 0, "a peer", b"\x07", b"half", 123, 1000, 2000, ABSENT
)


def accepted(roster: Any, sock: socket.socket) -> Any:
    entry = roster.accepted(sock, 0)
    assert entry is not None
    return entry


def attached(roster: Any, message: Any, sock: socket.socket) -> Any | None:
    """Attach a duplicate of `sock`; what the entry then has is closed: it is only looked at."""
    entry = roster.attached(message, os.dup(sock.fileno()))
    if entry is not None:
        entry.sock.close()
    return entry


def counters(place: Place) -> dict[str, int]:
    return all_counted(place.board)


@pytest.mark.parametrize("model", ["fork", "prefork", "thread", "async"])
def test_those_that_hear_of_an_order_at_once_leave_by_turns(
    model: Model, sock: socket.socket
) -> None:
    with a_place(handle, model, rows=3) as place:
        roster = place.roster()
        turns = [accepted(roster, sock).lease.turn for _ in range(2)]
        last = attached(roster, ATTACH, sock)
        assert last is not None
        turns.append(last.lease.turn)
        if model in ("fork", "thread"):
            assert turns[0] == 0
            assert turns[2] - turns[1] == turns[1] > 0
        else:
            assert turns == [0, 0, 0]


def test_accepted(place: Place, sock: socket.socket) -> None:
    roster = place.roster()
    first, second = accepted(roster, sock), accepted(roster, sock)
    assert [entry.lease.id for entry in (first, second)] == ["b007-9-1", "b007-9-2"]
    assert first.lease.epoch == 1
    assert first.lease.attached == "accepted"
    assert first.lease.resumable
    assert first.lease.idle_timeout == 7
    assert first.lease.listener == "127.0.0.1:7000"
    assert {Row(words).number for _, words in place.board.taken()} == {1, 2}
    assert Row(first.record).pid == os.getpid()
    assert counters(place) == {"accepted": 2}
    assert roster.accepted(sock, 0) is None, "no row is left"
    assert counted(place.board, "open") == 2
    assert counters(place) == {"accepted": 2}


def test_attached_goes_on_where_the_other_worker_was(place: Place, sock: socket.socket) -> None:
    roster = place.roster()
    entry = attached(roster, ATTACH, sock)
    assert entry is not None
    given = entry.lease
    assert (given.id, given.epoch, given.attached) == (ATTACH.id, 5, "reload")
    assert (given.state, given.unread) == (b"\x07", b"half")
    ((_, words),) = place.board.taken()
    assert Row(words).named[1:] == (3, 0x10)
    assert (Row(words).bytes_in, Row(words).bytes_out) == (1000, 2000)
    assert (Row(words).accepted_at, Row(words).epoch) == (123, 5)
    assert counters(place) == {"attached_reload": 1}


@pytest.mark.parametrize(
    ("redeliver", "message", "status"),
    [
        (False, msgspec.structs.replace(ATTACH, unread=b""), "clean"),
        (False, ATTACH, "read"),
        (True, ATTACH, "bound"),
        (True, msgspec.structs.replace(ATTACH, unread=b"", redelivered=True), "again"),
        (True, msgspec.structs.replace(ATTACH, unread=b""), "clean"),
    ],
)
def test_attached_it_is_as_clean_as_it_was(
    sock: socket.socket, redeliver: bool, message: Any, status: str
) -> None:
    """Also before it is served: a worker that dies with it then must not be taken for innocent."""

    @resumable(redeliver=redeliver)
    def handle(conn: object) -> None: ...

    with a_place(handle, "thread", keep="crash") as place:
        entry = attached(place.roster(), message, sock)
        assert entry is not None
        assert Row(entry.record).status == status


def test_attached_without_room(place: Place, sock: socket.socket) -> None:
    roster = place.roster()
    for _ in range(2):
        accepted(roster, sock)
    assert attached(roster, ATTACH, sock) is None
    assert counters(place) == {"accepted": 2}


def test_what_is_detached_is_what_the_next_worker_is_told(
    place: Place, sock: socket.socket
) -> None:
    roster = place.roster()
    entry = attached(roster, ATTACH, sock)
    assert entry is not None
    roster.introduce(entry, "the peer")
    Row(entry.record).bytes_in += 5
    detached = roster.detached(entry, handoff(sock, b"\x08", b"line"))
    assert (detached.id, detached.epoch, detached.listener) == (ATTACH.id, 5, 0)
    assert (detached.state, detached.unread, detached.peer) == (b"\x08", b"line", "the peer")
    assert (detached.accepted_at, detached.bytes_in, detached.bytes_out) == (123, 1005, 2000)
    assert place.board.peer(entry.row) == "the peer"


def test_settled(place: Place, sock: socket.socket) -> None:
    roster = place.roster()
    entry = accepted(roster, sock)
    Row(entry.record).ended = "reset"
    place.settlement().settle(entry)
    assert counted(place.board, "open") == 0
    assert counters(place) == {"accepted": 1, "reset": 1}
    assert accepted(roster, sock).lease.id == "b007-9-2", "a number is never used again"


def test_the_access_log(place: Place, sock: socket.socket, log: Lines) -> None:
    roster = place.roster()
    entry = accepted(roster, sock)
    roster.introduce(entry, "the peer")
    Row(entry.record).bytes_out = 12
    Row(entry.record).ended = "closed"
    entry.why = "the handler ended it"
    place.settlement().log_end(entry)
    fields = log.fields("connection")
    duration = fields.pop("duration")
    assert isinstance(duration, float)
    assert 0 <= duration < 60
    assert fields == {
        "id": "b007-9-1",
        "peer": "the peer",
        "listener": "127.0.0.1:7000",
        "bytes_in": 0,
        "bytes_out": 12,
        "ended": "closed",
        "why": "the handler ended it",
    }


def test_a_move_is_no_end_but_at_debug(place: Place, sock: socket.socket, log: Lines) -> None:
    roster = place.roster()
    entry = accepted(roster, sock)
    Row(entry.record).ended = "detached"
    place.settlement().log_end(entry)
    (line,) = log.records
    assert (line.levelname, line.getMessage()) == ("DEBUG", "connection")


def test_only_what_is_new_begins(place: Place, sock: socket.socket, log: Lines) -> None:
    roster = place.roster()
    entry = accepted(roster, sock)
    roster.introduce(entry, "the peer")
    roster.log_begin(entry)
    entry.lease = entry.lease._replace(attached="reload")
    roster.log_begin(entry)
    assert log.fields("connected") == {
        "id": "b007-9-1",
        "peer": "the peer",
        "listener": "127.0.0.1:7000",
    }


def test_nothing_is_kept_where_that_is_asked_for(sock: socket.socket) -> None:
    with a_place(handle, "thread", keep="none") as place:
        assert not accepted(place.roster(), sock).lease.resumable


def test_what_cannot_be_entered_leaves_no_row(
    place: Place, sock: socket.socket, log: Lines
) -> None:
    roster = place.roster()
    assert roster.accepted(sock, 7) is None, "there is no such listener"
    for broken in (
        msgspec.structs.replace(ATTACH, id="none"),
        msgspec.structs.replace(ATTACH, bytes_in=-1),
        msgspec.structs.replace(ATTACH, listener=7),
        msgspec.structs.replace(ATTACH, peer="\udcff"),
    ):
        assert attached(roster, broken, sock) is None
    assert counted(place.board, "open") == 0
    assert counters(place) == {"unserved": 5}
    assert log.events() == ["connections that cannot be served are closed"], "and no more"
    assert [accepted(roster, sock).row for _ in range(2)] == [0, 1]


def test_what_is_no_socket_is_not_entered(place: Place) -> None:
    fd = os.open(os.devnull, os.O_RDONLY)
    assert place.roster().attached(ATTACH, fd) is None
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(fd)
    assert counted(place.board, "open") == 0
    assert counters(place) == {"unserved": 1}


def test_what_cannot_be_served_is_closed(place: Place) -> None:
    roster = place.roster()
    ours, theirs = socket.socketpair()
    with theirs:
        entry = accepted(roster, ours)
        roster.cannot_serve(entry, LookupError("a bug"))
        assert theirs.recv(1) == b""
        place.settlement().settle(entry)
    assert counted(place.board, "open") == 0
    assert counters(place) == {"accepted": 1, "closed": 1, "unserved": 1}
