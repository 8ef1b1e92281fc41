"""What was measured, as tables."""

from __future__ import annotations

from collections.abc import Iterator

from benchmarks._figures import Figures
from benchmarks._targets import Outcome, judge, unmeasured


def text(figures: Figures) -> str:
    """Return the ratios against the targets, for a terminal."""
    rows: list[tuple[str, ...]] = [
        ("", "case", "measured", "against", "target", "median", "spread", "by", "other", "")
    ]
    rows += [(outcome.target.number, *_cells(outcome)) for outcome in judge(figures)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
    lines += [
        f"not measured: {each.number} {each.case}, {each.own} {each.peer or each.metric}"
        for each in unmeasured(figures)
    ]
    lines += [f"not measured: {name}: {why}" for name, why in figures.missing.items()]
    return "\n".join(lines)


def targets_markdown(figures: Figures) -> str:
    """Return the ratios against the targets, for the documentation."""
    rows = [
        "| | case | measured | against | target | median | rounds | by | the other | |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    rows += [
        f"| {outcome.target.number} | {' | '.join(_cells(outcome))} |" for outcome in judge(figures)
    ]
    return "\n".join(rows)


def _cells(outcome: Outcome) -> tuple[str, ...]:
    target = outcome.target
    sign = "≥" if target.at_least else "≤"
    unit = f" {target.unit}" if target.unit else ""
    what = "" if target.metric in ("speed", "faster", "seconds") else f" {target.metric}"
    least, most = min(outcome.values), max(outcome.values)
    return (
        target.case,
        target.own + what.replace("_", " "),
        target.peer or "",
        f"{sign} {_number(target.bound)}{unit}",
        f"{_number(outcome.value)}{unit}",
        f"{_number(least)} to {_number(most)}",
        outcome.by,
        "" if outcome.other is None else _number(outcome.other),
        "met" if outcome.met else "missed, a tie" if outcome.tie else "MISSED",
    )


def _number(value: float) -> str:
    if value == int(value) and abs(value) < 1e6 and not 0 < abs(value) < 10:
        return f"{int(value):,}"
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}" if abs(value) < 1 else f"{value:.2f}"


def peers_markdown(figures: Figures, work: str) -> str:
    """Return a work's table of all subjects: operations a second, and CPU time of one."""
    cases = figures.cases(work)
    rows = [f"| | {' | '.join(cases)} |", "|---" * (len(cases) + 1) + "|"]
    for subject in _by_rate(figures, work, cases):
        cells = []
        for case in cases:
            rate, cpu, lost = (
                figures.middle(work, case, subject, metric)
                for metric in ("per_second", "cpu_us", "lost")
            )
            failed = f"; **{lost:,.0f} lost**" if lost else ""
            cells.append("" if rate is None else f"{rate:,.0f}; {cpu:.1f} µs{failed}")
        name = f"**{subject}**" if subject.startswith("Socketkeep") else subject
        rows.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(rows)


def _by_rate(figures: Figures, work: str, cases: list[str]) -> Iterator[str]:
    yield from sorted(
        figures.subjects(work),
        key=lambda subject: -(figures.middle(work, cases[-1], subject, "per_second") or 0),
    )
