"""The seeds of random scripts: SCRIPT_SEED is one, SCRIPTS_SECONDS makes new ones for so long."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Iterator
from typing import Final

_COUNT: Final = 300
SECONDS: Final = float(os.environ.get("SCRIPTS_SECONDS", "0"))


def seeds() -> Iterator[int]:
    """Yield the seeds of the scripts."""
    only = os.environ.get("SCRIPT_SEED")
    if only:
        yield int(only)
        return
    until = time.monotonic() + SECONDS
    drawn = random.SystemRandom()
    count = 0
    while count < _COUNT or time.monotonic() < until:
        yield drawn.getrandbits(48)
        count += 1
