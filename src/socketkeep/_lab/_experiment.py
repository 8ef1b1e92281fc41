"""An experiment, and how it is performed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from socketkeep._lab._bench import PATIENCE, Bench
from socketkeep._lab._calls import Calls
from socketkeep._lab._outcome import CannotBeDone
from socketkeep._lab._results import Finding, Observation, Verdict


@dataclass(frozen=True, slots=True)
class Experiment:
    """A claim and what is done to see whether it holds.

    notes: the sentence that claims it, as it was written.  socketkeep: what the library makes of
    it.  `do` makes the calls on a bench, and states there what is to be expected of them.
    """

    name: str
    claim: str
    notes: str
    socketkeep: str
    do: Callable[[Bench], None]

    def perform(self, calls: type[Calls] = Calls, patience: float = PATIENCE) -> Finding:
        """Do it, and return what came of it; never raises OSError.

        It forks this process, which should have one thread, and be a subreaper (`prctl`).
        """
        with Bench(calls, patience) as bench:
            hindrance = ""
            try:
                self.do(bench)
            except CannotBeDone as error:
                hindrance = str(error)
            except OSError as error:
                hindrance = error.strerror or str(error)
        verdict, reason = _judged(bench.checks, hindrance)
        return Finding(
            self.name,
            self.claim,
            self.notes,
            self.socketkeep,
            verdict,
            reason,
            tuple(process.name for process in bench.processes),
            tuple(bench.steps),
            tuple(bench.checks),
        )


def experiment(
    *, claim: str, notes: str, socketkeep: str
) -> Callable[[Callable[[Bench], None]], Experiment]:
    """Make an experiment of a function, whose name is its own."""

    def made(do: Callable[[Bench], None]) -> Experiment:
        return Experiment(do.__name__.replace("_", "-"), claim, notes, socketkeep, do)

    return made


def _judged(checks: list[Observation], hindrance: str) -> tuple[Verdict, str]:
    for check in checks:
        if not check.holds:
            reason = f"{check.what}: expected {check.expected}, observed {check.observed}"
            return "does not hold", reason
    return ("could not be done", hindrance) if hindrance else ("holds", "")
