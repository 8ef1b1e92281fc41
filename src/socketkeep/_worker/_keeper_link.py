"""The worker's side of its channel: what the keeper says, and what is done when it has gone.

Written once for both loops; what they do differently is the `WorkerLoop`'s.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Final, Protocol

from socketkeep._base import _log
from socketkeep._stream._lease import WHY_OF, Order
from socketkeep._wire._channel import PASSED, ChannelClosed, Packet
from socketkeep._wire._messages import (
    ABSENT,
    Acknowledged,
    Attach,
    Attached,
    AttachRefused,
    CloseListeners,
    Deliver,
    Disconnect,
    GiveUp,
    NameTaken,
    Ping,
    Ready,
    Retire,
    Seats,
    Told,
    Worn,
)
from socketkeep._wire._parcels import GivenConnection, read_given
from socketkeep._worker._accepting import Allowance
from socketkeep._worker._entry import Entry
from socketkeep._worker._environment import Environment
from socketkeep._worker._reattach import ON_THEIR_OWN, Reattach
from socketkeep._worker._roster import Roster

#: A timer may be over so many seconds before its time.
_EARLY: Final = 0.001


#: Seconds after which a connection that waits is idle, as far as another worker may have it.
IDLE: Final = 0.2


class WorkerLoop(Protocol):
    """The loop of a worker, as the link to its keeper uses it."""

    roster: Roster

    def watch(self, fd: int, call: Callable[[], None]) -> None:
        """Call when `fd` is readable."""

    def unwatch(self, fd: int) -> None: ...

    def hears_more(self, heard: int) -> bool:
        """Return whether the next packet is to be read at once, after so many."""

    def attached(self, entry: Entry) -> None:
        """Serve a connection that the keeper has given."""

    def close_listeners(self) -> None: ...

    def retire(self, order: Order) -> None:
        """Have the connections given up as the order says."""

    def answered(self, message: Acknowledged | None) -> None:
        """The keeper has what it was given, or has not; None: it has gone, and will not say."""

    def obey_post(self, message: Deliver | NameTaken | Told) -> None:
        """The keeper has said something about names, or what is pushed."""

    def disconnect(self, message: Disconnect) -> None:
        """End one connection, if it is served here."""

    def give_up_idle(self, count: int) -> None:
        """Detach up to so many connections that wait at a safe point, for other workers."""

    def met_keeper(self) -> None:
        """Another keeper has taken this worker over."""

    def look(self) -> None:
        """See what may be accepted now, and whether this is the end."""

    def look_at(self, when: float) -> None:
        """Do that at that moment, too."""


class KeeperLink:
    """Does what the keeper says; when it has gone, looks for another.

    order: how the worker is to end.  more: though there is an order, connections are still to come.
    alone: there is no keeper.
    """

    def __init__(self, environment: Environment, allowance: Allowance, loop: WorkerLoop) -> None:
        self.order: Order | None = None
        self.more = False
        self.alone = False
        self.held_until = 0.0  # so long the listeners stay open though nothing is accepted
        self._environment = environment
        self._channel = environment.channel
        self._allowance = allowance
        self._loop = loop
        self._reattach: Reattach | None = None

    def start(self) -> None:
        """Say that this worker can serve, and listen.  Raises ChannelClosed."""
        self._loop.watch(self._channel.fileno(), self.read)
        self._channel.send_now(Ready(os.getpid()))

    def read(self) -> None:
        """Do what the keeper has said since; without one, look for another."""
        if self.alone:
            self._look_for_keeper()
            self.holds_listeners()  # in `prefork` the loop itself may stand still
            return
        heard = 0
        try:
            while (packet := self._channel.receive(self._attach_given)) is not None:
                if packet is not PASSED:
                    try:
                        self._act_on(packet)
                    finally:
                        packet.close()
                heard += 1
                if not self._loop.hears_more(heard):
                    return
        except ChannelClosed:
            self._keeper_gone()

    def ask_to_be_replaced(self, reason: str) -> None:
        """Have the keeper start another worker in this one's place, and then retire this one."""
        with suppress(ChannelClosed, OSError):
            self._channel.send_now(Worn(reason))

    def retire(self, order: Order, *, more: bool = False) -> None:
        """End by that order."""
        self.more = more
        self._give_out(order)
        self._close_listeners()
        self._loop.look()

    def holds_listeners(self) -> bool:
        """Return whether what waits to be accepted waits for another keeper.

        If not, let go of it.
        """
        if self.held_until and time.monotonic() + _EARLY >= self.held_until:
            self._close_listeners()
        return self.held_until > 0.0

    def forget(self) -> None:
        """Let go, in a forked child, of what is its parent's."""
        if self._reattach is not None:
            self._reattach.forget()

    def close(self) -> None:
        if self._reattach is not None:
            self._reattach.close()

    def _act_on(self, packet: Packet) -> None:
        match packet.message:
            case Seats() as seats:
                self._allowance.told(seats)
                self._loop.look()
            case CloseListeners():
                self._allowance.told(Seats(0))
                self._loop.look()
                self._close_listeners()
            case Retire(how=how, deadline=deadline, more=more) as message:
                why = message.why or WHY_OF[how]
                order = Order(how, deadline, why, message.begins, message.apart)
                self.retire(order, more=more)
            case Attach() as message:
                if message.connection == ABSENT:
                    self._refuse(message.id, message.epoch, "out of file descriptors")
                else:
                    self._attach(message, packet.descriptors)
            case Ping():
                self._environment.scoreboard.beat()
            case Acknowledged() as message:
                self._loop.answered(message)
            case (Deliver() | NameTaken() | Told()) as message:
                self._loop.obey_post(message)
            case Disconnect() as message:
                self._loop.disconnect(message)
            case GiveUp(count=count):
                if self.order is None:
                    self._loop.give_up_idle(count)
            case None:
                self._refuse("", 0, "out of file descriptors")

    def _attach_given(self, payload: bytes, descriptors: list[int]) -> bool:
        """Serve a connection that the keeper gives, where C can make it of the message's bytes."""
        if len(descriptors) != 1:
            return False
        given = read_given(GivenConnection, payload)
        if given is None or not self._loop.roster.casts(given.listener):
            return False
        try:
            self._attach(given, descriptors)
        finally:
            while descriptors:
                os.close(descriptors.pop())
        return True

    def _attach(self, message: Attach | GivenConnection, descriptors: list[int]) -> None:
        """Serve a connection that has come; who has received the descriptor closes it, if left."""
        entry = None
        if self.order is None or self.more:
            entry = self._loop.roster.attached(message, descriptors.pop())
        if entry is None:
            self._refuse(message.id, message.epoch, "no seat")
            return
        if not message.taken:
            # Before a byte is read: until this arrives the keeper may give it to another.  One that
            # has died gives nothing, and the next one believes the row.
            with suppress(ChannelClosed):
                self._channel.send_now(Attached(message.id, message.epoch, entry.row))
        self._loop.attached(entry)
        self._loop.look()

    def _refuse(self, name: str, epoch: int, reason: str) -> None:
        self._allowance.refuse()
        self._channel.send_now(AttachRefused(name, epoch, reason))

    def _give_out(self, order: Order) -> None:
        self.order = order
        self._allowance.accept_no_more()
        self._loop.retire(order)

    def _close_listeners(self) -> None:
        self.held_until = 0.0
        self._loop.close_listeners()

    def _keeper_gone(self) -> None:
        self.alone = True
        self.more = False
        self._loop.unwatch(self._channel.fileno())
        if self.order not in (None, ON_THEIR_OWN) and self.order.how != "move":
            self._loop.answered(None)
            self._loop.look()
            return  # it has its order, and needs nobody to carry it out
        _log.error("the keeper is gone: serving what is open, then ending")
        waiting = self.order is None or self.held_until > 0.0
        self._give_out(ON_THEIR_OWN)
        self._loop.answered(None)
        self._reattach = reattach = Reattach(self._environment)
        if reattach.fileno() >= 0:
            self._loop.watch(reattach.fileno(), self._look_for_keeper)
        if waiting and reattach.fileno() >= 0:
            # Connections that wait to be accepted are for the next keeper, if there is one.
            self.held_until = time.monotonic() + self._environment.config.orphan_timeout
            self._loop.look_at(self.held_until)
        else:
            self._close_listeners()
        self._look_for_keeper(first=True)
        self._loop.look()

    def _look_for_keeper(self, *, first: bool = False) -> None:
        reattach = self._reattach
        if reattach is None or not reattach.meet(first=first):
            return
        self._loop.unwatch(reattach.fileno())
        reattach.close()
        self._reattach = None
        self.alone = False
        if self.held_until:
            self.held_until = float("inf")  # from here on the keeper says
        self._loop.watch(self._channel.fileno(), self.read)
        self._loop.met_keeper()
        self.read()
