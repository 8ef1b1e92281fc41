"""Tests that run on the compiled core and on its twin alike."""

from __future__ import annotations

from typing import Any

import pytest

from socketkeep._native import core


def both(twin: object, name: str) -> pytest.MarkDecorator:
    """Run a test with `chosen` being the twin, and what the compiled core has in its place.

    Where Python alone runs there is no other.
    """
    cases = [pytest.param(twin, id="python")]
    if core is not None:
        compiled: Any = getattr(core, name)
        cases.append(pytest.param(compiled, id="compiled"))
    return pytest.mark.parametrize("chosen", cases)
