"""Has spin(1) check `ownership.pml`, whole or against what a keeper saw in a real run."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Final, NamedTuple

MODEL: Final = Path(__file__).with_name("ownership.pml")
_TIME: Final = 50.0


class Event(NamedTuple):
    """What a keeper has seen: `what`, of which worker, by its number, and of which epoch."""

    what: str
    worker: int
    epoch: int


class Checked(NamedTuple):
    """What a search has found.

    failed: the assertion that does not hold, "": all do.  shown: how many events of a trace.
    """

    failed: str
    states: int
    shown: int


class Model:
    """The model, built in a directory with these macros defined."""

    def __init__(self, directory: Path, **defines: int) -> None:
        self._directory = directory
        macros = [f"-D{name}={value}" for name, value in defines.items()]
        self._run("spin", "-a", *macros, str(MODEL))
        # As much as what it saves in the search is more than it costs.  COLLAPSE: in a third of the
        # memory.
        level = "-O0" if "TRACE" in defines else "-Og"
        self._run("gcc", level, "-w", "-DSAFETY", "-DCOLLAPSE", "-o", "pan", "pan.c")

    def check(self, mutant: int = 0, **bounds: int) -> Checked:
        """Search all states, up to the first one that is wrong; bounds: other than it defines."""
        variables = {name: str(bound) for name, bound in bounds.items()}
        told = self._run("./pan", "-E", "-m100000", "-w22", MUTANT=str(mutant), **variables)
        assert "max search depth too small" not in told, told
        failed, states, shown = "", 0, 0
        for line in told.splitlines():
            if line.startswith("pan:1:"):
                failed = line.removeprefix("pan:1:").strip()
            elif line.startswith("shown "):
                shown = int(line.split()[1])
            elif "states, stored" in line:
                states = int(line.split()[0])
        assert states, told
        return Checked(failed, states, shown)

    def allows(self, events: Sequence[Event]) -> int:
        """Return how many of the events, from the first on, it can show in this order."""
        numbers = _numbers()
        lines = [f"{numbers[each.what]} {each.worker} {each.epoch}\n" for each in events]
        (self._directory / "trace").write_text("".join(lines))
        return self.check().shown

    def _run(self, *command: str, **variables: str) -> str:
        done = subprocess.run(
            command,
            cwd=self._directory,
            env={**os.environ, **variables},
            capture_output=True,
            text=True,
            timeout=_TIME,
            check=False,
        )
        assert done.returncode == 0, (command, done.stdout, done.stderr)
        return done.stdout


def _numbers() -> dict[str, int]:
    """Return the numbers by which spin(1) knows the kinds of events: the last one named is 1."""
    named = MODEL.read_text().partition("mtype:said = {")[2].partition("}")[0].split(",")
    return {name.strip(): len(named) - place for place, name in enumerate(named)}
