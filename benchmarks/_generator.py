"""The load generator: it is compiled here, and runs on a processor of its own."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO, Any, Final

from benchmarks._machine import ROOT, cpus

PROGRAMS: Final = ROOT / "benchmarks" / "build"

#: What the generator counts beside the exchanges that went well.
LOSSES: Final = ("refused", "reset", "cut", "closed", "announced", "late", "wrong")

_LONGEST: Final = 120.0


def build() -> None:
    """Compile the generator and the peers in C, where that has not been done."""
    made = subprocess.run(["make", "--silent", "-C", str(ROOT), "bench-programs"], check=False)
    if made.returncode:
        raise SystemExit("the load generator cannot be compiled: it needs make and gcc, see above")


@dataclass
class Generator:
    """A generator that runs.  Its words are "opened", with wait=True, then "begin" and "end"."""

    process: subprocess.Popen[str]

    def expect(self, word: str) -> None:
        """Wait until it says `word`."""
        line = self._stdout.readline().strip()
        if line != word:
            raise RuntimeError(f"the load generator said {line!r} in place of {word!r}")

    def go(self) -> None:
        """Let the one that waits go on."""
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()

    def end(self) -> None:
        """End a load that goes on for as long as is wanted."""
        assert self.process.stdin is not None
        self.process.stdin.close()

    def result(self) -> dict[str, Any]:
        """Return what it has counted."""
        told: dict[str, Any] = json.loads(self._stdout.readline())
        return told

    @property
    def _stdout(self) -> IO[str]:
        assert self.process.stdout is not None
        return self.process.stdout


@contextlib.contextmanager
def generator(mode: str, port: int, **options: object) -> Iterator[Generator]:
    """Run the generator; options are those of the program, True for those without a value."""
    command = [str(PROGRAMS / "load"), mode, str(port)]
    for name, value in options.items():
        if value is not None and value is not False:
            command.append(f"--{name.replace('_', '-')}")
            if value is not True:
                command.append(str(value))
    process = subprocess.Popen(
        ["timeout", str(_LONGEST), *command],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    os.sched_setaffinity(process.pid, {cpus()[1]})
    with process:
        try:
            yield Generator(process)
        except BaseException:
            process.terminate()
            raise


def losses(told: dict[str, Any]) -> int:
    """Return how many exchanges were lost, in whatever way."""
    return sum(told[name] for name in LOSSES)
