"""The server's side of the control socket: who asks there, who is let in, and what is answered."""

from __future__ import annotations

import json
import socket
from typing import Any, Final

from socketkeep._admin import _control, _guests, _protocol

FULL: Final = _guests.Full


def guests(most: int, each: int, most_busy: int) -> _guests.Guests[Any]:
    """Return room for so many clients, for so many of one peer, and for so many who wait."""
    return _guests.Guests(most, each, most_busy)


def client(
    sock: socket.socket,
    reactor: Any,
    commands: Any,
    room: _guests.Guests[Any],
    *,
    peer: int = 1,
    looks_only: bool = False,
) -> _control.ControlClient:
    """Let in the client that is at the other end, which comes from `peer`."""
    entered = _control.ControlClient(sock, reactor, commands, room, looks_only=looks_only)
    room.enter(entered, peer)
    return entered


def commands_of(keeper: Any) -> Any:
    """Return what clients may ask of the keeper of a server that is called shop."""
    return _control.Commands(keeper, "shop")


def bound_unread(patch: Any, size: int) -> None:
    """Let all answers that nobody takes have so many bytes in memory together."""
    patch.setattr(_control, "_MOST_UNREAD", size)


def answered(text: str = "") -> Any:
    """Return the end of an answer that has this text."""
    return _protocol.Done(0, text)


def request(command: str, **arguments: object) -> bytes:
    """Return the line that asks for a command."""
    return json.dumps({"command": command, "arguments": arguments}).encode() + b"\n"
