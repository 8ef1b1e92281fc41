"""The `prefork` model: a process serves one connection after another."""

from __future__ import annotations

from socketkeep._assignment import Order
from socketkeep._worker._roster import Entry
from socketkeep._worker._sync import SyncLoop, run_handler


class PreforkModel:
    """Serves in the loop's own thread; while it does, receives listen to the keeper too."""

    def __init__(self, loop: SyncLoop) -> None:
        self._loop = loop
        self.retirement = _ChannelRetirement(loop)

    def serve(self, entry: Entry) -> None:
        run_handler(self._loop, entry)
        self._loop.done(entry)

    def resume(self) -> None:
        """Nothing ever waits."""

    def retire(self, order: Order) -> None:
        """Nothing to do: the receive that waits reads the channel itself."""

    def force(self) -> None:
        """Nothing is open when the loop gets here; a handler that does not end, the keeper ends."""


class _ChannelRetirement:
    def __init__(self, loop: SyncLoop) -> None:
        self._loop = loop
        self.wake_fd = loop.environment.channel.fileno()

    @property
    def order(self) -> Order | None:
        return self._loop.order

    @property
    def crowded(self) -> bool:
        return self._loop.crowded

    def woken(self) -> None:
        self._loop.read_channel()
