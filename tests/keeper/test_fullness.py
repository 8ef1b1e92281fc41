"""A server that has no room says so once, and once that it has room again."""

from __future__ import annotations

import logging
import socket
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from socketkeep import Listener
from socketkeep._keeper.connections._fullness import Fullness
from tests.keeper.bench import Bench


class Watched:
    """A server with room for three, and a listener whose queue has room for two."""

    def __init__(self, bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
        self.bench = bench
        self.caplog = caplog
        self.room = True
        self.listener = Listener.bind("127.0.0.1:0", backlog=1)
        self.fullness = Fullness(bench.reactor, [self.listener], 3, lambda: self.room)
        self.fullness.start()

    def said(self, seconds: float) -> list[str]:
        """Return what is said in so many seconds."""
        self.caplog.clear()
        self.bench.advance(seconds)
        return [record.getMessage().partition(":")[0] for record in self.caplog.records]


@pytest.fixture
def watched(bench: Bench, caplog: pytest.LogCaptureFixture) -> Iterator[Watched]:
    caplog.set_level(logging.INFO, "socketkeep")
    watched = Watched(bench, caplog)
    with watched.listener:
        yield watched


def test_full_is_said_once(watched: Watched) -> None:
    """However often there is room for a moment, until there has been for some seconds."""
    assert watched.said(2) == []
    watched.room = False
    assert watched.fullness.full
    assert watched.said(2) == ["server is full"]
    for _ in range(5):
        watched.room = True
        assert watched.said(3) == []
        watched.room = False
        assert watched.said(3) == []
    watched.room = True
    assert watched.said(4) == []
    assert watched.said(3) == ["server has room again"]
    assert watched.said(60) == []
    watched.room = False
    assert watched.said(2) == ["server is full"]


def test_without_a_limit_it_is_never_full(bench: Bench) -> None:
    assert not Fullness(bench.reactor, [], 0, lambda: False).full


def test_a_queue_that_overflows_is_said_once(watched: Watched) -> None:
    with ExitStack() as stack:

        def knock() -> None:
            client = stack.enter_context(socket.socket())
            client.setblocking(False)
            client.connect_ex(watched.listener.sock.getsockname())

        for _ in range(2):
            knock()
        assert watched.said(2) == [], "there is room for two"
        knock()
        assert watched.said(2) == ["accept queue overflows"]
        (told,) = watched.caplog.records
        assert watched.listener.text in str(vars(told))
        knock()
        assert watched.said(3) == []
        for _ in range(2):
            watched.listener.sock.accept()[0].close()
        assert "accept queue has room again" in watched.said(7)
