"""Whose connections may end, by what happens to their servers."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest

from tests.soak.clients import Client, Lines, Place, Streams
from tests.soak.crowd import Crowd


async def never() -> Streams:
    raise ConnectionRefusedError


def client(kind: str, port: int) -> Client:
    made = Lines(Place("async", kind, 0, 1.0, random.Random(1)), never)
    made.port = port
    return made


@pytest.fixture
def crowd() -> Iterator[Crowd]:
    with Crowd(1) as made:
        yield made


def test_an_edge_that_is_killed_takes_its_own_along(crowd: Crowd) -> None:
    own, of_another, plain = client("tls", 4001), client("tls", 4002), client("tcp", 4001)
    assert not crowd.may_be_cut(own, busy=False, young=False)
    with crowd.happening(["async"], "edge", frozenset({4001})):
        assert crowd.may_be_cut(own, busy=False, young=False)
        assert not crowd.may_be_cut(of_another, busy=True, young=False)
        assert crowd.may_be_cut(of_another, busy=True, young=True), "in the handshake with it"
        assert not crowd.may_be_cut(plain, busy=True, young=False)


def test_all_that_are_killed_but_the_guard_take_tls_along(crowd: Crowd) -> None:
    with crowd.happening(["async"], "all"):
        assert crowd.may_be_cut(client("tls", 4001), busy=False, young=False)
        for kind in ("tcp", "proxy", "unix", "named", "websocket"):
            assert not crowd.may_be_cut(client(kind, 4001), busy=True, young=False)
        assert crowd.may_repeat(client("unix", 0))


def test_a_guard_that_is_killed_takes_nobody_along(crowd: Crowd) -> None:
    with crowd.happening(["async"], "guard"):
        for kind in ("tcp", "tls", "unix", "http", "named"):
            assert not crowd.may_be_cut(client(kind, 4001), busy=True, young=True)
            assert not crowd.may_repeat(client(kind, 4001))
