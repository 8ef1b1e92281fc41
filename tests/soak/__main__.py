"""Servers of all models under all that happens to them in a year: ``python -m tests.soak``.

Clients of all kinds ask them, and look at every byte.  Servers are reloaded, upgraded and scaled,
workers, templates, keepers and a broker are killed, certificates change, in an order that a seed
draws.  After each event what the processes hold is counted.  The exit code is 1 where something was
lost, repeated or cut that no documented limit allows, or where what a process holds rises.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
from pathlib import Path
from typing import Final

from tests.soak.report import page, picture
from tests.soak.result import Plan
from tests.soak.sites import KINDS
from tests.soak.soaking import Soak

_REPORT: Final = Path("build/soak")


def main() -> int:
    """Run as the command line says; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__)
    parser.add_argument("--seconds", type=float, default=3600.0)
    parser.add_argument("--every", type=float, default=8.0, help="seconds from event to event")
    parser.add_argument("--seed", type=int, default=random.randrange(2**32))
    parser.add_argument("--sites", default=",".join(KINDS), help="which servers, with commas")
    parser.add_argument("--events", default="", help="these kinds alone, with commas")
    parser.add_argument("--leaky", action="store_true", help="have keepers leak: it is to fail")
    parser.add_argument("--report", type=Path, default=_REPORT, help="the directory to write to")
    said = parser.parse_args()
    plan = Plan(
        said.seconds,
        said.every,
        said.seed,
        said.sites.split(","),
        said.leaky,
        frozenset(filter(None, said.events.split(","))),
    )
    print(f"seed {plan.seed}", flush=True)
    with tempfile.TemporaryDirectory(prefix="soak-") as directory:
        soak = Soak(plan, Path(directory), lambda line: print(line, flush=True))
        try:
            soak.run()
        finally:
            if soak.result.samples:
                write(soak, said.report)
    for fault in soak.result.faults:
        print(fault, file=sys.stderr)
    print(f"{len(soak.result.faults)} faults; {said.report}/soak.md")
    return bool(soak.result.faults)


def write(soak: Soak, directory: Path) -> None:
    """Write what the run has shown, whether or not it came to its end."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "soak.json").write_text(json.dumps(soak.result.as_json(), indent=1) + "\n")
    (directory / "soak.md").write_text(page(soak.result))
    (directory / "soak.svg").write_text(picture(soak.result))


if __name__ == "__main__":
    raise SystemExit(main())
