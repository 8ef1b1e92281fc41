"""That the benchmarks run; their figures are nobody's promise here."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from benchmarks import streams


def test_streams_are_compared_on_all_sides(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "figures.json"
    few = ("--rounds", "2", "--operations", "64", "--loop", "asyncio", "--connections", "1")
    streams.main([*few, "--load", "line of 64 B, answered", "--output", str(output)])

    figures = json.loads(output.read_text())
    assert {"date", "python", "socketkeep", "system"} <= figures["environment"].keys()
    assert [result["side"] for result in figures["results"]] == [
        "streams",
        "serve",
        "worker",
        "resumable",
    ]
    for result in figures["results"]:
        assert len(result["microseconds"]) == len(result["ratios"]) == 2
        assert min(result["microseconds"]) > 0
    table = capsys.readouterr().out.splitlines()
    assert len(table) == 2 + 4
    assert table[-1].startswith("| line of 64 B, answered | 1 | asyncio | resumable |")
