"""The page of the notes, from what `socketkeep lab --json` has recorded."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import msgspec

from socketkeep._lab._results import Finding, LabReport, Observation
from socketkeep._lab._svg import svg

RECORD: Final = Path(__file__).parents[1] / "_data" / "lab.json"


def recorded() -> LabReport:
    """Return the record that the page is made from."""
    return msgspec.json.decode(RECORD.read_bytes(), type=LabReport)


def lab_markdown() -> str:
    """Return where and when it was made, a table of all statements, and a section for each."""
    report = recorded()
    held = sum(finding.verdict == "holds" for finding in report.findings)
    rows = "".join(
        f"| [{finding.name}](#{finding.name}) | {finding.claim} | {finding.verdict} |\n"
        for finding in report.findings
    )
    sections = "\n".join(_section(finding) for finding in report.findings)
    return (
        f"{held} of {len(report.findings)} statements hold on {report.kernel} ({report.machine}) "
        f"with Python {report.python}; recorded on {report.date}.\n\n"
        f"| experiment | statement | verdict |\n|---|---|---|\n{rows}\n{sections}"
    )


def _section(finding: Finding) -> str:
    checks = "".join(_row(check) for check in finding.checks)
    because = f": {finding.reason}" if finding.reason else ""
    return (
        f"## {finding.name}\n\n**{finding.claim}**: {finding.verdict}{because}.\n\n"
        f"> {finding.notes}\n\n"
        f"In Socketkeep: {finding.socketkeep}.\n\n"
        '<div style="overflow-x: auto"><div style="min-width: 44rem">'
        f"{svg(finding, alone=False).strip()}</div></div>\n\n"
        f"| observed | |\n|---|---|\n{checks}\n"
    )


def _row(check: Observation) -> str:
    observed = f"`{check.observed}`"
    if not check.holds:
        observed += f", where `{check.expected}` was expected"
    return f"| {check.what} | {observed} |\n"
