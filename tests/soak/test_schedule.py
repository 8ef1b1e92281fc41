"""The order of events: by the seed alone, and none is left out for long."""

from __future__ import annotations

from collections import Counter
from itertools import islice

import pytest

from tests.soak.schedule import schedule
from tests.soak.sites import KINDS as SITES

DECKS = {name: site.deck for name, site in SITES.items()}


def test_the_same_seed_draws_the_same() -> None:
    assert list(islice(schedule(7, DECKS, 5.0), 100)) == list(islice(schedule(7, DECKS, 5.0), 100))
    assert list(islice(schedule(7, DECKS, 5.0), 100)) != list(islice(schedule(8, DECKS, 5.0), 100))


def test_each_deal_has_all_of_it() -> None:
    size = sum(sum(deck.values()) for deck in DECKS.values())
    dealt = Counter((each.site, each.kind) for each in islice(schedule(7, DECKS, 5.0), 3 * size))
    assert dealt == {
        (site, kind): 3 * count for site, deck in DECKS.items() for kind, count in deck.items()
    }


def test_as_far_apart_as_was_said() -> None:
    pauses = [each.pause for each in islice(schedule(7, DECKS, 5.0), 400)]
    assert 4.5 < sum(pauses) / len(pauses) < 5.5
    assert min(pauses) > 0


def test_an_event_that_there_is_not() -> None:
    with pytest.raises(ValueError, match="no such event: earthquake"):
        next(schedule(7, {"async": {"earthquake": 1}}, 5.0))


def test_no_events() -> None:
    assert list(schedule(7, {"async": {}}, 5.0)) == []
