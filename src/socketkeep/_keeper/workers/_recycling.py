"""Replacing workers that have become too old or too big, or that ask for it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from socketkeep._base import _log
from socketkeep._config._server_options import ServeConfig
from socketkeep._keeper.loop._reactor import Reactor
from socketkeep._keeper.loop._system import System
from socketkeep._keeper.workers._workers import Worker

_EVERY: Final = 1.0


class Recycling:
    """Looks at the workers every second and has one of them replaced, if it is time.

    `candidates` returns the workers that may be; none while workers are being started, so that
    they are replaced one after another.  `replace` starts the worker that takes the other's place
    once it is ready.
    """

    def __init__(
        self,
        reactor: Reactor,
        system: System,
        config: ServeConfig,
        candidates: Callable[[], list[Worker]],
        replace: Callable[[Worker], None],
    ) -> None:
        self._reactor = reactor
        self._system = system
        self._config = config
        self._candidates = candidates
        self._replace = replace
        self._looks = False
        self._worn: dict[Worker, str] = {}  # with the reason that they gave

    @property
    def _limited(self) -> bool:
        return bool(self._config.worker_lifetime or self._config.worker_max_rss)

    def start(self) -> None:
        """Begin to look, if there is a limit to look at."""
        if self._limited:
            self._look_later()

    def use(self, config: ServeConfig) -> None:
        """Go by these options from now on; workers that are there live as long as they were to."""
        self._config = config
        self.start()

    def _look_later(self) -> None:
        if not self._looks:
            self._looks = True
            self._reactor.call_later(_EVERY, self._look)

    def ask(self, worker: Worker, reason: str) -> None:
        """Have a worker that says that it is worn replaced when its turn comes."""
        self._worn[worker] = reason
        if not self._looks:
            self._looks = True
            self._reactor.call_soon(self._look)

    def expiry(self) -> float:
        """Return when a worker that is ready now will have lived long enough."""
        lifetime = self._config.worker_lifetime
        if not lifetime:
            return float("inf")
        import random  # with hashlib behind it: for who has a lifetime alone

        jitter = random.uniform(0, self._config.worker_lifetime_jitter)
        return self._reactor.clock() + lifetime + jitter

    def _look(self) -> None:
        self._looks = False
        self._worn = {w: why for w, why in self._worn.items() if w.is_ready}
        if self._worn or self._limited:
            self._look_later()
        for worker in self._candidates():
            reason = self._reason(worker)
            if reason:
                _log.info("recycling worker", reason=reason, **worker.label)
                self._replace(worker)
                return

    def _reason(self, worker: Worker) -> str:
        if worker in self._worn:
            return self._worn[worker]
        if self._reactor.clock() >= worker.expires_at:
            return "lifetime"
        limit = self._config.worker_max_rss
        if limit and self._system.resident_bytes(worker.pid) > limit:
            return "memory"
        return ""
