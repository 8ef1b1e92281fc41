"""Measure Socketkeep and its peers on the same work: ``python -m benchmarks``."""

from __future__ import annotations

import argparse
import compileall
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

from benchmarks import (
    _changes,
    _flood,
    _gate,
    _idle,
    _machine,
    _plots,
    _pushing,
    _report,
    _starting,
    _throughput,
)
from benchmarks._figures import Figures, read
from benchmarks._generator import PROGRAMS, build
from benchmarks._results import FIGURES, PLOTS

#: Of what is not a whole run.
_OTHERWISE: Final = PROGRAMS / "results"


@dataclass(frozen=True)
class Part:
    """A part of the benchmark, and what of its length it takes."""

    about: str
    run: Callable[[Figures, int, float, bool], None]


def _compared(make: Callable[[], _throughput.Work]) -> Part:
    work = make()
    return Part(work.title, partial(_throughput.measure, work))


def parts() -> dict[str, Part]:
    """Return all parts by their letters."""
    return {
        "a": _compared(_throughput.short_connections),
        "b": _compared(_throughput.keep_alive),
        "c": _compared(_throughput.lines),
        "d": _compared(_throughput.fork_per_connection),
        "e": Part(_idle.IDLE_TITLE, _idle.memory),
        "f": Part(_changes.TITLE, _changes.measure),
        "g": _compared(_throughput.price),
        "h": Part(_idle.WAKING_TITLE, _idle.waking),
        "i": Part(_starting.START_TITLE, _starting.starting),
        "j": Part(_starting.HOLDERS_TITLE, _starting.holders),
        "k": _compared(_throughput.encrypted),
        "l": Part(_flood.TITLE, _flood.flood),
        "m": _compared(_throughput.web),
        "n": _compared(_throughput.websocket),
        "o": Part(_pushing.TITLE, _pushing.pushes),
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure what was asked for, print the ratios, write the figures.

    Returns the exit code: 1 when something failed, which is then named.
    """
    known = parts()
    listed = "\n".join(f"  {letter}  {part.about}" for letter, part in known.items())
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description=f"{__doc__}\n\n{listed}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--quick", action="store_true", help="what the targets are about alone, in 2 short rounds"
    )
    parser.add_argument(
        "--gate",
        action="store_true",
        help="a few rows alone; exit 1 where one is below all that the recorded rounds gave",
    )
    parser.add_argument("--only", metavar="a,b,...", help="these parts only")
    parser.add_argument("--rounds", type=int, help="how often each measures (5; quick: 2)")
    parser.add_argument("--seconds", type=float, help="how long each time (0.3; quick: 0.2)")
    parser.add_argument(
        "--out",
        type=Path,
        help="directory for the JSON file and the plots (of a whole run: what the documentation "
        f"shows; else {_OTHERWISE.relative_to(_machine.ROOT)})",
    )
    asked = parser.parse_args(arguments)
    wanted = list(dict.fromkeys(asked.only.split(","))) if asked.only else list(known)
    for letter in wanted:
        if letter not in known:
            parser.error(f"--only {letter}: there is no such part; there are {', '.join(known)}")
    rounds = asked.rounds or (2 if asked.quick else 5)
    seconds = asked.seconds or (0.2 if asked.quick else 0.3)
    if _machine.cpus()[0] == _machine.cpus()[1]:
        print("only one processor: servers and generator share it", file=sys.stderr)
    build()
    # As pip leaves an installed package; what is installed for editing is as it happens to be.
    compileall.compile_dir(_machine.ROOT / "src" / "socketkeep", quiet=1)
    figures = Figures(_machine.environment(), rounds, seconds)
    if asked.gate:
        _gate.measure(figures, asked.rounds or _gate.ROUNDS, seconds)
        figures.write((asked.out or _OTHERWISE) / FIGURES.name)
        return _gate.judge(figures, read(FIGURES))
    whole = not (asked.quick or asked.only)
    path = (asked.out or (FIGURES.parent if whole else _OTHERWISE)) / FIGURES.name
    plots = asked.out or (PLOTS if whole else _OTHERWISE)
    began = time.monotonic()
    for letter in wanted:
        with figures.attempt(f"({letter}) {known[letter].about}"):
            known[letter].run(figures, rounds, seconds, asked.quick)
        figures.write(path)
    print(_report.text(figures))
    try:
        _plots.draw(figures, plots)
    except ImportError:
        print("no plots: matplotlib is not installed", file=sys.stderr)
    print(f"\n{time.monotonic() - began:.0f} s; written to {path}", file=sys.stderr)
    return 1 if figures.failed else 0


if __name__ == "__main__":
    sys.exit(main())
