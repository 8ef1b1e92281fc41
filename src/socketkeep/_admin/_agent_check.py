"""The answers to HAProxy's agent checks: whether this node takes connections, and how many more.

The keeper answers by itself: what it says is a line that it knows, and what comes is not read.
"""

from __future__ import annotations

from typing import Final

from socketkeep._base import _log
from socketkeep._keeper._inheritance import saved_listener
from socketkeep._keeper._keeper import Keeper
from socketkeep._keeper.loop._closer import LingeringCloser
from socketkeep._keeper.loop._reactor import Reactor
from socketkeep._keeper.tables import _seats
from socketkeep._keeper.tables._state import KeepOpen, SavedListener
from socketkeep._net._listener import Listener

#: How many are answered in a row, and how many answers may wait for their reader to end.
_AT_ONCE: Final = 16
_MOST: Final = 64
_PAUSE: Final = 1.0  # seconds without answers, when the process is out of descriptors
#: Also where each seat is taken: were it 0 on all nodes, a proxy would refuse who could wait.
_LEAST: Final = 1


def readiness(keeper: Keeper) -> str:
    """Return what an agent check is told: "up ready 75%", "drain", or "down" and why."""
    if keeper.order is not None or keeper.paused:
        return "drain"
    if keeper.current is None:
        return "down #starting"
    if not keeper.accepting:
        return "down #no worker is ready"
    return f"up ready {_free(keeper)}%"


def _free(keeper: Keeper) -> int:
    """Return which part of the seats is free, in percent; 100 where their number has no bound."""
    generation, config = keeper.current, keeper.config
    assert generation is not None
    workers = [each for each in keeper.pool.of_generation(generation.number) if each.is_ready]
    taken = sum(each.load for each in keeper.pool)
    total = config.max_connections
    if total:
        taken += len(keeper.connections)
    else:
        each = _seats.seats_of_model(generation.model, config.threads)
        if each == _seats.UNBOUNDED:
            return 100
        total = each * len(workers)
    return max(_LEAST, min(100, (total - taken) * 100 // total))


class AgentCheck:
    """Answers whoever connects to `listener` with a line, and ends the connection."""

    def __init__(self, keeper: Keeper, reactor: Reactor, listener: Listener) -> None:
        self._keeper = keeper
        self._reactor = reactor
        self._listener = listener
        self._closer = LingeringCloser(reactor)
        self._open = True
        self._throttle = _log.Throttle()
        listener.sock.setblocking(False)
        reactor.register(listener.fileno(), self._ready)

    def snapshot(self, keep: KeepOpen) -> SavedListener:
        """Return what the next version of the server goes on from."""
        return saved_listener(self._listener, keep)

    def close(self) -> None:
        """Answer nobody any more."""
        self._open = False
        self._reactor.unregister(self._listener.fileno())
        self._listener.close()
        self._closer.finish_all()

    def _ready(self, _events: int) -> None:
        answer = readiness(self._keeper).encode() + b"\n"
        for _ in range(_AT_ONCE):
            try:
                sock, _peer = self._listener.sock.accept()
            except BlockingIOError:
                return
            except OSError as error:
                self._pause(error)
                return
            if len(self._closer) >= _MOST:
                sock.close()
                continue
            try:
                sock.setblocking(False)
                sock.send(answer)  # it fits: nothing has been sent before
            except OSError:
                sock.close()  # who asked has gone
            else:
                self._closer.close(sock, _nothing)

    def _pause(self, error: OSError) -> None:
        self._throttle.warning("agent checks are not answered", error=error.strerror)
        self._reactor.unregister(self._listener.fileno())

        def resume() -> None:
            if self._open:
                self._reactor.register(self._listener.fileno(), self._ready)

        self._reactor.call_later(_PAUSE, resume)


def _nothing() -> None:
    """Nobody waits for the end of a check."""
