"""A run as a page and a picture."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from html import escape
from typing import Final

from tests.soak.result import Result
from tests.soak.schedule import KINDS
from tests.soak.trends import FEWEST, Sample, Trend

_UNITS: Final = {"memory": 1024.0}
#: Of the picture: pixels.
_WIDTH: Final = 860
_HEIGHT: Final = 150
_LEFT: Final = 64
_COLOURS: Final = {
    "async": "#2d6a4f",
    "thread": "#bc6c25",
    "prefork": "#1d3557",
    "fork": "#7b2cbf",
    "asgi": "#c1121f",
}
_PANELS: Final = (
    ("keeper", "memory", "KiB of the keeper's own"),
    ("keeper", "descriptors", "descriptors of the keeper"),
    ("keeper", "registrations", "of them watched by its epoll"),
    ("guard", "descriptors", "descriptors of the guard"),
)


def page(result: Result) -> str:
    """Return the run as Markdown."""
    return "\n".join(_sections(result))


def _sections(result: Result) -> Iterator[str]:
    where, tallies = result.where, [t for of in result.tallies.values() for t in of.values()]
    clients, visits = sum(t.clients for t in tallies), sum(t.connections for t in tallies)
    answers, pushes = sum(t.answers for t in tallies), sum(result.pushes.values())
    load = 100 * result.processor / result.seconds
    yield "# The last soak run\n"
    yield (
        f"{result.seconds / 60:.0f} minutes on {where['date']}: {len(result.events)} events on"
        f" {len(result.plan.sites)} servers, {answers:,} answers to {clients} clients on"
        f" {visits:,} connections, and {pushes:,} pushes. {where['system']},"
        f" {where['processors']} processors, Python {where['python']}, Socketkeep"
        f" {where['version']}; seed {result.plan.seed}; the clients took {load:.0f} % of one"
        " processor.\n"
    )
    if result.faults:
        yield "**It failed:**\n"
        yield "".join(f"- {fault}\n" for fault in result.faults)
    else:
        yield (
            "Nothing was lost, and nothing came twice or ended, but where the documentation says"
            " that it may. No process holds more and more.\n"
        )
    yield (
        "`make soak SOAK_SECONDS=3600` does it again; [](operations.md#the-soak) says what it is."
        " This page and its picture are written by the run.\n"
    )
    yield "## Events\n"
    yield _events(result)
    yield "## Clients\n"
    yield _clients(result)
    yield "## What the processes hold\n"
    yield _HOLDING
    yield "![What keepers and guards held](soak.svg)\n"
    yield _trends(result.trends)
    yield "## What the servers logged\n"
    yield "Lines of the levels warning and above.\n"
    yield _table(("line", "times"), ([f"`{line}`", f"{n:,}"] for line, n in result.logs.items()))


_HOLDING: Final = """\
After each event all clients of its server wait, until each connection is parked with the keeper
and held by the guard. Then the descriptors of the processes that outlive reloads are counted, those
that their epolls watch, and the memory that is of no file. A line is fitted by least squares, one
slope for all lives of a process (for memory: of a program, which an upgrade replaces). *Sure* is
what that line rises over all events, two standard errors less; a run fails where it is more than
the bound. By kind is the mean change over an event.
"""


def _events(result: Result) -> str:
    counts = Counter((each.site, each.kind) for each in result.events)
    longest: dict[str, float] = defaultdict(float)
    for each in result.events:
        longest[each.kind] = max(longest[each.kind], each.took)
    sites = result.plan.sites
    rows = (
        [
            f"{kind}: {what}",
            *(str(counts[site, kind] or "") for site in sites),
            f"{longest[kind]:.1f} s",
        ]
        for kind, what in KINDS.items()
        if longest[kind]
    )
    return _table(("event", *sites, "settled after, at most"), rows)


def _clients(result: Result) -> str:
    rows = (
        [
            site,
            kind,
            str(tally.clients),
            f"{tally.connections:,}",
            f"{tally.answers:,}",
            f"{tally.longest:.1f} s",
            str(len(tally.faults)),
            str(tally.repeated or ""),
            str(tally.cut or ""),
        ]
        for site, kinds in result.tallies.items()
        for kind, tally in kinds.items()
    )
    told = ", ".join(f"{count:,} {how}" for how, count in result.pushes.items())
    return (
        _table(
            (
                *("server", "client", "of them", "connections", "answers", "longest"),
                *("lost, wrong or cut", "repeated, as documented", "cut, as documented"),
            ),
            rows,
        )
        + f"\nThe outcomes of the pushes: {told}. Each delivered one came once, and in order."
        " Others came only where their outcome was uncertain or failed, because a keeper was"
        " killed.\n"
    )


def _trends(found: Sequence[Trend]) -> str:
    def row(each: Trend) -> list[str]:
        unit = _UNITS.get(each.measure, 1.0)
        steps = ", ".join(
            f"{kind} {step / unit:+.3g}"
            for kind, step in each.steps.items()
            if abs(step / unit) >= 0.05
        )
        return [
            each.site,
            each.role,
            each.measure + (", KiB" if each.measure in _UNITS else ""),
            f"{each.samples} in {each.lives}",
            f"{each.least / unit:,.0f} to {each.most / unit:,.0f}",
            f"{each.per_event / unit:+.3g} ± {each.uncertain / unit:.2g}",
            f"{each.per_hour / unit:+,.3g}",
            f"{each.rise / unit:+.3g}" if each.samples >= FEWEST else "",
            f"{each.bound / unit:.4g}",
            steps if each.measure != "memory" else "",
        ]

    return _table(
        (
            *("server", "process", "measure", "samples, lives", "least to most", "an event"),
            *("an hour", "sure", "bound", "by kind"),
        ),
        map(row, found),
    )


def _table(
    heads: Sequence[str], rows: Iterator[list[str]] | Sequence[list[str]] | map[list[str]]
) -> str:
    lines = [f"| {' | '.join(heads)} |", "|" + "---|" * len(heads)]
    lines += [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join(lines) + "\n"


def picture(result: Result) -> str:
    """Return what the processes held over the time of the run, as SVG."""
    parts, top = [], 48
    for number, (role, measure, title) in enumerate(_PANELS):
        of = [s for s in result.samples if s.role == role]
        parts.append(_panel(of, measure, title, top + number * (_HEIGHT + 34), result.seconds))
    height = top + len(_PANELS) * (_HEIGHT + 34) + 10
    legend = "".join(
        f'<rect x="{_LEFT + n * 90}" y="6" width="12" height="12" fill="{_COLOURS[site]}"/>'
        f'<text x="{_LEFT + n * 90 + 17}" y="17">{site}</text>'
        for n, site in enumerate(result.plan.sites)
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}"'
        ' font-family="sans-serif" font-size="13">'
        f'<rect width="{_WIDTH}" height="{height}" fill="#fff"/>{legend}{"".join(parts)}</svg>\n'
    )


def _panel(samples: Sequence[Sample], measure: str, title: str, top: int, seconds: float) -> str:
    unit = _UNITS.get(measure, 1.0)
    most = max((s.held[measure] for s in samples), default=0) / unit * 1.15 or 1.0
    bottom, right = top + _HEIGHT, _WIDTH - 20
    wide = right - _LEFT

    def place(sample: Sample) -> tuple[float, float]:
        return (
            _LEFT + wide * sample.at / max(seconds, 1.0),
            bottom - _HEIGHT * sample.held[measure] / unit / most,
        )

    parts = [
        f'<text x="{_LEFT}" y="{top - 4}" font-weight="bold">{escape(title)}</text>',
        f'<path d="M{_LEFT} {top}V{bottom}H{right}" fill="none" stroke="#555"/>',
        f'<text x="{_LEFT - 6}" y="{bottom}" text-anchor="end">0</text>',
        f'<text x="{_LEFT - 6}" y="{top + 12}" text-anchor="end">{most:,.0f}</text>',
        f'<text x="{right}" y="{bottom + 15}" text-anchor="end">{seconds / 60:.0f} min</text>',
    ]
    lives: dict[tuple[str, str], list[Sample]] = defaultdict(list)
    for sample in samples:
        lives[sample.site, sample.program].append(sample)
    for (site, _), of in lives.items():
        points = [place(sample) for sample in of]
        line = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        colour = _COLOURS[site]
        parts.append(
            f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="1.5"/>'
        )
        parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2" fill="{colour}"/>' for x, y in points]
    return "".join(parts)
