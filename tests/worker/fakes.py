"""What a worker is given, made by a test that keeps the keeper's end."""

from __future__ import annotations

import os
import select
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, TypeVar

from socketkeep._config._server_options import ServeConfig, WorkerModel
from socketkeep._net._handlers import inspect_handler
from socketkeep._wire._channel import Channel, Packet, channel_pair
from socketkeep._wire._messages import Attach, Message
from socketkeep._wire._scoreboard import Scoreboard, create_memfd
from socketkeep._worker._environment import Environment
from tests.wire.sending import bare, send_with

M = TypeVar("M", bound=Message)

BOOT = 0xB007


@dataclass
class Place:
    """A worker's environment, and the keeper's side of it."""

    environment: Environment
    keeper: Channel
    board: Scoreboard
    peers: list[socket.socket] = field(default_factory=list)

    def send(self, message: Message, descriptors: tuple[int, ...] = ()) -> None:
        send_with(self.keeper, message, descriptors)

    def said(self) -> list[Packet]:
        """Return what the worker has said since."""
        packets = []
        while (packet := self.keeper.receive()) is not None:
            packets.append(packet)
        return packets

    def wait_for(self, kind: type[M], seconds: float = 10) -> tuple[M, list[int]]:
        """Return the worker's next message, which must be of this kind, and its descriptors."""
        assert select.select([self.keeper], [], [], seconds)[0], f"no {kind.__name__} came"
        packet = self.keeper.receive()
        assert packet is not None
        assert isinstance(packet.message, kind), packet.message
        return bare(packet.message), packet.descriptors

    def connection(self) -> tuple[socket.socket, socket.socket]:
        """Return a peer's socket (10 s timeout) and the accepted one."""
        peer, accepted = socket.socketpair()
        peer.settimeout(10)
        self.peers.append(peer)
        return peer, accepted

    def attach(self, name: str, **fields: Any) -> tuple[socket.socket, Attach]:
        """Give the worker a connection; return its peer and what the worker was told."""
        peer, accepted = self.connection()
        told = {
            "epoch": 2,
            "attached": "reload",
            "listener": 0,
            "peer": "a peer",
            "state": None,
            "unread": b"",
            "accepted_at": 5,
            "bytes_in": 10,
            "bytes_out": 20,
            **fields,
        }
        message = Attach(id=name, connection=accepted.fileno(), **told)
        with accepted:
            self.send(message)
        return peer, message


@contextmanager
def a_place(
    handler: Callable[[Any], object], model: WorkerModel, rows: int = 4, **options: Any
) -> Iterator[Place]:
    """Make an environment with one listener; options are those of `socketkeep serve`."""
    ours, theirs = channel_pair()
    memfd = create_memfd(rows, states=options.get("keep") == "crash")
    listener = socket.create_server(("127.0.0.1", 0))
    listener.setblocking(False)
    wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
    environment = Environment(
        config=ServeConfig(target="app:handle", **options),
        handler=inspect_handler(handler),
        model=model,
        listeners=[listener],
        listener_names=["127.0.0.1:7000"],
        channel=Channel(theirs),
        scoreboard=Scoreboard(memfd),
        wake=wake,
        boot=BOOT,
        generation=1,
        serial=9,
        slot=0,
    )
    place = Place(environment, Channel(ours), Scoreboard(memfd))
    os.close(memfd)
    try:
        yield place
    finally:
        for peer in place.peers:
            peer.close()
        place.keeper.close()
        environment.channel.close()
        listener.close()
        with suppress(OSError):
            os.close(wake)
