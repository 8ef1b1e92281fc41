"""The process that shows a server asks by sockets that it sends, and may look alone."""

from __future__ import annotations

import json
import socket
from types import SimpleNamespace
from typing import Any

import pytest

from tests.admin.control import client, commands_of, guests, request
from tests.harness.configuration import configured
from tests.keeper.fakes import Clock, SteppedReactor


@pytest.mark.parametrize("command", ["status", "reload", "stop", "scale", "push", "publish"])
def test_nothing_is_done_for_who_looks_on(command: str) -> None:
    """Also by the next version of the keeper, which takes over who has not asked yet."""
    keeper = SimpleNamespace(config=configured(target="shop:handle"))
    answer = told(keeper, request(command, workers=3))
    assert (answer["event"], answer["exit"]) == ("done", 2)
    assert answer["error"] == f"{command!r} is not for who looks on"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({}, "parts is a power of two, 1 to 65536, not None"),
        ({"part": 0, "parts": 3}, "parts is a power of two, 1 to 65536, not 3"),
        ({"part": 0, "parts": 1 << 17}, "parts is a power of two, 1 to 65536, not 131072"),
        ({"part": 0, "parts": True}, "parts is a power of two, 1 to 65536, not True"),
        ({"part": 4, "parts": 4}, "part is a number from 0 to 3, not 4"),
        ({"part": "0", "parts": 4}, "part is a number from 0 to 3, not '0'"),
        ({"part": 0, "parts": 4}, "4 parts are too few: one has 2000 at the most"),
    ],
)
def test_parts_that_there_are_not(arguments: dict[str, Any], said: str) -> None:
    """The keeper is busy with one question for no longer than with any other."""
    held: SimpleNamespace = SimpleNamespace(moves=[], parking=range(8001))
    keeper = SimpleNamespace(connections=held, pool=SimpleNamespace(connections=0))
    answer = told(keeper, request("connections-part", **arguments))
    assert (answer["exit"], answer["error"]) == (2, f"connections-part: {said}")


def told(keeper: SimpleNamespace, line: bytes) -> dict[str, Any]:
    """Return what who looks on is told by the next version of the keeper."""
    reactor = SteppedReactor(Clock())
    ours, theirs = socket.socketpair()
    with theirs:
        asker = client(ours, reactor, commands_of(keeper), guests(4, 4, 4), looks_only=True)
        saved = asker.snapshot(lambda fd: fd)
        assert saved.looks_only
        theirs.sendall(line)
        reactor.settle()
        answer: dict[str, Any] = json.loads(theirs.recv(65536))
    reactor.close()
    return answer
