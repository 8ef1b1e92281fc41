"""What a worker is given, made by a test that keeps the keeper's end."""

from __future__ import annotations

import os
import select
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, cast

from socketkeep import Connection, Service
from socketkeep._base import _forking
from socketkeep._net import _handlers
from socketkeep._worker import (
    _accepting,
    _casting,
    _entry,
    _environment,
    _hooked,
    _reactor,
    _roster,
    _settlement,
    _template,
)
from tests.harness.configuration import Model, configured, listeners
from tests.harness.seam import How, Leased, board_in, make_board
from tests.wire.inlets import inlet_pair, pass_on
from tests.wire.sending import bare, ends_of_a_channel, kind_of, message, send_with

BOOT = 0xB007
#: So many connections a sync worker accepts before it looks at its orders.
IN_A_ROW = 8


@dataclass
class Place:
    """A worker's environment, and the keeper's side of it."""

    environment: _environment.Environment
    keeper: Any
    board: Any
    peers: list[socket.socket] = field(default_factory=list)
    outlet: socket.socket | None = None  # by which an edge passes connections on

    def send(self, sent: Any, descriptors: tuple[int, ...] = ()) -> None:
        send_with(self.keeper, sent, descriptors)

    def permit(self, count: int) -> None:
        """Let the worker accept so long as it has fewer connections than this."""
        self.send(message("Seats", count))

    def retire(self, how: How, within: float = float("inf")) -> None:
        """Have it end, so many seconds from now at the latest."""
        self.send(message("Retire", how, time.monotonic() + within))

    def acknowledge(self, offer: Any, *, taken: bool) -> None:
        """Answer what it has offered."""
        self.send(message("Acknowledged", offer.id, offer.epoch, taken=taken))

    def roster(self) -> _roster.Roster:
        """Return a roster of the worker's connections."""
        return _roster.Roster(self.environment, None)

    def settlement(self) -> _settlement.Settlement:
        """Return what settles their ends."""
        return _settlement.Settlement(self.environment)

    def run(self) -> None:
        """Be the worker, to its end."""
        _template.runner(self.environment.model)(self.environment)

    def start(self) -> threading.Thread:
        """Run the worker in a thread, and return when it is ready."""
        thread = threading.Thread(target=self.run, daemon=True)
        thread.start()
        self.wait_for("Ready")
        return thread

    def said(self) -> list[Any]:
        """Return what the worker has said since."""
        packets = []
        while (packet := self.keeper.receive()) is not None:
            packets.append(packet)
        return packets

    def wait_for(self, kind: str, seconds: float = 10) -> tuple[Any, list[int]]:
        """Return the worker's next message, which must be of this kind, and its descriptors."""
        assert select.select([self.keeper], [], [], seconds)[0], f"no {kind} came"
        packet = self.keeper.receive()
        assert packet is not None
        assert kind_of(packet.message) == kind, packet.message
        return bare(packet.message), packet.descriptors

    def connection(self) -> tuple[socket.socket, socket.socket]:
        """Return a peer's socket (10 s timeout) and the accepted one."""
        peer, accepted = socket.socketpair()
        peer.settimeout(10)
        self.peers.append(peer)
        return peer, accepted

    def attach(self, name: str, **fields: Any) -> tuple[socket.socket, Any]:
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
        attach = message("Attach", id=name, connection=accepted.fileno(), **told)
        with accepted:
            self.send(attach)
        return peer, attach


def make_reactor() -> Any:
    """Return the reactor of an async worker, on the loop that runs."""
    return _reactor.make_reactor()


class CastingDoor:
    """A listener's door, by which C makes what comes, like what `make` makes of an entry."""

    def __init__(
        self, place: Place, make: Callable[[Any], None], *, listener: int = 0, owned: bool = True
    ) -> None:
        self.roster = place.roster()
        self.settlement = place.settlement()
        self.listener = place.environment.doors[listener]
        self._door = _accepting.Door(self.listener, listener)
        self.make = make
        self._owned = owned

    def arm(self) -> None:
        """Have C make what comes next, if it can."""
        doors = [(self.listener, self._door)]
        _casting.have_cast(doors, self.roster, self.make, owned=self._owned)

    def accept(self) -> Any:
        """Return what comes: an entry, a socket and its peer where C leaves it, or None."""
        return self._door.accept()

    def accept_in_python(self) -> Any:
        """Return an entry of what comes, made by Python alone."""
        accepted = _accepting.Door(self.listener, 0).accept()
        assert isinstance(accepted, tuple)
        entry = self.roster.accepted(accepted[0], 0, accepted[1])
        assert entry is not None
        self.make(entry)
        return entry


def is_entry(made: object) -> bool:
    """Return whether this is a connection that was made, not one that is left to be."""
    return isinstance(made, _entry.Entry)


def passed_on(place: Place, header: bytes) -> socket.socket:
    """Pass a connection on as an edge does; return the edge's end."""
    assert place.outlet is not None
    return pass_on(place.outlet, header)


def standing(environment: _environment.Environment, slot: int) -> _accepting.Standing:
    """Return what the worker in a slot shows to those beside it."""
    return _accepting.Standing(environment.siblings, slot)


def make_sync(entry: Any) -> None:
    """Make the connection of an entry, as a sync worker does."""
    entry.conn = conn = Connection(entry.sock, lease=entry.lease, hooks=entry.hooks)
    _forking.disown(conn)


def told_of_forks() -> list[Any]:
    """Return references to the connections that are told of forks."""
    return list(_forking.let_go_of()[0])


def entry_of(sock: socket.socket, given: Leased) -> _entry.Entry:
    """Return what a worker knows of a connection that it has leased so."""
    return _entry.Entry(
        0, cast("Any", given["hooks"].record), sock, given["lease"], given["hooks"], 0
    )


def inspected(handler: Any) -> _handlers.Handler:
    """Return what a worker makes of a target."""
    return _hooked.hooked(_handlers.served_as(_handlers.inspect_handler(handler), handler))


@contextmanager
def a_place(
    handler: Callable[[Any], object] | Service,
    model: Model,
    rows: int = 4,
    *,
    edge: bool = False,
    **options: Any,
) -> Iterator[Place]:
    """Make an environment with one listener; options are those of `socketkeep serve`.

    edge: an edge accepts from it.
    """
    ours, theirs = ends_of_a_channel()
    memfd, board = make_board(rows, states=options.get("keep") == "crash")
    listener = socket.create_server(("127.0.0.1", 0))
    listener.setblocking(False)
    door, outlet = listener, None
    if edge:
        door, outlet = inlet_pair()
        options["bind"] = ("127.0.0.1:7000,tls=none.pem",)
    wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
    config = configured(**options)
    environment = _environment.Environment(
        config=config,
        settings=listeners(config, 1),
        bound_as=list(config.bind),
        access_log=config.access_log,
        connect_log=config.connect_log,
        handler=inspected(handler),
        model=model,
        listeners=[listener],
        doors=[door],
        listener_names=["127.0.0.1:7000"],
        channel=theirs,
        scoreboard=board,
        wake=wake,
        boot=BOOT,
        generation=1,
        serial=9,
        slot=0,
    )
    place = Place(environment, ours, board_in(memfd), outlet=outlet)
    os.close(memfd)
    try:
        yield place
    finally:
        for peer in place.peers:
            peer.close()
        place.keeper.close()
        environment.channel.close()
        for each in filter(None, (listener, door, outlet)):
            each.close()
        with suppress(OSError):
            os.close(wake)
