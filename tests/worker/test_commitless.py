"""A handler that never commits is told by its source; where that does not tell, nothing is said."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import pytest

from socketkeep._worker._commitless import never_commits


def echo(conn: Any) -> None:
    while data := conn.recv(100):
        conn.send(data)


async def echo_lines(conn: Any) -> None:
    conn.mode = None
    async for line in conn.lines(100):
        print(f"{conn}", conn.id)
        await conn.send(line)


def by_helpers(conn: Any) -> None:
    with conn:
        while request := _receive(conn):
            _answer(b"", conn)
            assert request is not conn


def _receive(conn: Any) -> Any:
    return conn.recv_until(b"\n", 100)


def _answer(data: bytes, conn: Any) -> None:
    conn.send_frame(data)


class Echo:
    def __call__(self, conn: Any) -> None:
        echo(conn)

    def method(self, word: bytes, conn: Any) -> None:
        for frame in conn.frames(commit=False):
            conn.send(word + frame)


@pytest.mark.parametrize(
    "handler",
    [echo, echo_lines, by_helpers, Echo(), functools.partial(Echo().method, b"word")],
)
def test_answers_and_never_commits(handler: Callable[..., object]) -> None:
    assert never_commits(handler)


def commits(conn: Any) -> None:
    for line in conn.lines(100):
        conn.send(line)
        conn.commit()


def replies(conn: Any) -> None:
    for line in conn.lines(100):
        conn.reply(line, state=1)


def commits_in_a_helper(conn: Any) -> None:
    while line := conn.recv(1):
        conn.send(line)
        commits(conn)


def lines_commit(conn: Any, **options: Any) -> None:
    for line in conn.lines(100, commit=True):
        conn.send(line)


def lines_perhaps(conn: Any, options: Any = {}) -> None:  # noqa: B006 - it is only read
    for line in conn.lines(100, **options):
        conn.send(line)


def sink(conn: Any) -> None:
    while conn.recv(100):
        pass


def answers_once(conn: Any) -> None:
    conn.send(conn.recv(100))


def greets(conn: Any) -> None:
    conn.send(b"220 ready")
    while conn.recv(100):
        pass


def gives_it_on(conn: Any) -> None:
    PEERS.add(conn)
    echo(conn)


def renames_it(conn: Any) -> None:
    other = conn
    echo(other)


def calls_what_it_is_given(conn: Any, call: Any = None) -> None:
    echo(conn)
    call(conn)


def spreads(conn: Any) -> None:
    echo(conn)
    print(*[], conn)


def has_another_of_the_name(conn: Any) -> None:
    echo(conn)
    sorted([], key=lambda conn: conn)


def asks_itself(conn: Any) -> None:
    asks_itself(conn)


def by_alias(conn: Any) -> None:
    lines = conn.lines
    for line in lines(commit=True):
        conn.send(line)


@functools.wraps(echo)
def wrapped(conn: Any) -> None:
    echo(conn)
    conn.commit()


PEERS: set[Any] = set()


@pytest.mark.parametrize(
    "handler",
    [
        *(commits, replies, commits_in_a_helper, lines_commit, lines_perhaps, sink, answers_once),
        *(greets, gives_it_on, renames_it, calls_what_it_is_given, spreads),
        *(has_another_of_the_name, asks_itself, by_alias, wrapped, len),
        functools.partial(echo, None),
        lambda conn: [conn.send(line) for line in conn.lines(100)],
        eval("lambda conn: None"),
    ],
)
def test_nothing_is_said(handler: Callable[..., object]) -> None:
    assert not never_commits(handler)
