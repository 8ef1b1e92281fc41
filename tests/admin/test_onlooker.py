"""The process that shows a server asks by sockets that it sends, and may look alone."""

from __future__ import annotations

import json
import socket
from types import SimpleNamespace

import pytest

from tests.admin.control import client, commands_of, guests, request
from tests.harness.configuration import configured
from tests.keeper.fakes import Clock, SteppedReactor


@pytest.mark.parametrize("command", ["status", "reload", "stop", "scale", "push", "publish"])
def test_nothing_is_done_for_who_looks_on(command: str) -> None:
    """Also by the next version of the keeper, which takes over who has not asked yet."""
    reactor = SteppedReactor(Clock())
    keeper = SimpleNamespace(config=configured(target="shop:handle"))
    ours, theirs = socket.socketpair()
    with theirs:
        asker = client(ours, reactor, commands_of(keeper), guests(4, 4, 4), looks_only=True)
        saved = asker.snapshot(lambda fd: fd)
        assert saved.looks_only
        theirs.sendall(request(command, workers=3))
        reactor.settle()
        answer = json.loads(theirs.recv(65536))
        assert (answer["event"], answer["exit"]) == ("done", 2)
        assert answer["error"] == f"{command!r} is not for who looks on"
    reactor.close()
