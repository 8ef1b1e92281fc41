"""The `prefork` model: a process serves one connection after another."""

from __future__ import annotations

import threading
import time
import traceback
from typing import Final, NoReturn

from socketkeep._base import _log
from socketkeep._base._forking import leave
from socketkeep._stream._lease import Order
from socketkeep._stream._record import Record
from socketkeep._stream._shell import Shell
from socketkeep._worker._entry import Entry
from socketkeep._worker._sync import LoopDrainSignal, SyncLoop, go_on_without, run_handler

_LOOK_EVERY: Final = 1.0  # seconds, whether an order to finish has become another


class PreforkModel:
    """Serves in the loop's own thread; while it does, receives listen to the keeper too."""

    def __init__(self, loop: SyncLoop) -> None:
        self._loop = loop
        self._entry: Entry | None = None  # which is being served
        self.drain_signal = _ChannelDrainSignal(loop)

    @property
    def busy(self) -> bool:
        return False

    @property
    def patience(self) -> float | None:
        return None

    def take_over(self) -> None:
        """The loop accepts."""
        self._loop.have_cast()

    def serve(self, entry: Entry) -> None:
        self._entry = entry
        run_handler(self._loop, entry, self._loop.lingering)
        self._loop.done(entry)

    def resume(self) -> None:
        """Nothing ever waits."""

    def retire(self, order: Order) -> None:
        """Nothing to do: the receive that waits reads the channel itself."""

    def rejoin(self) -> bool:
        return False  # the loop, in this process, does

    def give_up(self, conn: Shell) -> NoReturn:
        """End the worker: whoever is to be served next must not wait for this handler."""
        status = 1 if self._loop.order is None else 0  # it was to end all the same
        try:
            assert self._entry is not None
            if not go_on_without(self._loop, self._entry, conn):
                run_handler(self._loop, self._entry)
            self._loop.done(self._entry)
            self._loop.wind_up()
        except BaseException:
            status = 1
            _log.error("worker failed", traceback=traceback.format_exc())
        finally:
            leave(status)

    def cut(self, words: Record) -> None:
        """Nothing to do: who does not hear of it is not heard either, and the keeper ends it."""

    def force(self) -> None:
        """Nothing is open when the loop gets here; a handler that does not end, the keeper ends."""


class _ChannelDrainSignal(LoopDrainSignal):
    def __init__(self, loop: SyncLoop) -> None:
        super().__init__(loop)
        self.wake_fd = loop.environment.channel.fileno()
        self._look_at = 0.0
        # A thread of the handler's that sends asks for the order, too.
        self._looking = threading.Lock()

    @property
    def order(self) -> Order | None:
        order = self._loop.link.order
        if order is None or order.how != "finish" or time.monotonic() < self._look_at:
            return order
        # A peer that asks on and on leaves no time to wait, in which `woken` would be called.
        self._look_at = time.monotonic() + _LOOK_EVERY
        self.woken()
        return self._loop.order

    def woken(self) -> None:
        if self._looking.acquire(blocking=False):
            try:
                self._loop.link.read()
            finally:
                self._looking.release()
