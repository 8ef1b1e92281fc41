"""Taking over the workers that a keeper has left behind when it died.

They wait at the rendezvous (`_wire/_rendezvous.py`).  First, before this keeper listens anywhere,
those that can be found give it their listeners, so that no address is bound twice and no queue is
lost.  Then they become workers of this keeper that are to be retired: their connections move to its
own workers as in a reload, or are drained.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol

from socketkeep import _log
from socketkeep._keeper._pool import WorkerPool
from socketkeep._keeper._reactor import Reactor
from socketkeep._wire import _rendezvous as rendezvous
from socketkeep._wire._channel import Channel, ChannelClosed, Packet
from socketkeep._wire._messages import Detached, Stranded

_LOOK_AGAIN: Final = 0.1


class Adopter(Protocol):
    """Who becomes the keeper of the workers."""

    pool: WorkerPool

    def adopt(self, offer: Stranded, channel: Channel, memfd: int, wake: int) -> None: ...


@dataclass(eq=False, slots=True)
class _Visitor:
    """Who has been met: a worker, or a process that a `fork` worker has forked."""

    channel: Channel
    pid: int
    offer: Stranded | None = None
    descriptors: list[int] = field(default_factory=list)


class Adoption:
    """The workers in `directory` that have no keeper, and those that come there later."""

    def __init__(self, directory: str) -> None:
        self.boots: set[int] = set()  # under which they accepted what they serve
        self._directory = directory
        self._listener: socket.socket | None = None
        self._visitors: dict[int, _Visitor] = {}
        self._seen: set[str] = set()
        self._listeners: dict[str, tuple[str, socket.socket]] = {}  # by address: bound as, socket

    def open(self) -> None:
        """Listen for those that come later.  Raises OSError."""
        self._listener = rendezvous.listen(self._directory, rendezvous.KEEPER)

    def gather(self, seconds: float) -> None:
        """Look around, and wait until all that were found have said who they are, or so long."""
        deadline = time.monotonic() + seconds
        poller = select.poll()
        while True:
            self._look_around()
            silent = [v for v in self._visitors.values() if v.offer is None]
            left = deadline - time.monotonic()
            if not silent or left <= 0:
                return
            for visitor in silent:
                poller.register(visitor.channel.fileno(), select.POLLIN)
            ready = {fd for fd, _ in poller.poll(min(left, _LOOK_AGAIN) * 1000)}
            for visitor in silent:
                poller.unregister(visitor.channel.fileno())
                if visitor.channel.fileno() in ready:
                    self._hear_offer(visitor)

    def take_listener(self, bound_as: str) -> socket.socket | None:
        """Return the listener that --bind named so, or that has that address; None: there is none.

        It is the caller's from then on.
        """
        for text, (named, sock) in self._listeners.items():
            if bound_as in (named, text):
                del self._listeners[text]
                return sock
        return None

    def drop_listeners(self) -> list[str]:
        """Close the listeners that nobody took, and return their addresses."""
        dropped = list(self._listeners)
        for _, sock in self._listeners.values():
            sock.close()
        self._listeners.clear()
        return dropped

    def begin(self, reactor: Reactor, adopter: Adopter) -> None:
        """Give those that have come to `adopter`, and those that will."""
        self._reactor, self._adopter = reactor, adopter
        for visitor in tuple(self._visitors.values()):
            if visitor.offer is not None:
                self._give(visitor)
            else:
                self._watch(visitor)
        if self._listener is not None:
            reactor.register(self._listener.fileno(), self._accept)

    def close(self) -> None:
        """Leave the rendezvous.  Those that were not given to anybody are left alone again."""
        if self._listener is not None:
            if self._begun:
                self._reactor.unregister(self._listener.fileno())
            self._listener.close()
            rendezvous.leave(self._directory, rendezvous.KEEPER)
        for visitor in tuple(self._visitors.values()):
            self._dismiss(visitor)
        self.drop_listeners()

    @property
    def _begun(self) -> bool:
        return hasattr(self, "_reactor")

    def _look_around(self) -> None:
        for name in rendezvous.worker_sockets(self._directory):
            if name in self._seen:
                continue
            sock = rendezvous.connect(self._directory, name)
            if sock is None:
                rendezvous.leave(self._directory, name)  # of a process that has died, too
            else:
                self._seen.add(name)
                self._meet(sock)
        while self._listener is not None and (sock := rendezvous.accept(self._listener)):
            self._meet(sock)

    def _meet(self, sock: socket.socket) -> _Visitor:
        pid = rendezvous.peer_pid(sock)
        visitor = self._visitors[sock.fileno()] = _Visitor(Channel(sock), pid)
        return visitor

    def _hear_offer(self, visitor: _Visitor) -> None:
        packet = self._receive(visitor)
        if packet is None:
            return
        if not isinstance(packet.message, Stranded) or packet.truncated:
            packet.close()
            self._dismiss(visitor)
            return
        self._note(visitor, packet.message, packet.descriptors)

    def _receive(self, visitor: _Visitor) -> Packet | None:
        try:
            return visitor.channel.receive()
        except ChannelClosed:
            self._dismiss(visitor)
            return None

    def _note(self, visitor: _Visitor, offer: Stranded, descriptors: Sequence[int]) -> None:
        visitor.offer = offer
        visitor.descriptors = list(descriptors[:2])
        self.boots.add(offer.boot)
        listeners = descriptors[2:]
        if len(listeners) != len(offer.listeners):
            for fd in listeners:
                os.close(fd)
            return
        for text, named, fd in zip(offer.listeners, offer.bound_as, listeners, strict=True):
            if text in self._listeners or self._begun:
                os.close(fd)  # the same one, by another worker
            else:
                self._listeners[text] = named, socket.socket(fileno=fd)

    def _dismiss(self, visitor: _Visitor) -> None:
        fd = visitor.channel.fileno()
        if self._visitors.pop(fd, None) is not None:
            if self._begun:
                self._reactor.unregister(fd)
            visitor.channel.close()
            for one in visitor.descriptors:
                os.close(one)

    # On the keeper's loop.

    def _accept(self, _events: int) -> None:
        assert self._listener is not None
        while (sock := rendezvous.accept(self._listener)) is not None:
            self._watch(self._meet(sock))

    def _watch(self, visitor: _Visitor) -> None:
        self._reactor.register(visitor.channel.fileno(), lambda _events: self._hear(visitor))

    def _hear(self, visitor: _Visitor) -> None:
        while visitor.channel.fileno() in self._visitors:
            packet = self._receive(visitor)
            if packet is None:
                return
            match packet.message:
                case Stranded() as offer if not packet.truncated:
                    self._note(visitor, offer, packet.descriptors)
                    self._give(visitor)
                    return
                case Detached() as parcel:
                    self._take(visitor, packet, parcel)
                case _:
                    packet.close()
                    self._dismiss(visitor)

    def _give(self, visitor: _Visitor) -> None:
        """Make it a worker of this keeper: its channel is the worker's from here on."""
        assert visitor.offer is not None
        fd = visitor.channel.fileno()
        del self._visitors[fd]
        self._reactor.unregister(fd)
        memfd, wake = visitor.descriptors
        self._adopter.adopt(visitor.offer, visitor.channel, memfd, wake)

    def _take(self, visitor: _Visitor, packet: Packet, parcel: Detached) -> None:
        """A process that a `fork` worker has forked gives up its connection."""
        worker = self._adopter.pool.serving_in(visitor.pid)
        if worker is None:
            _log.warning("refused a connection of an unknown process", pid=visitor.pid)
            packet.close()
            with contextlib.suppress(OSError):
                self._dismiss(visitor)
        else:
            self._adopter.pool.hearing.take(worker, packet, parcel)
