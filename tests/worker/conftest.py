"""What the tests of workers share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.harness.lines import Lines, listening_to_the_log


@pytest.fixture
def log() -> Iterator[Lines]:
    """What socketkeep logs, from debug on."""
    with listening_to_the_log() as lines:
        yield lines
