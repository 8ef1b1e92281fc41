"""The gate: a few rows that tell of a commit that made something slower, in a minute."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from statistics import median
from typing import Final

from benchmarks import _throughput
from benchmarks._figures import Figures

ROUNDS: Final = 7


@dataclass(frozen=True)
class Row:
    """One of Socketkeep's models beside the peer that it is compared with, under one load."""

    work: str
    case: str
    own: str
    peer: str

    def ratios(self, figures: Figures) -> list[float]:
        """Return, of each round, the peer's CPU time an operation divided by Socketkeep's.

        CPU time alone: rates tell as much of what else the machine does.
        """
        own, peer = (
            figures.get(self.work, self.case, name, "cpu_us") for name in (self.own, self.peer)
        )
        return [theirs / ours for theirs, ours in zip(peer, own, strict=False) if theirs and ours]


ROWS: Final = (
    Row("a", "32 at once", "Socketkeep prefork", "prefork loop (8)"),
    Row("b", "64 B, 64 connections", "Socketkeep async", "uvloop streams"),
    Row("b", "64 B, 64 connections", "Socketkeep thread", "thread loop"),
    Row("d", "32 at once", "Socketkeep fork", "ForkingTCPServer"),
)


#: What has the rows, by its letter.
WORKS: Final = {
    "a": _throughput.short_connections,
    "b": _throughput.keep_alive,
    "d": _throughput.fork_per_connection,
}


def measure(figures: Figures, rounds: int, seconds: float) -> None:
    """Measure the rows."""
    for row in ROWS:
        work = WORKS[row.work]()
        subjects = [each for each in work.subjects if each.name in (row.own, row.peer)]
        cases = [each for each in work.cases if each.name == row.case]
        narrow = replace(work, subjects=subjects, cases=cases)
        _throughput.measure(narrow, figures, rounds, seconds, False)


def slower(figures: Figures, recorded: Figures) -> Iterator[str]:
    """Print each row; yield a line for each that is below all that the record's rounds gave."""
    for row in ROWS:
        name = f"({row.work}) {row.case}: {row.own} / {row.peer}"
        now, before = row.ratios(figures), row.ratios(recorded)
        if not now or not before:
            yield f"{name}: {'not measured' if before else 'no figure is recorded'}"
            continue
        ratio, usual = median(now), median(before)
        bound = min(before)
        print(f"{name}: {ratio:.2f} (recorded {usual:.2f}, at least {bound:.2f})")
        if ratio < bound:
            yield f"{name}: {ratio:.2f} is less than {bound:.2f}"


def judge(figures: Figures, recorded: Figures) -> int:
    """Print how the rows stand against the record; return the exit code."""
    lines = list(slower(figures, recorded))
    for line in lines:
        print(f"slower: {line}", file=sys.stderr)
    return 1 if lines or figures.failed else 0
