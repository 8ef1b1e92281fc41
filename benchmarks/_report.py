"""What was measured, as tables."""

from __future__ import annotations

from collections.abc import Iterator
from statistics import median
from typing import Final

from benchmarks._figures import Figures
from benchmarks._targets import Outcome, judge, unmeasured

#: What the documentation shows of the works that are not rates, and under which titles.
METRICS: Final = {
    "e": {
        "server_kib": "KiB, all its processes",
        "keeper_kib": "KiB, the keeper's own",
        "processes": "processes more",
    },
    "f": {
        "lost": "lost",
        "fin": "by FIN, unannounced",
        "announced": "announced",
        "rst": "by RST",
        "lost_new": "new ones lost",
        "added_p50_ms": "added, median, ms",
        "added_p99_ms": "added, p99, ms",
        "added_max_ms": "added, slowest, ms",
        "added_p99_in_starts": "added, p99, in starts of a worker",
        "usual_ms": "usual, ms",
    },
    "h": {
        "woken_a_second": "woken a second",
        "cpu_us": "CPU time of one, µs",
        "lost": "lost",
        "p50": "median, s",
        "p99": "p99, s",
    },
    "i": {"seconds": "seconds", "cpu_seconds": "seconds of CPU time"},
    "l": {
        "flood_cpu_us": "CPU time of one of the flood, µs",
        "flood_share": "the flood's part of the processor",
        "cpu_alone_us": "CPU time of an answer without the flood, µs",
        "cpu_meanwhile_us": "CPU time of all for each answer during it, µs",
        "cpu_own_us": "that without the refused ones of the flood, µs",
        "alone": "the other's a second, alone",
        "meanwhile": "meanwhile",
        "left": "what is left",
        "p99_alone_ms": "p99, ms, alone",
        "p99_meanwhile_ms": "meanwhile",
    },
    "j": {"seconds": "seconds", "cpu_seconds": "seconds of CPU time"},
}


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
    """Return the figures against the targets, for the documentation: a row for each bound."""
    rows: dict[tuple[str, str, str], list[str]] = {}
    for outcome in judge(figures):
        case, own, peer, bound, value, spread, by, _, met = _cells(outcome)
        how = f", {by}" if by == "CPU" else ""
        rounds = f" ({spread}{how})" if len(outcome.values) > 1 else ""
        shown = f"{case}: {value}{rounds}" + ("" if outcome.met else f", **{met.lower()}**")
        measured = f"{own}<br>to {peer}" if peer else own
        rows.setdefault((outcome.target.number, measured, bound), []).append(shown)
    head = "| | measured | target | median (least to most of the rounds) |\n|---|---|---|---|\n"
    return head + "\n".join(
        f"| {' | '.join(row)} | {'<br>'.join(cases)} |" for row, cases in rows.items()
    )


def environment_markdown(figures: Figures) -> str:
    """Return the machine, the versions and the date in a sentence or two."""
    told = figures.environment
    versions = ", ".join(f"{name} {version}" for name, version in told["versions"].items())
    missing = "".join(f" Not measured: {name} ({why})." for name, why in figures.missing.items())
    return (
        f"{told['date'][:10]}, commit {told['commit']}, {told['system']}, "
        f"{told['processors']} processors ({told['processor']}), load average at the start "
        f"{told['load'][0]:g}; Python {told['python']}; {versions}; {figures.rounds} rounds of "
        f"{figures.seconds:g} s.{missing}"
    )


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


def metrics_markdown(figures: Figures, work: str, metrics: dict[str, str]) -> str:
    """Return a work's table of the medians of some metrics; of each the title is given."""
    rows = [f"| | | {' | '.join(metrics.values())} |", "|---" * (len(metrics) + 2) + "|"]
    for (of, case, subject), told in figures.series.items():
        if of == work:
            cells = [_number(median(told[each])) if each in told else "" for each in metrics]
            rows.append(f"| {subject} | {case} | {' | '.join(cells)} |")
    return "\n".join(rows)


#: What one plans a server by: title, work, case, and metric of the benchmark; its digits.
_CAPACITY: Final = (
    (
        "an idle connection, KiB",
        "e",
        "server_kib",
        {"fork": "500 idle", "thread": "1000 idle", "async": "5000 idle"},
    ),
    ("a parked connection, KiB", "e", "server_kib", {"prefork": "5000 idle", "fork": "1000 idle"}),
    (
        "a message of 64 bytes, µs",
        "b",
        "cpu_us",
        dict.fromkeys(("fork", "thread", "async"), "64 B, 64 connections"),
    ),
    (
        "connect, message, close, µs",
        "a",
        "cpu_us",
        dict.fromkeys(("prefork", "thread", "async"), "32 at once"),
    ),
    ("connect, message, close, µs", "d", "cpu_us", {"fork": "32 at once"}),
)


def capacity_markdown(figures: Figures) -> str:
    """Return the table of what a connection and a message cost each model."""
    titles = list(dict.fromkeys(title for title, *_ in _CAPACITY))
    lines = [f"| model | {' | '.join(titles)} |", "|---|" + "---|" * len(titles)]
    for model in ("fork", "prefork", "thread", "async"):
        cells = dict.fromkeys(titles, "")
        for title, work, metric, cases in _CAPACITY:
            subject = f"Socketkeep {model}" + ", parked" * ("parked" in title)
            if model in cases:
                value = figures.middle(work, cases[model], subject, metric)
                cells[title] = cells[title] or _number(value) if value is not None else ""
        lines.append(f"| `{model}` | {' | '.join(cells.values())} |")
    return "\n".join(lines) + "\n"
