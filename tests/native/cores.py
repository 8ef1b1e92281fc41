"""Tests that run on the compiled core and on its twin alike."""

from __future__ import annotations

from typing import Any, TypeVar

import pytest

from socketkeep._native import core

Twin = TypeVar("Twin")

#: The compiled core, where it runs.
compiled: Any = core


def both(twin: Twin, name: str) -> list[Twin]:
    """Return the twin, and what the compiled core has under this name, where that runs."""
    return [twin] if core is None else [twin, getattr(core, name)]


def on_both(argument: str, twin: object, name: str) -> pytest.MarkDecorator:
    """Run a test with `argument` being each of the two."""
    cases: list[Any] = both(twin, name)
    return pytest.mark.parametrize(argument, cases, ids=("python", "compiled")[: len(cases)])
