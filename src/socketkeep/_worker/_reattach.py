"""A worker whose keeper has died: how another keeper finds it and takes it over."""

from __future__ import annotations

import os
import socket
import time
from dataclasses import replace
from typing import Final

from socketkeep._base import _log
from socketkeep._stream._lease import DrainSignal, Order
from socketkeep._stream._record import Record
from socketkeep._wire import _rendezvous as rendezvous
from socketkeep._wire._channel import ChannelClosed
from socketkeep._wire._messages import ReattachOffer
from socketkeep._worker._environment import Environment

#: What is being served goes on: a keeper's death must end no connection.
ON_THEIR_OWN: Final = Order("finish", float("inf"))
#: For so long a connection that could not be given away is served on before that is tried again.
ANOTHER_TRY: Final = 1.0


class Reattach:
    """Waits at the rendezvous for a keeper; `meet` is to be called when `fileno` is readable."""

    def __init__(self, environment: Environment) -> None:
        self._environment = environment
        self._name = f"{os.getpid()}.sock"
        self._listener: socket.socket | None = None
        directory = environment.rendezvous
        if not directory:
            return
        try:
            self._listener = rendezvous.listen(directory, self._name)
        except OSError as error:
            _log.warning("cannot be taken over by another keeper", error=str(error))

    def fileno(self) -> int:
        """Return the descriptor to watch, -1 when there is none."""
        return -1 if self._listener is None else self._listener.fileno()

    def meet(self, *, first: bool = False) -> bool:
        """Offer this worker to a keeper, if there is one; the channel then leads to that keeper.

        True: there was, and this is to be closed.
        first: this one may have come later than the keeper's look around.
        """
        if self._listener is None:
            return False
        sock = rendezvous.accept(self._listener)
        if sock is None and first:
            sock = rendezvous.connect(self._environment.rendezvous, rendezvous.KEEPER)
        if sock is None:
            return False
        self._environment.channel.renew(sock)
        try:
            self._offer()
        except ChannelClosed:
            return False
        except OSError as error:
            _log.warning("cannot be taken over by another keeper", error=str(error))
            return False
        _log.info("offered to another keeper")
        return True

    def close(self) -> None:
        """Wait no longer."""
        if self._listener is not None:
            self.forget()
            rendezvous.leave(self._environment.rendezvous, self._name)

    def forget(self) -> None:
        """Let go in a forked child: the place is its parent's."""
        if self._listener is not None:
            self._listener.close()
            self._listener = None

    def _offer(self) -> None:
        environment = self._environment
        config, handler = environment.config, environment.handler
        passed = len(environment.listener_names) - len(config.bind)
        offer = ReattachOffer(
            boot=environment.boot,
            serial=environment.serial,
            slot=environment.slot,
            generation=environment.generation,
            pid=os.getpid(),
            target=config.target,
            model=environment.model,
            resumable=handler.resumable,
            on_crash=handler.on_crash,
            redeliver=handler.redeliver,
            listeners=environment.listener_names,
            bound_as=[""] * passed + environment.bound_as,
            scoreboard=environment.scoreboard_fd,
            wake=environment.wake,
            sockets=[one.fileno() for one in environment.listeners if one.fileno() >= 0],
        )
        environment.channel.send_now(offer)


class Patience:
    """A drain signal that for a while takes an order to move for one to finish.

    For a connection that was to move when the keeper was gone: served on as before, it would leave
    again at its first receive, and never come to serve its peer.
    """

    def __init__(self, drain_signal: DrainSignal) -> None:
        self._drain_signal = drain_signal
        self._until = time.monotonic() + ANOTHER_TRY

    @property
    def wake_fd(self) -> int:
        return self._drain_signal.wake_fd

    @property
    def order(self) -> Order | None:
        order = self._drain_signal.order
        if order is not None and order.how == "move" and time.monotonic() < self._until:
            return replace(order, how="finish")
        return order

    def asked(self, record: Record) -> Order | None:
        order = self._drain_signal.asked(record)
        return None if order is not None and order.how == "move" else order

    @property
    def crowded(self) -> bool:
        return time.monotonic() >= self._until and self._drain_signal.crowded

    @property
    def full(self) -> bool:
        return self._drain_signal.full

    def is_awaited(self) -> bool:
        return time.monotonic() >= self._until and self._drain_signal.is_awaited()

    def woken(self) -> None:
        self._drain_signal.woken()
