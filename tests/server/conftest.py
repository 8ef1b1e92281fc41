"""Fixtures of the tests of a real server."""

from __future__ import annotations

import pytest

from tests.server.support import MODELS


@pytest.fixture(params=MODELS)
def model(request: pytest.FixtureRequest) -> str:
    """The worker model."""
    return str(request.param)
