"""A finding's timeline as a picture: SVG, to be read in light and dark.

Its text and lines have the colour of the text around it, so that it can stand in a page as it is;
as a file of its own it brings colours for both.
"""

from __future__ import annotations

from html import escape
from typing import Final

from socketkeep._lab._results import Finding
from socketkeep._lab._timeline import ABSENT, HOLDS, Row, rows_of

_TOP: Final = 44
_LINE: Final = 18
_CHARACTER: Final = 7.3  # of the 12 px monospace font, at most
_MARGIN: Final = 20
_LEAST: Final = 130
_COLOURS: Final = {"FIN": "#2f81f7", "RST": "#e5484d"}
_FONT: Final = "ui-monospace, SFMono-Regular, Menlo, Consolas, monospace"
_ALONE: Final = (
    "<style>svg{color:#1f2328;background:#fff}"
    "@media(prefers-color-scheme:dark){svg{color:#e6edf3;background:#0d1117}}</style>"
)


def svg(finding: Finding, *, alone: bool = True) -> str:
    """Return the picture.  alone: as a file, and not for a page that has colours already."""
    rows = rows_of(finding)
    places, width = _columns(finding, rows)
    parts, y = [], _TOP
    for place, name in zip(places, finding.processes, strict=True):
        parts.append(_text(place - 5, 20, name, weight="bold"))
    parts.append(_text(width, 20, "handles; state", weight="bold"))
    for row in rows:
        height = _LINE * max(1, len(row.now)) + _LINE * len(row.arrows) + 4
        parts += _row(row, places, width, y, height)
        y += height
    now = max((len(text) for row in rows for text in row.now), default=0)
    full = round(width + now * _CHARACTER + _MARGIN)
    names = f'id="{finding.name}-title"', f'id="{finding.name}-desc"'
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {full} {y + 8}" role="img"'
        f' aria-labelledby="{finding.name}-title {finding.name}-desc" width="{full}"'
        f' style="max-width: 100%; height: auto" font-family="{_FONT}" font-size="12"'
        f' fill="currentColor">'
        f"<title {names[0]}>{escape(finding.claim)}: {finding.verdict}</title>"
        f"<desc {names[1]}>{escape(described(finding, rows))}</desc>"
        f"{_ALONE if alone else ''}{''.join(parts)}</svg>\n"
    )


def described(finding: Finding, rows: list[Row]) -> str:
    """Return the timeline as sentences, for who does not see it."""
    sentences = []
    for row in rows:
        result = f" returns {row.result}" if row.result else ""
        sentences.append(f"{finding.processes[row.lane]}: {row.call}{result}.")
        sentences += [
            f"{arrow.flag} arrives at {finding.processes[arrow.target]}." for arrow in row.arrows
        ]
    return " ".join(sentences)


def _columns(finding: Finding, rows: list[Row]) -> tuple[list[float], float]:
    """Return where the lanes are, and where what is beside them begins."""
    places, place = [], float(_MARGIN)
    for number, name in enumerate(finding.processes):
        cells = [len(_cell(row)) for row in rows if row.lane == number]
        places.append(place)
        place += max([_LEAST, *(length * _CHARACTER + 26 for length in [len(name), *cells])])
    return places, place


def _cell(row: Row) -> str:
    return f"{row.call} → {row.result}" if row.result else row.call


def _row(row: Row, places: list[float], width: float, y: int, height: int) -> list[str]:
    parts = []
    for place, lane in zip(places, row.lanes, strict=True):
        if lane != ABSENT:
            look = 'stroke-width="5"' if lane == HOLDS else 'stroke-dasharray="2 4"'
            parts.append(
                f'<path d="M{place:.0f},{y} v{height}" stroke="currentColor" opacity=".45" {look}/>'
            )
    place = places[row.lane]
    parts.append(f'<circle cx="{place:.0f}" cy="{y + 9}" r="4.5"/>')
    parts.append(_text(place + 12, y + 13, _cell(row), weight="bold" if row.failed else ""))
    for number, text in enumerate(row.now):
        parts.append(_text(width, y + 13 + _LINE * number, text, opacity=".75"))
    at = y + height - _LINE * len(row.arrows)
    for arrow in row.arrows:
        parts.append(_arrow(arrow.flag, places[arrow.source], places[arrow.target], at + 8))
        at += _LINE
    return parts


def _arrow(flag: str, start: float, end: float, y: int) -> str:
    colour = _COLOURS[flag]
    way = 1 if end >= start else -1
    tip = end - 6 * way
    middle = (start + end) / 2
    return (
        f'<path d="M{start + 6 * way:.0f},{y} H{tip:.0f}" stroke="{colour}" stroke-width="2"/>'
        f'<path d="M{tip:.0f},{y} l{-8 * way},-5 v10 z" fill="{colour}"/>'
        + _text(middle, y - 4, flag, "middle", "bold")
    )


def _text(
    x: float, y: float, text: str, anchor: str = "start", weight: str = "", opacity: str = ""
) -> str:
    more = "".join(
        f' {name}="{value}"'
        for name, value in (
            ("text-anchor", anchor if anchor != "start" else ""),
            ("font-weight", weight),
            ("opacity", opacity),
        )
        if value
    )
    return f'<text x="{x:.0f}" y="{y}"{more}>{escape(text)}</text>'
