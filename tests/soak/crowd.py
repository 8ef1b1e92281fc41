"""All clients of a soak together: they wait when they are told to, and what they see is judged."""

from __future__ import annotations

import asyncio
import random
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Coroutine, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Final, Self, TypeVar

from tests.soak.clients import PATIENCE, Client, Tally

T = TypeVar("T")

#: Seconds by which a client may learn of an end later than it happened.
SLACK: Final = 3.0
_DEATHS: Final = frozenset({"worker", "keeper", "all"})

#: By the documentation: whose answers may come twice after which events, since the kernel does not
#: count what passes over Unix sockets; and who may be cut, while an answer is owed (a request whose
#: worker dies is not begun again) or at any moment.  A keeper that dies takes nobody along, but a
#: worker that does not come to the next one in time is killed.
_MAY_REPEAT: Final = {"unix": _DEATHS}
_MAY_BE_CUT_BUSY: Final = {"http": _DEATHS}
_MAY_BE_CUT: Final = {
    "named": frozenset({"disconnect"}),
    "tls": frozenset({"edge", "all"}),
}


@dataclass(slots=True)
class _Window:
    kind: str
    began: float
    threatened: frozenset[int] | None  # the ports of those whom it may cut; None: all
    ended: float | None = None


class Crowd:
    """All clients, on a loop in a thread of its own; a context manager.

    What is called from that loop stands behind the rest.
    """

    def __init__(self, seed: int) -> None:
        self.tallies: dict[tuple[str, str], Tally] = defaultdict(Tally)
        self.drawn = random.Random(seed)
        self._windows: dict[str, list[_Window]] = defaultdict(list)
        self._clients: dict[str, list[Client]] = defaultdict(list)
        self._pausing: set[str] = set()
        self._changed = asyncio.Condition()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="crowd", daemon=True)
        self._began = time.monotonic()
        self.over = False

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            self._do(self._end()).result(2 * PATIENCE)
        finally:
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.close()

    def add(self, clients: Sequence[Client]) -> None:
        """Have these clients begin."""
        self._do(self._begin(clients)).result(PATIENCE)

    @contextmanager
    def happening(
        self, sites: Sequence[str], kind: str, threatened: frozenset[int] | None = None
    ) -> Iterator[None]:
        """Note that this happens to these servers until the end of the block.

        threatened: the ports of those clients that it may cut, where only some may be.
        """
        window = _Window(kind, time.monotonic(), threatened)
        for site in sites:
            self._windows[site].append(window)
        try:
            yield
        finally:
            window.ended = time.monotonic()

    @contextmanager
    def waiting(self, site: str, *, renewed: frozenset[str] = frozenset()) -> Iterator[int]:
        """Have all clients of a server wait, connected and answered, for the time of the block.

        Those of the kinds `renewed` come back as new connections first.  Yields how many
        connections there are.  Raises TimeoutError, with who has not come to wait.
        """
        stay = self._do(self._pause(site, renewed)).result(3 * PATIENCE)
        try:
            yield stay
        finally:
            self._do(self._resume(site)).result(PATIENCE)

    @property
    def faults(self) -> list[str]:
        """All that a client saw and should not have seen."""
        return [
            f"{site}, {fault}"
            for (site, _), tally in sorted(self.tallies.items())
            for fault in tally.faults
        ]

    def _do(self, work: Coroutine[Any, Any, T]) -> Future[T]:
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    # On the loop.

    async def _begin(self, clients: Sequence[Client]) -> None:
        for client in clients:
            self._clients[client.site].append(client)
            self.tally(client).clients += 1
            client.task = asyncio.create_task(client.live(self))

    async def _pause(self, site: str, renewed: frozenset[str]) -> int:
        clients = self._clients[site]
        self._pausing.add(site)
        for client in clients:
            client.is_stale = client.kind in renewed
            client.nudged.set()
        try:
            async with asyncio.timeout(2 * PATIENCE):
                await self.wait_while(lambda: not all(client.waits for client in clients))
        except TimeoutError:
            late = ", ".join(str(client) for client in clients if not client.waits)
            raise TimeoutError(f"{site}: not come to wait: {late}") from None
        return sum(client.stays for client in clients)

    async def _resume(self, site: str) -> None:
        self._pausing.discard(site)
        for client in self._clients[site]:
            client.nudged.clear()
        await self.moved()

    async def _end(self) -> None:
        self.over = True
        self._pausing.clear()
        for each in [client for of in self._clients.values() for client in of]:
            each.nudged.set()
        await self.moved()
        tasks = [each.task for of in self._clients.values() for each in of if each.task is not None]
        if tasks:
            _, pending = await asyncio.wait(tasks, timeout=PATIENCE)
            for task in pending:
                task.cancel()
            await asyncio.gather(*tasks)

    # Called by the clients.

    def tally(self, client: Client) -> Tally:
        """Return the tally of clients like this one."""
        return self.tallies[client.site, client.kind]

    def pausing(self, site: str) -> bool:
        """Whether the clients of a server are to wait."""
        return site in self._pausing

    async def moved(self) -> None:
        """Say that something has changed for which others may wait."""
        async with self._changed:
            self._changed.notify_all()

    async def wait_while(self, waits: Callable[[], bool]) -> None:
        """Return when it is not so any more."""
        async with self._changed:
            await self._changed.wait_for(lambda: not waits())

    def may_repeat(self, client: Client) -> bool:
        """Whether an answer to this client may come twice at this moment."""
        return self._just(client.site, _MAY_REPEAT.get(client.kind, frozenset()))

    def may_be_cut(self, client: Client, *, busy: bool, young: bool) -> bool:
        """Whether the connection of this client may end at this moment.

        busy: an answer is owed, or only just out.  young: none has come on it; whatever the keeper
        may not have a handle of yet ends with its worker.
        """
        events = _MAY_BE_CUT.get(client.kind, frozenset())
        if young:
            events |= _DEATHS
        if busy:
            events |= _MAY_BE_CUT_BUSY.get(client.kind, frozenset())
        return self._just(client.site, events, None if young else client.port)

    def _just(self, site: str, events: frozenset[str], port: int | None = None) -> bool:
        now = time.monotonic()
        return any(
            window.kind in events
            and (window.ended is None or now - window.ended < SLACK)
            and (port is None or window.threatened is None or port in window.threatened)
            for window in self._windows[site]
        )

    def say(self, client: Client, fault: str) -> None:
        """Note what a client should not have seen, and what had happened before."""
        now = time.monotonic()
        before = [
            f"{each.kind} {now - each.began:.1f} s before"
            for each in self._windows[client.site][-3:]
        ]
        at = now - self._began
        self.tally(client).faults.append(
            f"{client} at {at:.1f} s: {fault} ({', '.join(before) or 'nothing had happened'})"
        )
