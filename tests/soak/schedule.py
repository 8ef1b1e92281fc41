"""What happens to the servers of a soak, and when: drawn from a seed, the same each time."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

#: Every kind of event, and what it does to a server.
KINDS: Final = {
    "reload": "the code is loaded anew",
    "worker": "SIGKILL of a worker, or of a process that serves one connection",
    "template": "SIGKILL of the template",
    "keeper": "SIGKILL of the keeper, a guard being there",
    "guard": "SIGKILL of the guard; the keeper starts another, and stores all anew",
    "all": "SIGKILL of all processes but the guard, at one instant",
    "edge": "SIGKILL of one of two edges",
    "upgrade": "the keeper and the guard execute the installed version",
    "scale": "another number of workers",
    "certificate": "another certificate in the files of the TLS listener",
    "disconnect": "`socketkeep disconnect` of a named connection",
    "broker": "SIGKILL of the NATS broker, which is started again",
}


@dataclass(frozen=True, slots=True)
class Happening:
    """One event: pause is what passes since the one before has settled, in seconds."""

    site: str
    kind: str
    pause: float


def schedule(
    seed: int, decks: Mapping[str, Mapping[str, int]], every: float
) -> Iterator[Happening]:
    """Yield events without end, about `every` seconds apart.

    decks: for each server how often each kind comes in one deal.  A deal is shuffled and dealt to
    its end before the next, so that none is left out for long.  Raises ValueError for a deck with a
    kind that there is not.
    """
    drawn = random.Random(seed)
    deal = [
        (site, kind)
        for site, deck in decks.items()
        for kind, count in deck.items()
        for _ in range(count)
    ]
    if unknown := {kind for _, kind in deal} - KINDS.keys():
        raise ValueError(f"no such event: {', '.join(sorted(unknown))}")
    while deal:
        drawn.shuffle(deal)
        for site, kind in deal:
            yield Happening(site, kind, drawn.uniform(0.2, 1.8) * every)
