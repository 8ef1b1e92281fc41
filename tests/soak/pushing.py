"""Pushes to the named clients, from any of the servers: each is told of, and none comes twice."""

from __future__ import annotations

import random
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from socketkeep import Client as Pushes
from socketkeep import SocketkeepError
from tests.soak.clients import Named

#: Outcomes after which a message may have come; "failed": the server ended before it had answered.
_MAY_HAVE_COME: Final = frozenset({"delivered", "uncertain", "failed"})
TIMEOUT: Final = 3.0


class Pusher:
    """Pushes a number to one of the clients after the other, in a thread; a context manager."""

    def __init__(
        self, clients: Sequence[Named], controls: Sequence[Path], pause: float, drawn: random.Random
    ) -> None:
        self.outcomes: dict[str, dict[int, str]] = defaultdict(dict)
        self._clients = clients
        self._controls = controls
        self._pause = pause
        self._drawn = drawn
        self._ends = threading.Event()
        self._turn = threading.Lock()
        self._thread = threading.Thread(target=self._run, name="pusher", daemon=True)

    def __enter__(self) -> Self:
        if self._clients:
            self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.end()

    def end(self) -> None:
        """Push no more."""
        self._ends.set()
        if self._thread.is_alive():
            self._thread.join()

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Push nothing for the time of the block."""
        with self._turn:
            yield

    @property
    def told(self) -> Counter[str]:
        """How many pushes had each outcome."""
        return Counter(told for of in self.outcomes.values() for told in of.values())

    def _run(self) -> None:
        number = 0
        while not self._ends.wait(self._drawn.expovariate(1 / self._pause)):
            number += 1
            to, by = self._drawn.choice(self._clients), self._drawn.choice(self._controls)
            with self._turn:
                try:
                    told = Pushes(by).push(to.name, b"push %d\n" % number, timeout=TIMEOUT).outcome
                except (OSError, EOFError, SocketkeepError):
                    told = "failed"
                self.outcomes[to.name][number] = told

    def faults(self) -> list[str]:
        """Return what was lost, repeated, out of order, or came though it was told not to."""
        found = []
        for client in self._clients:
            told, heard = self.outcomes[client.name], client.heard
            counts = Counter(heard)
            lost = sorted(
                number for number, how in told.items() if how == "delivered" and not counts[number]
            )
            twice = sorted(number for number, count in counts.items() if count > 1)
            told_not = sorted(n for n in counts if told.get(n, "failed") not in _MAY_HAVE_COME)
            if lost:
                found.append(f"{client.name}: pushes told delivered and not received: {lost}")
            if twice:
                found.append(f"{client.name}: pushes received twice: {twice}")
            if told_not:
                found.append(
                    f"{client.name}: received, and told {[told[n] for n in told_not]}: {told_not}"
                )
            sure = [number for number in heard if told.get(number) == "delivered"]
            if sure != sorted(sure):
                found.append(f"{client.name}: pushes out of order: {sure}")
        return found


def wait_heard(pusher: Pusher, deadline: float) -> list[str]:
    """Wait until the clients have heard what was told delivered; return the faults by then."""
    until = time.monotonic() + deadline
    while (faults := pusher.faults()) and time.monotonic() < until:
        time.sleep(0.1)  # between two looks: the clients do not announce it
    return faults
