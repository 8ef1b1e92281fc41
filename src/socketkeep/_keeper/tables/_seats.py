"""The seats that each worker may fill by accepting: pure arithmetic, no I/O.

A worker's seats are what its model has (one in `prefork`, `--threads` in `thread`), and its share
of `--max-connections`.  While connections are on their way from one worker to another, seats are
kept free for them: a new connection must not take the place of one that is already served.  And how
many are to move, so that all workers have as many.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final, Literal

# As many as one process can usefully hold; its descriptor limit is met before.  An unused row of
# the scoreboard costs no memory.
UNBOUNDED: Final = 65536


def seats_of_model(model: Literal["fork", "prefork", "thread", "async"], threads: int) -> int:
    """Return how many connections a worker of `model` can serve at once."""
    return {"prefork": 1, "thread": threads}.get(model, UNBOUNDED)


def rows_of_model(model: Literal["fork", "prefork", "thread", "async"], threads: int) -> int:
    """Return how many rows the scoreboard of a worker of `model` needs.

    In `thread` twice its seats: one that has ended may have its row until the loop has settled it,
    when the next has arrived already.
    """
    seats = seats_of_model(model, threads)
    return 2 * seats if model == "thread" else seats


def shares(seats: int, workers: int, max_connections: int) -> list[int]:
    """Return the seats of each of `workers` under `--max-connections` (0: no limit)."""
    if not max_connections:
        return [seats] * workers
    each, extra = divmod(max_connections, workers)
    return [min(seats, each + (index < extra)) for index in range(workers)]


def accept_limits(
    seats: Sequence[int], taken: Sequence[int], coming: int, bounds: Sequence[int] | None = None
) -> list[int]:
    """Return for each worker below how many connections it may accept.

    `seats` and `taken` are each worker's; `coming` is how many connections are on their way to all
    of them together.  The free seats are kept for those first; when there are too few, the next
    seats to become free are.  What a worker has above its seats, since its share became smaller,
    takes the place of one in another.  bounds: what each may have by what it was told before; the
    seats that are kept already stay those that are kept, if they are as many.
    """
    limits = list(seats)
    coming += sum(max(0, have - total) for have, total in zip(taken, seats, strict=True))
    free = [total - have for have, total in zip(taken, seats, strict=True)]
    kept_already = [total - bound for bound, total in zip(bounds or seats, seats, strict=True)]
    for rooms in (kept_already, free, seats):
        for index, room in enumerate(rooms):
            kept = max(0, min(room - (seats[index] - limits[index]), coming))
            limits[index] -= kept
            coming -= kept
    return limits


def within(limits: Sequence[int], bounds: Sequence[int], most: int) -> list[int]:
    """Return `limits`, lowered so that no more than `most` connections can come to be served.

    bounds: how many each worker has, or may have until it hears its next limit.  So one worker's
    limit is raised at the expense of another's only when that one is known to go by its own.
    """
    spare = most - sum(bounds)
    permitted = []
    for limit, bound in zip(limits, bounds, strict=True):
        more = max(0, min(limit - bound, spare))
        spare -= more
        permitted.append(min(limit, bound + more))
    return permitted


def surplus(loads: Sequence[int], leeway: float) -> list[int]:
    """Return how many connections each worker is to give up; none where two differ by `leeway`."""
    if not loads or max(loads) - min(loads) <= leeway:
        return [0] * len(loads)
    fair = math.ceil(sum(loads) / len(loads))
    return [max(0, load - fair) for load in loads]


def at_most(wanted: Sequence[int], most: int) -> list[int]:
    """Return `wanted`, lowered so that it is no more than `most` in all."""
    given = []
    for each in wanted:
        given.append(min(each, most))
        most -= given[-1]
    return given
