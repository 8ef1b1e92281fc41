"""A finding as text for a terminal."""

from __future__ import annotations

import textwrap
from typing import Final

from socketkeep._lab._results import Finding, Observation
from socketkeep._lab._timeline import ABSENT, HOLDS, WITHOUT, Arrow, Row, rows_of

_WIDTH: Final = 96
_LANES: Final = {ABSENT: " ", WITHOUT: "┊", HOLDS: "┃"}
_GAP: Final = 2


def at_length(finding: Finding) -> str:
    """Return the claim, the timeline, every observation and the verdict."""
    said = textwrap.fill(f"“{finding.notes}”", _WIDTH, initial_indent="  ", subsequent_indent="  ")
    parts = [
        f"{finding.name}: {finding.claim}",
        said,
        f"  In Socketkeep: {finding.socketkeep}",
        "",
        *_drawn(finding),
        "",
        *(f"  {_check(check)}" for check in finding.checks),
        "",
        f"  {finding.verdict}" + (f": {finding.reason}" if finding.reason else ""),
    ]
    return "\n".join(part.rstrip() for part in parts) + "\n"


def _check(check: Observation) -> str:
    if not check.expected:
        return f"·  {check.what}: {check.observed}"
    if check.holds:
        return f"✓  {check.what}: {check.observed}"
    return f"✗  {check.what}: {check.observed}, where {check.expected} was expected"


def _drawn(finding: Finding) -> list[str]:
    rows = rows_of(finding)
    places, width = [], _GAP
    for number, name in enumerate(finding.processes):
        cells = [len(_cell(row)) + 2 for row in rows if row.lane == number]
        places.append(width)
        width += max([len(name), *cells, 10]) + _GAP
    head = [" "] * width
    for place, name in zip(places, finding.processes, strict=True):
        head[place : place + len(name)] = name
    lines = ["".join(head) + "handles; state"]
    for row in rows:
        line = _lanes(row, places, width)
        text = f" {_cell(row)}"
        line[places[row.lane] + 1 : places[row.lane] + 1 + len(text)] = text
        first, *more = row.now or ("",)
        lines.append("".join(line) + first)
        lines += ["".join(_lanes(row, places, width)) + each for each in more]
        lines += [
            "".join(_arrow(_lanes(row, places, width), arrow, places)) for arrow in row.arrows
        ]
    return lines


def _cell(row: Row) -> str:
    return f"{row.call} → {row.result}" if row.result else row.call


def _lanes(row: Row, places: list[int], width: int) -> list[str]:
    line = [" "] * width
    for place, lane in zip(places, row.lanes, strict=True):
        line[place] = _LANES[lane]
    return line


def _arrow(line: list[str], arrow: Arrow, places: list[int]) -> list[str]:
    left, right = sorted((places[arrow.source], places[arrow.target]))
    shaft = f" {arrow.flag} ".center(max(right - left - 2, 0), "─")
    to_right = arrow.source <= arrow.target
    line[left + 1 : right] = f"{shaft}▶" if to_right else f"◀{shaft}"
    return line
