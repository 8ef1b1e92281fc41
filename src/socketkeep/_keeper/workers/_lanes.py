"""The lanes of the census: each worker counts its connections in one of its own."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Final

from socketkeep._base import _log
from socketkeep._config._address_lists import AddressLists
from socketkeep._config._chosen import counts_by_address
from socketkeep._config._server_options import DEFAULT_WORKERS, ServeConfig, listener_settings
from socketkeep._keeper.workers._workers import Worker
from socketkeep._stream import _record as record
from socketkeep._wire._census import KEEPERS_LANE, Census, create_memfd
from socketkeep._wire._doorkeeper import Doorkeeper

#: Lanes by worker: for those of a reload beside those of the one before, and for more workers
#: than the server began with.
_BY_WORKER: Final = 4
_FEWEST: Final = 64


class Lanes:
    """The keeper's side of the census, which it makes, or has from the version before."""

    def __init__(
        self, config: ServeConfig, listeners: int, memfd: int, lists: AddressLists
    ) -> None:
        """Go on with the census in `memfd`, or, where that is -1 and one is needed, make one.

        Raises OSError.
        """
        self._listeners = listeners
        self._throttle = _log.Throttle()
        self.memfd = memfd
        self._census = Census(memfd, KEEPERS_LANE) if memfd >= 0 else None
        if self._census is not None:
            self._census.clear(KEEPERS_LANE)  # what is held by then is counted anew
        self.prepare(config)
        self.doorkeeper = Doorkeeper.of(config, listeners, self._census, lists)

    def prepare(self, config: ServeConfig) -> None:
        """Make a census if workers that go by these options need one, and there is none.

        Raises OSError.
        """
        if self.memfd < 0 and counts_by_address(listener_settings(config, self._listeners)):
            workers = config.workers or max(DEFAULT_WORKERS.values())
            self.memfd = create_memfd(max(_FEWEST, _BY_WORKER * workers))
            self._census = Census(self.memfd, KEEPERS_LANE)

    def use(self, config: ServeConfig, lists: AddressLists) -> None:
        """Go by these options from now on; what has been counted stays so."""
        self.doorkeeper = Doorkeeper.of(config, self._listeners, self._census, lists)

    @property
    def paces(self) -> bool:
        """Return whether there is a rate to hold at the accept."""
        return self.doorkeeper is not None and self.doorkeeper.paces

    def assign(self, workers: Iterable[Worker]) -> int:
        """Return a lane that none of these has, with nothing in it; 0: there is none."""
        if self._census is None:
            return 0
        taken = {worker.lane for worker in workers} | {KEEPERS_LANE}
        lane = next((each for each in range(self._census.lanes) if each not in taken), 0)
        if lane:
            self._census.clear(lane)
        else:
            self._throttle.warning(
                "a worker does not heed the limits by address: more workers than at the start"
                " need a restart of the server"
            )
        return lane

    def worker_died(self, worker: Worker, of: Collection[int]) -> None:
        """Forget what a worker that was reaped has counted, but for what these pids still serve."""
        if self._census is None or self.doorkeeper is None or not worker.lane:
            return
        self._census.clear(worker.lane)
        if not of:
            return
        for row, words in worker.scoreboard.taken():
            if words[record.PID] in of and words[record.ENDED] == record.Ended.NOT_YET:
                listener = worker.listener(record.listener_in(words))
                if 0 <= listener < self._listeners:
                    peer = worker.scoreboard.peer(row)
                    self.doorkeeper.count(peer, listener, worker.lane)
