"""Whether what a process holds rises with what happens to its server: least squares, and bounds."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Final

#: Each with the most that it may rise over a whole run, by the fitted line.  What a process of
#: Python has in memory settles for some minutes; a table that grows goes on.
BOUNDS: Final = {
    "descriptors": 2.0,
    "registrations": 2.0,
    "memory": 1.5 * 1024 * 1024,
    "processes": 1.0,
}
#: Fewer samples than this show no trend.
FEWEST: Final = 5


@dataclass(frozen=True, slots=True)
class Sample:
    """What the processes of one role of a server hold, while all of its clients wait.

    at: seconds since the run began.  events: of this server so far; after: the last of them.
    process: changes with the process; program: also when it executes another one.  held: by
    measure; registrations are the descriptors that its epolls watch, memory is bytes that are of no
    file.
    """

    at: float
    site: str
    role: str
    process: str
    program: str
    events: int
    after: str
    held: dict[str, int]


@dataclass(frozen=True, slots=True)
class Trend:
    """How one measure of one role of a server went.

    per_event, per_hour: the slopes of the fitted lines, within one life of the process (of the
    program, for memory).  uncertain: the standard error of the first.  rise: what the line by
    events rises over the events that there were, two standard errors less: what is sure of it.
    steps: by kind of event, the mean of what it was more after such an event than before.
    """

    site: str
    role: str
    measure: str
    samples: int
    lives: int
    least: int
    most: int
    per_event: float
    per_hour: float
    uncertain: float
    rise: float
    bound: float
    steps: dict[str, float] = field(default_factory=dict)

    @property
    def rises(self) -> bool:
        """Whether it does so by more than it may."""
        return self.samples >= FEWEST and self.rise > self.bound


def slope(points: Iterable[tuple[str, float, float]]) -> tuple[float, float]:
    """Fit lines of one slope through points (group, x, y), one through each group.

    Returns the slope and its standard error; 0 and 0 where there is nothing to tell it by.
    """
    groups: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for group, x, y in points:
        groups[group].append((x, y))
    centred = []
    for members in groups.values():
        middle_x, middle_y = fmean(x for x, _ in members), fmean(y for _, y in members)
        centred += [(x - middle_x, y - middle_y) for x, y in members]
    spread = sum(x * x for x, _ in centred)
    if not spread:
        return 0.0, 0.0
    steep = sum(x * y for x, y in centred) / spread
    free = len(centred) - len(groups) - 1
    left = sum((y - steep * x) ** 2 for x, y in centred)
    return steep, math.sqrt(left / free / spread) if free > 0 else 0.0


def trends(samples: Sequence[Sample]) -> list[Trend]:
    """Return how each measure of each role of each server went."""
    series: dict[tuple[str, str], list[Sample]] = defaultdict(list)
    for sample in samples:
        series[sample.site, sample.role].append(sample)
    return [
        _trend(site, role, measure, of)
        for (site, role), of in sorted(series.items())
        for measure in of[0].held
    ]


def _trend(site: str, role: str, measure: str, samples: Sequence[Sample]) -> Trend:
    life = "program" if measure == "memory" else "process"
    values: list[int] = [sample.held[measure] for sample in samples]
    lives: list[str] = [getattr(sample, life) for sample in samples]
    per_event, uncertain = slope(
        (of, sample.events, value) for of, sample, value in zip(lives, samples, values, strict=True)
    )
    per_second, _ = slope(
        (of, sample.at, value) for of, sample, value in zip(lives, samples, values, strict=True)
    )
    happened = max(sample.events for sample in samples) - min(sample.events for sample in samples)
    steps: dict[str, list[int]] = defaultdict(list)
    for number in range(1, len(samples)):
        if lives[number] == lives[number - 1] and samples[number].after:
            steps[samples[number].after].append(values[number] - values[number - 1])
    return Trend(
        site=site,
        role=role,
        measure=measure,
        samples=len(samples),
        lives=len(set(lives)),
        least=min(values),
        most=max(values),
        per_event=per_event,
        per_hour=per_second * 3600,
        uncertain=uncertain,
        rise=(per_event - 2 * uncertain) * happened,
        bound=BOUNDS[measure],
        steps={kind: fmean(of) for kind, of in sorted(steps.items())},
    )
