"""All experiments, in the order of the notes, and the lab as a whole."""

from __future__ import annotations

import datetime as dt
import platform
from collections.abc import Iterable
from difflib import get_close_matches
from typing import Final

from socketkeep._base import _prctl
from socketkeep._lab import _ends, _handles, _loops, _modes, _waits
from socketkeep._lab._experiment import Experiment
from socketkeep._lab._results import LabReport

EXPERIMENTS: Final[dict[str, Experiment]] = {
    each.name: each
    for each in (
        *_modes.EXPERIMENTS[:2],
        *_waits.EXPERIMENTS,
        *_modes.EXPERIMENTS[2:],
        *_handles.EXPERIMENTS,
        *_loops.EXPERIMENTS,
        *_ends.EXPERIMENTS,
    )
}


def perform(names: Iterable[str] = ()) -> LabReport:
    """Perform the experiments of these names, all when there are none; return what came of it.

    It forks this process, which should have one thread, and which becomes a subreaper.
    Raises KeyError for an unknown name.
    """
    chosen = [EXPERIMENTS[name] for name in names or EXPERIMENTS]
    _prctl.set_child_subreaper()
    findings = tuple(each.perform() for each in chosen)
    system = platform.uname()
    return LabReport(
        f"{system.system} {system.release}",
        system.machine,
        platform.python_version(),
        dt.datetime.now(dt.UTC).date().isoformat(),
        findings,
    )


def near(name: str) -> list[str]:
    """Return the names that are like an unknown one, the likest first."""
    inside = [known for known in EXPERIMENTS if name.lower() in known]
    return (inside or get_close_matches(name.lower(), EXPERIMENTS, n=3, cutoff=0.5))[:3]
