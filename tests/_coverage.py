"""A pytest plugin that measures branch coverage, and the program that reports it.

Measured is what runs in the processes that run the tests: while files are collected, and during
tests of the tiers unit and process.  Servers, templates, workers and forked children are left out,
and so are the clients of the system tier: a tracer would slow them, and the suite is near its bound
of time.  A module that lives in other processes alone is shown with little, therefore; the bound in
``pyproject.toml`` only says that the figure does not fall.

Usage of the program: _coverage.py; it exits with 1 where the coverage is below the bound.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Generator
from pathlib import Path
from typing import Any, Final

import coverage
import pytest

#: Where a tracer in C costs little and all lines count: the oldest Python.
MEASURED_ON: Final = (3, 11)
_REPORT: Final = Path(".test-record/coverage.json")
_WORST: Final = 10


class Measurement:
    """Measures in this process."""

    def __init__(self) -> None:
        """Begin."""
        self._coverage = coverage.Coverage(data_suffix=True)
        self._coverage.start()
        self._runs = True

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Generator[None, object, object]:
        """Measure a test, unless it only looks at a server from outside."""
        wanted = item.get_closest_marker("system") is None
        if wanted != self._runs:
            (self._coverage.start if wanted else self._coverage.stop)()
            self._runs = wanted
        return (yield)

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self) -> None:
        """Leave what was measured to the report."""
        self._coverage.stop()
        self._coverage.save()


def pytest_configure(config: pytest.Config) -> None:
    """Begin to measure."""
    if sys.version_info[:2] == MEASURED_ON:
        config.pluginmanager.register(Measurement())


def lines_of(report: dict[str, Any], bound: float) -> list[str]:
    """Return what is to be printed: the whole against the bound, and the worst modules."""
    total = report["totals"]["percent_covered"]
    modules = [(each["summary"], name) for name, each in report["files"].items()]
    modules.sort(key=lambda module: (module[0]["percent_covered"], module[1]))
    state = "at least" if total >= bound else "BELOW"
    lines = [f"== Branch coverage: {total:.1f} %, {state} {bound:.1f} %; the worst modules:"]
    for summary, name in modules[:_WORST]:
        missing = f"{summary['missing_lines']} of {summary['num_statements']} lines not run"
        lines.append(f"  {summary['percent_covered']:5.1f} %  {name}  ({missing})")
    return lines


def main() -> int:
    """Print the report of all that was measured; return the exit code."""
    if sys.version_info[:2] != MEASURED_ON:
        return 0
    measured = coverage.Coverage()
    measured.combine()
    _REPORT.parent.mkdir(exist_ok=True)
    measured.json_report(outfile=str(_REPORT))
    report = json.loads(_REPORT.read_text())
    bound = float(measured.get_option("report:fail_under"))  # type: ignore[arg-type]
    print("\n".join(lines_of(report, bound)))
    return int(report["totals"]["percent_covered"] < bound)


if __name__ == "__main__":
    sys.exit(main())
