"""Findings that a test has made up, as the command `socketkeep lab` shows them."""

from __future__ import annotations

from typing import Any

import pytest
from docs._ext.lab import recorded
from msgspec.structs import replace

from socketkeep._cli import lab


def found(patch: pytest.MonkeyPatch, *findings: Any) -> None:
    """Have the command find these, whichever experiments it is to perform."""
    patch.setattr(lab, "perform", lambda _names: replace(recorded(), findings=findings))
