"""`socketkeep lab`, as a user meets it."""

from __future__ import annotations

import json
from pathlib import Path
from xml.etree import ElementTree as ET

import msgspec
import pytest
from docs._ext.lab import recorded

from tests.cli.conftest import Cli
from tests.harness.command import main
from tests.lab.shown import found

#: By name, what each experiment is to show.
CLAIMS = {finding.name: finding.claim for finding in recorded().findings}


def test_all_hold_here_a_row_each(cli: Cli) -> None:
    finished = cli("lab")
    assert (finished.exit_code, finished.stderr) == (0, "")
    head, *rows, blank, where = finished.stdout.splitlines()
    assert head.split() == ["EXPERIMENT", "CLAIM", "HOLDS"]
    assert [row.split()[0] for row in rows] == list(CLAIMS)
    for row, claim in zip(rows, CLAIMS.values(), strict=True):
        assert claim in row
        assert row.endswith("  yes")
    assert blank == ""
    assert where.startswith(f"{len(rows)} of {len(rows)} hold on Linux ")


def test_one_at_length_on_a_terminal_that_lacks_the_signs(cli: Cli) -> None:
    finished = cli("lab", "last-close", "timeout", PYTHONIOENCODING="latin-1")
    assert (finished.exit_code, finished.stderr) == (0, "")
    assert f"last-close: {CLAIMS['last-close']}" in finished.stdout
    assert f"timeout: {CLAIMS['timeout']}" in finished.stdout
    assert "recv(conn) ? TimeoutError" in finished.stdout


def test_json_and_pictures(cli: Cli, tmp_path: Path) -> None:
    finished = cli("lab", "last-close", "close-with-unread-data", "--json", "--svg", "pictures")
    report = msgspec.json.decode(finished.stdout, type=type(recorded()))
    assert [each.name for each in report.findings] == ["last-close", "close-with-unread-data"]
    for finding in report.findings:
        assert finding.verdict == "holds"
        tree = ET.parse(tmp_path / "pictures" / f"{finding.name}.svg")
        texts = {"".join(element.itertext()) for element in tree.iter()}
        assert {step.call for step in finding.steps if step.result == "None"} <= texts
    flags = [{p.flag for step in each.steps for p in step.packets} for each in report.findings]
    assert flags == [{"FIN"}, {"RST"}]


def test_the_fields_of_the_json(cli: Cli) -> None:
    """What is promised to users: exactly these names."""
    report = json.loads(cli("lab", "last-close", "--json").stdout)
    (finding,) = report["findings"]
    step, check = finding["steps"][-1], finding["checks"][0]
    (packet,) = next(each["packets"] for each in finding["steps"] if each["packets"])
    assert [tuple(each) for each in (report, finding, step, packet, check)] == [
        ("kernel", "machine", "python", "date", "findings"),
        (
            *("name", "claim", "notes", "socketkeep", "verdict", "reason"),
            *("processes", "steps", "checks"),
        ),
        (
            *("process", "call", "result", "message", "seconds", "waits", "at"),
            *("handles", "states", "packets"),
        ),
        ("flag", "source", "target"),
        ("what", "expected", "observed"),
    ]


def test_what_does_not_hold_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    outcomes = [
        ("a", "holds", ""),
        ("b", "does not hold", "x: expected 1, observed 2"),
        ("c", "could not be done", "EMFILE"),
    ]
    one = recorded().findings[0]
    findings = [
        msgspec.structs.replace(one, name=name, verdict=verdict, reason=reason)
        for name, verdict, reason in outcomes
    ]
    found(monkeypatch, *findings)
    assert main(["lab"]) == 1
    printed = capsys.readouterr()
    assert [line.split()[-1] for line in printed.out.splitlines()[1:4]] == ["yes", "NO", "done"]
    assert printed.err.splitlines() == [
        "b does not hold: x: expected 1, observed 2",
        "c could not be done: EMFILE",
    ]


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (
            ("close",),
            2,
            (
                "there is no experiment 'close'; near it: close-in-child, close-in-parent, "
                "close-counts (socketkeep lab lists them all)"
            ),
        ),
        (("zzz",), 2, "there is no experiment 'zzz' (socketkeep lab lists them all)"),
        (("timeout", "--svg", "/dev/null/x"), 1, "cannot write to /dev/null/x: Not a directory"),
    ],
)
def test_mistakes(cli: Cli, arguments: tuple[str, ...], code: int, said: str) -> None:
    finished = cli("lab", *arguments)
    assert (finished.exit_code, finished.stdout) == (code, "")
    (line,) = finished.stderr.splitlines()
    assert line.startswith("socketkeep: error: ")
    assert line.endswith(said)
