"""What was measured, as it is written to the file and read back."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

#: (work, case, subject)
Key = tuple[str, str, str]


@dataclass
class Figures:
    """Figures of all rounds, and what they depend on.

    series: for each work, case and subject, and for each metric, a figure a round.
    missing: peers that could not be measured, and why.
    """

    environment: dict[str, Any]
    rounds: int
    seconds: float
    series: dict[Key, dict[str, list[float]]] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)
    failed: bool = field(default=False, compare=False)  # something that is not just not installed

    @contextlib.contextmanager
    def attempt(self, subject: str) -> Iterator[None]:
        """Note what fails, so that the rest is measured all the same."""
        try:
            yield
        except Exception as error:
            self.failed = True
            self.missing[subject] = f"failed: {type(error).__name__}: {error}"
            print(f"  {subject}: {self.missing[subject]}", file=sys.stderr)

    def add(self, key: Key, **metrics: float) -> None:
        """Add what one round gave."""
        of_key = self.series.setdefault(key, {})
        for metric, value in metrics.items():
            of_key.setdefault(metric, []).append(value)

    def get(self, work: str, case: str, subject: str, metric: str) -> list[float]:
        """Return a metric's figures, of each round; none if it was not measured."""
        return self.series.get((work, case, subject), {}).get(metric, [])

    def middle(self, work: str, case: str, subject: str, metric: str) -> float | None:
        """Return a metric's median."""
        values = self.get(work, case, subject, metric)
        return median(values) if values else None

    def cases(self, work: str) -> list[str]:
        """Return the cases of a work, in the order in which they were measured."""
        return list(dict.fromkeys(case for of, case, _ in self.series if of == work))

    def subjects(self, work: str) -> list[str]:
        """Return the subjects of a work, in the order in which they were measured."""
        return list(dict.fromkeys(subject for of, _, subject in self.series if of == work))

    def write(self, path: Path) -> None:
        """Write a JSON file."""
        path.parent.mkdir(parents=True, exist_ok=True)
        head = {
            "environment": self.environment,
            "rounds": self.rounds,
            "seconds": self.seconds,
            "missing": self.missing,
        }
        series = [
            json.dumps({"work": work, "case": case, "subject": subject, "metrics": metrics})
            for (work, case, subject), metrics in self.series.items()
        ]
        # One line a series: to be read by people and by diff, too.
        listed = ",\n".join(f"  {each}" for each in series)
        text = json.dumps(head, indent=1).removesuffix("\n}")
        path.write_text(f'{text},\n "series": [\n{listed}\n ]\n}}\n')


def read(path: Path) -> Figures:
    """Return what `Figures.write` wrote."""
    told = json.loads(path.read_text())
    return Figures(
        told["environment"],
        told["rounds"],
        told["seconds"],
        {(each["work"], each["case"], each["subject"]): each["metrics"] for each in told["series"]},
        told["missing"],
    )
