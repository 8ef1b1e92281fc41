"""One random script on both cores gives equal traces.

A failure names the seed.  SCRIPT_SEED runs one script again, SCRIPTS_SECONDS
makes new ones for so long.
"""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from tests.native.scripts import SCRIPTS
from tests.native.seeds import SECONDS, seeds

pytestmark = pytest.mark.timeout(120 + 2 * SECONDS)


@pytest.mark.parametrize("script", SCRIPTS)
def test_cores_do_the_same(script: Callable[[random.Random], None]) -> None:
    for seed in seeds():
        try:
            script(random.Random(seed))
        except AssertionError as error:
            raise AssertionError(f"seed {seed}: {error}") from None
