"""The process that shows a server asks by sockets that it sends, and may look alone."""

from __future__ import annotations

import socket
from types import SimpleNamespace

import pytest

from socketkeep._admin._control import Commands, ControlClient
from socketkeep._admin._guests import Guests
from socketkeep._admin._protocol import Done, Request, decode_answer, encode
from tests.harness.configuration import configured
from tests.keeper.fakes import Clock, SteppedReactor


@pytest.mark.parametrize("command", ["status", "reload", "stop", "scale", "push", "publish"])
def test_nothing_is_done_for_who_looks_on(command: str) -> None:
    """Also by the next version of the keeper, which takes over who has not asked yet."""
    reactor = SteppedReactor(Clock())
    guests: Guests[ControlClient] = Guests(4, 4, 4)
    keeper = SimpleNamespace(config=configured(target="shop:handle"))
    commands = Commands(keeper, "shop")  # type: ignore[arg-type]
    ours, theirs = socket.socketpair()
    with theirs:
        client = ControlClient(ours, reactor, commands, guests, looks_only=True)
        guests.enter(client, 1)
        saved = client.snapshot(lambda fd: fd)
        assert saved.looks_only
        theirs.sendall(encode(Request(command, {"workers": 3})))
        reactor.settle()
        answer = decode_answer(theirs.recv(65536).rstrip(b"\n"))
        assert answer == Done(2, error=f"{command!r} is not for who looks on")
    reactor.close()
