"""A kill storm of a few seconds in each model; in full size with STORM=full."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from tests.peer.conftest import MODELS, Site
from tests.peer.storm import FULL, Size, storm

_IS_FULL = os.environ.get("STORM") == "full"
_SMALL = [("fork", False), ("prefork", True), ("thread", False), ("async", True)]
_ALL = [(model, redeliver) for model in MODELS for redeliver in (False, True)]


@pytest.mark.timeout(300)
@pytest.mark.parametrize(("model", "redeliver"), _ALL if _IS_FULL else _SMALL)
def test_workers_are_killed_at_random(model: str, redeliver: bool, tmp_path: Path) -> None:
    """Who was clean notices nothing; who has messages delivered again loses none."""
    seed = int(os.environ.get("STORM_SEED", random.randrange(10**6)))
    print(f"STORM_SEED={seed}")
    outcome = storm(
        Site(model, "ipv4", tmp_path),
        FULL if _IS_FULL else Size(),
        redeliver=redeliver,
        seed=seed,
    )
    assert outcome.kills > 10, outcome
