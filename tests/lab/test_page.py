"""The page of the notes says what the lab says now."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
from docs._ext.declared import PAGES
from docs._ext.lab import RECORD, recorded

PAGE = Path(__file__).parents[2] / "docs" / "explained" / "sockets-tried.md"
RENEW = f"socketkeep lab --json > {RECORD.relative_to(PAGE.parents[2])}"


def outline(finding: Any) -> list[tuple[str, str]]:
    """Return what does not differ from run to run: numbers do, of ports and inodes."""
    steps = [(step.process, re.sub(r"\d+", "N", step.call)) for step in finding.steps]
    checks = [(check.what, re.sub(r"\d+", "N", check.expected)) for check in finding.checks]
    # How often a call is made again may depend on when the kernel has done what.
    return [*dict.fromkeys(steps), *checks]


def test_the_record_is_of_what_they_do_now() -> None:
    command = [sys.executable, "-m", "socketkeep", "lab", "--json"]
    printed = subprocess.run(command, stdout=subprocess.PIPE, timeout=50, check=True).stdout
    report = msgspec.json.decode(printed, type=type(recorded()))
    for now, then in zip(report.findings, recorded().findings, strict=True):
        stated = [(each.name, each.claim, each.notes, each.socketkeep) for each in (now, then)]
        assert stated[0] == stated[1], RENEW
        assert outline(now) == outline(then), RENEW


def test_everything_held() -> None:
    assert all(finding.verdict == "holds" for finding in recorded().findings)


def test_the_page_has_every_statement_observation_and_picture() -> None:
    assert "{{ declared: lab }}" in PAGE.read_text()
    made = PAGES["lab"]()
    for finding in recorded().findings:
        section = made.partition(f"## {finding.name}\n")[2].partition("\n## ")[0]
        assert finding.claim in section
        assert finding.notes in section
        assert finding.socketkeep in section
        for check in finding.checks:
            assert f"| {check.what} | `{check.observed}` |" in section
        assert section.count("<svg ") == 1
