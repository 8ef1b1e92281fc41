"""Taking over the workers that a keeper has left behind when it died.

They wait at the rendezvous (`_wire/_rendezvous.py`).  First, before this keeper listens anywhere,
those that can be found give it their listeners, so that no address is bound twice and no queue is
lost.  Then they become workers of this keeper that are to be retired: their connections move to its
own workers as in a reload, or are drained.
"""

from __future__ import annotations

import os
import select
import socket
import time
from dataclasses import dataclass
from typing import Final, Protocol

import msgspec

from socketkeep._base import _log
from socketkeep._base._address import InetAddress, UnixAddress, local_text, parse_bind
from socketkeep._base._errors import AddressError
from socketkeep._base._passing import Unfit
from socketkeep._keeper.loop._reactor import Reactor, ReactorTimer
from socketkeep._keeper.workers._pool import WorkerPool
from socketkeep._wire import _rendezvous as rendezvous
from socketkeep._wire._channel import Channel, ChannelClosed, Garbled, Packet
from socketkeep._wire._descriptors import listener_place, require_event
from socketkeep._wire._messages import ConnectionDetached, OpenLine, ReattachOffer, Registered
from socketkeep._wire._scoreboard import LAST_BOOT, Scoreboard

_LOOK_AGAIN: Final = 0.1


#: How many may be here at a time, not having said all; those that follow wait at the door.
_MOST_VISITORS: Final = 1024
#: Seconds that one has to say what it came for.
_PATIENCE: Final = 10.0


class Adopter(Protocol):
    """The keeper that takes the workers over."""

    pool: WorkerPool

    def adopt(self, offer: ReattachOffer, channel: Channel) -> None: ...


@dataclass(eq=False, slots=True)
class _Visitor:
    """A process that has been met: a worker, or one that a `fork` worker has forked."""

    channel: Channel
    pid: int
    offer: ReattachOffer | None = None  # of which it has the scoreboard and the event
    timer: ReactorTimer | None = None

    def rest(self) -> None:
        """It is not waited for any more."""
        if self.timer is not None:
            self.timer.cancel()

    def close(self) -> None:
        """Let it be alone again."""
        self.rest()
        self.channel.close()
        if self.offer is not None:
            os.close(self.offer.scoreboard)
            os.close(self.offer.wake)


