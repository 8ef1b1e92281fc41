"""Where the figures are that the documentation shows."""

from __future__ import annotations

from typing import Final

from benchmarks._machine import ROOT

#: Written by a whole run, and drawn.
FIGURES: Final = ROOT / "benchmarks" / "results" / "bench.json"
PLOTS: Final = ROOT / "docs" / "plots"
