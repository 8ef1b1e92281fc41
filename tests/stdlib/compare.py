"""Runs CPython's own tests of sockets twice and compares, test by test.

Once with the standard class, once with `socketkeep.Socket` in its place; both runs with the
interpreter that runs this, and at the same time.  ``python -m tests.stdlib.compare`` tells the
differences and ends with 1 if there is any.
"""

from __future__ import annotations

import importlib.util
import json
import platform
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple, TypeAlias

from tests.stdlib.runner import Job
from tests.stdlib.selection import ALONE, LEFT_OUT, SELECTED

CLASSES: Final = ("standard", "socketkeep")
#: Processes a class: the tests wait for most of their time.
PARTS: Final = 3
#: How often a test that differed is run again, in both classes, before it is called different.
ROUNDS: Final = 3
SECONDS: Final = 150.0


class Outcome(NamedTuple):
    """What became of a test, and why."""

    kind: str
    detail: str


Outcomes: TypeAlias = dict[str, Outcome]
NOT_RUN: Final = Outcome("not run", "")


class Unusable(Exception):
    """The tests cannot be run with this interpreter, or a run of them did not come to its end."""


@dataclass(frozen=True)
class Comparison:
    """What the two runs gave.

    standard, socketkeep: of each test.  settled: tests that differed at first and not when they
    were run again.  different: tests that differed each time.  seconds: how long it all took.
    """

    standard: Outcomes
    socketkeep: Outcomes
    settled: list[str]
    different: list[str]
    seconds: float

    @property
    def run(self) -> list[str]:
        """The tests that were not skipped."""
        return [test for test, (kind, _) in self.standard.items() if kind != "skipped"]

    def report(self) -> str:
        """Return the whole as text."""
        counts = Counter(outcome.kind for outcome in self.standard.values()).most_common()
        title = f"Python {platform.python_version()}, {self.seconds:.0f} s"
        lines = [
            f"{title}: {len(self.standard)} tests compared, {len(self.different)} differ",
            f"  {', '.join(f'{number} {kind}' for kind, number in counts)}",
        ]
        lines += [f"  left out: {test}*: {reason}" for test, reason in LEFT_OUT.items()]
        lines += [
            f"  the same in both classes, but not ok: {test}: {kind}"
            for test, (kind, _) in self.standard.items()
            if kind in ("failed", "error")
        ]
        lines += [f"  differed, but not when run again: {test}" for test in self.settled]
        for test in self.different:
            lines.append(f"  DIFFERS: {test}")
            for name, outcomes in zip(CLASSES, (self.standard, self.socketkeep), strict=True):
                outcome = outcomes.get(test, NOT_RUN)
                lines.append(f"    {name}: {outcome.kind}")
                lines += [f"      {line}" for line in outcome.detail.splitlines()]
        return "\n".join(lines)


def compare() -> Comparison:
    """Run everything that is selected; raises Unusable, within about `SECONDS`."""
    began = time.monotonic()
    until = began + SECONDS
    # Debian's Python has the package without most of its modules.
    if not all(importlib.util.find_spec(name) for name in ("test", "test.test_socket")):
        raise Unusable(
            f"{sys.executable} is Python {platform.python_version()} without CPython's own tests, "
            "the package `test`: install them (Debian: libpython3-testsuite), or take a Python "
            "that has them (pyenv's)"
        )
    runs: dict[str, Outcomes] = {name: {} for name in CLASSES}
    with ExitStack() as stack:
        started = [
            (name, stack.enter_context(running(name, SELECTED, part, PARTS, until)))
            for part in range(PARTS)
            for name in CLASSES
        ]
        for name, one in started:
            runs[name].update(one.outcomes())
    for name in CLASSES:
        runs[name].update(run_alone(name, [test.rstrip(".") for test in ALONE], until))

    standard, socketkeep = (runs[name] for name in CLASSES)
    first = different = differing(standard, socketkeep)
    for _ in range(ROUNDS):
        if different:
            again = [run_alone(name, different, until) for name in CLASSES]
            different = differing(*again)
    return Comparison(
        standard,
        socketkeep,
        settled=sorted(set(first) - set(different)),
        different=different,
        seconds=time.monotonic() - began,
    )


def differing(standard: Outcomes, socketkeep: Outcomes) -> list[str]:
    """Return the tests that did not end the same way, or were run in one class alone."""
    return sorted(
        test
        for test in standard.keys() | socketkeep.keys()
        if standard.get(test, NOT_RUN).kind != socketkeep.get(test, NOT_RUN).kind
    )


def run_alone(socket_class: str, tests: Sequence[str], until: float) -> Outcomes:
    with running(socket_class, tests, 0, 1, until) as one:
        return one.outcomes()


@dataclass(frozen=True)
class Run:
    """A process that runs tests, and the directory that it has for itself."""

    process: subprocess.Popen[bytes]
    directory: Path
    until: float

    def outcomes(self) -> Outcomes:
        """Wait for its end; return what became of its tests."""
        try:
            # It ends itself in time, but for a hang that holds even its watchdog.
            status = self.process.wait(max(1.0, self.until + 5 - time.monotonic()))
        except subprocess.TimeoutExpired:
            status = None
        if status != 0:
            said = (self.directory / "log").read_text(errors="replace")
            raise Unusable(f"a run of CPython's tests ended with {status}:\n{said[-8000:]}")
        written = json.loads((self.directory / "outcomes").read_text())
        return {test: Outcome(*outcome) for test, outcome in written.items()}


@contextmanager
def running(
    socket_class: str, names: Iterable[str], part: int, parts: int, until: float
) -> Iterator[Run]:
    """Run the tests of these names for the length of the block, or until they end."""
    whole = parts > 1
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as path:
        directory = Path(path)
        job = Job(
            socket_class=socket_class,
            names=list(names),
            left_out=[*LEFT_OUT, *(ALONE if whole else ())],
            part=part,
            parts=parts,
            seconds=max(1.0, until - time.monotonic()),
            output=str(directory / "outcomes"),
        )
        (directory / "work").mkdir()
        runner = Path(__file__).with_name("runner.py")
        with (directory / "log").open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, str(runner), json.dumps(job)],
                cwd=directory / "work",
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        try:
            yield Run(process, directory, until)
        finally:
            process.kill()
            process.wait()


def main() -> int:
    try:
        comparison = compare()
    except Unusable as error:
        print(error, file=sys.stderr)
        return 1
    print(comparison.report())
    return 1 if comparison.different else 0


if __name__ == "__main__":
    sys.exit(main())