class Adoption:
    """The workers in `directory` that have no keeper, and those that come there later."""

    def __init__(self, directory: str, owner: int | None = None) -> None:
        """owner: the uid of the workers, where it is another than this process's."""
        self.boots: set[int] = set()  # under which they accepted what they serve
        self._directory = directory
        self._owner = owner
        self._listener: socket.socket | None = None
        self._visitors: dict[int, _Visitor] = {}
        self._seen: set[str] = set()
        self._throttle = _log.Throttle()
        self._listeners: dict[str, tuple[str, socket.socket]] = {}  # by address: bound as, socket

    def open(self) -> None:
        """Listen for those that come later.  Raises OSError."""
        self._listener = rendezvous.listen(self._directory, rendezvous.KEEPER, self._owner)

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
                    self._hear_early(visitor)

    @property
    def scoreboards(self) -> set[int]:
        """The inodes of the scoreboards of those that have come."""
        offers = [visitor.offer for visitor in self._visitors.values()]
        return {os.fstat(offer.scoreboard).st_ino for offer in offers if offer is not None}

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
            if len(self._visitors) >= _MOST_VISITORS:
                return
            sock = rendezvous.connect(self._directory, name, self._owner)
            if sock is None:
                rendezvous.leave(self._directory, name)  # of a process that has died, too
            else:
                self._seen.add(name)
                self._meet(sock)
        while (sock := self._next()) is not None:
            self._meet(sock)

    def _next(self) -> socket.socket | None:
        if self._listener is None or len(self._visitors) >= _MOST_VISITORS:
            return None
        return rendezvous.accept(self._listener, self._owner)

    def _meet(self, sock: socket.socket) -> _Visitor:
        pid = rendezvous.peer_pid(sock)
        visitor = self._visitors[sock.fileno()] = _Visitor(Channel(sock, wary=True), pid)
        return visitor

    def _hear_early(self, visitor: _Visitor) -> None:
        """Hear an offer before the loop runs; what is none keeps nobody else out."""
        packet = self._receive(visitor)
        if packet is None:
            return
        try:
            if isinstance(packet.message, Registered | OpenLine):
                self._dismiss(visitor)  # it comes again, when its worker is known
                return
            if not isinstance(packet.message, ReattachOffer) or packet.truncated:
                raise Unfit("it offers nothing")
            self._note(visitor, packet.message, packet)
        except (Unfit, OSError) as error:
            self._send_away(visitor, error)
        finally:
            packet.close()

    def _receive(self, visitor: _Visitor) -> Packet | None:
        try:
            return visitor.channel.receive()
        except ChannelClosed:
            self._dismiss(visitor)
        except Garbled as error:
            self._send_away(visitor, error)
        return None

    def _send_away(self, visitor: _Visitor, error: Exception) -> None:
        self._throttle.warning("a process was not taken over", pid=visitor.pid, error=error)
        self._dismiss(visitor)

    def _note(self, visitor: _Visitor, offer: ReattachOffer, packet: Packet) -> None:
        """Take an offer whose every part is what it is to be.  Raises Unfit, OSError."""
        _check(offer, visitor.pid)
        Scoreboard(offer.scoreboard, wary=True)
        require_event(offer.wake)
        for text, named, fd in zip(offer.listeners, offer.bound_as, offer.sockets, strict=False):
            listener_place(fd)
            _require_address(text, named, fd)
        # Who it is the kernel says.
        visitor.offer = msgspec.structs.replace(offer, pid=visitor.pid)
        packet.take(offer.scoreboard)
        packet.take(offer.wake)
        if offer.boot < LAST_BOOT:  # or this server's would come after the last
            self.boots.add(offer.boot)
        if self._begun:
            return
        for text, named, fd in zip(offer.listeners, offer.bound_as, offer.sockets, strict=False):
            if text not in self._listeners:  # or it is the same one, by another worker
                self._listeners[text] = named, socket.socket(fileno=packet.take(fd))

    def _dismiss(self, visitor: _Visitor) -> None:
        fd = visitor.channel.fileno()
        if self._visitors.pop(fd, None) is not None:
            if self._begun:
                self._reactor.unregister(fd)
            visitor.close()

    # On the keeper's loop.

    def _accept(self, _events: int) -> None:
        assert self._listener is not None
        while (sock := self._next()) is not None:
            self._watch(self._meet(sock))
        if len(self._visitors) >= _MOST_VISITORS:
            self._reactor.unregister(self._listener.fileno())
            self._reactor.call_later(_LOOK_AGAIN, self._open_door)

    def _open_door(self) -> None:
        if self._listener is not None and self._listener.fileno() >= 0:
            self._reactor.register(self._listener.fileno(), self._accept)

    def _watch(self, visitor: _Visitor) -> None:
        self._reactor.register(visitor.channel.fileno(), lambda _events: self._hear(visitor))

        def late() -> None:
            if self._visitors.get(visitor.channel.fileno()) is visitor:
                self._dismiss(visitor)

        visitor.timer = self._reactor.call_later(_PATIENCE, late)

    def _hear(self, visitor: _Visitor) -> None:
        while visitor.channel.fileno() in self._visitors:
            packet = self._receive(visitor)
            if packet is None:
                return
            try:
                match packet.message:
                    case ReattachOffer() as offer if not packet.truncated:
                        self._note(visitor, offer, packet)
                        self._give(visitor)
                        return
                    case ConnectionDetached():
                        self._take(visitor, packet)
                    case Registered() | OpenLine():
                        self._hear_forked(visitor, packet)
                    case _:
                        raise Unfit("it says what nobody says here")
            except (Unfit, OSError) as error:
                self._send_away(visitor, error)
            finally:
                packet.close()

    def _give(self, visitor: _Visitor) -> None:
        """Make it a worker of this keeper: its channel is the worker's from here on."""
        assert visitor.offer is not None
        fd = visitor.channel.fileno()
        del self._visitors[fd]
        visitor.rest()
        self._reactor.unregister(fd)
        try:
            self._adopter.adopt(visitor.offer, visitor.channel)
        except (Unfit, OSError) as error:
            self._throttle.warning("a process was not taken over", pid=visitor.pid, error=error)
            visitor.close()

    def _take(self, visitor: _Visitor, packet: Packet) -> None:
        """A process that a `fork` worker has forked gives up its connection."""
        worker = self._adopter.pool.serving_in(visitor.pid)
        if worker is None:
            raise Unfit("it serves no connection of a worker that is known")
        self._adopter.pool.dispatch.hear(worker, packet)

    def _hear_forked(self, visitor: _Visitor, packet: Packet) -> None:
        """Such a process says what its connection is called, or opens a line.

        It comes again, at the end of the line that it was to have, until its worker is known.
        """
        worker = self._adopter.pool.serving_in(visitor.pid)
        if worker is None:
            self._dismiss(visitor)
        else:
            self._adopter.pool.dispatch.hear(worker, packet)


def _check(offer: ReattachOffer, pid: int) -> None:
    listeners = len(offer.listeners)
    if len(offer.sockets) not in (0, listeners):
        raise Unfit(f"it offers {len(offer.sockets)} sockets for {listeners} listeners")
    if len(offer.bound_as) != listeners:
        raise Unfit("it does not say of each listener how it was bound")
    if not 0 < offer.boot <= LAST_BOOT:
        raise Unfit(f"there can be no boot {offer.boot}")
    if pid <= 0:
        raise Unfit("it is in a namespace of processes that cannot be seen from here")


def _require_address(text: str, named: str, fd: int) -> None:
    """Raise Unfit unless the listener has the address that it is said to have, by both names."""
    sock = socket.socket(fileno=fd)
    try:
        found = local_text(sock)
    finally:
        sock.detach()
    if found != text:
        raise Unfit(f"the listener {text[:100]!r} was to come, not {found!r}")
    try:
        bound_as = parse_bind(named) if named else None
    except AddressError as error:
        raise Unfit(str(error)) from None
    port = text.rpartition(":")[2]
    match bound_as:
        case InetAddress(port=wanted) if wanted and str(wanted) != port:
            raise Unfit(f"the listener {text!r} was not bound as {named[:100]!r}")
        case UnixAddress() if not text.startswith("unix:"):
            raise Unfit(f"the listener {text!r} was not bound as {named[:100]!r}")
