"""Endpoints of an async worker: pushed to as connections are, and none."""

from __future__ import annotations

import asyncio
import itertools
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from socketkeep import AsyncConnection, Busy
from socketkeep._worker._post import AsyncPost
from tests.harness.seam import leased
from tests.wire.sending import ends_of_a_channel, letter, letter_told, message

_FAR = 2**62


@contextmanager
def channels() -> Iterator[tuple[Any, Any]]:
    ours, theirs = ends_of_a_channel()
    try:
        yield ours, theirs
    finally:
        ours.close()
        theirs.close()


def said(channel: Any) -> list[Any]:
    """Return what the worker has said so far."""
    found: list[Any] = []
    while (packet := channel.receive()) is not None:
        assert packet.message is not None
        found.append(packet.message)
    return found


def post(channel: Any) -> AsyncPost:
    numbers = itertools.count(1)
    return AsyncPost(channel, lambda: None, lambda: f"1-1-{next(numbers):x}")


def test_an_endpoint_is_pushed_to() -> None:
    """By its name and its groups; it says whether it has room, and when it has lost its name."""

    async def main() -> None:
        with channels() as (ours, theirs):
            office = post(ours)
            got: list[bytes] = []
            lost: list[bool] = []

            def receive(message: bytes) -> bool:
                got.append(message)
                return message != b"too much"

            endpoint = office.endpoint(receive, lambda: lost.append(True))
            assert said(theirs) == []
            endpoint.call("desk", frozenset({"room"}))
            assert said(theirs) == [message("Registered", "1-1-1", 1, "desk", ["room"], {})]
            office.obey(message("Deliver", [letter(1, "1-1-1", b"a", _FAR)]))
            office.obey(message("Deliver", [letter(2, "room", b"b", _FAR, group=True)]))
            office.obey(message("Deliver", [letter(3, "1-1-1", b"too much", _FAR)]))
            office.flush()
            told = [letter_told(1, 1), letter_told(2, 1, "", 0, 1, 0), letter_told(3, 4)]
            assert said(theirs) == [message("Delivered", told)]
            assert got == [b"a", b"b", b"too much"]
            office.announce()  # to another keeper
            assert said(theirs) == [message("Registered", "1-1-1", 1, "desk", ["room"], {})]
            office.obey(message("NameTaken", "1-1-1", 1, "desk", close=True))
            assert lost == [True]
            assert said(theirs) == [message("Registered", "1-1-1", 1, "", ["room"], {})]
            endpoint.call("", frozenset())
            endpoint.call("", frozenset())
            assert said(theirs) == [message("Registered", "1-1-1", 1, "", [], {})]
            office.obey(message("Deliver", [letter(4, "1-1-1", b"late", _FAR)]))
            assert got[-1] == b"too much"

    asyncio.run(main())


def test_who_has_said_its_last_word_is_not_connected() -> None:
    """A WebSocket whose Close has gone out; alone and in a group, and told at once."""

    async def main() -> None:
        peer, sock = socket.socketpair()
        with channels() as (ours, theirs), peer, sock:
            office = post(ours)
            conn = AsyncConnection(sock, **leased(id="1-1-7", registrar=office))
            conn.name = "bob"
            conn.join("room")
            said(theirs)
            conn.hooks.deaf = True
            office.obey(message("Deliver", [letter(1, "1-1-7", b"a", _FAR)]))
            office.obey(message("Deliver", [letter(2, "room", b"b", _FAR, group=True)]))
            office.flush()
            told = [letter_told(1, 2), letter_told(2, 1, "", 0, 0, 1)]
            assert said(theirs) == [message("Delivered", told)]
            peer.setblocking(False)
            with pytest.raises(BlockingIOError):
                peer.recv(1)

    asyncio.run(main())


def test_a_worker_has_so_many_endpoints() -> None:
    """More would be taken for connections that there cannot be."""

    async def main() -> None:
        with channels() as (ours, theirs):
            office = post(ours)
            made = [office.endpoint(bool) for _ in range(65)]
            for number, endpoint in enumerate(made[:64]):
                endpoint.call(str(number), frozenset())
            with pytest.raises(Busy, match="a worker has at most 64 endpoints"):
                made[64].call("64", frozenset())
            made[0].call("", frozenset())
            made[64].call("64", frozenset())
            assert len(said(theirs)) == 66

    asyncio.run(main())
