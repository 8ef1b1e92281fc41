"""What is said of the coverage, and what is measured."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests._coverage import MEASURED_ON, lines_of

ROOT = Path(__file__).parent.parent


def module(percent: float) -> dict[str, Any]:
    """Return what coverage's report says of a module."""
    summary = {"percent_covered": percent, "missing_lines": 3, "num_statements": 4}
    return {"summary": summary}


def test_the_worst_are_named() -> None:
    files = {f"src/m{number}.py": module(100.0 - number) for number in range(20)}
    lines = lines_of({"totals": {"percent_covered": 81.26}, "files": files}, 80.0)
    assert lines[0] == "== Branch coverage: 81.3 %, at least 80.0 %; the worst modules:"
    assert lines[1] == "   81.0 %  src/m19.py  (3 of 4 lines not run)"
    assert len(lines) == 11


def test_less_than_the_bound() -> None:
    (line,) = lines_of({"totals": {"percent_covered": 79.94}, "files": {}}, 80.0)
    assert line == "== Branch coverage: 79.9 %, BELOW 80.0 %; the worst modules:"


@pytest.mark.process
def test_less_than_the_bound_fails_the_run(tmp_path: Path) -> None:
    """A package of two functions, of which the unit tests call one, and a system test the other."""
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "package.py").write_text(
        "def one():\n    return 1\n\n\ndef other():\n    return 2\n"
    )
    (tmp_path / "test_suite.py").write_text(
        "import pytest, sys\n"
        "sys.path.insert(0, 'src')\n"
        "import package\n"
        "def test_one():\n    assert package.one() == 1\n"
        "@pytest.mark.system\n"
        "def test_other():\n    assert package.other() == 2\n"
    )

    (tmp_path / "pyproject.toml").write_text(
        "[tool.pytest.ini_options]\nmarkers = ['system']\n"
        "[tool.coverage.run]\nbranch = true\nsource = ['src']\n"
        "data_file = '.test-record/coverage'\n[tool.coverage.report]\nfail_under = 76\n"
    )
    done = subprocess.run(
        ["bash", ROOT / "tests" / "run", sys.executable, "--coverage", "-q"],
        cwd=tmp_path,
        env={
            "PYTHONPATH": str(ROOT),
            "PATH": "/usr/bin:/bin",
            "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
        },
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    if sys.version_info[:2] == MEASURED_ON:
        assert done.returncode == 1, done
        assert done.stdout.splitlines()[-2:] == [
            "== Branch coverage: 75.0 %, BELOW 76.0 %; the worst modules:",
            "   75.0 %  src/package.py  (1 of 4 lines not run)",
        ]
    else:
        assert done.returncode == 0, done
        assert "coverage" not in done.stdout
