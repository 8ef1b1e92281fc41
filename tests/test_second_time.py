"""What `tests/run` says of tests that pass only the second time."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests import _second_time

RUN = Path(__file__).parent / "run"

SUITE = """
from pathlib import Path

def test_good():
    pass

def test_at_times():
    flag = Path("flag")
    if not flag.exists():
        flag.touch()
        raise AssertionError

def test_bad():
    assert Path("mended").exists()
"""


def run(directory: Path, *arguments: str) -> tuple[int, list[str]]:
    """Run the suite; return the exit code, and the report's lines, without what leads them in."""
    environment = {name: value for name, value in os.environ.items() if "PYTEST" not in name}
    environment["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"  # they take a second to import
    done = subprocess.run(
        ["bash", RUN, sys.executable, "-p", "xdist.plugin", "-q", *arguments],
        cwd=directory,
        env=environment,
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    _, title, report = done.stdout.partition("== Passed only the second time: ")
    return done.returncode, (title + report).strip().splitlines()


def test_what_passed_only_the_second_time_is_shown_and_counted(tmp_path: Path) -> None:
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    (tmp_path / "test_suite.py").write_text(SUITE)
    status, report = run(tmp_path)
    assert status == 1, "test_bad failed twice"
    assert report == [
        "== Passed only the second time: 1",
        "  test_suite.py::test_at_times  (and in 0 of 0 runs before)",
    ]

    (tmp_path / "flag").unlink()
    (tmp_path / "mended").touch()
    status, report = run(tmp_path)
    assert status == 0
    assert report[1] == "  test_suite.py::test_at_times  (and in 1 of 1 runs before)"

    status, report = run(tmp_path)
    assert status == 0
    assert report == [
        "== Passed only the second time: none",
        "  In the 2 runs before:",
        "     2  test_suite.py::test_at_times",
    ]
    lines = (tmp_path / _second_time.RECORD).read_text().splitlines()
    assert [len(json.loads(line)["passed"]) for line in lines] == [1, 1, 0]


def test_a_suite_that_cannot_be_collected_is_not_recorded(tmp_path: Path) -> None:
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    (tmp_path / "test_suite.py").write_text("import nothing_of_that_name\n")
    status, report = run(tmp_path)
    assert (status, report) == (pytest.ExitCode.INTERRUPTED, [])
    assert not (tmp_path / _second_time.RECORD).exists()
