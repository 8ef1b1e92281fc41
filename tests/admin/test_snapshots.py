"""What a keeper tells of its connections, in the moments in which two processes have one."""

from __future__ import annotations

import os
from types import SimpleNamespace
from typing import Any

import pytest

from socketkeep._admin import _snapshots
from tests.harness.seam import Row, connection_name, make_board
from tests.keeper.fakes import name_table, named, owned


def worker(serial: int, *rows: tuple[int, int]) -> Any:
    """Return a worker of pid 100 + serial that serves connections: their numbers and epochs."""
    fd, board = make_board(64)
    os.close(fd)
    for number, epoch in rows:
        row = board.claim()
        assert row is not None
        record = Row(board.record(row))
        record.name(1, 1, number)
        record.epoch = epoch
    return SimpleNamespace(
        serial=serial,
        pid=100 + serial,
        slot=serial,
        generation=1,
        scoreboard=board,
        listener=lambda listener: listener,
    )


def held(number: int, epoch: int, to: int | None) -> Any:
    """Return a connection that the keeper moves to the worker of that serial, if to one yet."""
    handoff = SimpleNamespace(
        id=connection_name(1, 1, number),
        peer="",
        listener=0,
        accepted_at=0,
        bytes_in=0,
        bytes_out=0,
    )
    return SimpleNamespace(
        id=handoff.id, handoff=handoff, ownership=owned("moving", epoch, to), since=0.0
    )


class Pool(list[Any]):
    """The workers, and how many connections they have."""

    @property
    def connections(self) -> int:
        return sum(len(list(each.scoreboard.columns())) for each in self)


def keeper(workers: list[Any], moves: list[Any]) -> Any:
    connections = SimpleNamespace(moves=moves, parking=[], post=SimpleNamespace(names=name_table()))
    listeners = [SimpleNamespace(text="here")]
    return SimpleNamespace(
        pool=Pool(workers), connections=connections, listeners=listeners, current=None, store=None
    )


@pytest.mark.parametrize(
    ("old", "new", "move", "there"),
    [
        ([(5, 1)], [], held(5, 1, None), ("moving", None)),  # the old row is not freed yet
        ([(5, 1)], [], held(5, 2, 2), ("moving", None)),
        ([(5, 1)], [(5, 2)], held(5, 2, 2), ("owned", 102)),  # it has yet to say so
        ([], [(5, 2)], held(5, 2, 2), ("owned", 102)),
        ([(5, 1)], [(5, 2)], None, ("owned", 102)),
    ],
)
def test_connection_on_the_move(
    old: list[tuple[int, int]],
    new: list[tuple[int, int]],
    move: Any,
    there: tuple[str, int | None],
) -> None:
    """It is told once, where it is, whichever process is behind."""
    state = keeper([worker(2, *new), worker(1, *old)], [move] if move else [])
    (report,) = _snapshots.connections(state)
    assert (report.state, report.worker) == there


def test_some_of_many() -> None:
    """The same ones whichever worker has them, and no more than were asked for."""
    state = keeper([worker(1, *((n, 1) for n in range(1, 41))), worker(2)], [])
    moved = keeper([worker(1), worker(2, *((n, 2) for n in range(40, 0, -1)))], [])
    some = {each.id for each in _snapshots._connections(state, 4)}
    assert len(some) == 10
    assert some == {each.id for each in _snapshots._connections(moved, 4)}


@pytest.mark.parametrize("parts", [1, 2, 16, 64, 256, 4096])
def test_each_is_in_one_part(parts: int) -> None:
    """By its id alone, whether a worker has it or the keeper."""
    numbers = (1, 5, 15, 16, 0x105, 0xFFF, 0x1005, 0x12345)
    served = keeper([worker(1, *((number, 1) for number in numbers))], [])
    on_the_way = keeper([], [held(number, 1, None) for number in numbers])
    for part in {each % parts for each in (*numbers, 3)}:
        wanted = sorted(connection_name(1, 1, each) for each in numbers if each % parts == part)
        for there in (served, on_the_way):
            answer = _snapshots.connections_part(there, part, parts)
            assert sorted(each.id for each in answer.connections) == wanted
            assert answer.open == len(numbers)


def test_one_that_goes_while_it_is_read() -> None:
    """Its row is free by then, and says nothing of it, or what another connection's is."""
    here = worker(1, (5, 1), (6, 1))

    def listener(number: int) -> int:
        if Row(here.scoreboard.record(0)).number:
            here.scoreboard.release(0)
        return number

    here.listener = listener
    (report,) = _snapshots.connections(keeper([here], []))
    assert report.id == connection_name(1, 1, 6)


def test_words_that_a_shell_completes() -> None:
    """By how they begin; a connection that moves is one word, though two have it."""
    moving = held(7, 2, None)
    there = keeper([worker(1, (7, 1), (0x1A, 1)), worker(2, (0x1B, 1))], [moving])
    names = there.connections.post.names
    ids = [connection_name(1, 1, number) for number in (7, 0x1A, 0x1B)]
    assert [word for word, _ in _snapshots.words(there, "id", "")] == ids
    assert [word for word, _ in _snapshots.words(there, "id", "1-1-1")] == ids[1:]
    assert _snapshots.words(there, "id", "2-") == []
    names.put(named(ids[0], 1, 1), "room:1", frozenset({"all"}), {})
    names.put(named(ids[1], 1, 1), "other", frozenset({"all", "few"}), {})
    assert _snapshots.words(there, "name", "ro") == [("room:1", ids[0])]
    assert _snapshots.words(there, "group", "") == [
        ("all", "2 connections"),
        ("few", "1 connection"),
    ]
    with pytest.raises(ValueError, match="one of id, name, group"):
        _snapshots.words(there, "label", "")


def test_no_more_words_than_can_be_looked_at() -> None:
    many = keeper([worker(1, *((number, 1) for number in range(1, 60)))], [])
    many.connections.moves = [held(number, 1, None) for number in range(1000, 1300)]
    assert len(_snapshots.words(many, "id", "")) == _snapshots.MOST_WORDS
