"""Record the tests that failed and then passed, and print them: the end of `tests/run`.

Usage: _second_time.py [FAILED]: pytest's list of what failed the first time, as it was kept before
the second; without it the first run had no failure.  One line a run stands in the record, which is
no part of the repository; git ignores it.
"""

from __future__ import annotations

import json
import platform
import sys
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

RECORD: Final = Path(".test-record/second-time.jsonl")
LAST_FAILED: Final = Path(".pytest_cache/v/cache/lastfailed")


def failed(path: Path) -> set[str]:
    """Return the tests in a list of pytest's; it writes none when there is nothing to say."""
    try:
        return set(json.loads(path.read_text()))
    except FileNotFoundError:
        return set()


def earlier_runs(record: Path) -> list[dict[str, Any]]:
    """Return what is known of the runs before, the oldest first."""
    try:
        return [json.loads(line) for line in record.read_text().splitlines()]
    except FileNotFoundError:
        return []


def report(passed: list[str], earlier: list[dict[str, Any]]) -> list[str]:
    """Return the lines to print: the tests that passed only the second time, now and before."""
    counts = Counter(test for run in earlier for test in run["passed"])
    lines = [f"== Passed only the second time: {len(passed) or 'none'}"]
    lines += [f"  {test}  (and in {counts[test]} of {len(earlier)} runs before)" for test in passed]
    rest = [each for each in counts.most_common() if each[0] not in passed]
    if rest:
        lines.append(f"  In the {len(earlier)} runs before:")
        lines += [f"  {count:4}  {test}" for test, count in rest]
    return lines


def main(first: Path | None) -> None:
    """Print the report of this run, and add the run to the record."""
    passed = sorted(failed(first) - failed(LAST_FAILED)) if first else []
    print("\n".join(report(passed, earlier_runs(RECORD))))
    run = {
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "passed": passed,
    }
    RECORD.parent.mkdir(exist_ok=True)
    with RECORD.open("a") as file:
        file.write(json.dumps(run) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else None)
