"""What a run was to be, and what it has shown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from tests.soak.clients import Tally
from tests.soak.trends import Sample, Trend


@dataclass(slots=True)
class Plan:
    """What is to be run: for so many seconds, with an event about every `every` seconds."""

    seconds: float
    every: float
    seed: int
    sites: Sequence[str]
    leaky: bool = False
    only: frozenset[str] = frozenset()


@dataclass(slots=True)
class Done:
    """An event that has happened: at which second, and how long until all had settled."""

    at: float
    site: str
    kind: str
    took: float


@dataclass(slots=True)
class Result:
    """What a run has shown.  faults: what was promised and not kept, one line each."""

    plan: Plan
    where: dict[str, str]
    seconds: float = 0.0
    events: list[Done] = field(default_factory=list)
    samples: list[Sample] = field(default_factory=list)
    trends: list[Trend] = field(default_factory=list)
    tallies: dict[str, dict[str, Tally]] = field(default_factory=dict)
    pushes: dict[str, int] = field(default_factory=dict)
    logs: dict[str, int] = field(default_factory=dict)
    processor: float = 0.0
    faults: list[str] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        """Return all of it."""
        fields = asdict(self)
        fields["plan"]["only"] = sorted(self.plan.only)
        return fields
