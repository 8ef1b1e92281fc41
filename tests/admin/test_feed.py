"""What is told of a server from one look to the next."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from socketkeep._admin._feed import Feed
from tests.admin.web import LIVE, STATUS, connection, totals, worker


def counting(**counts: int) -> Any:
    """Return a report with these totals."""
    return replace(LIVE, status=replace(STATUS, totals=totals(**counts)))


def told(frame: Any) -> list[tuple[str, str]]:
    return [(happening.kind, happening.text) for happening in frame.happenings]


def test_rates_over_a_window() -> None:
    """Differences over the last seconds, whatever came before them."""
    feed = Feed()
    assert feed.look(counting(accepted=1000), 0.0).rates.accepted == 0
    assert feed.look(counting(accepted=1010, closed=4, reset=2), 2.0).rates.accepted == 5
    frame = feed.look(counting(accepted=1010, closed=4, reset=2), 4.0)
    assert (frame.rates.accepted, frame.rates.ended) == (2.5, 1.5)
    assert feed.look(counting(accepted=1010, closed=4, reset=2), 8.0).rates.accepted == 0


def test_bytes_of_connections() -> None:
    """Those that come and go count with what passed, moved ones go on, others are guessed."""
    feed = Feed()
    kept = connection("1-1-1", 71, 0, bytes_in=100, bytes_out=0)
    feed.look(replace(LIVE, connections=[kept, connection("1-1-2", 71, 0, bytes_in=9**9)]), 0.0)
    moved = connection("1-1-1", 72, 1, bytes_in=130, bytes_out=8)
    new = connection("1-1-3", 72, 1, bytes_in=10, bytes_out=0)
    rates = feed.look(replace(LIVE, connections=[moved, new]), 2.0).rates
    assert (rates.bytes_in, rates.bytes_out) == (20, 4)
    guessed = Feed()
    guessed.look(replace(LIVE, connections=[kept], left_out=3), 0.0)
    rates = guessed.look(replace(LIVE, connections=[moved], left_out=3), 1.0).rates
    assert rates.bytes_in == pytest.approx(30 * 4)


def test_reload_and_death_are_told() -> None:
    """A reload as one line a thing, however many frames it takes; a death by its pid and seat."""
    feed = Feed()
    feed.look(LIVE, 0.0)
    coming = [worker(0, 71), worker(1, 72), worker(0, 81, 2), worker(1, 82, 2, state="starting")]
    reloading = replace(STATUS, state="reloading")
    feed.look(replace(LIVE, status=reloading, workers=coming), 0.2)
    serving = replace(STATUS, generation=2, last_reload=0.5, totals=totals(attached={"reload": 2}))
    workers = [worker(0, 71, state="draining"), worker(0, 81, 2), worker(1, 82, 2)]
    feed.look(replace(LIVE, status=serving, workers=workers), 0.4)
    ended = replace(serving, totals=totals(attached={"reload": 5}))
    frame = feed.look(replace(LIVE, status=ended, workers=workers[1:]), 0.6)
    assert told(frame) == [
        ("state", "the server is reloading"),
        ("ready", "workers of generation 2 that are ready: 2"),
        ("state", "the server is running"),
        ("ended", "workers of generation 1 that ended: 2"),
        ("generation", "generation 2 serves, after 0.50 s"),
        ("moved", "connections moved by the reload: 5"),
    ]
    died = replace(
        ended, totals=totals(worker_deaths=1, lost=1, attached={"reload": 5, "crash": 3})
    )
    frame = feed.look(replace(LIVE, status=died, workers=[worker(0, 81, 2), worker(1, 90, 2)]), 20)
    assert told(frame)[6:] == [
        ("died", "worker 82 in seat 1 died"),
        ("ready", "worker 90 took seat 1"),
        ("moved", "connections moved by the death of a worker: 3"),
        ("lost", "connections lost with their worker: 1"),
    ]
    assert [each.number for each in frame.happenings] == list(range(1, 11))
